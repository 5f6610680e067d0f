"""What a store of cells is: raw counts read by spans of rows, from several threads at once.

Lives here: the interface `Store`, the block it returns, the index of its rows, and `CsrStore`, which makes a store
of two flat arrays. Every block of a file passes `Store.canonical` before it leaves its store (the form: canonical).
Lives elsewhere: the flat arrays of zarr and HDF5 (chunked_array, zarr_store, h5ad_store), bytes (byte_ranges), other
stores (memory, soma), choosing one for a path (open).

Legend: B cells of a block, G genes (columns), N stored values of a block, S spans.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmf.core.errors import CountsError, DataError
from scmf.data.stores.canonical import Damage, Rounding, canonical_rows
from scmf.data.stores.recycled import BLOCKS

_log = logging.getLogger("scmf.data.stores")

_ANCHOR = 64
"""Rows between two stored offsets of a `RowIndex`."""
_ROWS_READ = 1 << 20
"""Offsets read at once, a multiple of `_ANCHOR`."""


class CountBlock(NamedTuple):
    """Raw counts of some cells, CSR, over the genes of one store.

    Parameters
    ----------
    indptr
        int64 (B+1,), starts at 0.
    indices
        Columns, integer (N,), rising within each cell and below ``n_genes``.
    data
        Counts, float32 (N,), above 0.
    n_genes
        Number of columns G.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    n_genes: int

    @property
    def n_cells(self) -> int:
        """Number of cells B."""
        return len(self.indptr) - 1

    def csr(self) -> sp.csr_matrix:
        """The block as a scipy matrix that shares its memory."""
        matrix = sp.csr_matrix((self.n_cells, self.n_genes), dtype=self.data.dtype)
        matrix.data, matrix.indices, matrix.indptr = self.data, self.indices, self.indptr
        return matrix


