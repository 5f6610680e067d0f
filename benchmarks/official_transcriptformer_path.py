"""TranscriptFormer's path from counts to tensors, restated as a peer to measure, and ours beside it.

Lives here: the algorithm of ``AnnDataset``, written from a description of what it computes, with the libraries it uses
(numpy, torch, pandas): columns cut to the vocabulary, the whole file made dense, one Python pass a cell for the order
of its genes, names looked up one by one, one pass over the rows of obs for the assays. No code of the official package
and none of scmf is in it, so it also serves the tests as a second opinion. Lives elsewhere: the measurement
(input_pipelines.py).

Legend: B cells, G columns, L longest sequence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

LONGEST = 2047
CLIP = 30.0
BLOCK = 1024
DIVISOR = 10  # the official path is slow: so many times fewer cells than the other pipelines take


# --- restated --------------------------------------------------------------------------------------------------


def tensors(
    counts: Any,
    genes: Sequence[str],
    assays: Any,
    token_ids: Mapping[str, int],
    assay_ids: Mapping[str, int],
    *,
    longest: int = LONGEST,
    clip: float = CLIP,
    scale: float = 0.0,
    sort: bool = False,
    shuffle: bool = False,
    filter_genes: bool = True,
    pad_zeros: bool = True,
) -> dict[str, Any]:
    """Ids, counts and assays of every cell; ``assays`` is a pandas table with that one column."""
    import torch

    counts_BG = counts.toarray() if sp.issparse(counts) else np.asarray(counts)
    names_G = np.array([gene.split(".")[0] for gene in genes])
    if len(set(names_G)) < len(names_G):
        raise ValueError("duplicate genes")
    if filter_genes:
        known = [i for i, name in enumerate(names_G) if name in token_ids]
        counts_BG, names_G = counts_BG[:, known], names_G[known]
    x_BG = torch.tensor(counts_BG, dtype=torch.float32)
    if sort:
        order_BG = torch.argsort(x_BG, dim=1, descending=True)
    else:
        order_BG = torch.zeros_like(x_BG, dtype=torch.long)
        for row, cell in enumerate(x_BG):
            parts = [torch.nonzero(cell, as_tuple=True)[0], torch.nonzero(cell == 0, as_tuple=True)[0]]
            if shuffle:
                parts = [part[torch.randperm(len(part))] for part in parts]
            order_BG[row] = torch.cat(parts)
    order_BL = order_BG[:, :longest]
    counts_BL = torch.gather(x_BG, 1, order_BL)
    names_BL = names_G[order_BL.numpy()]
    ids_BL = torch.tensor([[token_ids.get(name, token_ids["unknown"]) for name in row] for row in names_BL])
    if pad_zeros:
        ids_BL = ids_BL.masked_fill(counts_BL == 0, token_ids["[PAD]"])
    missing = longest - ids_BL.shape[1]
    if missing > 0:
        padding = torch.full((len(ids_BL), missing), token_ids["[PAD]"])
        ids_BL = torch.cat([ids_BL, padding], dim=1)
        counts_BL = torch.cat([counts_BL, torch.zeros_like(padding, dtype=torch.float32)], dim=1)
    if scale > 0:
        counts_BL = counts_BL / counts_BL.sum(dim=1, keepdim=True) * scale
    counts_BL = counts_BL.clamp(min=0, max=clip)
    assays_B1 = torch.stack([torch.tensor([assay_ids.get(row.iloc[0], 0)]) for _, row in assays.iterrows()])
    return {"gene_token_indices": ids_BL, "gene_counts": counts_BL, "aux_token_indices": assays_B1}


# --- what is timed -----------------------------------------------------------------------------------------


def pipelines(copies: int) -> list[Any]:
    """The default path with ours beside it, for `input_pipelines`."""
    from input_pipelines import Pipeline

    counts, genes, token_ids, name = _cells(max(1, copies // DIVISOR))
    return [
        Pipeline(
            "TranscriptFormer: counts to ids, clipped counts, assays", name, counts.shape[0], counts.nnz,
            *_default(counts, genes, token_ids), bar=50,
        )
    ]  # fmt: skip


def _default(
    counts: sp.csr_matrix, genes: tuple[str, ...], token_ids: dict[str, int]
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], dict[str, int]]]:
    import pandas as pd

    from scmf.tokenizers.continuous import ContinuousTokenizer

    assay_ids = {"unknown": 0, "a": 1, "b": 2}
    tokenizer = ContinuousTokenizer.from_tables(
        token_ids, assays=assay_ids, assay_key="assay", max_length=LONGEST, transform="clipped_counts"
    )
    names = np.array(["a", "b", "c"])[np.arange(counts.shape[0]) % 3].tolist()
    starts = range(0, counts.shape[0], BLOCK)
    blocks = [(counts[start : start + BLOCK], names[start : start + BLOCK]) for start in starts]

    def ours() -> None:
        for block, assays in blocks:
            tokenizer.encode_cells(block, genes)
            tokenizer.cell_tensors({"assay": assays})

    def official() -> list[dict[str, Any]]:
        return [tensors(block, genes, pd.DataFrame({"assay": of}), token_ids, assay_ids) for block, of in blocks]

    def verify() -> dict[str, int]:
        n_tokens = 0
        for (block, assays), theirs in zip(blocks, official(), strict=True):
            mine = tokenizer(block, genes, padding="max_length")
            same = np.array_equal(mine["input_ids"], theirs["gene_token_indices"].numpy())
            same &= np.array_equal(mine["values"], theirs["gene_counts"].numpy())
            found = tokenizer.cell_tensors({"assay": assays})["assay_ids"]
            if not same or not np.array_equal(found, theirs["aux_token_indices"].numpy().ravel()):
                raise SystemExit("tokens differ: the figures would mean nothing")
            n_tokens += int(mine["length"].sum())
        return {"cells": counts.shape[0], "tokens": n_tokens}

    return ours, official, verify


def _cells(copies: int) -> tuple[sp.csr_matrix, tuple[str, ...], dict[str, int], str]:
    """Counts, gene ids, the vocabulary and a name: 400 PBMCs of the oracle, else synthetic cells."""
    from scmf.core.paths import reference_dir

    root = reference_dir() / "transcriptformer" if reference_dir() else Path("absent")
    path, table = root / "input" / "real400.h5ad", root / "gene_vocab.json"
    rng = np.random.default_rng(0)
    if path.is_file() and table.is_file():
        import anndata

        cells = anndata.read_h5ad(path)
        token_ids = json.loads(table.read_text(encoding="utf-8"))
        counts, genes = sp.csr_matrix(cells.X), cells.var["ensembl_id"].astype(str).tolist()
        name = f"{cells.n_obs} real PBMCs x {copies}, {cells.n_vars:,} columns"
    else:
        special = ["unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]"]
        token_ids = {token: i for i, token in enumerate([*special, *(f"ENSG{i:011d}" for i in range(12_000))])}
        genes = [f"ENSG{i:011d}" for i in rng.choice(17_500, 17_500, replace=False)]
        chance = rng.permutation(np.minimum(1, 20 / np.arange(1, 17_501) ** 0.7))
        counts = sp.csr_matrix((rng.geometric(0.6, (400, 17_500)) * (rng.random((400, 17_500)) < chance)).astype("f4"))
        name = f"400 synthetic cells x {copies}, 17,500 columns"
    order = np.concatenate([rng.permutation(counts.shape[0]) for _ in range(copies)])
    return counts[order], tuple(genes), token_ids, name
