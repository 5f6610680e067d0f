"""Normalization on the fly: steps that are fitted once on the training cells and then applied to any block.

Lives here: `LibrarySize`, `Log1p`, `SelectGenes`, the `Pipeline` of them and its JSON.
Lives elsewhere: size factors (size_factors), which genes to select (hvg), cells to leave out (quality).

The arithmetic is that of ``scanpy.pp.normalize_total`` and ``log1p`` on a float32 CSR matrix, to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numba
import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scmf.core import registry as plugins
from scmf.core.errors import ConfigError, DataError
from scmf.data.preprocess.columns import gene_columns, places
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.fractions import refuse_damage
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


class Blocks:
    """The training cells, as often as a step needs them, with the steps before it already applied."""

    def __init__(self, corpus: Corpus, keep: np.ndarray | None, threads: int, before: Pipeline) -> None:
        self._corpus, self._keep, self._threads, self._before = corpus, keep, threads, before

    def __call__(self) -> Iterator[tuple[CountBlock, Sequence[str]]]:
        """One pass."""
        for piece in self._corpus.scan(keep=self._keep, threads=self._threads):
            yield self._before.apply(piece.counts, self._corpus.stores[piece.store].genes)

    def obs(self, column: str) -> np.ndarray:
        """A column of ``obs`` of these cells, in the order of the blocks."""
        values = self._corpus.obs([column])[column].to_numpy()
        return values if self._keep is None else values[self._keep]


class Pipeline:
    """Steps applied one after the other.

    Parameters
    ----------
    steps
        Such as ``[LibrarySize(10_000), Log1p()]``.
    fitted_on
        Said by `fit`: fingerprint of the corpus and number of cells.
    """

    def __init__(self, steps: Sequence[Any], *, fitted_on: Mapping[str, Any] | None = None) -> None:
        self.steps = tuple(steps)
        self.fitted_on = dict(fitted_on) if fitted_on else None

    @property
    def is_fitted(self) -> bool:
        """Whether every step knows all it needs."""
        return all(step.is_fitted for step in self.steps)

    def fit(self, corpus: Corpus, *, keep: np.ndarray | None, threads: int = 2) -> Pipeline:
        """Find what the steps need, from the training cells.

        Parameters
        ----------
        corpus
            Raw counts.
        keep
            Boolean (n_cells,): the training cells. None says that all cells are; it must be said.
        threads
            Blocks read ahead.

        Returns
        -------
        Pipeline
            A new one, fitted. Nothing is read when nothing is to be found.
        """
        steps: list[Any] = []
        for step in self.steps:
            done = step.is_fitted
            steps.append(step if done else step.fit(Blocks(corpus, keep, threads, Pipeline(steps))))
        n_cells = corpus.n_cells if keep is None else int(np.count_nonzero(keep))
        return Pipeline(steps, fitted_on={"fingerprint": corpus.fingerprint, "cells": n_cells})

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """Apply all steps to a block; the block itself is left as it is.

        Parameters
        ----------
        block
            Raw counts (B, G).
        genes
            Gene ids of its columns.

        Returns
        -------
        block, genes
            float32, over the genes that are left.
        """
        for step in self.steps:
            if not step.is_fitted:
                raise DataError(
                    f"step {step.kind} is not fitted", wanted="a fitted pipeline", where="Pipeline.apply",
                    fix="call fit(corpus, keep=<training cells>) first",
                )  # fmt: skip
            block, genes = step.apply(block, genes)
        return block, genes

    def apply_anndata(self, adata: AnnData, *, layer: str | None = None) -> AnnData:
        """A new AnnData whose ``X`` is ``X`` (or ``layer``) of ``adata`` after all steps; columns are var_names."""
        raw = adata.X if layer is None else adata.layers[layer]
        matrix = sp.csr_matrix(raw, dtype=np.float32)
        refuse_damage(matrix, where="X" if layer is None else layer, cells=adata.obs_names, genes=adata.var_names)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        block = CountBlock(matrix.indptr, matrix.indices, matrix.data, matrix.shape[1])
        block, genes = self.apply(block, tuple(map(str, adata.var_names)))
        var = adata.var.copy() if list(genes) == list(adata.var_names) else adata.var.reindex(list(genes))
        return AnnData(block.csr(), obs=adata.obs.copy(), var=var)

    def to_json(self) -> dict[str, Any]:
        """Plain values, exact when written as JSON."""
        steps = [{"step": step.kind, **json.loads(json.dumps(asdict(step)))} for step in self.steps]
        return {"steps": steps, "fitted_on": self.fitted_on}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pipeline:
        """Read what `to_json` made; a step of an unknown name is a `ConfigError`."""
        from scmf.data.preprocess.size_factors import SizeFactors

        known: dict[str, Any] = {step.kind: step for step in (LibrarySize, Log1p, SelectGenes, SizeFactors)}
        steps = []
        for entry in value["steps"]:
            fields = {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items() if name != "step"}
            if entry.get("step") not in known:
                name = str(entry.get("step"))
                raise ConfigError(
                    f"step {name!r}", where="preprocessing pipeline", fix=plugins.did_you_mean(name, list(known))
                )
            steps.append(known[entry["step"]](**fields))
        return cls(steps, fitted_on=value.get("fitted_on"))
