"""One pass over a corpus that gathers its statistics, with a state on disk from which an interrupted pass resumes.

Lives here: `corpus_statistics`, which column counts as which gene, exact medians.
Lives elsewhere: the state and merging several (statistics_state), the result (statistics), the digests (tdigest) and
the kernel that fills them (tdigest_kernel).

Memory: the digests (about 8 kB a gene that is seen at all), a few blocks, one byte a cell where cells are left out;
nothing grows with the cells.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

from scmf.core import progress
from scmf.core.errors import ConfigError, CountsError, DataError, GeneError
from scmf.data.genes.ids import is_ensembl, strip_version
from scmf.data.genes.joining import joining_names
from scmf.data.preprocess.statistics import CorpusStatistics
from scmf.data.preprocess.statistics_state import Tally
from scmf.data.preprocess.tdigest_kernel import add_rows
from scmf.data.stores.corpus import Corpus, ScannedBlock
from scmf.data.stores.named_genes import named_genes
from scmf.data.stores.store import CountBlock

_EXACT_VALUES = 1 << 27
"""Most non-zero values of ``exact=True``: 12 bytes each while they are gathered, about as much again to sort them."""


def gene_name(gene: str) -> str:
    """The form in which genes are counted: no version, Ensembl ids in upper case, other names as they are."""
    name = strip_version(gene.strip())
    return name.upper() if is_ensembl(name) else name


@numba.njit(nogil=True, cache=True)
def _totals(indptr: np.ndarray, data: np.ndarray, out_B: np.ndarray) -> tuple[int, int]:
    """Sum of each cell; number of non-zero values; the first cell with a value that is no count, else -1."""
    nonzero = 0
    for cell in range(len(out_B)):
        total = 0.0
        for at in range(indptr[cell], indptr[cell + 1]):
            value = np.float64(data[at])
            if not (value >= 0.0 and value < np.inf):
                return nonzero, cell
            total += value
            nonzero += value != 0
        out_B[cell] = total
    return nonzero, -1


def _common_names(corpus: Corpus) -> dict[str, str] | None:
    """Gene as a store writes it -> one name for all stores; None where they are written alike."""
    files = named_genes(corpus.stores)
    mapping = joining_names(files, where=corpus.name, one_species=False)
    if mapping is None:
        return None
    names: dict[str, str] = {}
    for file in files:
        found = mapping.map(file.ids)[0].tolist()
        names |= {gene: known or gene_name(gene) for gene, known in zip(file.ids, found, strict=True)}
    return names


class _Genes:
    """Genes of the statistics and the gene of every column of every store."""

    def __init__(self, corpus: Corpus, genes: Mapping[str, str] | Sequence[str] | None) -> None:
        if genes is None:
            genes = _common_names(corpus)
        renamed = dict(genes) if isinstance(genes, Mapping) else {}
        wanted = None if genes is None or isinstance(genes, Mapping) else {gene_name(gene) for gene in genes}
        known: dict[tuple[str, ...], list[str | None]] = {}
        for store in corpus.stores:
            if store.genes in known:
                continue
            names: list[str | None] = [gene_name(gene) for gene in store.genes]
            if isinstance(genes, Mapping):
                names = [
                    renamed.get(gene, renamed.get(str(name))) for gene, name in zip(store.genes, names, strict=True)
                ]
            elif wanted is not None:
                names = [name if name in wanted else None for name in names]
            known[store.genes] = names
        seen = {name for names in known.values() for name in names if name is not None}
        self.names = tuple(sorted(seen if wanted is None else seen | wanted))
        if not seen:
            raise GeneError(
                f"none of the genes of {corpus.name}",
                wanted="some of the genes asked for",
                where="genes",
                fix="give ids of the same kind as the stores, or a mapping from theirs to yours",
            )
        place = {name: g for g, name in enumerate(self.names)}
        columns = {
            ids: np.array([-1 if name is None else place[name] for name in names], np.int32)
            for ids, names in known.items()
        }
        self.of_store = [columns[store.genes] for store in corpus.stores]
        self.summed = [bool(np.unique(kept := of[of >= 0]).size < kept.size) for of in self.of_store]

    def block(self, number: int, counts: CountBlock) -> tuple[CountBlock, np.ndarray]:
        """The block and the gene of its columns; columns of the same gene are added up first."""
        of = self.of_store[number]
        if not self.summed[number]:
            return counts, of
        inside = of[counts.indices] >= 0
        row = np.repeat(np.arange(counts.n_cells), np.diff(counts.indptr))[inside]
        place = (counts.data[inside].astype(np.float64), (row, of[counts.indices][inside]))
        joined = sp.coo_matrix(place, shape=(counts.n_cells, len(self.names))).tocsr()
        every = np.arange(len(self.names), dtype=np.int32)
        return CountBlock(joined.indptr.astype(np.int64), joined.indices, joined.data, len(self.names)), every


class _Values:
    """Every value, for exact medians."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._n = 0

    def add(self, block: CountBlock, gene_of: np.ndarray, total_B: np.ndarray, target: float, into: Tally) -> None:
        gene = gene_of[block.indices]
        total = np.repeat(total_B, np.diff(block.indptr))
        inside = (gene >= 0) & (block.data != 0) & (total > 0)
        gene, counts = gene[inside], block.data[inside].astype(np.float64)
        into.counts_G += np.bincount(gene, weights=counts, minlength=len(into.genes))
        self._n += len(gene)
        if self._n > _EXACT_VALUES:
            raise DataError(
                f"more than {_EXACT_VALUES:,} non-zero values",
                wanted="a corpus whose values fit in memory",
                where="exact medians",
                fix="leave exact out: the rank of a digest's median is off by a few thousandths at most",
            )
        self._parts.append((gene, counts / total[inside] * target))

    def n_cells(self, n_genes: int) -> np.ndarray:
        out = np.zeros(n_genes, np.int64)
        for gene, _ in self._parts:
            out += np.bincount(gene, minlength=n_genes)
        return out

    def medians(self, n_genes: int) -> np.ndarray:
        out = np.full(n_genes, np.nan)
        if self._n == 0:
            return out
        gene = np.concatenate([part[0] for part in self._parts])
        values = np.concatenate([part[1] for part in self._parts])
        values = values[np.argsort(gene, kind="stable")]
        ends = np.cumsum(np.bincount(gene, minlength=n_genes))
        for g, (start, stop) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
            if stop > start:
                out[g] = np.median(values[start:stop])
        return out


