"""Entries of a row in the order of token ids, so that the order of the columns decides nothing.

Lives here: the place of every column among the tokens of a gene list (`places_of`), and the compiled loops that read a
row of a CSR matrix by places (`collect_row`, `spread_row`). Lives elsewhere: which column is which token (gene_columns,
continuous_genes), the strategies.

Where places grow with the columns a row is read as it stands. Else its entries are spread over a bitmap of places and
read back, which sorts them and adds up the columns of one gene.

Legend: G columns, P places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

OK, BAD_COUNT, BAD_INDEX = 0, 1, 3
"""What `collect_row` returns: fit, or what is wrong with the row."""

_ONE = np.uint64(1)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_BIT_OF = np.zeros(64, np.uint64)
for _i in range(64):
    _BIT_OF[(((1 << _i) * 0x03F79D71B4CB0A89) % (1 << 64)) >> 58] = _i


class Places(NamedTuple):
    """The places of the columns of one gene list.

    Parameters
    ----------
    place_G
        int32: the place of each column, P for a column without a token. Columns of one place are summed.
    token_P
        int32: the token of each place.
    direct
        Places grow with the columns.
    """

    place_G: np.ndarray
    token_P: np.ndarray
    direct: bool


def places_of(token_G: np.ndarray, *, apart: bool) -> Places:
    """Places of the columns with these tokens, -1 for none.

    Parameters
    ----------
    token_G
        Token id of each column.
    apart
        Each known column has a place of its own, in the order of the columns, as in official code; else tokens have
        places, in the order of their ids.
    """
    known_G = token_G >= 0
    if apart:
        token_P = token_G[known_G]
        place_K = np.arange(token_P.size)
    else:
        token_P, place_K = np.unique(token_G[known_G], return_inverse=True)
    place_G = np.full(token_G.size, token_P.size, np.int32)
    place_G[known_G] = place_K
    return Places(place_G, token_P.astype(np.int32), bool((np.diff(place_K) > 0).all()))


@numba.njit(cache=True, nogil=True)
def room_of(n_places: int, none: Any) -> Any:
    """Values and bitmap for `spread_row`, of the type of ``none``; the bitmap is zero before and after each row."""
    return np.empty(n_places + 1, none.dtype), np.zeros((n_places >> 6) + 1, np.uint64)


@numba.njit(cache=True, nogil=True)
def spread_row(columns: Any, counts: Any, one: Any, place_G: Any, room: Any, places: Any, xs: Any) -> np.int64:
    """Places, ascending, and summed values of the entries of a row that are not 0; their number.

    Parameters
    ----------
    columns, counts
        The row, in any order; a column may stand twice.
    one
        1 as a scalar of the type of the sums.
    place_G
        Place of each column; the last one, P, is dropped.
    room
        What `room_of` made for P places.
    places, xs
        Output with room for the whole row.
    """
    value_P, words = room
    dropped, n_known = np.uint64(value_P.size - 1), np.int64(0)
    for i in range(counts.size):  # no branch: which columns are dropped is hard to foresee
        place = np.uint64(place_G[np.uint64(columns[i])])  # unsigned: a signed index is tested for its sign each time
        words[place >> np.uint64(6)] |= _ONE << (place & np.uint64(63))
        value_P[place] = counts[i] * one
        n_known += np.int64(place < dropped)
    words[dropped >> np.uint64(6)] &= ~(_ONE << (dropped & np.uint64(63)))
    n = np.uint64(0)
    for word in range(words.size):
        bits, first = words[word], np.uint64(64 * word)
        words[word] = 0
        while bits:
            lowest = bits & (~bits + _ONE)
            places[n] = first + _BIT_OF[(lowest * _DE_BRUIJN) >> np.uint64(58)]
            n += _ONE
            bits ^= lowest
    if n < np.uint64(n_known):  # entries share a place
        for i in range(counts.size):
            value_P[np.uint64(place_G[np.uint64(columns[i])])] = 0
        for i in range(counts.size):
            value_P[np.uint64(place_G[np.uint64(columns[i])])] += counts[i] * one
    m = np.uint64(0)
    for i in range(n):
        x = value_P[np.uint64(places[i])]
        places[m], xs[m] = places[i], x
        m += np.uint64(x != 0)
    return np.int64(m)


@numba.njit(cache=True, nogil=True)
def collect_row(
    columns: Any, counts: Any, place_G: Any, label_G: Any, label_P: Any, direct: bool, whole: bool, room: Any,
    labels: Any, kept: Any
) -> tuple[int, int, bool]:  # fmt: skip
    """Labels and counts of one row in the order of places, zeros and unknown genes dropped.

    Parameters
    ----------
    columns, counts
        The row of a CSR matrix; counts are float32 or float64.
    place_G, direct
        See `Places`.
    label_G, label_P
        int32: what to write for a column (-1 where it has no place) and for a place: its token, or the place itself.
    whole
        Every column has a place.
    room
        What `room_of` made.
    labels, kept
        Output with room for the whole row and one more.

    Returns
    -------
    code, n, as_given
        `OK`, or what is wrong; entries written; whether their counts are ``counts`` as they stand and ``kept`` was left
        alone.
    """
    n_columns, n_entries = place_G.size, columns.size
    fine, above = True, True
    for i in range(n_entries):
        fine &= (counts[i] >= 0) & (counts[i] < np.inf)
        above &= counts[i] > 0
    if not fine:
        return BAD_COUNT, 0, False
    if direct:
        before, after = columns[:-1], columns[1:]
        for i in range(after.size):
            fine &= after[i] > before[i]
    if not (direct and fine):
        inside = True
        for i in range(n_entries):
            inside &= (columns[i] >= 0) & (columns[i] < n_columns)
        if not inside:
            return BAD_INDEX, 0, False
        n = spread_row(columns, counts, counts.dtype.type(1), place_G, room, labels, kept)
        for i in range(n):
            labels[i] = label_P[np.uint64(labels[i])]
        return OK, n, False
    if n_entries and (columns[0] < 0 or columns[n_entries - 1] >= n_columns):
        return BAD_INDEX, 0, False
    if whole and above:
        for i in range(n_entries):
            labels[i] = label_G[np.uint64(columns[i])]
        return OK, n_entries, True
    n = 0
    for i in range(n_entries):
        label, x = label_G[np.uint64(columns[i])], counts[i]
        # Written always and kept by moving on: cheaper than a branch that is hard to foresee.
        labels[n] = label
        kept[n] = x
        n += (label >= 0) & (x > 0)
    return OK, n, False
