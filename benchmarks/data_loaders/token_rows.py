"""Exact rank-value tokens of a batch, the same for every loader: kernel, padding, threads, digest.

Lives here: what a peer's batch goes through in its own interpreter. Lives elsewhere: the kernel itself
(scmf.tokenizers.rank_value_kernel), clocks (measure).

Legend: B cells of a batch, L longest sequence of it, G genes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np

LONGEST = 2_048


class Csr(NamedTuple):
    """Counts of a batch: int64 (B+1,), columns and float32 counts of the stored values."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray


@numba.njit(cache=True, nogil=True)
def pad_rows(ids: Any, offsets: Any, out_BL: Any) -> None:
    """Copy ragged rows into a rectangle, 0 (the padding token) behind their ends."""
    for row in range(offsets.size - 1):
        start, n = offsets[row], offsets[row + 1] - offsets[row]
        for i in range(n):
            out_BL[row, i] = ids[start + i]
        for i in range(n, out_BL.shape[1]):
            out_BL[row, i] = 0


@numba.njit(cache=True, nogil=True)
def digest_rows(ids: Any, offsets: Any) -> Any:
    """Sum over the cells of a hash of each one's tokens: does not depend on the order of cells, nor on padding."""
    total = np.uint64(0)
    for row in range(offsets.size - 1):
        h = np.uint64(14695981039346656037)
        for i in range(offsets[row], offsets[row + 1]):
            if ids[i] > 0:
                h = (h ^ np.uint64(ids[i])) * np.uint64(1099511628211)
        h ^= h >> np.uint64(29)
        total += h * np.uint64(0x9E3779B97F4A7C15)
    return total


class Tokenize:
    """Rank-value tokens of a batch through the compiled kernel of this project; may be called from several threads.

    Parameters
    ----------
    tables
        ``tables.npz`` of the corpus.
    """

    def __init__(self, tables: Path) -> None:
        from scmf.tokenizers.rank_value_kernel import NOT_SORTED, OK, rank_rows

        with np.load(tables) as arrays:
            self.code_G, self.reciprocal_G = arrays["code_G"], arrays["reciprocal_G"]
        self._rank, self._ok, self._not_sorted = rank_rows, OK, NOT_SORTED
        self._own = threading.local()

    def __call__(self, counts: Csr) -> np.ndarray:
        """Padded tokens, int32 (B, L)."""
        ids, offsets = self.rank(counts)
        out_BL = np.empty((offsets.size - 1, int(np.diff(offsets).max(initial=0))), np.int32)
        pad_rows(ids, offsets, out_BL)
        return out_BL

    def rank(self, counts: Csr) -> tuple[np.ndarray, np.ndarray]:
        """Ragged tokens, int32, and their offsets; the buffer is used again by the next call of the same thread."""
        indptr = np.ascontiguousarray(counts.indptr, np.int64)
        data = np.ascontiguousarray(counts.data, np.float32)
        lengths = np.minimum(np.diff(indptr), LONGEST)
        offsets, room = np.empty(indptr.size, np.int64), int(lengths.sum())
        ids = getattr(self._own, "ids", None)
        if ids is None or ids.size < room:  # fresh pages for each small batch would cost as much as a tenth of the sort
            ids = self._own.ids = np.empty(2 * room, np.int32)
        none, one = np.empty(0, np.float64), np.float32(1)
        indices = np.ascontiguousarray(counts.indices)
        for _ in range(2):
            code, row = self._rank(
                indptr, indices, data, data.view(np.uint32), np.float32(np.inf).view(np.uint32),
                np.empty(0, np.float32), True, False, one, np.float32(10_000),
                self.code_G, self.reciprocal_G, np.empty(0, np.int32), none,
                False, LONGEST, -1, -1, 0, ids, none, offsets,
            )  # fmt: skip
            if code != self._not_sorted:
                break
            indices, data = _sort_columns(indptr, indices, data)
        if code != self._ok:
            raise SystemExit(f"the kernel refuses row {row} of a batch (code {code})")
        return ids[: offsets[-1]], offsets


def _sort_columns(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import scipy.sparse as sp

    matrix = sp.csr_matrix((data, indices, indptr), copy=True)
    matrix.sort_indices()
    return matrix.indices, matrix.data


def with_tokens(
    batches: Iterable[tuple[np.ndarray, Any]], tokenize: Callable[[Any], np.ndarray], threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokenize each batch, in its turn or, with ``threads``, behind the loader while it goes on."""
    if not threads:
        for rows, batch in batches:
            yield rows, tokenize(batch)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()
        for rows, batch in batches:
            ahead.append((rows, pool.submit(tokenize, batch)))
            if len(ahead) > 4 * threads:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
