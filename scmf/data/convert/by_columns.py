"""AnnData whose counts are stored by columns (CSC), read by cells all the same: for conversion, not for training.

Lives here: rows of a CSC matrix as flat arrays, in several passes over the file; opening any store in this way.
Lives elsewhere: everything else about a store (anndata_store, h5ad_store, zarr_store), the conversion (convert).

The cells of a window, as many as fit into memory, are picked out of the whole file in one pass. Reading all cells in
their order so costs as many passes as there are windows; reading cells at random would cost a pass for each.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmf.core.errors import DataError
from scmf.data.stores import counts as counts_
from scmf.data.stores.anndata_store import AnnDataStore, SparseMatrix
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.h5ad_store import H5adStore
from scmf.data.stores.open import is_h5ad, sources_of
from scmf.data.stores.store import FlatArray, RowIndex, Store
from scmf.data.stores.zarr_store import ZarrStore

_VALUES = 1 << 21
"""Stored values read at once in a pass."""
_SAMPLE_COLUMNS = 256


@numba.njit(nogil=True, cache=True)
def _count(rows, lengths):  # type: ignore[no-untyped-def]  # pragma: no cover
    for row in rows:
        if row < 0 or row >= len(lengths):
            return False
        lengths[row] += 1
    return True


@numba.njit(nogil=True, cache=True)
def _pick(rows, values, columns, first, free, out_indices, out_data):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Put the values of the rows ``first`` on into the next free places of their rows."""
    for k in range(len(rows)):
        row = rows[k] - first
        if 0 <= row < len(free) - 1:
            at = free[row]
            out_indices[at], out_data[at] = columns[k], values[k]
            free[row] = at + 1


