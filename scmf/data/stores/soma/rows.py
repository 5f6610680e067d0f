"""Rows of a SOMA matrix: which ids a span of cells has, and triplets that become CSR rows in the order asked for.

Lives here: a compact list of ids, the compiled passes over triplets. Lives elsewhere: reading the triplets (soma).

Legend: B cells of a block, U distinct ids, N triplets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

from scmf.data.stores.store import CountBlock

kernel: Callable[..., Any] = numba.njit(nogil=True, cache=True, boundscheck=False)


class JoinIds:
    """``soma_joinid`` of the cells of a query, sorted: as runs where they are long, else 4 (or 8) bytes a cell.

    Parameters
    ----------
    ids
        Distinct, rising, int64 (n_cells,).
    """

    def __init__(self, ids: np.ndarray) -> None:
        self._n = len(ids)
        starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 2) != 1)
        self._starts: np.ndarray | None = None
        if len(starts) * 16 < len(ids) * 4:
            self._starts, self._values = starts, ids[starts] - starts
        else:
            self._values = ids.astype(np.int32) if ids[-1] <= np.iinfo(np.int32).max else ids

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._values.nbytes + (0 if self._starts is None else self._starts.nbytes)

    def span(self, start: int, stop: int) -> np.ndarray:
        """Ids of the cells ``[start, stop)``, int64."""
        if self._starts is None:
            return self._values[start:stop].astype(np.int64)
        cells = np.arange(start, stop)
        return cells + self._values[np.searchsorted(self._starts, cells, side="right") - 1]

    def spans(self, spans: np.ndarray) -> np.ndarray:
        """Ids of the cells of all ``spans`` (S, 2), one span after the other, int64 (B,)."""
        parts = [self.span(start, stop) for start, stop in spans.tolist()]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


class LengthMismatch(ValueError):
    """A cell has another number of values than was said; ``cell`` is its id."""

    def __init__(self, cell: int) -> None:
        super().__init__(f"cell {cell} has another number of values")
        self.cell = cell


class RowGather:
    """Collects triplets (id of a cell, id of a gene, value) in any order, and gives CSR rows in the order of ``ids``.

    With ``lengths`` each triplet goes to its place at once; without, a count takes 12 bytes until `block` is called.

    Parameters
    ----------
    ids
        Cells wanted, int64 (B,); in any order, also several times.
    column_of
        Column of each gene id, -1 for genes that are left out, int32 (largest id + 1,).
    n_genes
        Number of columns.
    lengths
        Values of each cell, integer (B,), where they are known.
    """

    def __init__(
        self, ids: np.ndarray, column_of: np.ndarray, n_genes: int, *, lengths: np.ndarray | None = None
    ) -> None:
        self.wanted, first, self._again = np.unique(ids, return_index=True, return_inverse=True)
        self._repeats = len(self.wanted) < len(ids)
        self._slots = np.arange(len(self.wanted)) if self._repeats else first
        self._column_of, self._n_genes = column_of, n_genes
        self._lengths = np.zeros(len(self.wanted), np.int64)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._known = lengths is not None
        if lengths is not None:
            self._lay_out(lengths[first] if self._repeats else lengths)

    def _lay_out(self, lengths: np.ndarray) -> None:
        self._indptr = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=self._indptr[1:])
        self._indices, self._data = np.empty(self._indptr[-1], np.int32), np.empty(self._indptr[-1], np.float32)
        self._cursor, self._shuffled = self._indptr[:-1].copy(), np.zeros(len(lengths), np.bool_)

    def add(self, cells: np.ndarray, genes: np.ndarray, values: np.ndarray) -> None:
        """Take triplets: int64 (N,), int64 (N,) and numbers (N,).

        Raises
        ------
        LengthMismatch
            A cell has more values than its length.
        ValueError
            A cell is not among those wanted.
        """
        rows, columns = np.empty(len(cells), np.int32), np.empty(len(cells), np.int32)
        kept = np.empty(len(cells), np.float32)
        n = _localise(
            _readonly(cells), _readonly(genes), _readonly(values.astype(np.float32, copy=False)),
            self.wanted, self._slots, self._column_of, rows, columns, kept, self._lengths,
        )  # fmt: skip
        if n < 0:
            raise ValueError("a triplet of a cell that was not asked for")
        part = rows[:n], columns[:n], kept[:n]
        if self._known:
            self._scatter(*part)
        else:
            self._parts.append(part)

    def _scatter(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        full = _scatter(rows, columns, values, self._indptr, self._cursor, self._shuffled, self._indices, self._data)
        if full >= 0:
            raise LengthMismatch(self._id_of(full))

    def block(self) -> CountBlock:
        """The rows; columns rise within each row. The triplets are given up.

        Raises
        ------
        LengthMismatch
            A cell has fewer values than its length.
        """
        if not self._known:
            self._lay_out(self._lengths)
        self._parts.reverse()
        while self._parts:
            self._scatter(*self._parts.pop())
        if (short := np.flatnonzero(self._cursor < self._indptr[1:])).size:
            raise LengthMismatch(self._id_of(int(short[0])))
        _sort_rows(np.flatnonzero(self._shuffled), self._indptr, self._indices, self._data)
        if not self._repeats:
            return CountBlock(self._indptr, self._indices, self._data, self._n_genes)
        shape = len(self.wanted), self._n_genes
        block = sp.csr_matrix((self._data, self._indices, self._indptr), shape=shape)[self._again]
        return CountBlock(block.indptr.astype(np.int64), block.indices, block.data, self._n_genes)

    def _id_of(self, row: int) -> int:
        return int(self.wanted[np.flatnonzero(self._slots == row)[0]])


def _readonly(array: np.ndarray) -> np.ndarray:
    """The array as Arrow gives it, so that each kernel is compiled once."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@kernel
def _localise(
    cells: Any, genes: Any, values: Any, wanted: Any, slots: Any, column_of: Any, rows: Any, columns: Any, kept: Any,
    lengths: Any
) -> int:  # fmt: skip
    """Ids to rows and columns. Triplets come in runs of one cell, so a row is looked up once a run."""
    n = 0
    row, current = -1, -1
    for i in range(len(cells)):
        if cells[i] != current or row < 0:
            current = cells[i]
            at = np.searchsorted(wanted, current)
            if at == len(wanted) or wanted[at] != current:
                return -1
            row = slots[at]
        column = column_of[genes[i]]
        if column >= 0:
            rows[n], columns[n], kept[n] = row, column, values[i]
            lengths[row] += 1
            n += 1
    return n


@kernel
def _scatter(
    rows: Any, columns: Any, values: Any, indptr: Any, cursor: Any, shuffled: Any, indices: Any, data: Any
) -> int:
    """Triplets to their places; the first row that has no place left, or -1."""
    for i in range(len(rows)):
        row = rows[i]
        at = cursor[row]
        if at == indptr[row + 1]:
            return row
        if at > indptr[row] and indices[at - 1] > columns[i]:
            shuffled[row] = True
        indices[at], data[at] = columns[i], values[i]
        cursor[row] = at + 1
    return -1


@kernel
def _sort_rows(which: Any, indptr: Any, indices: Any, data: Any) -> None:
    for row in which:
        start, stop = indptr[row], indptr[row + 1]
        order = np.argsort(indices[start:stop])
        indices[start:stop] = indices[start:stop][order]
        data[start:stop] = data[start:stop][order]
