"""Steps of a normalization: each is fitted once on the training cells and then applied to any block.

Lives here: what a step is, the blocks it is fitted on, `LibrarySize`, `Log1p`, `SelectGenes`. Lives elsewhere: the
step `SizeFactors` (size_factors), several steps as one (normalize), which genes to select (hvg).

The arithmetic is that of ``scanpy.pp.normalize_total`` and ``log1p`` on a float32 CSR matrix, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numba
import numpy as np

from scmf.core.errors import DataError
from scmf.data.preprocess.columns import gene_columns, places
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.store import CountBlock


@numba.njit(nogil=True, cache=True)
def _sums(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, counted_G: np.ndarray) -> np.ndarray:
    """Sum of each cell over the genes that count, float32 (added up in float64)."""
    sum_B = np.empty(len(indptr) - 1, np.float32)
    for cell in range(len(sum_B)):
        total = 0.0
        for at in range(indptr[cell], indptr[cell + 1]):
            if counted_G[indices[at]]:
                total += data[at]
        sum_B[cell] = total
    return sum_B


@numba.njit(nogil=True, cache=True)
def _mark_high(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, sum_B: np.ndarray, share: float, high_G: np.ndarray
) -> None:
    for cell in range(len(sum_B)):
        for at in range(indptr[cell], indptr[cell + 1]):
            if data[at] > share * sum_B[cell]:
                high_G[indices[at]] = True


@numba.njit(nogil=True, cache=True)
def divide_rows(indptr: np.ndarray, data: np.ndarray, by_B: np.ndarray) -> np.ndarray:
    """``data`` with each cell divided by its element of ``by_B`` (float32; 0 counts as 1)."""
    out = np.empty(len(data), np.float32)
    for cell in range(len(by_B)):
        by = by_B[cell] if by_B[cell] != 0 else np.float32(1)
        for at in range(indptr[cell], indptr[cell + 1]):
            out[at] = data[at] / by
    return out


@numba.njit(nogil=True, cache=True)
def _select(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, places_G: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values whose gene has a place, there."""
    new_indptr = np.zeros(len(indptr), np.int64)
    for cell in range(len(indptr) - 1):
        n = 0
        for at in range(indptr[cell], indptr[cell + 1]):
            n += places_G[indices[at]] >= 0
        new_indptr[cell + 1] = new_indptr[cell] + n
    new_indices, new_data = np.empty(new_indptr[-1], np.int32), np.empty(new_indptr[-1], np.float32)
    n = 0
    for at in range(indptr[0], indptr[-1]):
        place = places_G[indices[at]]
        if place >= 0:
            new_indices[n], new_data[n] = place, data[at]
            n += 1
    return new_indptr, new_indices, new_data


class Step(Protocol):
    """One step of a pipeline; a frozen dataclass whose fields are written as JSON."""

    kind: ClassVar[str]
    """Name of the step in JSON."""

    @property
    def is_fitted(self) -> bool:
        """Whether nothing is left to be found."""

    def fit(self, blocks: Blocks) -> Step:
        """The step with what it needs found on the training cells."""

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """The block, changed, and the genes of its columns."""


class Blocks:
    """The training cells, as often as a step needs them, with the steps before it already applied.

    Parameters
    ----------
    corpus
        Raw counts.
    keep
        Boolean (n_cells,): the training cells; None says all.
    threads
        Blocks read ahead.
    before
        Fitted steps.
    """

    def __init__(self, corpus: Corpus, keep: np.ndarray | None, threads: int, before: Sequence[Step] = ()) -> None:
        self._corpus, self._keep, self._threads, self._before = corpus, keep, threads, tuple(before)

    def __call__(self) -> Iterator[tuple[CountBlock, Sequence[str]]]:
        """One pass."""
        for piece in self._corpus.scan(keep=self._keep, threads=self._threads):
            block = piece.counts
            genes: Sequence[str] = self._corpus.stores[piece.store].genes
            for step in self._before:
                block, genes = step.apply(block, genes)
            yield block, genes

    def obs(self, column: str) -> np.ndarray:
        """A column of ``obs`` of these cells, in the order of the blocks."""
        values = self._corpus.obs([column])[column].to_numpy()
        return values if self._keep is None else values[self._keep]


