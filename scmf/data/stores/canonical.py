"""The one form in which counts leave a store: rows with rising columns, no column twice, no zero, whole numbers.

Compiled code behind a store indexes memory with what it finds in a file, so every block is looked at here before
anything else sees it: a column beyond the genes, a NaN, an infinite or negative value, a fraction, a count that float32
does not hold. A block that is canonical already, as nearly all are, costs one pass over its values and is not copied.

Lives here: the check, the repair, and the error that names the cell. Lives elsewhere: reading blocks (store,
anndata_store), which matrix holds counts (counts).

Legend: B cells of a block, N stored values of a block.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np

Rounding = Literal["error", "round", "accept"]
"""What to do with values that are no integers: refuse them, round them, or take them as they are."""

NOISE = 1e-4
"""Share of a value (of 1 for smaller ones) by which it may miss an integer and still be one with noise."""
MOST_NOISE = 0.05
"""The same, absolute: large values are not rounded by more."""
LIMIT = 2.0**24
"""From here on float32 does not hold every integer."""

_COLUMN_TYPES = (np.dtype(np.int32), np.dtype(np.int64))
"""Types of columns that leave a store; compiled code, here and behind, is compiled for no other."""
_CODES = {"error": 0, "round": 1, "accept": 2}
_FINE, _ROUNDED, _COLUMN, _NAN, _INFINITE, _NEGATIVE, _FRACTION, _LARGE = range(8)
_WORDS = {
    _NAN: "NaN", _INFINITE: "an infinite value", _NEGATIVE: "a negative value", _FRACTION: "no integer",
    _LARGE: "more than float32 holds exactly",
}  # fmt: skip


class Damage(Exception):
    """Where a block cannot stand: number of the row, of the column and the value, and what is wrong with it."""

    def __init__(self, row: int, column: int, value: float, code: int) -> None:
        self.row, self.column, self.value, self.is_column = row, column, value, code == _COLUMN
        self.what = _WORDS.get(code, "")
        self.is_fraction = code == _FRACTION
        super().__init__(f"row {row}, column {column}: {value:g} {self.what}")


@numba.njit(nogil=True, cache=True)
def _is_odd(indptr, indices, data, bits, n_genes, whole):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Whether anything is not canonical; loops without branches, so that they run on vectors: .4 ns a value.

    ``bits`` are those of ``data`` as uint32: values from 1 to below 2**24 lie in one range of them.
    """
    odd = np.uint32(0)
    if whole:
        for at in range(len(data)):
            value = data[at]
            outside = np.uint32(np.uint32(bits[at] - np.uint32(0x3F800000)) >= np.uint32(0x0C000000))
            odd |= outside | np.uint32(value != np.floor(value))
    else:
        for at in range(len(data)):
            odd |= np.uint32(np.uint32(bits[at] - np.uint32(1)) >= np.uint32(0x4B7FFFFF))
    if odd != 0:
        return True
    for row in range(len(indptr) - 1):
        columns = indices[indptr[row] : indptr[row + 1]]
        if len(columns):
            falls = np.int32(0)
            for at in range(1, len(columns)):
                falls |= np.int32(columns[at] <= columns[at - 1])
            first, last = np.int64(columns[0]), np.int64(columns[-1])
            if falls != 0 or first < 0 or last < 0 or last >= n_genes:
                return True
    return False


