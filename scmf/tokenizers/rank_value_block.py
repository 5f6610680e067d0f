"""One block of cells for the rank-value tokenizer: checked, brought to CSR, handed to the compiled sort.

Lives here: what a block may be, the type of the arithmetic, the errors about counts. Lives elsewhere: the loops
(rank_value_kernel), the meaning of the columns (rank_value_genes), what a user calls (rank_value).

Legend: B cells, G genes (columns), N tokens of all cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .rank_value_genes import GeneColumns
from .rank_value_kernel import BAD_COUNT, NOT_SORTED, OK, rank_rows
from .rank_value_tables import problem

Counts = Any
"""Any scipy sparse matrix or array, or a dense array: raw counts (B, G)."""

_WANT = {None: 0, "scaled": 1, "per_10k": 2}


class RankedCells(NamedTuple):
    """Tokens of many cells without padding: cell b is ``ids[offsets[b]:offsets[b + 1]]``.

    Parameters
    ----------
    ids
        int32 unless asked otherwise (N,), special tokens included.
    offsets
        int64 (B+1,).
    values
        float64 (N,) if asked for, 0 at special tokens.
    """

    ids: np.ndarray
    offsets: np.ndarray
    values: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each cell, int64 (B,)."""
        return np.diff(self.offsets)


class Layout(NamedTuple):
    """How a sequence is laid out.

    Parameters
    ----------
    max_length
        Most genes a cell, None for all.
    cls_id, eos_id
        Ids put in front and behind; -1 for none.
    dtype
        Type of the ids.
    """

    max_length: int | None
    cls_id: int = -1
    eos_id: int = -1
    dtype: Any = np.int32


def rank_block(
    matrix: sp.csr_matrix,
    columns: GeneColumns,
    *,
    totals: np.ndarray | None,
    layout: Layout,
    dense: bool,
    match_official: bool,
    values: str | None,
    empty: str,
) -> RankedCells:
    """Rank every cell of a block.

    Parameters
    ----------
    matrix
        Raw counts (B, G) as `as_csr` returns them.
    columns
        Meaning of the G columns.
    totals
        As `check_totals` returns them, or None for the row sums.
    layout
        Cut, special tokens and type of the ids.
    dense
        The block came as a dense array (the official code then divides).
    match_official, values, empty
        See `RankValueTokenizer.rank`.

    Raises
    ------
    ValueError
        Negative, NaN or infinite counts; a total of 0 beside counts; an empty cell.
    """
    n_cells = matrix.shape[0]
    divide = dense and match_official
    if divide and totals is not None:
        matrix = _store_rows(matrix, np.flatnonzero((totals == 0) | np.isnan(totals)))
    one, factor = _factor(matrix.dtype, totals, divide=divide)
    unsigned = np.uint32 if one.dtype == np.float32 else np.uint64
    specials = int(layout.cls_id >= 0) + int(layout.eos_id >= 0)
    longest = matrix.shape[1] if layout.max_length is None else layout.max_length
    offsets = np.empty(n_cells + 1, np.int64)
    for _ in range(2):
        data = np.ascontiguousarray(matrix.data, dtype=one.dtype)
        room = int(np.minimum(np.diff(matrix.indptr), longest).sum()) + specials * n_cells
        ids, kept_values = np.empty(room, layout.dtype), np.empty(room if values else 0)
        code, row = rank_rows(
            matrix.indptr.astype(np.int64), np.ascontiguousarray(matrix.indices), data,
            data.view(unsigned), one.dtype.type(np.inf).view(unsigned),
            factor, totals is None, divide, one, one.dtype.type(10_000),
            columns.code_G, columns.median_G if divide else columns.reciprocal_G,
            columns.slot_ids, columns.slot_median if divide else columns.slot_reciprocal,
            match_official, longest, layout.cls_id, layout.eos_id, _WANT[values], ids, kept_values, offsets,
        )  # fmt: skip
        if code != NOT_SORTED:
            break
        matrix = sp.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape, copy=True)
        matrix.sum_duplicates()  # columns of a row out of order, or twice
    if code == BAD_COUNT:
        raise bad_count(matrix, row)
    if code != OK:
        raise problem(
            "a column outside the matrix",
            wanted=f"columns 0 to {matrix.shape[1] - 1}",
            where=f"row {row} of counts",
            fix="rebuild the matrix",
        )
    n_genes_B = np.diff(offsets) - specials
    if not match_official and totals is not None:
        _refuse(
            n_genes_B[totals == 0] > 0, np.flatnonzero(totals == 0), "has counts but n_counts 0", "recompute n_counts"
        )
    if empty == "error":
        _refuse(
            n_genes_B == 0, np.arange(n_cells), "has no counts in any known gene",
            "filter such cells, or call with empty='keep'",
        )  # fmt: skip
    end = int(offsets[-1])
    return RankedCells(ids[:end], offsets, kept_values[:end] if values else None)


