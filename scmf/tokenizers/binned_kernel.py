"""The compiled loops of the binned tokenizer: quantile bins of every cell, random digits of ties, genes kept.

Lives here: arithmetic on plain arrays. Lives elsewhere: which column is which token (gene_columns), rows in
the order of token ids (gene_places), the draws of the official code (binned_draws), what a user calls (binned).

Bins. The edges of a cell are ``np.quantile(x, np.linspace(0, 1, n_bins - 1))`` over its values above 0, bit for bit:
with ``v = (n - 1) * q``, ``a`` and ``b`` the values of rank floor(v) and the next, ``d = b - a`` in the type of the
values and ``g = v - floor(v)``, an edge is ``a + d * g``, or ``b - d * (1 - g)`` from ``g = 0.5`` on. A value has

    top = number of edges <= it      span = number of edges equal to it      digit uniform on {top - span + 1 .. top}

(``top`` alone where no edge is equal). Ranks come from a histogram of the small integers, which most counts are, and a
sort of the rest.

Draws. A digit and the place of a gene in the lottery of a long cell are a function of (seed, draw, what is in the
cell, the token) alone: 32-bit mixing keyed by 64 bits, in which the content enters as a sum over (token, top), or
(token, value) without bins. So they depend neither on the batch, nor on the order of cells or columns, nor, with bins,
on the scale of the counts.

One call is one thread and holds no state, so calls may run side by side (the GIL is released).

Legend: B cells, G columns, K edges, N entries, P genes of a panel.
"""

from typing import Any

import numba
import numpy as np

from .gene_places import OK, collect_row, room_of

_SMALL = 255
"""Whole values below this are counted, larger ones and fractions sorted; also the mark of such a value."""

_FEW = 24
"""Up to so many values are sorted by insertion."""


@numba.njit(cache=True, nogil=True)
def mix64(x: Any) -> Any:
    """One step of splitmix64."""
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _sort_tail(tail: Any, order: Any, n: int) -> None:
    """Leave in ``order`` the places of the first ``n`` values of ``tail``, smallest first."""
    if n > _FEW:
        order[:n] = np.argsort(tail[:n])
        return
    for i in range(n):
        x, j = tail[i], i
        while j > 0 and tail[order[j - 1]] > x:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i


