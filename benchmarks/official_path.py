"""The official Geneformer tokenizer's path from counts to a saved token dataset, restated as a peer to measure.

Lives here: the algorithm of ``TranscriptomeTokenizer`` for h5ad files with default settings, written from a
description of what it computes (mapping, chunks of 512 cells, scipy division, numpy argsort for each cell, one Python
call for each cell to crop and to add special tokens, ``save_to_disk``), with the libraries it uses: scipy,
numpy and datasets. No code of the official repository and none of scmf is in it, so it also serves the tests as
a second opinion. Lives elsewhere: the measurement (tokenizer_throughput.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

CHUNK = 512
TARGET_SUM = 10_000


@dataclass(frozen=True)
class Dictionaries:
    """Token ids (special tokens included), medians and the mapping of names to genes."""

    token_ids: Mapping[str, int]
    medians: Mapping[str, float]
    mapping: Mapping[str, str]


def collapse(counts: Any, genes: Sequence[str], tables: Dictionaries) -> tuple[Any, list[str | None]]:
    """Map gene ids to canonical ones; columns of one gene are summed, but only if the official check notices them."""
    mapping = {name: gene for name, gene in tables.mapping.items() if gene in tables.token_ids}
    exact = [gene for gene in genes if gene in mapping]
    canonical = [mapping.get(gene.upper()) for gene in genes]
    if len(set(exact)) == len({mapping[gene] for gene in exact}):
        return counts, canonical
    times = Counter(gene for gene in canonical if gene is not None)
    single = [i for i, gene in enumerate(canonical) if gene is not None and times[gene] == 1]
    several = [gene for gene, n in times.items() if n > 1]
    counts = sp.csc_matrix(counts)
    sums = [sp.csc_matrix(counts[:, [i for i, g in enumerate(canonical) if g == gene]].sum(axis=1)) for gene in several]
    return sp.hstack([counts[:, single], *sums]).tocsr(), [*(canonical[i] for i in single), *several]


def rank(
    counts: Any, genes: Sequence[str], n_counts: np.ndarray, tables: Dictionaries
) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids of each cell in rank order, uncropped, and the rows that have any."""
    counts, canonical = collapse(counts, genes, tables)
    columns = np.array([i for i, gene in enumerate(canonical) if gene in tables.token_ids], dtype=np.int64)
    tokens = np.array([tables.token_ids[str(canonical[i])] for i in columns])
    medians = np.array([tables.medians[str(canonical[i])] for i in columns])
    ranked = []
    for start in range(0, counts.shape[0], CHUNK):
        part = counts[start : start + CHUNK][:, columns]
        totals = n_counts[start : start + CHUNK, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            values = sp.csr_matrix(part / totals * TARGET_SUM / medians[None, :])
        for i in range(values.shape[0]):
            row = values[i]
            ranked.append(tokens[row.indices[np.argsort(-row.data)]])
    kept = np.array([row for row, ids in enumerate(ranked) if ids.size], dtype=np.int64)
    return [ranked[row] for row in kept], kept


def save(
    path: Path | str, ranked: list[np.ndarray], token_ids: Mapping[str, int], *, longest: int, special: bool
) -> Any:
    """Crop each cell, put special tokens around it, note its length, and write the dataset."""
    import datasets

    def formatted(example: dict[str, Any]) -> dict[str, Any]:
        if special:
            ids = np.asarray(example["input_ids"][: longest - 2])
            ids = np.insert(ids, 0, token_ids["<cls>"])
            example["input_ids"] = np.insert(ids, len(ids), token_ids["<eos>"])
        else:
            example["input_ids"] = example["input_ids"][:longest]
        example["length"] = len(example["input_ids"])
        return example

    dataset = datasets.Dataset.from_dict({"input_ids": ranked}).map(formatted)
    dataset.save_to_disk(str(path))
    return dataset


def tokenize(
    path: Path | str,
    counts: Any,
    genes: Sequence[str],
    n_counts: np.ndarray,
    tables: Dictionaries,
    *,
    longest: int,
    special: bool,
) -> Any:
    """Counts to a saved token dataset."""
    ranked, _ = rank(counts, genes, n_counts, tables)
    return save(path, ranked, tables.token_ids, longest=longest, special=special)
