"""The compiled loops of the continuous tokenizer: tokens, values and depth of every cell of a CSR block.

Lives here: arithmetic and order, on plain arrays. Lives elsewhere: which column is which token (continuous_genes), the
block and its errors (continuous_block), what a user calls (continuous).

Arithmetic. With T the type of the official arithmetic (float64, or float32 where the official code stays in it)::

    log1p    v = log1p(x[T] / total * target)        total: sum over the genes of the vocabulary, or given
    clip     v = min(max(x[T] / total * target, 0), clip), without the division when there is no target
    given    v = x

Whole counts add up exactly in any order. Other values are added up as numpy adds a dense row: pairwise, in blocks of
128, for that is what the official totals are, and the last bit of them is in every value.

Order. Each column has a *place*; places are read in order (gene_places), so the order of the columns decides nothing.

One call is one thread and holds no state, so calls may run side by side (the GIL is released).

Legend: B cells, G columns, P places, N tokens of all cells.
"""

from typing import Any

import numba
import numpy as np

from .continuous_order import by_value, mix, shuffle, state_of, zeros_of
from .gene_places import room_of, spread_row

OK, BAD_COUNT, FRACTION, BAD_INDEX = 0, 1, 2, 3
LOG1P, CLIP, GIVEN = 0, 1, 2
AS_PLACED, BY_VALUE, RANDOM = 0, 1, 2
REACH, TIMES, PLUS = 0, 1, 2

_MEMO = 1024  # values of counts below this are worked out once a cell
_LONGEST_LEAF = 128
_ZERO, _LARGE = np.float32(0), np.float32(1 << 31)  # float32, so that float32 counts are compared as they are


@numba.njit(cache=True, nogil=True)
def pairwise_sum(x: Any) -> Any:
    """Sum of a vector, bit for bit that of ``numpy.add.reduce``, in the type of the vector."""
    n = x.size
    if n < 8:
        total = x.dtype.type(0)
        for i in range(n):
            total += x[i]
        return total
    if n <= _LONGEST_LEAF:
        r0, r1, r2, r3, r4, r5, r6, r7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
        i = 8
        while i < n - n % 8:
            r0 += x[i]
            r1 += x[i + 1]
            r2 += x[i + 2]
            r3 += x[i + 3]
            r4 += x[i + 4]
            r5 += x[i + 5]
            r6 += x[i + 6]
            r7 += x[i + 7]
            i += 8
        total = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
        while i < n:
            total += x[i]
            i += 1
        return total
    half = n // 2
    half -= half % 8
    return pairwise_sum(x[:half]) + pairwise_sum(x[half:])


@numba.njit(cache=True, nogil=True)
def _check(columns: Any, counts: Any, n_columns: int, strict: bool) -> tuple[int, bool]:
    """What is wrong with a row, and whether it holds only whole counts below 2**31."""
    whole = True
    inside = True
    for i in range(counts.size):
        x = counts[i]
        whole &= (x >= _ZERO) & (x < _LARGE) & (np.floor(x) == x)
        inside &= (columns[i] >= 0) & (columns[i] < n_columns)
    if not inside:
        return BAD_INDEX, False
    if whole or not strict:
        return OK, whole
    code = OK
    for x in counts:
        if not (x >= 0 and x < np.inf):
            return BAD_COUNT, False
        if np.floor(x) != x:
            code = FRACTION
    return code, False


@numba.njit(cache=True, nogil=True)
def _collect(columns: Any, counts: Any, one: Any, place_G: Any, direct: bool, room: Any, places: Any, xs: Any) -> int:
    """Places, ascending, and values of the known genes of a row that are not 0; their number."""
    n, n_places = 0, room[0].size - 1
    if direct:
        for i in range(counts.size):
            # Written always and kept by moving on: cheaper than a branch that is hard to foresee.
            place, x = place_G[np.uint64(columns[i])], counts[i] * one
            places[n] = place
            xs[n] = x
            n += (place < n_places) & (x != 0)
        ascending = True
        for i in range(1, n):
            ascending &= places[i] > places[i - 1]
        if ascending:
            return n
    return spread_row(columns, counts, one, place_G, room, places, xs)