def as_csr(counts: Counts, n_genes: int) -> sp.csr_matrix:
    """The block as CSR; no copy if it is CSR. ``ValueError`` if it is not a matrix of ``n_genes`` numeric columns."""
    matrix = counts if sp.issparse(counts) else np.asarray(counts)
    if matrix.ndim != 2 or matrix.dtype.kind not in "buif" or matrix.shape[1] != n_genes:
        raise problem(
            f"counts of shape {matrix.shape}, type {matrix.dtype}",
            wanted=f"numbers of shape (cells, {n_genes}): one column for each gene id",
            where="counts",
            fix="give the matrix whose columns are these genes",
        )
    # As it is where it is CSR: scipy would copy indices of a type it does not use itself, such as uint16.
    if sp.issparse(matrix) and counts.format == "csr":
        return counts
    return sp.csr_matrix(matrix)


def check_counts(matrix: sp.csr_matrix) -> None:
    """Raise ``ValueError`` for the first count that is negative, NaN or infinite."""
    bad = np.flatnonzero(~(np.isfinite(matrix.data) & (matrix.data >= 0)))
    if bad.size:
        raise bad_count(matrix, int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1)


def check_totals(n_counts: Any, n_cells: int, *, match_official: bool) -> np.ndarray:
    """``n_counts`` as an array (B,); ``ValueError`` unless finite (any, when ``match_official``) and not negative."""
    totals = np.asarray(n_counts)
    if totals.shape != (n_cells,) or totals.dtype.kind not in "buif":
        raise problem(
            f"n_counts of shape {totals.shape}, type {totals.dtype}",
            wanted=f"numbers of shape ({n_cells},)",
            where="n_counts",
            fix="give one total a cell",
        )
    odd = totals < 0 if match_official else ~((totals >= 0) & (totals < np.inf))
    if odd.any():
        row = int(np.flatnonzero(odd)[0])
        raise problem(
            f"n_counts {totals[row]}",
            wanted="a finite total, 0 or more",
            where=f"n_counts, row {row}",
            fix="recompute the totals, or leave n_counts out",
        )
    return totals


def _refuse(wrong: np.ndarray, rows: np.ndarray, what: str, fix: str) -> None:
    if wrong.any():
        found = rows[wrong]
        raise problem(
            f"{found.size} cell(s) of the block: each {what}",
            wanted="counts of at least one known gene, and their total, in every cell",
            where="rows " + ", ".join(map(str, found[:5])) + (", ..." if found.size > 5 else ""),
            fix=fix,
        )


def _factor(counts_dtype: np.dtype, totals: np.ndarray | None, *, divide: bool) -> tuple[Any, np.ndarray]:
    """1 of the type T of the arithmetic, and what each row is multiplied with (or divided by)."""
    if totals is None:  # row sums are taken by the kernel: float32 for float32 counts, else float64
        wide = counts_dtype.kind != "f" or counts_dtype.itemsize > 4
        one = np.float64(1) if wide else np.float32(1)
        return one, np.empty(0, one.dtype)
    with np.errstate(divide="ignore"):
        factor = totals if divide else np.divide(1, totals)
    none = np.empty(0, counts_dtype)
    kind = (none / factor[:0] if divide else none * factor[:0]).dtype
    one = np.float32(1) if kind.itemsize <= 4 else np.float64(1)
    return one, np.ascontiguousarray(factor, dtype=one.dtype)


def _store_rows(matrix: sp.csr_matrix, rows: np.ndarray) -> sp.csr_matrix:
    """Store the zeros of some rows too: with a total of 0 the official dense path makes NaN, hence tokens, of them."""
    if not rows.size:
        return matrix
    entries = matrix.tocoo()
    n_columns = matrix.shape[1]
    row = np.concatenate([entries.row, np.repeat(rows, n_columns)])
    col = np.concatenate([entries.col, np.tile(np.arange(n_columns), rows.size)])
    data = np.concatenate([entries.data, np.zeros(rows.size * n_columns, matrix.dtype)])
    return sp.csr_matrix((data, (row, col)), shape=matrix.shape)


def bad_count(matrix: sp.csr_matrix, row: int) -> ValueError:
    """The error for the first bad count of a row."""
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    entry = int(np.flatnonzero(~(np.isfinite(matrix.data[part]) & (matrix.data[part] >= 0)))[0])
    return problem(
        f"a count of {matrix.data[part][entry]}",
        wanted="raw counts: finite, 0 or more",
        where=f"counts, row {row}, column {matrix.indices[part][entry]}",
        fix="give the raw matrix (often in .raw.X or layers['counts']), not a scaled or corrected one",
    )
