"""Rows of counts on their way through a conversion: to the common aligner, into another order, into one number.

Lives here: three kernels that release the GIL and the functions that call them. Lives elsewhere: which aligner
(plan), where the rows wait (runs), which order (convert).

Rows are CSR: lengths or offsets, columns, float32 counts. A conformed row has rising columns, no stored zeros and
no column twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from scmf.core.errors import CountsError, DataError
from scmf.data.stores.store import CountBlock, Store

_LIMIT = 2.0**24
"""From here on float32 does not hold every integer."""
_ONE = np.uint64(1)
_BRUIJN = 0x03F79D71B4CB0A89
_DE_BRUIJN = np.uint64(_BRUIJN)
_PLACE = np.zeros(64, np.int64)
for _i in range(64):
    _PLACE[((_BRUIJN << _i) & (2**64 - 1)) >> 58] = _i


class Rows(NamedTuple):
    """Conformed rows.

    Parameters
    ----------
    indptr
        Offsets, int64 (B+1,), from 0.
    indices
        Columns, uint16 or uint32 (N,).
    data
        Counts, float32 (N,).
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Values of each row, int64 (B,)."""
        return np.diff(self.indptr)


def index_dtype(n_genes: int) -> np.dtype:
    """Smallest of uint16 and uint32 that holds the columns of an aligner: rows on their way are small."""
    return np.dtype(np.uint16 if n_genes <= 1 << 16 else np.uint32)


@numba.njit(nogil=True, cache=True)
def _conform(  # type: ignore[no-untyped-def]  # pragma: no cover
    indptr, indices, data, columns, n_genes, out_indptr, out_indices, out_data
):
    """Fill the outputs; the place of the first value that cannot stand, or -1."""
    bits = np.zeros((n_genes + 63) >> 6, np.uint64)
    dense = np.zeros(n_genes, np.float32)
    at = 0
    for row in range(len(indptr) - 1):
        start, previous, rising = at, -1, True
        for k in range(indptr[row], indptr[row + 1]):
            value = data[k]
            column = indices[k]
            # written so that NaN fails
            if not (value >= 0 and value < _LIMIT and value == np.floor(value)):
                return k
            if column < 0 or column >= len(columns):
                return k
            gene = columns[column]
            if value == 0 or gene < 0:
                continue
            rising = rising and gene > previous
            previous = gene
            out_indices[at] = gene
            out_data[at] = value
            at += 1
        if not rising:  # a bit for each gene that is there, then the bits in order
            for k in range(start, at):
                gene = np.int64(out_indices[k])
                bits[gene >> 6] |= _ONE << np.uint64(gene & 63)
                dense[gene] += out_data[k]
            at = start
            for word in range(len(bits)):
                left = bits[word]
                while left != 0:
                    low = left & (~left + _ONE)
                    gene = (word << 6) + _PLACE[np.int64((low * _DE_BRUIJN) >> np.uint64(58))]
                    out_indices[at] = gene
                    out_data[at] = dense[gene]
                    dense[gene] = 0
                    at += 1
                    left ^= low
                bits[word] = 0
        out_indptr[row + 1] = at
    return -1


def conform(block: CountBlock, columns: np.ndarray, n_genes: int, *, store: Store, first: np.ndarray) -> Rows:
    """Bring the rows of a block to the common aligner.

    Parameters
    ----------
    block
        Counts of one store.
    columns
        Column of the aligner for each column of the store, int32, -1 for none.
    n_genes
        Columns of the aligner.
    store, first
        The store and the number of each of the cells in it, for the error.

    Raises
    ------
    CountsError
        A value is negative, no integer, NaN or beyond what float32 holds exactly; the cell and the gene are named.
    DataError
        A column beyond the gene table: the file is damaged.
    """
    indptr = np.zeros(block.n_cells + 1, np.int64)
    indices = np.empty(len(block.indices), index_dtype(n_genes))
    data = np.empty(len(block.data), np.float32)
    bad = _conform(block.indptr, block.indices, block.data, columns, n_genes, indptr, indices, data)
    if bad >= 0:
        cell = int(first[np.searchsorted(block.indptr, bad, side="right") - 1])
        column, value = int(block.indices[bad]), float(block.data[bad])
        if not 0 <= column < len(columns):
            raise DataError(
                f"column {column} in the row of cell {cell:,}",
                wanted=f"columns below {len(columns):,}, one for each gene",
                where=f"{store.uri}, {store.counts}",
                fix="the file is damaged: get it again",
            )
        raise CountsError(
            f"the value {value:g} of cell {cell:,}, gene {store.genes[column]!r}",
            wanted="raw counts: integers from 0 to 16,777,215, which float32 holds exactly",
            where=f"{store.uri}, {store.counts}",
            fix="name the matrix that holds the raw counts (counts=), or leave this file out",
        )
    return Rows(indptr, indices[: indptr[-1]], data[: indptr[-1]])


@numba.njit(nogil=True, cache=True)
def _gather(lengths, starts, indices, data, rows, out_indices, out_data):  # type: ignore[no-untyped-def]  # pragma: no cover
    at = 0
    for row in rows:
        for k in range(starts[row], starts[row] + lengths[row]):
            out_indices[at] = indices[k]
            out_data[at] = data[k]
            at += 1


def gather(rows: Rows, order: np.ndarray) -> Rows:
    """Copy of the rows ``order`` (int64), in that order."""
    lengths = rows.lengths
    indptr = np.concatenate([[0], np.cumsum(lengths[order])])
    indices, data = np.empty(indptr[-1], rows.indices.dtype), np.empty(indptr[-1], np.float32)
    _gather(lengths, rows.indptr, rows.indices, rows.data, order, indices, data)
    return Rows(indptr, indices, data)


@numba.njit(nogil=True, cache=True)
def _mix(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
def _digest(indptr, indices, data, keys):  # type: ignore[no-untyped-def]  # pragma: no cover
    total, counts = np.uint64(0), 0.0
    for row in range(len(keys)):
        content = np.uint64(0)
        for k in range(indptr[row], indptr[row + 1]):
            counts += data[k]
            content += _mix((np.uint64(indices[k]) << np.uint64(32)) + np.uint64(data[k]))
        total += _mix(content ^ _mix(keys[row] + _ONE))
    return total, counts


class Totals(NamedTuple):
    """What is counted on both sides of a conversion; two sets of cells add up with `plus`.

    Parameters
    ----------
    cells, nnz, counts
        Cells, stored values, sum of all counts.
    digest
        Sum modulo 2**64 of a 64-bit hash of each cell: where it comes from, its genes and counts. It does not
        depend on the order of the cells, and a cell lost, doubled or changed changes it.
    """

    cells: int = 0
    nnz: int = 0
    counts: int = 0
    digest: int = 0

    def plus(self, other: Totals) -> Totals:
        """Totals of both."""
        cells, nnz, counts, digest = (a + b for a, b in zip(self, other, strict=True))
        return Totals(cells, nnz, counts, digest % 2**64)


def totals(rows: Rows, sources: np.ndarray, source_rows: np.ndarray) -> Totals:
    """Count rows that come from cell ``source_rows`` of the input ``sources`` (integer (B,) each)."""
    keys = (sources.astype(np.uint64) << np.uint64(40)) + source_rows.astype(np.uint64)
    digest, counts = _digest(rows.indptr, rows.indices, rows.data, keys)
    return Totals(len(keys), len(rows.indices), int(counts), int(digest))