@numba.njit(cache=True, nogil=True)
def scratch(width: int, n_edges: int, none: Any) -> Any:
    """Room for `bin_row` over cells of up to ``width`` values of the type of the array ``none``."""
    return (
        np.empty((width + 7) & ~7, np.uint8), np.empty((4, _SMALL + 1), np.int32), np.empty(_SMALL + 1, np.uint32),
        np.empty(width, none.dtype), np.empty(width, np.int64), np.empty(width, np.int64),
        np.empty(width + 1, none.dtype), np.empty(width + 1, np.int64), np.empty(width + 1, np.int64),
        np.empty(width + 1, np.uint32), np.empty(n_edges, np.float64),
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def bin_row(kept: Any, n: int, share_K: Any, entries: Any, room: Any) -> None:
    """Bins of one cell: ``top << 16 | span`` of each value.

    Parameters
    ----------
    kept, n
        Values above 0, of which the first ``n`` count.
    share_K
        ``np.linspace(0, 1, n_bins - 1)``.
    entries
        Output uint32, room for ``n``.
    room
        What `scratch` made; the last array holds the edges afterwards.
    """
    codes, counters, table, tail, place, order, distinct, ranks, between, equal, edges = room
    if n == 0:
        return
    marked = kept.dtype.type(_SMALL)
    for i in range(n):
        x = min(kept[i], marked)
        code = np.int32(x)
        codes[i] = code if kept.dtype.type(code) == x else _SMALL
    first, second, third, fourth = counters[0], counters[1], counters[2], counters[3]
    counters[:] = 0
    for q in range(n >> 2):  # four counters, so that increments of one value do not wait for each other
        i = 4 * q
        first[codes[i]] += np.int32(1)
        second[codes[i + 1]] += np.int32(1)
        third[codes[i + 2]] += np.int32(1)
        fourth[codes[i + 3]] += np.int32(1)
    for i in range(n & ~3, n):
        first[codes[i]] += np.int32(1)
    for j in range(_SMALL + 1):
        first[j] += second[j] + third[j] + fourth[j]
    n_tail = int(first[_SMALL])
    if n_tail:
        t = 0
        words = codes.view(np.uint64)
        for q in range((n + 7) >> 3):
            word = words[q]  # a byte of ones gives a bit here, few other words do
            if ~word - np.uint64(0x0101010101010101) & word & np.uint64(0x8080808080808080):
                for i in range(8 * q, min(8 * q + 8, n)):
                    if codes[i] == _SMALL:
                        tail[t], place[t] = kept[i], i
                        t += 1
        _sort_tail(tail, order, n_tail)
    # Different values, ascending, and how many entries are up to each: the counted ones merged with the sorted ones.
    m, below, t, small, left = 0, 0, 0, 1, n - n_tail
    while left > 0 or t < n_tail:
        if t < n_tail and (left == 0 or tail[order[t]] < small):
            x = tail[order[t]]
            if m == 0 or distinct[m - 1] != x:
                distinct[m] = x
                m += 1
            below += 1
            ranks[m - 1] = below
            t += 1
        else:
            times = int(first[small])
            distinct[m] = small
            below += times
            ranks[m] = below
            m += times > 0
            left -= times
            small += 1
    for j in range(m + 1):
        between[j] = 0
        equal[j] = 0
    distinct[m] = distinct[m - 1]
    j = 0
    for k in range(share_K.size):
        virtual = min((n - 1) * share_K[k], np.float64(n - 1))
        rank = np.int64(virtual)
        while ranks[j] <= rank:
            j += 1
        a = distinct[j]
        b = a if rank + 1 < ranks[j] else distinct[j + 1]
        d, g = np.float64(b - a), virtual - rank
        low, high = a + d * g, b - d * (1 - g)
        edge = low if g < 0.5 else high
        edges[k] = edge
        equal[j] += edge == a
        between[j] += (edge > a) & (edge < b)
        equal[j + 1] += (edge == b) & (b > a)
    top = np.int64(0)
    t = 0
    for j in range(m):
        x, span = distinct[j], np.int64(equal[j])
        top += span
        entry = np.uint32((top << 16) | span)
        top += between[j]
        if x < _SMALL and np.uint8(x) == x:
            table[np.uint8(x)] = entry
        equal[j] = entry
    for i in range(n):
        entries[i] = table[codes[i]]
    for j in range(m):
        while t < n_tail and tail[order[t]] == distinct[j]:
            entries[place[order[t]]] = equal[j]
            t += 1


@numba.njit(cache=True, nogil=True)
def _key(ids: Any, entries: Any, shift: Any, n: int, base: Any) -> Any:
    """64 bits of what is in the cell, tokens and ``entries >> shift``, and of ``base`` (seed and draw)."""
    total = np.uint64(0)
    for i in range(n):
        a = np.uint32(np.uint32(ids[i]) * np.uint32(0x9E3779B1) + (entries[i] >> shift) * np.uint32(0x85EBCA77))
        a = np.uint32((a ^ (a >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
        total += np.uint64(a) * np.uint64(np.uint32(a ^ np.uint32(0x5BD1E995)))
    return mix64(mix64(total) ^ base)


@numba.njit(cache=True, nogil=True)
def _draw(ids: Any, n: int, key: Any, lot: Any) -> None:
    """32 random bits for each token, different for different tokens (two rounds as in MurmurHash3, keyed twice)."""
    first, second = np.uint32(key), np.uint32(key >> np.uint64(32))
    for i in range(n):
        x = np.uint32(np.uint32(ids[i]) * np.uint32(0x9E3779B1) + first)
        x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        x = np.uint32(np.uint32((x ^ (x >> np.uint32(13))) + second) * np.uint32(0xC2B2AE35))
        lot[i] = x ^ (x >> np.uint32(16))


@numba.njit(cache=True, nogil=True)
def _threshold(lot: Any, n: int, k: int) -> Any:
    """A number up to which exactly ``k`` of the first ``n`` lie; all are different, and ``0 < k < n``.

    They are uniform, so a guess in proportion is nearly right, and a few counts lead to a right one.
    """
    low, high, n_low, n_high = np.int64(-1), np.int64(0xFFFFFFFF), np.int64(0), np.int64(n)
    for step in range(64):
        if step < 24:
            guess = low + np.int64((high - low) * ((k - n_low) / (n_high - n_low)))
            guess = min(max(guess, low + 1), high - 1)
        else:
            guess = (low + high) >> 1
        limit, count = np.uint32(guess), np.uint32(0)
        for i in range(n):
            count = np.uint32(count + np.uint32(lot[i] <= limit))
        if count == k:
            return limit
        if count < k:
            low, n_low = guess, np.int64(count)
        else:
            high, n_high = guess, np.int64(count)
    return np.uint32(high)


@numba.njit(cache=True, nogil=True)
def _digits(entries: Any, lot: Any, n: int, n_edges: int, out: Any) -> None:
    """Digits of the first ``n`` entries from the random bits of their tokens."""
    if n_edges < 256:  # 24 bits by 8 fit 32, and twice as many fit a register
        for i in range(n):
            x = np.uint32(lot[i] * np.uint32(0x2C1B3C6D))
            bits = np.uint32((x ^ (x >> np.uint32(15))) >> np.uint32(8))
            top, span = np.uint32(entries[i] >> np.uint32(16)), np.uint32(entries[i] & np.uint32(0xFFFF))
            out[i] = np.float32(np.int32(top - np.uint32(np.uint32(bits * span) >> np.uint32(24))))
        return
    for i in range(n):
        x = np.uint32(lot[i] * np.uint32(0x2C1B3C6D))
        wide = np.uint64(x ^ (x >> np.uint32(15))) * np.uint64(entries[i] & np.uint32(0xFFFF))
        out[i] = np.float32(np.int32(entries[i] >> np.uint32(16)) - np.int32(wide >> np.uint64(32)))


@numba.njit(cache=True, nogil=True)
def encode_rows(
    indptr: Any, indices: Any, data: Any, place_G: Any, label_G: Any, label_P: Any, direct: bool, panel: Any,
    share_K: Any, most: int, lottery: bool, base: Any, cls_id: int, cls_value: Any,
    ids: Any, values: Any, offsets: Any, n_found: Any
) -> tuple[int, int]:  # fmt: skip
    """Tokens and values of every row of a CSR block, into ragged buffers.

    Parameters
    ----------
    indptr, indices, data
        The block; ``indptr`` int64 (B+1,), ``data`` float32 or float64 (N,).
    place_G, label_G, label_P, direct
        See `collect_row`; labels are tokens, or places with a panel.
    panel
        int32 (P,): tokens of all genes of a cell, zeros included, ascending; empty to leave zeros out.
    share_K
        ``np.linspace(0, 1, n_bins - 1)``; empty for values as they are.
    most, lottery
        Genes kept of a cell, and whether by lot or those with the lowest ids. They stand in the order of their ids.
    base
        64 bits of seed and draw.
    cls_id, cls_value
        What stands in front of a cell; id -1 for nothing.
    ids, values, offsets, n_found
        Output int32 and float32 with room for all and one more; int64 (B+1,); int64 (B,): genes with a value above 0.

    Returns
    -------
    code, row
        `OK`, or what is wrong and in which row.
    """
    n_panel, binned = panel.size, share_K.size > 0
    widest = 1
    for row in range(indptr.size - 1):
        widest = max(widest, indptr[row + 1] - indptr[row] + 1)
    longest = max(widest, n_panel + 1)
    found, above, tokens = np.empty(widest, np.int32), np.empty(widest, data.dtype), np.empty(widest, np.int32)
    entries, lot, number = np.zeros(widest, np.uint32), np.empty(longest, np.uint32), np.empty(longest, np.float32)
    dense_P, whole = np.empty(n_panel, np.float32), np.all(label_G >= 0)
    room, places_room = scratch(widest, share_K.size, data[:0]), room_of(label_P.size, data[:0])
    offsets[0] = cursor = 0
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        counts = data[start:stop]
        code, n, as_given = collect_row(
            indices[start:stop], counts, place_G, label_G, label_P, direct, whole, places_room, found, above
        )
        if code != OK:
            return code, row
        n_found[row] = n
        kept = counts if as_given else above
        mine = found
        if n_panel:
            mine = tokens
            for i in range(n):
                tokens[i] = panel[found[i]]
        n_genes = n_panel if n_panel else n
        sampled = lottery and n_genes > most
        key = base
        if binned:
            bin_row(kept, n, share_K, entries, room)
            key = _key(mine, entries, np.uint32(16), n, base)
        else:
            for i in range(n):
                number[i] = kept[i]
            if sampled:
                key = _key(mine, number.view(np.uint32), np.uint32(0), n, base)
        if binned or (sampled and not n_panel):
            _draw(mine, n, key, lot)
        if binned:
            _digits(entries, lot, n, share_K.size, number)
        if cls_id >= 0:
            ids[cursor], values[cursor] = cls_id, cls_value
            cursor += 1
        n_out = min(n_genes, most)
        if not n_panel:
            if sampled:
                _keep(mine, number, lot, n, _threshold(lot, n, most), ids[cursor:], values[cursor:])
            else:
                _copy(mine, n_out, ids[cursor:])
                _copy(number, n_out, values[cursor:])
        elif sampled:
            dense_P[:] = 0
            for i in range(n):
                dense_P[found[i]] = number[i]
            _draw(panel, n_panel, key, lot)
            _keep(panel, dense_P, lot, n_panel, _threshold(lot, n_panel, most), ids[cursor:], values[cursor:])
        else:
            _copy(panel, n_out, ids[cursor:])
            for i in range(n_out):
                values[cursor + i] = 0
            for i in range(n):
                if found[i] < n_out:
                    values[cursor + found[i]] = number[i]
        cursor += n_out
        offsets[row + 1] = cursor
    return OK, -1


@numba.njit(cache=True, nogil=True)
def _copy(source: Any, n: int, target: Any) -> None:
    """The first ``n`` numbers; an assignment of slices would be three times slower."""
    for i in range(n):
        target[i] = source[i]


@numba.njit(cache=True, nogil=True)
def _keep(mine: Any, number: Any, lot: Any, n: int, last: Any, ids: Any, values: Any) -> None:
    """Write the genes whose lot is up to ``last``; there must be room for one more."""
    m = 0
    for i in range(n):
        ids[m], values[m] = mine[i], number[i]
        m += lot[i] <= last


@numba.njit(cache=True, nogil=True)
def bounds_rows(offsets: Any, data: Any, share_K: Any, entries: Any, edges_BK: Any) -> None:
    """`bin_row` for every cell of ragged values above 0: entries (N,), and the edges (0 in an empty cell)."""
    widest = 1
    for row in range(offsets.size - 1):
        widest = max(widest, offsets[row + 1] - offsets[row])
    room = scratch(widest, share_K.size, data[:0])
    for row in range(offsets.size - 1):
        start, n = offsets[row], offsets[row + 1] - offsets[row]
        bin_row(data[start : start + n], n, share_K, entries[start : start + n], room)
        if n:
            edges_BK[row] = room[-1]
