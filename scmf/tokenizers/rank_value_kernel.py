"""The compiled loops of the rank-value tokenizer: sort every cell of a CSR block, pad ragged rows.

Lives here: arithmetic and order, on plain arrays. Lives elsewhere: which column is which token
(rank_value_genes), what a user calls (rank_value).

Arithmetic. With T the type numpy gives to ``counts * (1 / n_counts)``::

    sparse    t = counts[T] * (1 / n)[T] * 10_000[T]      value = float64(t) * (1 / median)
    dense     t = counts[T] / n[T] * 10_000[T]            value = float64(t) / median

which is what scipy does with ``X / n[:, None] * 10_000 / median[None, :]``; the last bit decides the
order of near ties, so nothing here may be re-associated (no fastmath, no fused multiply-add).

Order. Descending value, equal values by token id (with ``match_official`` by column); NaN last. The bits of a
non-negative float64 grow with its value, so a cell is sorted by ``(largest bits - bits) >> shift`` cut to 20 bits, in
two stable counting passes of 10 bits, and then mended by insertion on all bits where the 20 are equal.

One call is one thread and holds no state, so calls may run side by side (the GIL is released).

Legend: B cells, G columns, S summed genes (several columns each), N entries.
"""

from typing import Any

import numba
import numpy as np

_DIGIT = 10
_RADIX = 1 << _DIGIT
_LAST = _RADIX - 1
_POSITION = (1 << 32) - 1
_SMALL_BITS = 32 - 2 * _DIGIT
_SMALL = 1 << _SMALL_BITS  # up to so many entries, position and digits fit 32 bits
_SHORT = 48  # below this many entries plain insertion is faster than two counting passes

OK, BAD_COUNT, NOT_SORTED, BAD_INDEX = 0, 1, 2, 3


@numba.njit(cache=True, nogil=True)
def _check_row(columns: Any, counts: Any, bits: Any, limit: Any, n_columns: int) -> int:
    """Code of one row: fit to rank, or what is wrong with it. ``limit`` is the bit pattern of infinity."""
    odd = 0
    for i in range(bits.size):
        odd |= bits[i] >= limit  # infinite, NaN or with a sign, in one comparison of integers
    if odd:
        for x in counts:
            if not (x >= 0) or x == np.inf:  # else a negative zero, which is zero
                return BAD_COUNT
    before, after = columns[:-1], columns[1:]
    unsorted = 0
    for i in range(after.size):
        unsorted |= after[i] <= before[i]
    if unsorted:
        return NOT_SORTED
    if columns.size and (columns[0] < 0 or columns[columns.size - 1] >= n_columns):
        return BAD_INDEX
    return OK


