"""The compiled loop that puts counts of one file into the columns of an aligner, without the lock of the interpreter.

Lives here: one pass over the stored values of a block, O(N). Lives elsewhere: which column goes where, and the errors
(gene_aligner).

Legend: B cells, G genes of the file, P genes of the aligner, N stored values. A row whose columns still rise after the
mapping is only compacted. Any other row goes through an array of P sums and a bitmap of P bits: each value is added at
its place, then the set bits are read off in order. That sorts the row and adds up columns of one gene at once, in
O(n + P / 64) instead of O(n log n).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

RISING, MIXED, BAD_INDEX = 0, 1, 2


@intrinsic
def _trailing_zeros(typingctx: Any, word: Any) -> Any:
    """Number of zero bits below the lowest set bit of a uint64; 64 when none is set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), generate


@numba.njit(cache=True, nogil=True)
def _order(columns: Any, n_columns: int) -> int:
    """`RISING` when each column is larger than the one before, `MIXED` when not, `BAD_INDEX` outside ``[0, G)``."""
    before, after = columns[:-1], columns[1:]
    mixed = 0
    for i in range(after.size):
        mixed |= after[i] <= before[i]
    if not mixed:
        bad = columns.size and (columns[0] < 0 or columns[columns.size - 1] >= n_columns)
        return BAD_INDEX if bad else RISING
    outside = 0
    for column in columns:
        outside |= (column < 0) | (column >= n_columns)
    return BAD_INDEX if outside else MIXED


@numba.njit(cache=True, nogil=True)
def align_rows(
    indptr: Any,
    indices: Any,
    data: Any,
    target: Any,
    rising: bool,
    n_panel: int,
    out_indptr: Any,
    out_indices: Any,
    out_data: Any,
    totals: Any,
) -> tuple[int, int]:
    """Fill the ``out`` arrays and ``totals``.

    Parameters
    ----------
    indptr, indices, data
        The block: int64 (B+1,), integer (N,), float32 (N,).
    target
        Column of the aligner or -1, int32 (G,).
    rising
        Whether ``target`` rises strictly where it is not -1.
    n_panel
        Genes of the aligner P.
    out_indptr, out_indices, out_data
        int64 (B+1,), int32 (N,), float32 (N,). The last two may be ``indices`` and ``data`` themselves: a row is
        never written beyond what was read of it.
    totals
        Sum of each cell over all G genes, float64 (B,).

    Returns
    -------
    tuple
        0 and 0, or `BAD_INDEX` and the first row with a column that is not in ``[0, G)``.
    """
    n_words = (n_panel + 63) // 64
    nowhere = np.uint64(
        64 * n_words
    )  # where genes that are not in the aligner are added up, so that no branch is needed
    bits = np.zeros(n_words + 1, np.uint64)
    sums = np.zeros(0, np.float32)
    one, six, low = np.uint64(1), np.uint64(6), np.uint64(63)
    out = np.uint64(0)
    out_indptr[0] = 0
    for row in range(indptr.size - 1):
        start, stop = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
        order = _order(indices[start:stop], target.size)
        if order == BAD_INDEX:
            return BAD_INDEX, row
        total = 0.0
        if rising and order == RISING:
            for k in range(start, stop):
                to, value = target[np.uint64(indices[k])], data[k]
                total += value
                out_indices[out] = to
                out_data[out] = value
                out += np.uint64((to >= 0) & (value != 0))  # no branch: which genes are kept cannot be foretold
            totals[row] = total
            out_indptr[row + 1] = out
            continue
        if sums.size == 0:
            sums = np.zeros(64 * n_words + 1, np.float32)
        for k in range(start, stop):
            to, value = target[np.uint64(indices[k])], data[k]
            total += value
            if value != 0:
                at = np.uint64(to) if to >= 0 else nowhere
                sums[at] += value
                bits[at >> six] |= one << (at & low)
        totals[row] = total
        for word in range(np.uint64(n_words)):
            left = bits[word]
            bits[word] = 0
            while left != 0:
                at = (word << six) + _trailing_zeros(left)
                left &= left - one
                out_indices[out] = at
                out_data[out] = sums[at]
                sums[at] = 0
                out += one
        out_indptr[row + 1] = out
    return 0, 0
