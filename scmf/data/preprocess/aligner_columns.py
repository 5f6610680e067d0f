"""Counts of a store on the columns of an aligner.

Lives here: `Columns` (where each column of a store goes), `AlignedBlock`, and `align`, which makes one.
Lives elsewhere: finding the columns (gene_aligner), the compiled loop (aligner_kernel).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from scmf.core.errors import DataError
from scmf.data.genes.names import KINDS
from scmf.data.preprocess.aligner_kernel import BAD_INDEX, align_rows
from scmf.data.stores.store import CountBlock


@dataclass(frozen=True, eq=False)
class Columns:
    """Where the columns of a store go in an aligner.

    Parameters
    ----------
    target
        Column of the aligner, or -1 for a gene that is dropped, int32 (G,).
    n_panel
        Genes of the aligner.
    kinds
        What became of each gene, number in `scmf.data.genes.names.KINDS`, uint8 (G,).
    collisions
        Gene of the aligner -> names in the store, where several columns are added up.
    """

    target: np.ndarray
    n_panel: int
    kinds: np.ndarray
    collisions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = self.target[self.target >= 0]
        object.__setattr__(self, "rising", bool((np.diff(kept) > 0).all()))
        self.target.setflags(write=False)
        self.kinds.setflags(write=False)

    rising: bool = field(init=False)
    """Whether kept columns have the order of the aligner; rows then need no sorting."""

    @property
    def n_dropped(self) -> int:
        """Columns of the store that are not in the aligner."""
        return int((self.target < 0).sum())

    @property
    def n_found(self) -> int:
        """Genes of the aligner that the store has."""
        return len(np.unique(self.target[self.target >= 0]))

    @property
    def counts(self) -> dict[str, int]:
        """Genes of the store by what became of them; they add up to G."""
        return dict(zip(KINDS, np.bincount(self.kinds, minlength=len(KINDS)).tolist(), strict=True))


class AlignedBlock(NamedTuple):
    """Counts of some cells over an aligner.

    Parameters
    ----------
    counts
        CSR over the columns of the aligner: columns rise within each row, none twice, no stored zero.
    n_counts_B
        Sum of each cell over all genes of its store, also those not in the aligner, float64 (B,). This is what counts
        are divided by where depth is normalized.
    """

    counts: CountBlock
    n_counts_B: np.ndarray

    @property
    def share_kept(self) -> float:
        """Share of the counts that the aligner holds; 1 for cells without counts."""
        total = float(self.n_counts_B.sum())
        return float(self.counts.data.sum(dtype=np.float64)) / total if total else 1.0


def align(block: CountBlock, columns: Columns, *, in_place: bool = False) -> AlignedBlock:
    """Bring counts onto an aligner: O(stored values), one thread, without the lock of the interpreter.

    Parameters
    ----------
    block
        Counts over the genes of the store. Rows need not be sorted.
    columns
        From ``aligner.columns(store.genes)`` of that store.
    in_place
        Write over ``block.indices`` and ``block.data`` where their types allow (int32, float32); the block is of
        no use afterwards. Much faster, since no new memory is touched. For blocks that a store has just read.

    Raises
    ------
    DataError
        ``columns`` belongs to other genes, or the block names a column that its store does not have.
    """
    if block.n_genes != len(columns.target):
        raise DataError(
            f"a block of {block.n_genes:,} genes and columns for {len(columns.target):,}",
            wanted="columns of the store that the block was read from",
            where="align",
            fix="ask aligner.columns(store.genes) for the store of the block",
        )
    data = np.ascontiguousarray(block.data, dtype=np.float32)
    reuse = in_place and block.indices.dtype == np.int32 and block.indices.flags.writeable
    indices = block.indices if reuse else np.empty(len(data), np.int32)
    values = data if in_place and data.flags.writeable else np.empty(len(data), np.float32)
    indptr, totals_B = np.empty(block.n_cells + 1, np.int64), np.empty(block.n_cells)
    error, row = align_rows(
        np.asarray(block.indptr, np.int64), block.indices, data, columns.target, columns.rising,
        columns.n_panel, indptr, indices, values, totals_B,
    )  # fmt: skip
    if error == BAD_INDEX:
        raise DataError(
            f"cell {row} of the block has a column outside 0 to {block.n_genes - 1:,}",
            wanted="columns of the store",
            where="align",
            fix="the file is damaged or was replaced while it was read; write it again",
        )
    n = indptr[-1]
    return AlignedBlock(CountBlock(indptr, indices[:n], values[:n], columns.n_panel), totals_B)