@numba.njit(cache=True, nogil=True)
def _total(counts: Any) -> float:
    """Sum in float64, the same on every machine and for every order: whole counts add up exactly, others are sorted."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    whole = True
    for i in range(counts.size):
        whole &= np.floor(counts[i]) == counts[i]
    if not whole:
        counts = np.sort(counts[counts > 0])
    n = counts.size
    for i in range(n // 4):
        s0 += counts[4 * i]
        s1 += counts[4 * i + 1]
        s2 += counts[4 * i + 2]
        s3 += counts[4 * i + 3]
    for i in range(n // 4 * 4, n):
        s0 += counts[i]
    return (s0 + s1) + (s2 + s3)


@numba.njit(cache=True, nogil=True)
def sort_descending(keys: Any, packed: Any, spare: Any, low: Any, high: Any, width: int) -> bool:
    """Leave in the low ``width`` bits of ``packed`` the positions of the keys, largest first, equal keys in order.

    Returns whether there are equal keys (it may say so where there are none).

    Keys are not negative; positions fit ``width`` bits, and what stands above them is scratch. Half-size items
    (uint32, ``width`` 12) stay in the nearest cache and sort a tenth faster than int64 with 32.
    """
    n = keys.size
    tied = False
    if n <= _SHORT:
        for i in range(n):
            key, j = keys[i], i
            while j > 0 and keys[packed[j - 1]] < key:
                packed[j] = packed[j - 1]
                j -= 1
            packed[j] = i
            tied |= j > 0 and keys[packed[j - 1]] == key
        return tied
    position = (1 << width) - 1
    largest = smallest = keys[0]
    for i in range(n):
        largest, smallest = max(largest, keys[i]), min(smallest, keys[i])
    shift = 0
    while (largest - smallest) >> shift >= _RADIX * _RADIX:
        shift += 1
    low[:] = 0
    high[:] = 0
    for i in range(n):
        digits = (largest - keys[i]) >> shift
        low[digits & _LAST] += np.uint32(1)
        high[(digits >> _DIGIT) & _LAST] += np.uint32(1)
        packed[i] = (digits << width) | i
    at_low = at_high = np.uint32(0)
    for d in range(_RADIX):
        count = low[d]
        low[d] = at_low
        at_low = np.uint32(at_low + count)
        count = high[d]
        high[d] = at_high
        at_high = np.uint32(at_high + count)
    for i in range(n):
        item = packed[i]
        d = (item >> width) & _LAST
        spare[low[d]] = item
        low[d] += np.uint32(1)
    for i in range(n):
        item = spare[i]
        d = (item >> (width + _DIGIT)) & _LAST
        packed[high[d]] = item
        high[d] += np.uint32(1)
    patience, previous = 32 * n, np.int64(-1)
    for i in range(n):
        item = packed[i]
        digits = np.int64(item >> width)
        if digits == previous:
            key, j = keys[item & position], i
            while j > 0 and np.int64(packed[j - 1] >> width) == digits and keys[packed[j - 1] & position] < key:
                packed[j] = packed[j - 1]
                j -= 1
            packed[j] = item
            tied |= j > 0 and keys[packed[j - 1] & position] == key
            patience -= i - j
            if patience < 0:  # thousands of values hardly apart: no place for insertion
                in_order = np.argsort(largest - keys, kind="mergesort")
                for k in range(n):
                    packed[k] = in_order[k]
                return True
        previous = digits
    return tied


@numba.njit(cache=True, nogil=True)
def order_ties(keys: Any, tokens: Any, packed: Any, width: int) -> None:
    """Bring the positions of equal keys in ``packed``, as `sort_descending` left it, in the order of their tokens."""
    position = (1 << width) - 1
    n, start = keys.size, 0
    while start < n:
        key, stop = keys[packed[start] & position], start + 1
        while stop < n and keys[packed[stop] & position] == key:
            stop += 1
        if stop - start > _SHORT:
            places = np.empty(stop - start, np.int64)
            ids = np.empty(stop - start, np.int32)
            for i in range(stop - start):
                places[i] = packed[start + i] & position
                ids[i] = tokens[places[i]]
            by_id = np.argsort(ids)
            for i in range(stop - start):
                packed[start + i] = places[by_id[i]]
        else:
            for i in range(start + 1, stop):
                item, j = packed[i], i
                token = tokens[item & position]
                while j > start and tokens[packed[j - 1] & position] > token:
                    packed[j] = packed[j - 1]
                    j -= 1
                packed[j] = item
        start = stop


@numba.njit(cache=True, nogil=True)
def _put(
    packed: Any, position: int, kept: int, tokens: Any, found: Any, rates: Any, want: int, ids: Any, values: Any,
    cursor: int
) -> None:  # fmt: skip
    """Write the first ``kept`` tokens, and what is wanted of their values, in the order of ``packed``."""
    for i in range(kept):
        ids[cursor + i] = tokens[packed[i] & position]
    if want > 0:
        for i in range(kept):
            values[cursor + i] = found[packed[i] & position] if want == 1 else rates[packed[i] & position]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def rank_rows(
    indptr: Any, indices: Any, data: Any, bits: Any, limit: Any, factor: Any,
    own_total: bool, divide: bool, one: Any, target: Any,
    code_G: Any, median_G: Any, slot_ids: Any, slot_median: Any,
    keep_zeros: bool, max_length: int, cls_id: int, eos_id: int, want: int, ids: Any, values: Any, offsets: Any
) -> tuple[int, int]:  # fmt: skip
    """Rank every row of a CSR block into the ragged buffers ``ids``, ``values`` and ``offsets``.

    Parameters
    ----------
    indptr, indices, data
        The block; ``indptr`` int64 (B+1,), ``data`` of type T (N,).
    bits, limit
        ``data`` seen as unsigned integers of the same width, and positive infinity seen so.
    factor, own_total
        ``1 / n_counts`` (``n_counts`` itself to divide) as T (B,); with ``own_total`` the sum of the row is used.
    divide
        True division as for dense arrays, else multiplication by reciprocals as scipy does.
    one, target
        1 and 10,000 as scalars of type T.
    code_G, median_G
        Token id of each column (-1 dropped, ``-2 - s`` summed into slot s) and its median,
        or the reciprocal of the median unless ``divide``.
    slot_ids, slot_median
        The same for the genes summed over several columns (S,).
    keep_zeros
        Rank stored zeros (last) instead of dropping them, and leave ties in the order of the columns.
    max_length, cls_id, eos_id
        Genes kept a cell; ids put around them, -1 for none.
    want
        0: no values, 1: the values that were ranked, 2: counts a 10,000.
    ids, values, offsets
        Output: int32 and float64 of sufficient length (``values`` may be empty when ``want`` is 0), int64 (B+1,).

    Returns
    -------
    code, row
        `OK`, or what is wrong and in which row.
    """
    n_rows = indptr.size - 1
    n_slots = slot_ids.size
    width = 1
    for row in range(n_rows):
        width = max(width, indptr[row + 1] - indptr[row])
    width += n_slots
    found, rates = np.empty(width, np.float64), np.empty(width, np.float64)
    tokens, nans = np.empty(width, np.int32), np.empty(width, np.int32)
    packed, spare = np.empty(width, np.int64), np.empty(width, np.int64)
    packed_32, spare_32 = np.empty(_SMALL, np.uint32), np.empty(_SMALL, np.uint32)
    low, high = np.empty(_RADIX, np.uint32), np.empty(_RADIX, np.uint32)
    sums, seen = np.zeros(n_slots, data.dtype), np.zeros(n_slots, np.bool_)
    total = np.empty(1, data.dtype)
    cursor = 0
    offsets[0] = 0
    for row in range(n_rows):
        start, stop = indptr[row], indptr[row + 1]
        columns, counts = indices[start:stop], data[start:stop]
        code = _check_row(columns, counts, bits[start:stop], limit, code_G.size)
        if code != OK:
            return code, row
        if own_total:
            total[0] = _total(counts)
            f = total[0] if divide else one / total[0]
        else:
            f = factor[row]
        n = 0
        summed = False
        for k in range(counts.size):
            x, g = counts[k], np.uint64(columns[k])
            token = code_G[g]
            t = (x / f if divide else x * f) * target
            # Written always and kept by moving on: cheaper than a branch that is hard to foresee.
            found[n] = np.float64(t) / median_G[g] if divide else np.float64(t) * median_G[g]
            tokens[n] = token
            if want == 2:
                rates[n] = t
            n += (token >= 0) & ((x > 0) | keep_zeros)
            if token < -1:
                sums[-2 - token] += x
                seen[-2 - token] = True
                summed = True
        if summed:  # genes of several columns; among ties they stand behind the others in the official code
            for s in range(n_slots):
                if seen[s] and sums[s] > 0:
                    t = (sums[s] / f if divide else sums[s] * f) * target
                    found[n] = np.float64(t) / slot_median[s] if divide else np.float64(t) * slot_median[s]
                    tokens[n] = slot_ids[s]
                    rates[n] = t
                    n += 1
                sums[s] = 0
                seen[s] = False
        n_nan = 0
        if keep_zeros:
            stored, n = n, 0
            for i in range(stored):
                if found[i] != found[i]:
                    nans[n_nan] = tokens[i]
                    n_nan += 1
                elif found[i] > 0 or not divide:
                    found[n], tokens[n], rates[n] = found[i] + 0.0, tokens[i], rates[i]  # + 0.0: no negative zero
                    n += 1
        small = n <= _SMALL
        keys = found[:n].view(np.int64)
        if small:
            if sort_descending(keys, packed_32, spare_32, low, high, _SMALL_BITS) and not keep_zeros:
                order_ties(keys, tokens, packed_32, _SMALL_BITS)
        elif sort_descending(keys, packed, spare, low, high, 32) and not keep_zeros:
            order_ties(keys, tokens, packed, 32)
        if cls_id >= 0:
            ids[cursor] = cls_id
            if want > 0:
                values[cursor] = 0.0
            cursor += 1
        kept = min(n, max_length)
        if small:
            _put(packed_32, _SMALL - 1, kept, tokens, found, rates, want, ids, values, cursor)
        else:
            _put(packed, _POSITION, kept, tokens, found, rates, want, ids, values, cursor)
        cursor += kept
        for i in range(min(n_nan, max_length - kept)):
            ids[cursor] = nans[i]
            if want > 0:
                values[cursor] = np.nan
            cursor += 1
        if eos_id >= 0:
            ids[cursor] = eos_id
            if want > 0:
                values[cursor] = 0.0
            cursor += 1
        offsets[row + 1] = cursor
    return OK, -1


@numba.njit(cache=True, nogil=True)
def pad_rows(ids: Any, offsets: Any, input_ids_BL: Any, attention_mask_BL: Any, pad_id: int) -> None:
    """Copy ragged rows into two rectangles, ``pad_id`` and 0 behind their ends."""
    length = input_ids_BL.shape[1]
    for row in range(offsets.size - 1):
        start, n = offsets[row], offsets[row + 1] - offsets[row]
        for i in range(n):
            input_ids_BL[row, i] = ids[start + i]
            attention_mask_BL[row, i] = 1
        for i in range(n, length):
            input_ids_BL[row, i] = pad_id
            attention_mask_BL[row, i] = 0