@numba.njit(cache=True, nogil=True)
def _total(xs: Any, n: int, places: Any, dense_P: Any, cell: Any, exact: bool) -> Any:
    """Sum of the first ``n`` values: in any order if that is exact, else as of a dense row, NaN left out."""
    if exact:
        s0 = s1 = s2 = s3 = 0.0  # no sum waits for the one before
        for i in range(n // 4):
            s0 += xs[4 * i]
            s1 += xs[4 * i + 1]
            s2 += xs[4 * i + 2]
            s3 += xs[4 * i + 3]
        for i in range(n // 4 * 4, n):
            s0 += xs[i]
        total = (s0 + s1) + (s2 + s3)
        cell[0] = total
        if total < 16777216.0 or cell.itemsize == 8:
            return cell[0]
    dense_P[:] = 0
    for i in range(n):
        if xs[i] == xs[i]:
            dense_P[places[i]] = xs[i]
    return pairwise_sum(dense_P)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _log_values(
    xs: Any, n: int, total: Any, target: Any, whole: bool, memo: Any, memo_row: Any, row: int, values: Any
) -> None:
    """Write ln(1 + x / total * target); whole counts that come again in a row are looked up."""
    if not whole:
        for i in range(n):
            values[i] = np.log1p(np.float64(xs[i] / total * target))
        return
    for i in range(n):
        x = xs[i]
        if x < _MEMO:
            count = np.uint64(x)
            if memo_row[count] != row:
                memo_row[count] = row
                memo[count] = np.log1p(np.float64(x / total * target))
            values[i] = memo[count]
        else:
            values[i] = np.log1p(np.float64(x / total * target))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _clipped_values(xs: Any, n: int, total: Any, target: Any, clip: float, values: Any) -> None:
    """Write counts, brought to the target if there is one, within 0 and ``clip``; NaN stays."""
    for i in range(n):
        v = xs[i] / total * target if target != 0 else xs[i]
        v = 0 if v < 0 else v
        values[i] = clip if v > clip else v


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _total_of_values(kind: int, xs: Any, n: int, total: Any, target: Any, places: Any, dense_P: Any, cell: Any) -> Any:
    """Sum of the values that come of ``xs``, which it overwrites with them."""
    if kind == LOG1P:
        for i in range(n):
            xs[i] = np.log1p(np.float64(xs[i] / total * target))
    return _total(xs, n, places, dense_P, cell, False)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _depth(total: Any, log: bool, kind: int, by: Any, pair: Any) -> None:
    """T and S of a total, in its type: T is ``by``, or S of ``by`` times the total, or S plus ``by``."""
    pair[1] = np.log10(np.float64(total)) if log else total
    if kind == REACH:
        pair[0] = by
    elif kind == PLUS:
        pair[0] = pair[1] + by
    else:
        times = total * by
        pair[0] = np.log10(np.float64(times)) if log else times


@numba.njit(cache=True, nogil=True, error_model="numpy")
def encode_rows(
    indptr: Any, indices: Any, data: Any, one: Any, place_G: Any, token_P: Any, direct: bool,
    totals_B: Any, own_total: bool, kind: int, target: Any, clip: float,
    order_by: int, keep_zeros: bool, zero_id: int, seed: Any,
    strict: bool, whole_only: bool, positive: bool, sum_kept: bool,
    depth_kind: int, depth_by: Any, depth_log: bool, depth_of_values: bool, t_id: int, s_id: int,
    limit: int, ids: Any, values: Any, offsets: Any, depth_B2: Any, genes_B: Any
) -> tuple[int, int]:  # fmt: skip
    """Tokens and values of every row of a CSR block, into ragged buffers.

    Parameters
    ----------
    indptr, indices, data
        The block; ``indptr`` int64 (B+1,).
    one
        1 as a scalar of type T; ``data`` is of that type or a narrower one.
    place_G, token_P, direct
        See `continuous_genes.Columns`; ``place_G`` is P for a column that is dropped.
    totals_B, own_total
        Total of each cell, type T; with ``own_total`` (then empty) the sum of its known genes.
    kind, target, clip
        `LOG1P`, `CLIP` or `GIVEN`; what totals are brought to, type T (0 with `CLIP`: they are not); the largest value.
    order_by, seed
        `AS_PLACED`, `BY_VALUE` (ties as placed) or `RANDOM` (by ``seed``, a uint64, and the content of the cell).
    keep_zeros, zero_id
        Give the genes that a cell does not express too, behind the others; their token, -1 for each one's own. With a
        token they also stand between positive and negative values that are sorted.
    strict, whole_only
        Refuse negative and missing values; also values that are no whole numbers.
    positive
        Give only tokens whose value is above 0, the depth tokens too (scFoundation).
    sum_kept
        Totals are sums of the tokens that are kept (TranscriptFormer).
    depth_kind, depth_by, depth_log, depth_of_values, t_id, s_id
        T: see `_depth`; totals as logarithms; totals of the values; ids of T and S, -1 for no such tokens.
    limit
        Most genes a cell.
    ids, values, offsets, depth_B2, genes_B
        Output: tokens and float32 values (N,), int64 (B+1,), T and S float64 (B, 2), genes expressed (B,).

    Returns
    -------
    code, row
        `OK`, or what is wrong and in which row.
    """
    n_places = token_P.size
    width = n_places
    for row in range(indptr.size - 1):
        width = max(width, indptr[row + 1] - indptr[row])
    width += 1
    plain = order_by == AS_PLACED and not keep_zeros
    some = 1 if plain else width
    found, out = np.empty(width, np.int32), np.empty(some, np.int32)
    xs, out_xs = np.empty(width, totals_B.dtype), np.empty(some, totals_B.dtype)
    tokens, order, zeros = np.empty(some, np.int32), np.empty(some, np.int64), np.empty(some, np.int32)
    dense_P, seen_P = np.empty(n_places, totals_B.dtype), np.zeros(n_places, np.bool_)
    room = room_of(n_places, totals_B)
    cell, pair = np.empty(1, totals_B.dtype), np.empty(2, totals_B.dtype)
    narrow = np.empty(1, np.float32)
    narrow_bits = narrow.view(np.uint32)
    keys, packed, spare = np.empty(some, np.float64), np.empty(some, np.int64), np.empty(some, np.int64)
    low, high = np.empty(1024, np.uint32), np.empty(1024, np.uint32)
    memo, memo_row = np.empty(_MEMO, np.float32), np.full(_MEMO, -1, np.int64)
    needs_total = own_total and (kind == LOG1P or t_id >= 0 or (kind == CLIP and target != 0)) and not sum_kept
    cursor = 0
    offsets[0] = 0
    for row in range(indptr.size - 1):
        columns, counts = indices[indptr[row] : indptr[row + 1]], data[indptr[row] : indptr[row + 1]]
        code, whole = _check(columns, counts, place_G.size, strict)
        if code != OK and (code != FRACTION or whole_only):
            return code, row
        places, x_n = found, xs
        n = _collect(columns, counts, one, place_G, direct, room, places, x_n)
        genes_B[row] = n
        depth_B2[row, 0] = depth_B2[row, 1] = 0
        if n == 0 and strict:
            offsets[row + 1] = cursor
            continue
        total = one
        if not own_total:
            total = totals_B[row]
        elif needs_total:
            total = _total(x_n, n, places, dense_P, cell, whole)

        n_all = n
        if not plain:
            front = n
            for i in range(n):
                order[i] = i
            state = seed
            if order_by == BY_VALUE:
                front = by_value(x_n, n, keys, packed, spare, low, high, order)
            elif order_by == RANDOM:
                state = state_of(seed, places, token_P, x_n, n, narrow, narrow_bits)
                shuffle(order, n, limit, state)
            n_zeros = 0
            if keep_zeros or (front < n and zero_id >= 0):
                n_zeros = zeros_of(places, n, token_P, seen_P, zeros)
                if order_by == RANDOM:
                    shuffle(zeros, n_zeros, max(0, limit - n), mix(state))
            n_all = n + n_zeros
            for i in range(n_all):
                if front <= i < front + n_zeros:
                    out[i], out_xs[i] = zeros[i - front], 0
                    tokens[i] = token_P[out[i]] if zero_id < 0 else zero_id
                else:
                    j = order[i if i < front else i - n_zeros]
                    out[i], out_xs[i] = places[j], x_n[j]
                    tokens[i] = token_P[out[i]]
            places, x_n = out, out_xs
        kept = min(n_all, limit)
        if sum_kept and own_total:
            cell[0] = 0
            total_64 = 0.0
            for i in range(kept):
                total_64 += x_n[i]
            cell[0] = total_64
            total = cell[0]

        found_values = values[cursor : cursor + kept]
        if kind == LOG1P:
            _log_values(x_n, kept, total, target, whole, memo, memo_row, row, found_values)
        elif kind == CLIP:
            _clipped_values(x_n, kept, total, target, clip, found_values)
        else:
            for i in range(kept):
                found_values[i] = x_n[i]
        if t_id >= 0 and depth_of_values:
            total = _total_of_values(kind, x_n, kept, total, target, places, dense_P, cell)
        start = cursor
        if plain:
            for i in range(kept):
                ids[start + i] = token_P[places[i]]
        else:
            for i in range(kept):
                ids[start + i] = tokens[i]
        cursor = start + kept
        if positive:
            cursor = start
            for i in range(kept):
                v = found_values[i]
                ids[cursor], values[cursor] = ids[start + i], v
                cursor += v > 0
            genes_B[row] = cursor - start
        if t_id >= 0:
            _depth(total, depth_log, depth_kind, depth_by, pair)
            depth_B2[row, 0], depth_B2[row, 1] = pair[0], pair[1]
            for i in range(2):
                if not positive or pair[i] > 0:
                    ids[cursor] = t_id if i == 0 else s_id
                    values[cursor] = pair[i]
                    cursor += 1
        offsets[row + 1] = cursor
    return OK, -1