def corpus_statistics(
    corpus: Corpus,
    *,
    keep: np.ndarray | None = None,
    genes: Mapping[str, str] | Sequence[str] | None = None,
    target: float = 10_000,
    n_counts: str | None = None,
    exact: bool = False,
    compression: float = 100,
    buffer: int = 1024,
    threads: int = 2,
    cells_per_block: int = 4096,
    state: Path | str | None = None,
    save_every: int = 1_000_000,
) -> CorpusStatistics:
    """Gather the statistics of a corpus in one pass.

    Parameters
    ----------
    corpus
        Raw counts; stores may have different genes.
    keep
        Boolean (n_cells,): leave out the other cells (the official recipe leaves out cells without ``filter_pass``).
    genes
        None: every gene of any store, versions of Ensembl ids cut off. A sequence: these only. A mapping: gene id as
        a store writes it (or without version) -> gene it counts as; others are left out, genes that meet are added up.
    target
        Sum to which each cell is scaled before the median is taken.
    n_counts
        Column of ``obs`` with the total counts of the cells, where the stores hold a part of the genes. Default: the
        sum over all columns of the store.
    exact
        Keep every value and take exact medians (at most 134 million values).
    compression, buffer
        Of the t-digests, see `GeneDigests`.
    threads
        Reading ahead, and digesting; the result does not depend on it.
    cells_per_block
        Cells read at once.
    state
        File for the state of the pass, written every ``save_every`` cells and at the end. Where it is there and of the
        same pass, the pass resumes from it; the result is bit for bit that of an uninterrupted pass.

    Raises
    ------
    CountsError
        A value is negative, NaN or infinite, or ``n_counts`` is 0 beside counts; the cell is named.
    DataError
        The state is of another pass, or there are too many values for ``exact``.
    """
    for name, value in (("target", target), ("compression", compression)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} {value}", wanted="a finite number above 0", where=name, fix="leave it out")
    aligner = _Genes(corpus, genes)
    definition: dict[str, Any] = {"target": float(target), "n_counts": n_counts or "sum of all columns"}
    digest = {"compression": float(compression), "buffer": int(buffer)}
    definition |= {"medians": "exact"} if exact else {"medians": "t-digest"} | digest
    kept = corpus.n_cells if keep is None else int(np.count_nonzero(keep))
    provenance = {
        "corpus": corpus.file_names,
        "fingerprint": corpus.fingerprint,
        "cells": kept,
        "keep": None if keep is None else hashlib.sha256(np.packbits(keep).tobytes()).hexdigest(),
    }
    tally = Tally(aligner.names, definition, provenance)
    path = None if state is None else Path(state)
    if exact and path is not None:
        raise DataError("a state with exact=True", wanted="one of both", where=path, fix="leave out one of them")
    if path is not None and path.is_file():
        found = Tally.load(path)
        if not found.same_pass(tally):
            raise DataError(
                "the state of another pass (other cells, genes or settings)",
                wanted="a state of this pass",
                where=path,
                fix="remove it to start again, or give another name",
            )
        found.provenance, tally = tally.provenance, found
    totals = None if n_counts is None else _numbers(corpus, n_counts)
    values = _Values() if exact else None
    saved = tally.n_cells
    edges = np.linspace(0, len(aligner.names), max(1, threads) + 1).astype(int).tolist()
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    keep = _rest(tally.next_cell, keep, corpus.n_cells)
    with (
        ThreadPoolExecutor(max(1, threads), thread_name_prefix="statistics") as pool,
        progress.bar("statistics", kept, unit="cells", done=tally.n_cells) as bar,
    ):
        for piece in corpus.scan(keep=keep, cells_per_block=cells_per_block, threads=threads):
            total_B = _count(corpus, piece, tally, totals)
            block, gene_of = aligner.block(piece.store, piece.counts)
            if values is not None:
                values.add(block, gene_of, total_B, target, tally)
            else:
                into: tuple[Any, ...] = (tally.counts_G, *tally.digests.constants, *tally.digests.arrays)
                rows: tuple[Any, ...] = (block.indptr, block.indices, block.data, gene_of, total_B, float(target))
                jobs = [pool.submit(_digest, (*rows, first, last, *into)) for first, last in spans]
                for job in jobs:
                    job.result()
            tally.n_cells += len(piece.cells)
            tally.next_cell = int(piece.cells[-1]) + 1
            if path is not None and tally.n_cells - saved >= save_every:
                tally.save(path)
                saved = tally.n_cells
            bar.move_to(tally.n_cells)
    if path is not None:
        tally.save(path)
    if values is not None:
        return tally.result(values.n_cells(len(aligner.names)), values.medians(len(aligner.names)))
    return tally.result(tally.digests.n_values, tally.digests.quantile(0.5))


