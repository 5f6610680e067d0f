"""The official scGPT data paths, restated as peers to measure, and how ours is timed beside them.

Lives here: two paths from counts to the tensors of a model, written from a description of what they compute, with the
libraries they use (numpy, torch), one Python call a cell as there: the embedding path (values above 0, ``<cls>``,
collator with binning and sampling) and the fine-tuning path (scaling, log1p and binning of the genes of a panel,
``tokenize_and_pad_batch``, zeros included; the choice of the panel is not part of it). No code of the official
repository is in it. Lives elsewhere: the measurement (input_pipelines.py).

Legend: B cells, G genes, L length.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

N_BINS = 51
PAD_VALUE = -2
BATCH = 64
LONGEST = 1200
PANEL_LONGEST = 1201
BLOCK = 256


# --- restated: binning -------------------------------------------------------------------------------------


def digits_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Left and right bin of each value, and a digit drawn between them."""
    left = np.digitize(values, edges)
    right = np.digitize(values, edges, right=True)
    return np.ceil(np.random.rand(len(values)) * (right - left) + left).astype(np.int64)


def binned_row(row: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Digits of a row; zeros stay zeros."""
    if row.max() == 0:
        return np.zeros_like(row, dtype=np.int64)
    shares = np.linspace(0, 1, n_bins - 1)
    if row.min() > 0:
        return digits_of(row, np.quantile(row, shares))
    there = row.nonzero()
    digits = np.zeros_like(row, dtype=np.int64)
    digits[there] = digits_of(row[there], np.quantile(row[there], shares))
    return digits


# --- restated: the embedding path --------------------------------------------------------------------------


def example(row_G: np.ndarray, gene_ids: np.ndarray, cls_id: int) -> dict[str, Any]:
    """Genes with a value and the values of one cell, ``<cls>`` in front with the pad value."""
    import torch

    there = np.nonzero(row_G)[0]
    genes = np.insert(gene_ids[there], 0, cls_id)
    values = np.insert(row_G[there], 0, PAD_VALUE)
    return {"genes": torch.from_numpy(genes).long(), "expressions": torch.from_numpy(values).float()}


def collate(examples: list[dict[str, Any]], *, pad_id: int, longest: int) -> dict[str, Any]:
    """Bin, sample or pad each cell, and stack: the tensors of a batch."""
    import torch

    longest = min(longest, max(len(cell["genes"]) for cell in examples))
    genes_BL, values_BL = [], []
    for cell in examples:
        genes, values = cell["genes"], cell["expressions"]
        values[1:] = torch.from_numpy(binned_row(values[1:].numpy())).float()
        if len(genes) > longest:
            order = torch.randperm(len(genes) - 1)[: longest - 1]
            order = torch.cat([torch.arange(1), order + 1])
            genes, values = genes[order], values[order]
        elif len(genes) < longest:
            missing = longest - len(genes)
            genes = torch.cat([genes, torch.full((missing,), pad_id, dtype=genes.dtype)])
            values = torch.cat([values, torch.full((missing,), PAD_VALUE, dtype=values.dtype)])
        genes_BL.append(genes)
        values_BL.append(values)
    return {"gene": torch.stack(genes_BL), "expr": torch.stack(values_BL)}


def embedding_path(
    counts_BG: np.ndarray, gene_ids: np.ndarray, *, cls_id: int, pad_id: int, longest: int = LONGEST, batch: int = BATCH
) -> list[dict[str, Any]]:
    """Batches of a dense matrix whose columns all have a token."""
    batches = []
    for start in range(0, len(counts_BG), batch):
        cells = [example(row, gene_ids, cls_id) for row in counts_BG[start : start + batch]]
        batches.append(collate(cells, pad_id=pad_id, longest=longest))
    return batches


# --- restated: the fine-tuning path --------------------------------------------------------------------------


def scaled(counts: sp.csr_matrix, target: float = 10_000) -> sp.csr_matrix:
    """Counts a 10,000, and log1p of them."""
    totals = np.asarray(counts.sum(axis=1)).ravel()
    totals[totals == 0] = 1
    layer = sp.csr_matrix(counts, dtype=np.float32, copy=True)
    layer.data *= np.repeat((target / totals).astype(np.float32), np.diff(layer.indptr))
    np.log1p(layer.data, out=layer.data)
    return layer


def binned_layer(layer_BG: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """The layer of digits that preprocessing makes, with the edges of each cell kept as it does."""
    rows, edges_of = [], []
    for row in layer_BG:
        digits = np.zeros_like(row, dtype=np.int64)
        there = row.nonzero()
        edges = np.quantile(row[there], np.linspace(0, 1, n_bins - 1)) if len(there[0]) else np.zeros(n_bins - 1)
        if len(there[0]):
            digits[there] = digits_of(row[there], edges)
        rows.append(digits)
        edges_of.append(np.concatenate([[0], edges]))
    np.stack(edges_of)
    return np.stack(rows)


def tokenized(
    digits_BG: np.ndarray, gene_ids: np.ndarray, *, cls_id: int, pad_id: int, longest: int, zeros: bool
) -> dict[str, Any]:
    """Genes and values of each cell with ``<cls>`` (value 0) in front, sampled or padded to one length."""
    import torch

    cells = []
    for row in digits_BG:
        there = slice(None) if zeros else np.nonzero(row)[0]
        genes, values = np.insert(gene_ids[there], 0, cls_id), np.insert(row[there], 0, 0)
        cells.append((torch.from_numpy(genes).long(), torch.from_numpy(values).float()))
    longest = min(longest, max(len(genes) for genes, _ in cells))
    genes_BL, values_BL = [], []
    for genes, values in cells:
        if len(genes) > longest:
            order = np.random.choice(len(genes) - 1, longest - 1, replace=False)
            order = torch.from_numpy(np.insert(order + 1, 0, 0)).long()
            genes, values = genes[order], values[order]
        elif len(genes) < longest:
            missing = longest - len(genes)
            genes = torch.cat([genes, torch.full((missing,), pad_id, dtype=genes.dtype)])
            values = torch.cat([values, torch.full((missing,), PAD_VALUE, dtype=values.dtype)])
        genes_BL.append(genes)
        values_BL.append(values)
    return {"genes": torch.stack(genes_BL), "values": torch.stack(values_BL)}


# --- what is timed -----------------------------------------------------------------------------------------


def pipelines(copies: int) -> list[Any]:
    """Both paths with ours beside them, for `input_pipelines`."""
    from input_pipelines import Pipeline

    counts, gene_ids, name = _cells(copies)
    panel, panel_ids, panel_name = _panel_cells(copies)
    return [
        Pipeline(
            "scGPT, embedding: counts to ids, digits, 1,200 sampled", name, counts.shape[0], counts.nnz,
            *_embedding(counts, gene_ids, n_distinct=counts.shape[0] // copies), bar=50,
        ),
        Pipeline(
            "scGPT, fine-tuning: counts of a panel to digits, zeros included", panel_name, panel.shape[0], panel.nnz,
            *_fine_tuning(panel, panel_ids, n_distinct=panel.shape[0] // copies), bar=50,
        ),
    ]  # fmt: skip


def _tokenizer(gene_ids: np.ndarray, **options: Any) -> Any:
    from scmf.tokenizers.binned import BinnedTokenizer

    return BinnedTokenizer.from_tables(
        {f"gene {i}": i for i in gene_ids.tolist()} | {"<pad>": 60694, "<cls>": 60695, "<eoc>": 60696},
        special_tokens=True, **options,
    )  # fmt: skip


def _embedding(counts: sp.csr_matrix, gene_ids: np.ndarray, *, n_distinct: int) -> tuple[Callable[[], Any], ...]:
    names = tuple(f"gene {i}" for i in gene_ids.tolist())
    ours, match_official = (_tokenizer(gene_ids, max_length=LONGEST, seed=3, match_official=f) for f in (False, True))
    given = {"cls_id": ours.cls_token_id, "pad_id": ours.pad_token_id}
    blocks = _blocks(counts)

    def run() -> None:
        for block in blocks:
            ours.encode_cells(block, names)

    def official() -> None:
        for block in blocks:
            embedding_path(block.toarray(), gene_ids, **given)

    def verify() -> dict[str, int]:
        import torch

        part, draws = counts[:n_distinct], _torch_draws(3)
        np.random.seed(3)
        torch.manual_seed(3)
        theirs = embedding_path(part.toarray(), gene_ids, **given)
        torch.manual_seed(3)
        for number, batch in enumerate(theirs):
            mine = match_official(part[number * BATCH : (number + 1) * BATCH], names, draws=draws)
            _same(mine["input_ids"], batch["gene"].numpy(), "ids")
            _same(mine["values"], batch["expr"].numpy(), "digits")
        return {"cells": n_distinct, "tokens": _within_bounds(ours, part, names, gene_ids)}

    return run, official, verify


def _fine_tuning(counts: sp.csr_matrix, gene_ids: np.ndarray, *, n_distinct: int) -> tuple[Callable[[], Any], ...]:
    names = tuple(f"gene {i}" for i in gene_ids.tolist())
    options = {"max_length": PANEL_LONGEST, "include_zero_genes": True, "cls_value": "zero", "seed": 3}
    ours, match_official = (_tokenizer(gene_ids, match_official=f, **options) for f in (False, True))
    blocks = _blocks(counts)

    def theirs(block: sp.csr_matrix) -> dict[str, Any]:
        given = {"cls_id": ours.cls_token_id, "pad_id": ours.pad_token_id}
        return tokenized(binned_layer(scaled(block).toarray()), gene_ids, **given, longest=PANEL_LONGEST, zeros=True)

    def run() -> None:
        for block in blocks:
            ours.encode_cells(block, names, empty="keep")

    def official() -> None:
        for block in blocks:
            theirs(block)

    def verify() -> dict[str, int]:
        part = counts[:n_distinct]
        np.random.seed(3)
        recorded, mine = theirs(part), match_official(part, names, empty="keep")
        _same(mine["input_ids"], recorded["genes"].numpy(), "ids")
        _same(mine["values"], recorded["values"].numpy(), "digits")
        return {"cells": n_distinct, "tokens": _within_bounds(ours, part, names, gene_ids)}

    return run, official, verify


def _torch_draws(seed: int) -> Any:
    """Digits from numpy's stream, samples from torch's global one, as in the official collator."""
    import torch

    from scmf.tokenizers.binned_draws import OfficialDraws

    class CollatorDraws(OfficialDraws):
        def choose(self, n: int, k: int) -> np.ndarray:
            return torch.randperm(n)[:k].numpy()

    return CollatorDraws(seed)


def _same(mine: np.ndarray, theirs: np.ndarray, what: str) -> None:
    if not np.array_equal(mine, theirs):
        raise SystemExit(f"{what} differ: the figures would mean nothing")


def _within_bounds(tokenizer: Any, counts: sp.csr_matrix, names: tuple[str, ...], gene_ids: np.ndarray) -> int:
    """Check the tokens that are timed: known genes of the cell, as many as fit, digits within np.digitize's bounds."""
    cells = tokenizer.encode_cells(counts, names, empty="keep")
    place = {gene: i for i, gene in enumerate(gene_ids.tolist())}
    for row, dense in enumerate(counts.toarray()):
        part = slice(cells.offsets[row] + 1, cells.offsets[row + 1])
        columns = np.array([place[i] for i in cells.columns["input_ids"][part].tolist()], np.int64)
        digits, values = cells.columns["values"][part], dense[columns]
        above = dense[dense > 0]
        n_genes = dense.size if tokenizer.include_zero_genes else above.size
        right = min(tokenizer.max_length - 1, n_genes) == columns.size == np.unique(columns).size
        right &= np.array_equal(digits > 0, values > 0)
        if above.size:
            edges = np.quantile(above, np.linspace(0, 1, N_BINS - 1))
            low, high = np.digitize(values, edges, right=True) + 1, np.digitize(values, edges)
            right &= bool(np.all((digits >= np.minimum(low, high)) & (digits <= high) | (values == 0)))
        if not right:
            raise SystemExit(
                f"cell {row} has tokens that the official code cannot draw: the figures would mean nothing"
            )
    return int(cells.offsets[-1])


def _blocks(counts: sp.csr_matrix) -> list[sp.csr_matrix]:
    return [counts[start : start + BLOCK] for start in range(0, counts.shape[0], BLOCK)]


def _repeated(cells: sp.csr_matrix, copies: int) -> sp.csr_matrix:
    """The cells in order, and then over and over in other orders."""
    rng = np.random.default_rng(0)
    orders = [np.arange(cells.shape[0]), *(rng.permutation(cells.shape[0]) for _ in range(copies - 1))]
    return sp.csr_matrix(cells[np.concatenate(orders)])


def _oracle(*parts: str) -> Path | None:
    from scmf.core.paths import reference_dir

    root = reference_dir()
    path = root.joinpath(*parts) if root else None
    return path if path is not None and path.is_file() else None


def _cells(copies: int) -> tuple[sp.csr_matrix, np.ndarray, str]:
    """400 PBMCs over the genes that the published vocabulary has, else synthetic cells; token ids of the columns."""
    from scmf.core.paths import data_dir

    path, mirror = _oracle("geneformer", "inputs", "real_pbmc400.h5ad"), data_dir()
    vocabulary = mirror / "scgpt_vocab" / "default_census_vocab.json" if mirror else None
    if path is None or vocabulary is None or not vocabulary.is_file():
        return _synthetic(copies, n_genes=14_000, n_expressed=1_700)
    import json

    import anndata

    cells = anndata.read_h5ad(path)
    known = json.loads(vocabulary.read_text(encoding="utf-8"))
    ids = np.array([known.get(symbol, -1) for symbol in cells.var["gene_symbol"]])
    counts = _repeated(sp.csr_matrix(cells.X)[:, ids >= 0], copies)
    return counts, ids[ids >= 0], f"{cells.n_obs} real PBMCs x {copies}, {counts.shape[1]:,} genes known"


def _panel_cells(copies: int) -> tuple[sp.csr_matrix, np.ndarray, str]:
    """The same cells over the 1,200 highly variable genes of the tutorial, else synthetic ones."""
    path, panel = _oracle("geneformer", "inputs", "real_pbmc400.h5ad"), None
    if path is not None:
        panel = _oracle("scgpt", "tok", "real_pbmc400.tutorial_hvg1200.npz")
    if path is None or panel is None:
        return _synthetic(copies, n_genes=1_200, n_expressed=200)
    import anndata

    cells = anndata.read_h5ad(path)
    column = {symbol: i for i, symbol in enumerate(cells.var["gene_symbol"])}
    with np.load(panel) as saved:
        ids, columns = saved["gene_ids"], [column[symbol] for symbol in saved["genes"].tolist()]
    name = f"{cells.n_obs} real PBMCs x {copies}, {ids.size:,} highly variable genes"
    return _repeated(sp.csr_matrix(cells.X)[:, columns], copies), ids, name


def _synthetic(copies: int, *, n_genes: int, n_expressed: int) -> tuple[sp.csr_matrix, np.ndarray, str]:
    rng = np.random.default_rng(0)
    chance = rng.permutation(np.minimum(1, n_expressed * 0.35 * n_genes**-0.35 / np.arange(1, n_genes + 1) ** 0.65))
    counts = rng.geometric(0.6, (400, n_genes)) * (rng.random((400, n_genes)) < chance)
    counts[:, 0] += 1
    ids = rng.permutation(60_000)[:n_genes]
    return _repeated(sp.csr_matrix(counts, dtype=np.float32), copies), ids, f"400 synthetic cells x {copies}"