@dataclass(frozen=True)
class LibrarySize:
    """Divide each cell so that its counts add up to ``target_sum``, as ``scanpy.pp.normalize_total`` does.

    Parameters
    ----------
    target_sum
        The sum; None: the median of the training cells, which `Pipeline.fit` finds.
    exclude_highly_expressed
        Leave genes that hold more than ``max_fraction`` of any training cell out of the sums (they are still divided).
    max_fraction
        That share.
    excluded
        The genes left out, found by `Pipeline.fit`; None before it.
    """

    kind: ClassVar[str] = "library_size"
    target_sum: float | None = 10_000.0
    exclude_highly_expressed: bool = False
    max_fraction: float = 0.05
    excluded: tuple[str, ...] | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether nothing is left to be found."""
        return self.target_sum is not None and (self.excluded is not None or not self.exclude_highly_expressed)

    def fit(self, blocks: Blocks) -> LibrarySize:
        """Find what is not given: 4 bytes a training cell for the median, which is exact."""
        step = self
        if self.exclude_highly_expressed and self.excluded is None:
            high: set[str] = set()
            for block, genes in blocks():
                marked = np.zeros(block.n_genes, bool)
                sum_B = _sums(block.indptr, block.indices, block.data, np.ones(block.n_genes, bool))
                _mark_high(block.indptr, block.indices, block.data, sum_B, self.max_fraction, marked)
                high.update(genes[g] for g in np.flatnonzero(marked).tolist())
            step = replace(step, excluded=tuple(sorted(high)))
        if self.target_sum is None:
            sums = [step.sums(block, genes) for block, genes in blocks()]
            median = float(np.median(np.concatenate(sums))) if sums else 0.0
            if median <= 0:
                raise DataError(f"a median of {median:g}", wanted="counts in most cells", where="target_sum: null")
            step = replace(step, target_sum=median)
        return step

    def sums(self, block: CountBlock, genes: Sequence[str]) -> np.ndarray:
        """Counts of each cell without the excluded genes, float32 (B,)."""
        counted = np.ones(block.n_genes, bool)
        if self.excluded:
            counted = places(tuple(genes), self.excluded) < 0
        return _sums(block.indptr, block.indices, block.data, counted)

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """The block, divided."""
        by = self.sums(block, genes) / np.float32(self.target_sum)
        return block._replace(data=divide_rows(block.indptr, block.data, by)), genes


@dataclass(frozen=True)
class Log1p:
    """``log(1 + x)``, in base ``base`` (None: natural)."""

    kind: ClassVar[str] = "log1p"
    base: float | None = None
    is_fitted: ClassVar[bool] = True

    def fit(self, blocks: Blocks) -> Log1p:
        """Nothing to find."""
        return self

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """The block, logarithmised."""
        data = np.log1p(block.data)
        if self.base is not None:
            np.divide(data, np.log(self.base), out=data)
        return block._replace(data=data), genes


@dataclass(frozen=True)
class SelectGenes:
    """Keep these genes, in this order; a gene that a store lacks is an empty column.

    Parameters
    ----------
    genes
        Gene ids as the stores write them, such as ``HvgResult.selected``.
    """

    kind: ClassVar[str] = "select_genes"
    genes: tuple[str, ...] = ()
    is_fitted: ClassVar[bool] = True

    def fit(self, blocks: Blocks) -> SelectGenes:
        """Nothing to find."""
        return self

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """The block over the genes kept."""
        places_G = gene_columns(genes, self.genes, where="select_genes")
        indptr, indices, data = _select(block.indptr, block.indices, block.data, places_G)
        return CountBlock(indptr, indices, data, len(self.genes)), self.genes