@numba.njit(nogil=True, cache=True)
def _repair(  # type: ignore[no-untyped-def]  # pragma: no cover
    indptr, indices, data, n_genes, mode, out_indptr, out_indices, out_data
):
    """Fill the outputs; place of the first value that cannot stand or -1, what is wrong, values rounded, its value."""
    sums, here = np.zeros(n_genes, np.float64), np.zeros(n_genes, np.bool_)
    n_rounded, at = 0, 0
    for row in range(len(indptr) - 1):
        start, rising, previous = at, True, np.int64(-1)
        for k in range(indptr[row], indptr[row + 1]):
            column, value = np.int64(indices[k]), np.float64(data[k])
            if column < 0 or column >= n_genes:
                return k, _COLUMN, n_rounded, value
            if np.isnan(value):
                return k, _NAN, n_rounded, value
            if np.isinf(value):
                return k, _INFINITE, n_rounded, value
            if mode != 2:
                near = np.rint(value)
                off = abs(value - near)
                if off > 0:
                    if mode == 0 and off > min(NOISE * max(1.0, abs(value)), MOST_NOISE):
                        return k, _NEGATIVE if value < 0 else _FRACTION, n_rounded, value
                    n_rounded += 1
                value = near
            if value < 0:
                return k, _NEGATIVE, n_rounded, value
            if value >= LIMIT:
                return k, _LARGE, n_rounded, value
            if here[column]:
                sums[column] += value
                if sums[column] >= LIMIT:
                    return k, _LARGE, n_rounded, sums[column]
            elif value != 0:
                here[column] = True
                sums[column] = value
                rising = rising and column > previous  # type: ignore[assignment]
                previous = column
                out_indices[at] = column
                at += 1
        if not rising:
            out_indices[start:at] = np.sort(out_indices[start:at])
        for k in range(start, at):
            column = np.int64(out_indices[k])
            out_data[k] = sums[column]
            here[column] = False
        out_indptr[row + 1] = at
    return -1, _FINE, n_rounded, 0.0


def canonical_rows(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, n_genes: int, *, rounding: Rounding = "error"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rows in canonical form, and how many values were rounded; the arrays themselves where nothing is to be done.

    Columns come as int32 or int64.

    Parameters
    ----------
    indptr
        Offsets, int64 (B+1,), rising from 0 to N.
    indices
        Columns, any integer (N,), in any order, also several times.
    data
        Values, float32 (N,).
    n_genes
        Number of columns.
    rounding
        ``error``: fractions are refused, float noise (`NOISE`) is rounded; ``round``; ``accept``.

    Raises
    ------
    Damage
        A value that cannot stand.
    """
    found = indices
    if indices.dtype not in _COLUMN_TYPES:
        indices = indices.astype(np.int32 if np.can_cast(indices.dtype, np.int32) else np.int64)
    if not _is_odd(indptr, indices, data, data.view(np.uint32), n_genes, rounding != "accept"):
        return indptr, indices, data, 0
    new_indptr, new_indices, new_data = np.zeros_like(indptr), np.empty_like(indices), np.empty_like(data)
    mode = _CODES[rounding]
    place, code, rounded, value = _repair(indptr, indices, data, n_genes, mode, new_indptr, new_indices, new_data)
    if place >= 0:
        row = int(np.searchsorted(indptr, place, side="right")) - 1
        raise Damage(row, int(found[place]), float(value), int(code))
    stop = int(new_indptr[-1])
    return new_indptr, new_indices[:stop], new_data[:stop], int(rounded)


@numba.njit(nogil=True, cache=True)
def _keep_columns(indptr, indices, data, place):  # type: ignore[no-untyped-def]  # pragma: no cover
    new_indptr, new_indices, new_data = np.zeros_like(indptr), np.empty_like(indices), np.empty_like(data)
    at = 0
    for row in range(len(indptr) - 1):
        for k in range(indptr[row], indptr[row + 1]):
            column = place[indices[k]]
            if column >= 0:
                new_indices[at], new_data[at] = column, data[k]
                at += 1
        new_indptr[row + 1] = at
    return new_indptr, new_indices[:at], new_data[:at]


def keep_columns(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical rows over the marked ``columns`` (boolean) only; the arrays themselves where all are marked."""
    if columns.all():
        return indptr, indices, data
    place = np.where(columns, np.cumsum(columns) - 1, -1)
    rows: tuple[np.ndarray, np.ndarray, np.ndarray] = _keep_columns(indptr, indices, data, place)
    return rows