class Transposed:
    """The rows of a CSC matrix on disk; every method may be called from several threads.

    Parameters
    ----------
    data, indices
        Values and their rows.
    indptr
        First value of each column, int64 (G+1,), in memory.
    n_cells
        Number of rows.
    memory
        Bytes of the windows that are kept: the last two, so that readers ahead find theirs.
    where
        How errors call the matrix.
    """

    def __init__(
        self, data: FlatArray, indices: FlatArray, indptr: np.ndarray, n_cells: int, *, memory: int, where: str
    ) -> None:
        self._data, self._indices, self._indptr = data, indices, indptr
        lengths = np.zeros(n_cells, np.int64)
        for start in range(0, data.size, _VALUES):
            if not _count(_part(indices, start, min(start + _VALUES, data.size)), lengths):
                raise DataError(
                    "a row number beyond the cells", wanted=f"below {n_cells:,}", where=where, fix="get the file again"
                )
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        """First value of each row in the order of the rows, int64 (n_cells + 1,)."""
        self.dtype = data.dtype
        per_window = max(1, memory // 2 // (4 + data.dtype.itemsize))
        edges = [0]
        while edges[-1] < n_cells:
            fits = int(np.searchsorted(self.offsets, self.offsets[edges[-1]] + per_window, side="right")) - 1
            edges.append(min(n_cells, max(edges[-1] + 1, fits)))
        self._edges = np.array(edges)
        """First row of each window."""
        self._windows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()
        self.passes = 0
        """Passes over the values so far."""

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns (int32) and values of all rows of a window."""
        with self._lock:
            if number not in self._windows:
                while len(self._windows) > 1:
                    del self._windows[min(self._windows, key=lambda one: (one > number, one))]
                self._windows[number] = self._read(number)
            return self._windows[number]

    def columns(self, columns: np.ndarray) -> sp.csc_matrix:
        """The rising ``columns`` of the matrix in memory."""
        ranges = np.stack([self._indptr[columns], self._indptr[columns + 1]], axis=1)
        ends = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])
        values, rows = np.empty(ends[-1], self._data.dtype), np.empty(ends[-1], self._indices.dtype)
        self._data.read_into(ranges, values)
        self._indices.read_into(ranges, rows)
        return sp.csc_matrix((values, rows, ends), shape=(len(self.offsets) - 1, len(columns)))

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        self.passes += 1
        first, stop = self._edges[number], self._edges[number + 1]
        free = self.offsets[first : stop + 1] - self.offsets[first]
        indices, data = np.empty(free[-1], np.int32), np.empty(free[-1], self.dtype)
        for start in range(0, self._data.size, _VALUES):
            end = min(start + _VALUES, self._data.size)
            columns = np.searchsorted(self._indptr, np.arange(start, end), side="right").astype(np.int32) - 1
            rows, values = _part(self._indices, start, end), _part(self._data, start, end)
            _pick(rows, values, columns, first, free, indices, data)
        return indices, data

    def read(self, ranges: np.ndarray, out: np.ndarray, which: int) -> None:
        """Columns (``which`` 0) or values (1) of ranges in the order of the rows."""
        at = 0
        bounds = self.offsets[self._edges]
        for start, stop in ranges.tolist():
            while start < stop:
                number = int(np.searchsorted(bounds, start, side="right")) - 1
                end = min(stop, int(bounds[number + 1]))
                base = int(bounds[number])
                out[at : at + end - start] = self.window(number)[which][start - base : end - base]
                at, start = at + end - start, end


class _Facade(FlatArray):
    """The columns or the values of `Transposed` as an array on disk."""

    def __init__(self, matrix: Transposed, which: int) -> None:
        self.matrix, self._which = matrix, which
        self.dtype = matrix.dtype if which else np.dtype(np.int32)
        self.size = int(matrix.offsets[-1])

    def read_into(self, ranges: np.ndarray, out: np.ndarray) -> None:
        """See `FlatArray.read_into`."""
        self.matrix.read(ranges, out, self._which)


def _part(array: FlatArray, start: int, stop: int) -> np.ndarray:
    out = np.empty(stop - start, array.dtype)
    array.read_into(np.array([[start, stop]]), out)
    return out


# --- stores ---------------------------------------------------------------------------------------


class _AlsoByColumns(AnnDataStore):
    """Takes CSC where `AnnDataStore` refuses it."""

    _memory: int

    def _open(self, tree: Any, path: str) -> SparseMatrix | Any:
        node = tree[path]
        kind = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", "")))
        if not kind.startswith("csc"):
            return super()._open(tree, path)
        shape = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
        n_cells, n_genes = (int(length) for length in shape)
        data, indices, stored = (self._flat(tree, f"{path}/{name}") for name in ("data", "indices", "indptr"))
        where = f"{self.uri}: {path}"
        indptr = _part(stored, 0, stored.size).astype(np.int64)
        if (
            stored.size != n_genes + 1
            or indices.size != data.size
            or indptr[0] != 0
            or indptr[-1] != data.size
            or (np.diff(indptr) < 0).any()
        ):
            raise DataError(
                f"{data.size:,} values, {indices.size:,} indices and {stored.size:,} offsets up to {indptr[-1]:,}",
                wanted=f"as many indices as values, and {n_genes + 1:,} rising offsets up to their number",
                where=where,
                fix="copy or download the file again; it was not written to its end",
            )
        matrix = Transposed(data, indices, indptr, n_cells, memory=self._memory, where=where)
        return SparseMatrix(RowIndex(matrix.offsets), _Facade(matrix, 1), _Facade(matrix, 0), n_genes)

    def _examine(self, matrix: Any, place: str, genes: pd.Index) -> counts_.Verdict:
        if not isinstance(matrix, SparseMatrix) or not isinstance(matrix.data, _Facade):
            return super()._examine(matrix, place, genes)
        columns = np.unique(np.linspace(0, len(genes) - 1, _SAMPLE_COLUMNS).astype(np.int64))
        sample = matrix.data.matrix.columns(columns)
        return counts_.examine(sample, where=place, cells=pd.RangeIndex(len(matrix.rows)), genes=genes[columns])


class _H5ad(_AlsoByColumns, H5adStore):
    def __init__(self, source: Any, *, memory: int, **choice: Any) -> None:
        self._memory = memory
        super().__init__(source, **choice)


class _Zarr(_AlsoByColumns, ZarrStore):
    def __init__(self, source: Any, *, memory: int, **choice: Any) -> None:
        self._memory = memory
        super().__init__(source, **choice)


def open_for_conversion(
    uris: Sequence[str | Path],
    *,
    counts: str = "auto",
    gene_ids: str = "auto",
    rounding: Rounding = "error",
    memory: int = 1 << 28,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Store]:
    """Open what the addresses name, as `scmf.data.stores.open.open_stores` does, CSC too.

    Parameters
    ----------
    uris, counts, gene_ids, rounding, storage_options
        See `scmf.data.stores.open.open_stores`.
    memory
        Bytes for the cells of a CSC matrix that are in memory; the fewer, the more passes over the file.
    """
    stores: list[Store] = []
    try:
        for uri in uris:
            for source in sources_of(str(uri), storage_options):
                kind = _H5ad if is_h5ad(source.root) else _Zarr
                stores.append(kind(source, counts=counts, gene_ids=gene_ids, rounding=rounding, memory=memory))
    except BaseException:
        for store in stores:
            store.close()
        raise
    return stores
