"""Encoded cells: rows of different lengths, and their way into rectangles.

Lives here: `Encoded`, the encoder that leaves counts as they are, the compiled copies. Lives elsewhere: encoders that
tokenize (they wrap a tokenizer, above this floor), who calls them (reader).

Legend: B cells, L longest row of a batch, N entries of all cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np

from scmf.core.errors import DataError
from scmf.data.stores.store import CountBlock


class BadRows(DataError):
    """An encoder cannot encode some rows of a block; the stream, which knows where they come from, names the cells.

    Parameters
    ----------
    found, wanted, fix
        Parts of the error.
    rows
        Rows of the block.
    """

    def __init__(self, found: str, *, wanted: str, fix: str, rows: np.ndarray) -> None:
        super().__init__(found, wanted=wanted, where=f"rows {rows[:5].tolist()} of a block", fix=fix)
        self.rows = rows


class Encoded(NamedTuple):
    """Cells as ragged rows; cell b is ``column[offsets[b]:offsets[b + 1]]`` of every column.

    Parameters
    ----------
    offsets
        int64 (B+1,), starts at 0.
    columns
        Name -> entries (N,), such as ``input_ids`` and ``values``.
    cells
        Name -> one value a cell (B,) or a few (B, k), such as a depth.
    """

    offsets: np.ndarray
    columns: dict[str, np.ndarray]
    cells: dict[str, np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        """Entries of each cell, int64 (B,)."""
        return np.diff(self.offsets)


class Encoder(Protocol):
    """Turns the counts of some cells of one store into rows; called from several threads at once.

    One that draws at random has ``at_epoch(epoch) -> Encoder`` besides: the encoder of that epoch.
    """

    fill: Mapping[str, float]
    """Name of each column -> what fills short rows."""

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Encoded:
        """Encode ``counts`` (B, G), whose columns are ``genes``."""


class RawCounts:
    """Leaves counts as they are: ``indices`` (int32), ``data`` (float32), and ``n_counts`` (float64) of each cell."""

    fill: Mapping[str, float] = {"indices": -1, "data": 0.0}

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Encoded:
        """See `Encoder`."""
        totals = row_sums(counts.indptr, counts.data)
        columns = {"indices": counts.indices.astype(np.int32, copy=False), "data": counts.data}
        return Encoded(counts.indptr, columns, {"n_counts": totals})


@numba.njit(cache=True, nogil=True)
def row_sums(indptr: Any, data: Any) -> Any:
    """Sum of each row in float64 (B,)."""
    sums = np.zeros(indptr.size - 1, np.float64)
    for row in range(indptr.size - 1):
        for i in range(indptr[row], indptr[row + 1]):
            sums[row] += data[i]
    return sums


@numba.njit(cache=True, nogil=True)
def copy_rows(entries: Any, offsets: Any, rows: Any, begins: Any, widths: Any, out: Any, fill: Any) -> None:
    """Copy ``rows`` of ragged ``entries``, row i to ``out`` from ``begins[i]`` on, ``fill`` up to ``widths[i]``."""
    for i in range(rows.size):
        start, begin, width = offsets[rows[i]], begins[i], widths[i]
        n = min(offsets[rows[i] + 1] - start, width)
        source, target, rest = entries[start : start + n], out[begin : begin + n], out[begin + n : begin + width]
        for j in range(n):
            target[j] = source[j]
        for j in range(width - n):
            rest[j] = fill
