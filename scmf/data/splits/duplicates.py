"""Cells with the same counts, found by a hash in one pass.

Lives here: the hash of a cell, signatures of many cells in a file, runs of equal signatures. Lives elsewhere: cells
that are nearly the same (near_duplicates), what a copy in another part means (leaks).

Legend: B cells of a block, G genes, M cells of the corpus, K signatures a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numba
import numpy as np

from scmf.data.genes import ids as genes_
from scmf.data.stores.cell_ids import hash_ids
from scmf.data.stores.store import CountBlock

_BUCKET = 1 << 22
"""Signatures sorted at once."""


def gene_keys(genes: Sequence[str]) -> np.ndarray:
    """64-bit key of each gene, uint64 (G,): equal in every store, version suffix and case aside."""
    return hash_ids(np.array([genes_.canonical(gene) for gene in genes], dtype=object))


@numba.njit(numba.uint64(numba.uint64), nogil=True, cache=True, inline="always")
def mix(x: np.uint64) -> np.uint64:  # pragma: no cover  (compiled)
    """Finaliser of splitmix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(nogil=True, cache=True)
def _row_hashes(
    indptr: np.ndarray, indices: np.ndarray, bits: np.ndarray, keys: np.ndarray, out: np.ndarray, detected: np.ndarray
) -> None:  # pragma: no cover  (compiled)
    golden, sign = np.uint64(0x9E3779B97F4A7C15), np.uint32(0x7FFFFFFF)
    for row in range(len(indptr) - 1):
        one, two, n = np.uint64(0), np.uint64(0), 0
        for at in range(indptr[row], indptr[row + 1]):
            if bits[at] & sign == 0:  # a stored zero is no count
                continue
            first = mix(keys[indices[at]] ^ mix(np.uint64(bits[at]) + golden))
            one += first
            two += mix(first + golden)
            n += 1
        out[row, 0], out[row, 1] = one, two
        detected[row] = n


def row_hashes(block: CountBlock, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """128-bit hash of the pairs (gene, count) of each cell, whatever their order, and the genes detected.

    Parameters
    ----------
    block
        Counts; stored zeros change nothing.
    keys
        `gene_keys` of its columns, uint64 (G,).

    Returns
    -------
    uint64 (B, 2) and int32 (B,); an empty cell has the hash 0, 0.
    """
    out, detected = np.empty((block.n_cells, 2), np.uint64), np.empty(block.n_cells, np.int32)
    bits = np.ascontiguousarray(block.data, dtype=np.float32).view(np.uint32)
    _row_hashes(block.indptr, block.indices, bits, keys, out, detected)
    return out, detected


class Signatures:
    """K signatures of each cell in a file, one after the other, so that memory holds none of them.

    Parameters
    ----------
    path
        File to make; 8 bytes a cell and signature.
    n_cells, n_signatures
        M and K.
    """

    def __init__(self, path: Path, n_cells: int, n_signatures: int) -> None:
        self._values = np.memmap(path, np.uint64, mode="w+", shape=(n_signatures, n_cells))

    def put(self, cells: np.ndarray, values_BK: np.ndarray) -> None:
        """Set the signatures of ``cells``, consecutive numbers, uint64 (B, K); 0 stands for none."""
        self._values[:, cells[0] : cells[-1] + 1] = values_BK.T

    def of(self, number: int, cells: np.ndarray) -> np.ndarray:
        """Signature ``number`` of some cells."""
        values: np.ndarray = self._values[number, cells]
        return values

    def equal(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cells that share signature ``number`` with another, sorted by it: cells (n,) and where runs begin (r + 1,).

        Signatures of 0 are left out. A few million are sorted at once; a run never lies in two answers.
        """
        values = self._values[number]
        bits = max(int(np.ceil(np.log2(max(len(values) / _BUCKET, 1)))), 0)
        for bucket in range(1 << bits):
            cells = np.concatenate([self._inside(values, start, bucket, bits) for start in _starts(len(values))])
            some = values[cells]
            order = np.argsort(some, kind="stable")
            cells, some = cells[order], some[order]
            first = np.flatnonzero(np.concatenate([[True], some[1:] != some[:-1], [True]]))
            twice = np.diff(first) > 1
            if len(some) and twice.any():
                keep = np.repeat(twice, np.diff(first))
                yield cells[keep], np.concatenate([[0], np.cumsum(np.diff(first)[twice])])

    def _inside(self, values: np.ndarray, start: int, bucket: int, bits: int) -> np.ndarray:
        part = np.asarray(values[start : start + _BUCKET])
        inside = part != 0
        if bits:
            inside &= (part >> np.uint64(64 - bits)) == bucket
        found: np.ndarray = start + np.flatnonzero(inside)
        return found


def _starts(n: int) -> range:
    return range(0, max(n, 1), _BUCKET)
