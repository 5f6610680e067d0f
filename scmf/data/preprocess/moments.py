"""Passes over the training cells that gene selection is made of: sums, sums of squares, clipped sums, residuals.

Lives here: the cells of a selection (`Selection`), the compiled sums, one array row a batch.
Lives elsewhere: what is selected from them (hvg).

Products are rounded as scanpy rounds them (float32 squared in float32, added up in float64), so that equal cells give
equal genes. Blocks are added in the order of the cells: the result does not depend on the threads that read.

Legend: A batches, B cells of a block, G genes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numba
import numpy as np
import pandas as pd

from scmf.core.errors import DataError
from scmf.data.preprocess.columns import common_genes, gene_columns
from scmf.data.preprocess.normalize import Pipeline
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.missing import is_missing
from scmf.data.stores.store import CountBlock


@dataclass(frozen=True)
class Selection:
    """Cells and genes that a selection looks at.

    Parameters
    ----------
    corpus
        Raw counts.
    genes
        The genes G.
    keep
        Boolean (n_cells,), or None for all.
    batch
        Batch of each cell of the corpus, int32 (n_cells,), -1 outside ``keep``.
    batches
        Names of the batches that have cells, in the order of the categories.
    first
        Which of them sorts first.
    threads
        Blocks read ahead.
    """

    corpus: Corpus
    genes: tuple[str, ...]
    keep: np.ndarray | None
    batch: np.ndarray
    batches: tuple[str, ...]
    first: int
    threads: int

    @classmethod
    def of(
        cls, corpus: Corpus, *, keep: np.ndarray | None, genes: Sequence[str] | None, batch_key: str | None,
        threads: int
    ) -> Selection:  # fmt: skip
        """Find the genes and the batches.

        Raises
        ------
        DataError
            No cell is left, or one has no batch.
        GeneError
            The stores differ in genes and ``genes`` is None.
        """
        inside = np.ones(corpus.n_cells, bool) if keep is None else np.asarray(keep, bool)
        if not inside.any():
            raise DataError("no cell is kept", wanted="training cells", where="keep", fix="check the split")
        names: tuple[str, ...] = ("all",)
        first = 0
        batch = np.where(inside, 0, -1).astype(np.int32)
        if batch_key is not None:
            column = corpus.obs([batch_key])[batch_key]
            lost = is_missing(column)
            if not isinstance(column.dtype, pd.CategoricalDtype):
                column = column.astype(str).astype("category")
            column = column.where(inside & ~lost).cat.remove_unused_categories()
            batch = np.asarray(column.cat.codes, dtype=np.int32)
            names = tuple(str(name) for name in column.cat.categories)
            first = int(np.argsort(np.asarray(column.cat.categories))[0]) if names else 0
            if (batch[inside] < 0).any():
                cells = np.flatnonzero(inside & (batch < 0))
                raise DataError(
                    f"no value of {batch_key!r} for cell number {cells[0]} ({len(cells):,} such cells)",
                    wanted="a batch", where=corpus.name, fix="leave the cell out with keep, or name its batch",
                )  # fmt: skip
        sizes = np.bincount(batch[batch >= 0], minlength=len(names))
        if sizes.min() < 2:
            small = int(np.argmin(sizes))
            whose = f"batch {names[small]!r} of {batch_key!r}" if batch_key is not None else "the selection"
            raise DataError(
                f"{sizes[small]} cell in {whose}",
                wanted="at least 2 cells in each batch, from which a variance is found", where=corpus.name,
                fix="leave the batch out with keep, or join it with another",
            )  # fmt: skip
        return cls(corpus, common_genes(corpus, genes), keep, batch, names, first, threads)

    def name_of(self, batch: int) -> str:
        """How errors call a batch: its name and its size."""
        n = int(self.n_cells_A[batch])
        return f"{n:,} cells" if self.batches == ("all",) else f"the {n:,} cells of batch {self.batches[batch]!r}"

    @property
    def n_cells_A(self) -> np.ndarray:
        """Cells of each batch, int64 (A,)."""
        return np.bincount(self.batch[self.batch >= 0], minlength=len(self.batches))

    def blocks(self, pipeline: Pipeline | None) -> Iterator[tuple[CountBlock, np.ndarray, np.ndarray]]:
        """Blocks after ``pipeline``, the gene of each column (-1: none), and the batch of each cell (B,)."""
        columns: dict[int, np.ndarray] = {}
        for piece in self.corpus.scan(keep=self.keep, threads=self.threads):
            ids: Sequence[str] = self.corpus.stores[piece.store].genes
            block = piece.counts
            if pipeline is not None:
                block, ids = pipeline.apply(block, ids)
            if piece.store not in columns:
                columns[piece.store] = gene_columns(ids, self.genes, where=self.corpus.stores[piece.store].uri)
            yield block, columns[piece.store], self.batch[piece.cells]


@numba.njit(nogil=True, cache=True)
def _add_sums(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, gene_of: np.ndarray, batch_B: np.ndarray,
    sum_AG: np.ndarray, square_AG: np.ndarray
) -> None:  # fmt: skip
    for cell in range(len(batch_B)):
        a = batch_B[cell]
        for at in range(indptr[cell], indptr[cell + 1]):
            g = gene_of[indices[at]]
            if g >= 0:
                value = data[at]
                sum_AG[a, g] += value
                square_AG[a, g] += value * value


@numba.njit(nogil=True, cache=True)
def _add_clipped(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, gene_of: np.ndarray, batch_B: np.ndarray,
    clip_AG: np.ndarray, sum_AG: np.ndarray, square_AG: np.ndarray
) -> None:  # fmt: skip
    for cell in range(len(batch_B)):
        a = batch_B[cell]
        for at in range(indptr[cell], indptr[cell + 1]):
            g = gene_of[indices[at]]
            if g >= 0:
                value = min(np.float64(data[at]), clip_AG[a, g])
                sum_AG[a, g] += value
                square_AG[a, g] += value**2


@numba.njit(nogil=True, cache=True)
def _add_residuals(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, gene_of: np.ndarray, batch_B: np.ndarray,
    gene_sum_AG: np.ndarray, all_A: np.ndarray, clip_A: np.ndarray, theta: float, sum_AG: np.ndarray,
    square_AG: np.ndarray
) -> None:  # fmt: skip
    row_G = np.zeros(gene_sum_AG.shape[1])
    for cell in range(len(batch_B)):
        a = batch_B[cell]
        row_G[:] = 0
        depth = 0.0
        for at in range(indptr[cell], indptr[cell + 1]):
            g = gene_of[indices[at]]
            if g >= 0:
                row_G[g] += data[at]
                depth += data[at]
        if depth == 0:
            continue  # mu is 0 and scanpy's residual NaN; see residual_sums
        for g in range(len(row_G)):
            if gene_sum_AG[a, g] == 0:
                continue
            mu = gene_sum_AG[a, g] * depth / all_A[a]
            residual = (row_G[g] - mu) / np.sqrt(mu + mu * mu / theta)
            residual = min(max(residual, -clip_A[a]), clip_A[a])
            sum_AG[a, g] += residual
            square_AG[a, g] += residual * residual


def sums(selection: Selection, pipeline: Pipeline | None, *, expm1: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sums of squares of each gene in each batch, float64 (A, G) each: 16 bytes a batch and gene.

    Parameters
    ----------
    selection
        The cells.
    pipeline
        Steps applied first; None: raw counts.
    expm1
        Undo the logarithm after the steps, as scanpy's flavour ``seurat`` does (in float32).
    """
    shape = (len(selection.batches), len(selection.genes))
    sum_AG, square_AG = np.zeros(shape), np.zeros(shape)
    for block, gene_of, batch_B in selection.blocks(pipeline):
        data = np.expm1(block.data) if expm1 else block.data
        _add_sums(block.indptr, block.indices, data, gene_of, batch_B, sum_AG, square_AG)
    return sum_AG, square_AG


