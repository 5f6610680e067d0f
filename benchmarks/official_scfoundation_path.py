"""scFoundation's path from counts to the input of its encoder, restated as a peer to measure, and ours beside it.

Lives here: the algorithm of ``get_embedding.py`` up to the network, written from a description of what it computes,
with the libraries it uses (pandas, numpy, torch), one Python pass a cell as there: missing genes are added as columns
of zeros and the columns brought into the order of the list; a row is normalized as a pandas series and becomes a list
and then a tensor; values and gene ids above 0 are gathered by ``topk`` of a score for each place. No code of the
official repository and none of scmf is in it, so it also serves the tests as a second opinion. Lives elsewhere: the
measurement (input_pipelines.py).

Legend: B cells, G genes of the list, L values of a cell and T and S.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

PAD_VALUE = 103
BLOCK = 1024
DIVISOR = 25  # the official path is slow: so many times fewer cells than the other pipelines take


class Sequences(NamedTuple):
    """What the encoder is given, cell by cell, and T and S."""

    ids: list[np.ndarray]
    values: list[np.ndarray]
    depth_B2: np.ndarray


# --- restated --------------------------------------------------------------------------------------------------


def aligned(table: Any, genes: Sequence[str]) -> Any:
    """Columns of a pandas table in the order of the list, zeros where there are none; as it is if it is wide enough."""
    import pandas as pd

    if table.shape[1] >= len(genes):
        return table
    missing = sorted(set(genes) - set(table.columns))
    zeros = np.zeros((table.shape[0], len(missing)))
    wide = pd.DataFrame(
        np.concatenate([table.values, zeros], axis=1), index=table.index, columns=[*table.columns, *missing]
    )
    return wide[list(genes)]


def gathered(data_1L: Any, there_1L: Any) -> Any:
    """What stands at the places that are marked, in order: the highest scores, which fall from left to right."""
    import torch

    n = int(there_1L.sum(1).max())
    data_1L = torch.hstack([data_1L, torch.full((1, n), PAD_VALUE)])
    length = there_1L.shape[1]
    score = there_1L.float()
    score[~there_1L] = -float("inf")
    score = score + torch.tensor([(place + 1) * 20000 for place in range(length, 0, -1)])
    score = torch.hstack([score, torch.full((1, n), 1)])
    return torch.gather(data_1L, 1, score.topk(n).indices)


def bulk_normalized(table: Any) -> Any:
    """Totals brought to their median, then ln(1 + x), as scanpy does it."""
    totals = table.sum(axis=1).to_numpy()
    target = np.median(totals[totals > 0])
    scale = np.where(totals > 0, totals / target, 1)
    return np.log1p(table.div(scale, axis=0))


def sequences(
    table: Any, genes: Sequence[str], *, input_type: str = "singlecell", normalized: str = "F", depth: str = "t4"
) -> Sequences:
    """Ids and values of every row of a pandas table."""
    import torch

    table = aligned(table, genes)
    if input_type == "bulk" and normalized == "F":
        table = bulk_normalized(table)
    ids, values, pairs = [], [], []
    for row in range(len(table)):
        series = table.iloc[row, :]
        with np.errstate(all="ignore"):
            if input_type == "bulk":
                numbers = series.tolist()
                s = np.log10(series.sum()) if normalized == "F" else series.sum()
                t = s
            else:
                if normalized == "A":
                    numbers, total = series.iloc[:-1].tolist(), series.iloc[-1]
                elif normalized == "T":
                    numbers, total = series.tolist(), series.sum()
                else:
                    numbers, total = np.log1p(series / series.sum() * 1e4).tolist(), series.sum()
                by, s = float(depth[1:]), np.log10(total)
                t = {"t": by, "a": s + by, "f": np.log10(total * by)}[depth[0]]
        x_1L = torch.tensor([*numbers, t, s]).unsqueeze(0)
        there_1L = x_1L > 0
        values.append(gathered(x_1L, there_1L)[0].numpy())
        ids.append(gathered(torch.arange(len(genes) + 2).repeat(1, 1), there_1L)[0].numpy())
        pairs.append([t, s])
    return Sequences(ids, values, np.array(pairs, float))


# --- what is timed -----------------------------------------------------------------------------------------


def pipelines(copies: int) -> list[Any]:
    """The single-cell path with ours beside it, for `input_pipelines`."""
    from input_pipelines import Pipeline

    counts, symbols, genes, name = _cells(max(1, copies // DIVISOR))
    return [
        Pipeline(
            f"scFoundation: counts to {len(genes):,} genes, T and S", name, counts.shape[0], counts.nnz,
            *_single_cell(counts, symbols, genes), bar=50,
        )
    ]  # fmt: skip


def _single_cell(
    counts: sp.csr_matrix, symbols: tuple[str, ...], genes: list[str]
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], dict[str, int]]]:
    import pandas as pd

    from scmf.tokenizers.continuous import ContinuousTokenizer

    token_ids = {name: i for i, name in enumerate([*genes, "<T>", "<S>", "<pad>"])}
    options: dict[str, Any] = {"max_length": len(genes) + 2, "depth_tokens": True, "order": "vocabulary"}
    tokenizer = ContinuousTokenizer.from_tables(token_ids, **options)
    blocks = [counts[start : start + BLOCK] for start in range(0, counts.shape[0], BLOCK)]

    def ours() -> None:
        for block in blocks:
            tokenizer.encode_cells(block, symbols)

    def official() -> Sequences:
        found = [sequences(pd.DataFrame(block.toarray(), columns=list(symbols)), genes) for block in blocks]
        ids, values = [row for of in found for row in of.ids], [row for of in found for row in of.values]
        return Sequences(ids, values, np.concatenate([of.depth_B2 for of in found]))

    def verify() -> dict[str, int]:
        theirs, mine = official(), tokenizer.encode_cells(counts, symbols)
        ids, values = np.concatenate(theirs.ids), np.concatenate(theirs.values).astype(np.float32)
        same = np.array_equal(ids, mine.columns["input_ids"])
        if not same or not np.allclose(values, mine.columns["values"], rtol=1e-6, atol=0):
            raise SystemExit("tokens differ: the figures would mean nothing")
        return {"cells": counts.shape[0], "tokens": int(ids.size)}

    return ours, official, verify


def _cells(copies: int) -> tuple[sp.csr_matrix, tuple[str, ...], list[str], str]:
    """Counts, symbols of their columns, the gene list and a name: 400 PBMCs of the oracle, else synthetic cells."""
    from scmf.core.paths import data_dir, reference_dir

    oracle, mirror = reference_dir(), data_dir()
    path = oracle / "scfoundation" / "input" / "real400.h5ad" if oracle else Path("absent")
    table = mirror / "scfoundation_vocab" / "OS_scRNA_gene_index.19264.tsv" if mirror else Path("absent")
    rng = np.random.default_rng(0)
    if path.is_file() and table.is_file():
        import anndata

        cells = anndata.read_h5ad(path)
        genes = [line.split("\t")[0] for line in table.read_text(encoding="utf-8").splitlines()[1:]]
        counts, symbols = sp.csr_matrix(cells.X), cells.var["gene_name"].astype(str).tolist()
        name = f"{cells.n_obs} real PBMCs x {copies}, {cells.n_vars:,} columns"
    else:
        genes = [f"G{i}" for i in range(19_264)]
        symbols = [f"G{i}" for i in rng.choice(22_000, 17_500, replace=False)]
        chance = rng.permutation(np.minimum(1, 20 / np.arange(1, 17_501) ** 0.7))
        counts = sp.csr_matrix((rng.geometric(0.6, (400, 17_500)) * (rng.random((400, 17_500)) < chance)).astype("f4"))
        name = f"400 synthetic cells x {copies}, 17,500 columns"
    order = np.concatenate([rng.permutation(counts.shape[0]) for _ in range(copies)])
    return counts[order], tuple(symbols), genes, name