def _digest(arguments: tuple[Any, ...]) -> None:
    add_rows(*arguments)


def _numbers(corpus: Corpus, column: str) -> np.ndarray:
    """A column of ``obs`` as numbers, float64 (n_cells,)."""
    found = corpus.obs([column])[column]
    try:
        return found.to_numpy(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"column {column!r} holds {found.dtype}, for example {found.iloc[0]!r}",
            wanted="the total counts of each cell, numbers",
            where="n_counts",
            fix="name another column of obs, or leave it out: the counts are added up",
        ) from error


def _rest(start: int, keep: np.ndarray | None, n_cells: int) -> np.ndarray | None:
    """Which cells are still to be seen."""
    if start == 0:
        return keep
    rest = np.ones(n_cells, bool) if keep is None else keep.copy()
    rest[:start] = False
    return rest


def _count(corpus: Corpus, piece: ScannedBlock, tally: Tally, totals: np.ndarray | None) -> np.ndarray:
    """Check the counts of a block, add them to the totals and return by what its cells are divided."""
    total_B = np.zeros(piece.counts.n_cells)
    nonzero, bad = _totals(piece.counts.indptr, piece.counts.data, total_B)
    found = "a negative, NaN or infinite count"
    tally.nnz += nonzero
    tally.counts += float(total_B.sum())
    if bad < 0 and totals is not None:
        given_B = totals[piece.cells]
        wrong = np.flatnonzero(~(np.isfinite(given_B) & (given_B >= 0)) | ((given_B == 0) & (total_B > 0)))
        if wrong.size:
            bad, found = (
                int(wrong[0]),
                f"total counts of {given_B[wrong[0]]:g} where the cell has {total_B[wrong[0]]:g}",
            )
        total_B = given_B
    if bad >= 0:
        cell = int(piece.cells[bad] - corpus.offsets[piece.store])
        raise CountsError(
            found,
            wanted="raw counts, and a total above 0 where there are any",
            where=f"{corpus.stores[piece.store].uri}, cell number {cell} (from 0)",
            fix="correct or leave out the cell",
        )
    return total_B