def clipped_sums(selection: Selection, clip_AG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sums of squares of raw counts cut to ``clip_AG``, float64 (A, G) each."""
    sum_AG, square_AG = np.zeros_like(clip_AG), np.zeros_like(clip_AG)
    for block, gene_of, batch_B in selection.blocks(None):
        _add_clipped(block.indptr, block.indices, block.data, gene_of, batch_B, clip_AG, sum_AG, square_AG)
    return sum_AG, square_AG


def residual_sums(
    selection: Selection, gene_sum_AG: np.ndarray, clip_A: np.ndarray, theta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sums of squares of clipped Pearson residuals over all cells, zeros included, float64 (A, G) each.

    Takes time for every cell and gene, not for every count (about 10 ns each). Cells without any count have no
    residual and add nothing.
    """
    sum_AG, square_AG = np.zeros_like(gene_sum_AG), np.zeros_like(gene_sum_AG)
    all_A = gene_sum_AG.sum(axis=1)
    for block, gene_of, batch_B in selection.blocks(None):
        _add_residuals(
            block.indptr, block.indices, block.data, gene_of, batch_B,
            gene_sum_AG, all_A, clip_A, theta, sum_AG, square_AG,
        )  # fmt: skip
    return sum_AG, square_AG


def mean_and_variance(sum_G: np.ndarray, square_G: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance from sums, by the formula of scanpy."""
    mean = sum_G / n
    variance = square_G / n - mean**2
    return mean, variance * (n / (n - 1)) if n != 1 else variance
