"""Size factors: one number a cell by which its counts are divided, 1 on average over the training cells.

Lives here: the step `SizeFactors` of a pipeline and what its methods are. Lives elsewhere: scaling every cell to the
same sum (steps.LibrarySize).

===========  =============================================================================================
method       is
===========  =============================================================================================
``library``  Total counts of the cell, centerd. ``scuttle::librarySizeFactors``.
``clrm1``    ``scranpy.compute_clrm1_factors`` (package scranpy, the libscran bindings): geometric mean of
             ``count + 1`` over the genes, minus 1; made for antibody tags, where it resists composition bias.
===========  =============================================================================================

Neither is the pooling and deconvolution of ``scran::computeSumFactors`` (Lun, Bach, Marioni 2016): libscran and
scranpy 0.3 do not have it any more. Deconvolution solves for factors that hold when most genes do not differ between
*pools* of cells; ``library`` does not correct composition bias at all, and ``clrm1`` on sparse RNA counts follows the
number of genes detected rather than the amount of RNA. Centring is ``scranpy.center_size_factors`` with mode
``lowest``: all factors are divided by the mean over the training cells, or by the lowest mean of a batch, so that a
block can be divided without knowing its batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp

from scmf.core.errors import ConfigError, DataError, MissingExtraError
from scmf.data.preprocess.steps import Blocks, divide_rows
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.missing import is_missing
from scmf.data.stores.store import CountBlock


def _scranpy() -> Any:
    try:
        import scranpy
    except ImportError as error:
        raise MissingExtraError("scranpy", "preprocess", needed_for="size factors") from error
    return scranpy


def raw_factors(block: CountBlock, method: str, n_genes: int | None) -> np.ndarray:
    """Factors of the cells of a block before centring, float64 (B,).

    Parameters
    ----------
    block
        Raw counts.
    method
        ``library`` or ``clrm1``.
    n_genes
        For ``clrm1`` the genes that are in any training cell: scranpy leaves out genes that are in no cell of what
        it is given, so the factors of a block are brought from the genes of the block to these. They are then those
        of one call with all cells.
    """
    if method == "library":
        cell = np.repeat(np.arange(block.n_cells), np.diff(block.indptr))
        return np.bincount(cell, weights=block.data, minlength=block.n_cells)
    here = np.unique(block.indices[block.data != 0]).size
    if here == 0 or not n_genes:
        return np.zeros(block.n_cells)
    # scranpy knows a type by the identity of numpy's object, which arrays of numba and of files do not share
    by_cell = sp.csc_matrix((block.n_genes, block.n_cells), dtype=np.float32)
    by_cell.data, by_cell.indices = block.data.astype(np.float32), block.indices.astype(np.int32)
    by_cell.indptr = block.indptr.astype(np.int64)
    factors = np.asarray(_scranpy().compute_clrm1_factors(by_cell, num_threads=1), np.float64)
    return np.expm1(np.log1p(factors) * (here / n_genes))


@dataclass(frozen=True)
class SizeFactors:
    """Divide each cell by its size factor; a step of a `Pipeline`, in front of `Log1p`.

    Parameters
    ----------
    method
        ``library`` or ``clrm1``, see the table of this file.
    batch_key
        Column of ``obs``: factors are divided by the lowest mean of a batch; None: by the mean of all training cells.
    n_genes, center
        Genes in any training cell, and the number by which factors are divided; found by `Pipeline.fit`.
    """

    kind: ClassVar[str] = "size_factors"
    method: Literal["library", "clrm1"] = "library"
    batch_key: str | None = None
    n_genes: int | None = None
    center: float | None = None

    def __post_init__(self) -> None:
        if self.method not in ("library", "clrm1"):
            raise ConfigError(
                f"method {self.method!r}",
                wanted="library or clrm1",
                where="size_factors",
                fix="deconvolution (scran::computeSumFactors) is in no maintained Python package",
            )

    @property
    def is_fitted(self) -> bool:
        """Whether the center is known."""
        return self.center is not None

    def fit(self, blocks: Blocks) -> SizeFactors:
        """Find the center over the training cells, in memory of 8 bytes a cell (and the batch of each)."""
        seen: set[str] = set()
        if self.method == "clrm1":
            for block, genes in blocks():
                seen.update(genes[g] for g in np.unique(block.indices[block.data != 0]).tolist())
        factors = np.concatenate([raw_factors(block, self.method, len(seen)) for block, _ in blocks()] or [np.empty(0)])
        batches = None if self.batch_key is None else blocks.obs(self.batch_key)
        if batches is not None and (lost := is_missing(batches)).any():
            raise DataError(
                f"{int(lost.sum()):,} of {len(lost):,} training cells have no {self.batch_key!r}",
                wanted="a batch for every cell", where="size_factors", fix="fill it in, or leave these cells out",
            )  # fmt: skip
        valid = factors > 0
        if not valid.any():
            raise DataError("no cell with counts", wanted="training cells", where="size_factors")
        factors, batches = factors[valid], None if batches is None else batches[valid]
        centerd = _scranpy().center_size_factors(factors, block=batches, mode="lowest")
        return replace(self, n_genes=len(seen) or None, center=float(factors[0] / centerd[0]))

    def factors(self, block: CountBlock) -> np.ndarray:
        """Centerd size factors of the cells of a block, float64 (B,); 0 for cells without counts."""
        assert self.center is not None
        return raw_factors(block, self.method, self.n_genes) / self.center

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """The block, divided; cells whose factor is 0 stay as they are."""
        by = self.factors(block).astype(np.float32)
        return block._replace(data=divide_rows(block.indptr, block.data, by)), genes


def size_factors(
    corpus: Corpus, *, keep: np.ndarray | None, method: Literal["library", "clrm1"] = "library",
    batch_key: str | None = None, threads: int = 2
) -> np.ndarray:  # fmt: skip
    """Centerd size factors of all cells of a corpus, float64 (n_cells,), fitted on some of them.

    Parameters
    ----------
    corpus
        Raw counts.
    keep
        Boolean (n_cells,): the training cells, from which the center comes; None says all.
    method, batch_key
        See `SizeFactors`.
    threads
        Blocks read ahead.
    """
    step = SizeFactors(method, batch_key).fit(Blocks(corpus, keep, threads))
    return np.concatenate([step.factors(piece.counts) for piece in corpus.scan(threads=threads)])