class RowIndex:
    """Where each row begins among the stored values: 2 or 4 bytes a cell instead of 8.

    Parameters
    ----------
    indptr
        Offsets of the rows, integer (n_cells + 1,).
    """

    def __init__(self, indptr: np.ndarray) -> None:
        lengths = np.diff(indptr)
        largest = int(lengths.max(initial=0))
        self.lengths: np.ndarray = lengths.astype(np.uint16 if largest < 1 << 16 else np.int32)
        """Stored values of each cell (n_cells,)."""
        self._anchors = np.ascontiguousarray(indptr[::_ANCHOR], dtype=np.int64)

    @classmethod
    def read(cls, indptr: FlatArray, *, n_values: int, where: str) -> RowIndex:
        """The same from an array on disk, a million rows at a time, so that memory holds 2 or 4 bytes a cell.

        Raises
        ------
        DataError
            The offsets do not rise from 0 to ``n_values``.
        """
        n_cells = indptr.size - 1
        lengths: np.ndarray = np.empty(max(n_cells, 0), np.uint16)
        anchors = np.empty(-(-indptr.size // _ANCHOR), np.int64)
        last = 0
        for start in range(0, max(n_cells, 0), _ROWS_READ):
            stop = min(start + _ROWS_READ, n_cells)
            block = np.empty(stop - start + 1, indptr.dtype)
            indptr.read_into(np.array([[start, stop + 1]]), block)
            offsets = block.astype(np.int64, copy=False)
            steps = np.diff(offsets)
            if offsets[0] != last or (steps < 0).any():
                row = start if offsets[0] != last else start + int(np.argmax(steps < 0))
                raise _bad_offsets(f"the offset of cell {row:,} does not rise", n_values, where)
            last = int(offsets[-1])
            if steps.max() >= 1 << 16 and lengths.dtype == np.uint16:
                lengths = lengths.astype(np.int32)
            lengths[start:stop] = steps
            anchors[start // _ANCHOR : stop // _ANCHOR + 1] = offsets[::_ANCHOR]
        if n_cells < 0 or last != n_values:
            raise _bad_offsets(f"the offsets of the cells end at {last:,}", n_values, where)
        index = cls.__new__(cls)
        index.lengths, index._anchors = lengths, anchors
        return index

    def __len__(self) -> int:
        return len(self.lengths)

    def offsets(self, start: int, stop: int) -> np.ndarray:
        """``indptr[start:stop + 1]``, int64."""
        first = start // _ANCHOR * _ANCHOR
        sums = np.empty(stop - first + 1, np.int64)
        sums[0] = self._anchors[first // _ANCHOR] if first // _ANCHOR < len(self._anchors) else 0
        np.cumsum(self.lengths[first:stop], dtype=np.int64, out=sums[1:])
        sums[1:] += sums[0]
        return sums[start - first :]


def _bad_offsets(found: str, n_values: int, where: str) -> DataError:
    return DataError(
        found,
        wanted=f"offsets that rise from 0 to the number of stored values, {n_values:,}",
        where=where,
        fix="copy, download or convert the file again; it was not written to its end",
    )


class Store(Protocol):
    """Cells of one file, zarr group or query. Every method may be called from several threads at once.

    Whatever has these members is a store; a class that names this one as its base is told what it lacks.

    Attributes
    ----------
    uri
        Path or address, as errors name it.
    counts
        Where the raw counts are in it: ``X``, ``raw.X``, ``layers/<name>``.
    genes
        Gene id of each column, as written; unique.
    fingerprint
        Says that two openings saw the same content: a digest of the files (far away: of their ETags), shape and genes.
    """

    uri: str
    counts: str
    genes: tuple[str, ...]
    fingerprint: str
    rounding: Rounding = "error"
    """What becomes of values that are no integers (``data.counts_rounding``)."""
    _told_rounded: bool = False

    @property
    @abstractmethod
    def n_cells(self) -> int:
        """Number of cells."""

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """Stored values of each cell, integer (n_cells,). Stored zeros count."""

    @abstractmethod
    def read(self, spans: np.ndarray) -> CountBlock:
        """Read the cells ``[start, stop)`` of each span, one span after the other, in the order given.

        Parameters
        ----------
        spans
            int64 (S, 2), within ``[0, n_cells]``; they may come in any order.

        Raises
        ------
        DataError
            The file is truncated, was replaced since it was opened, or cannot be reached after several tries.
        """

    def canonical(
        self, spans: np.ndarray, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, n_columns: int
    ) -> CountBlock:
        """The block of ``spans`` in canonical form, see `scmf.data.stores.canonical`.

        Raises
        ------
        CountsError
            A value that is no count; the cell and the gene are named.
        DataError
            A column beyond the genes: the file is damaged.
        """
        try:
            *rows, rounded = canonical_rows(indptr, indices, data, n_columns, rounding=self.rounding)
        except Damage as damage:
            raise self._refuse(spans, damage, n_columns) from None
        if rounded and not self._told_rounded:
            self._told_rounded = True
            _log.warning("%s, %s: values that are no integers are rounded (float noise)", self.uri, self.counts)
        return CountBlock(rows[0], rows[1], rows[2], n_columns)

    def _refuse(self, spans: np.ndarray, damage: Damage, n_columns: int) -> DataError:
        """The error for a value that cannot stand."""
        rows = np.concatenate([np.arange(start, stop) for start, stop in spans])
        cell = int(rows[damage.row])
        where = f"{self.uri}, {self.counts}, cell number {cell:,} (from 0)"
        if damage.is_column:
            return DataError(
                f"column {damage.column} in the row of cell {cell:,} ({self.cell_ids()[cell]!r})",
                wanted=f"columns from 0 to {n_columns - 1:,}, one for each gene",
                where=where,
                fix="the file is damaged: get it again",
            )
        gene = self.genes[damage.column] if n_columns == len(self.genes) else f"column {damage.column}"
        return CountsError(
            f"the value {damage.value:g} of cell {cell:,}, gene {gene!r} ({self.cell_ids()[cell]!r}): {damage.what}",
            wanted="raw counts: integers from 0 to 16,777,215, which float32 holds exactly",
            where=where,
            fix="name the matrix that holds the raw counts (data.counts), correct or leave out the cell"
            + (", or round the values: data.counts_rounding: round" if damage.is_fraction else ""),
        )

    @abstractmethod
    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of ``obs`` for all cells (RangeIndex); `DataError` names a column that is not there."""

    @property
    @abstractmethod
    def obs_columns(self) -> list[str]:
        """Names of the columns of ``obs``."""

    @abstractmethod
    def cell_ids(self) -> np.ndarray:
        """``obs_names`` of all cells, object (n_cells,)."""

    @property
    @abstractmethod
    def var(self) -> pd.DataFrame:
        """The gene table, one row a column of the counts, in their order."""

    def close(self) -> None:
        """Give back files and connections; the store is not used afterwards. Most have nothing to give back."""
        return  # an empty body would be an abstract method of the protocol


def is_store(value: object) -> TypeGuard[Store]:
    """Whether something reads counts by spans, as `Store` says; no property of it is evaluated."""
    return all(hasattr(type(value), name) for name in ("read", "cell_ids", "obs_columns"))


class FlatArray(ABC):
    """A one-dimensional array on disk, read by ranges into memory of ours."""

    dtype: np.dtype
    size: int

    @abstractmethod
    def read_into(self, ranges: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out`` with the elements ``[start, stop)`` of each range, one after the other; thread-safe.

        Parameters
        ----------
        ranges
            int64 (S, 2).
        out
            Contiguous, of `dtype`, as long as the ranges together.
        """


def merge_ranges(ranges: np.ndarray) -> np.ndarray:
    """Join each range with the next where the next begins at its end; empty ranges are dropped."""
    ranges = ranges[ranges[:, 1] > ranges[:, 0]]
    if len(ranges) < 2:
        return ranges
    apart = np.flatnonzero(ranges[1:, 0] != ranges[:-1, 1])
    first = np.concatenate([[0], apart + 1])
    last = np.concatenate([apart, [len(ranges) - 1]])
    return np.stack([ranges[first, 0], ranges[last, 1]], axis=1)


class CsrStore(Store):
    """A store made of the three arrays of a CSR matrix.

    Subclasses set ``uri``, ``counts``, ``genes``, ``fingerprint`` and give ``obs``, ``cell_ids`` and ``var``.
    """

    _rows: RowIndex
    _data: FlatArray
    _indices: FlatArray

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self._rows)

    @property
    def n_columns(self) -> int:
        """Columns of the matrix; those that are no genes count."""
        return len(self.genes)

    @property
    def lengths(self) -> np.ndarray:
        """Stored values of each cell, integer (n_cells,). Stored zeros count."""
        return self._rows.lengths

    def read(self, spans: np.ndarray) -> CountBlock:
        """See `Store.read`."""
        indptr, indices, data = self.read_stored(spans)
        if data.dtype != np.float32:
            data, stored = BLOCKS.empty(len(data), np.dtype(np.float32)), data
            np.copyto(data, stored, casting="unsafe")
        return self.canonical(np.asarray(spans, np.int64).reshape(-1, 2), indptr, indices, data, self.n_columns)

    def read_stored(self, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets (B+1,), columns and values (N,) of the cells of each span, of the types they are stored in."""
        indptr, ranges = self.locate(np.asarray(spans, dtype=np.int64).reshape(-1, 2))
        ranges = merge_ranges(ranges)
        indices = BLOCKS.empty(int(indptr[-1]), self._indices.dtype)
        data = BLOCKS.empty(int(indptr[-1]), self._data.dtype)
        self._indices.read_into(ranges, indices)
        self._data.read_into(ranges, data)
        return indptr, indices, data

    def locate(self, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of the rows in a block of ``spans`` (B+1,), and where their values lie in the file (S, 2)."""
        ranges = np.empty((len(spans), 2), np.int64)
        indptr = np.empty(int((spans[:, 1] - spans[:, 0]).sum()) + 1, np.int64)
        indptr[0], at = 0, 0
        for i, (start, stop) in enumerate(spans.tolist()):
            offsets = self._rows.offsets(start, stop)
            ranges[i] = offsets[0], offsets[-1]
            indptr[at + 1 : at + 1 + stop - start] = offsets[1:] - (offsets[0] - indptr[at])
            at += stop - start
        return indptr, ranges
