"""Orders of the genes of one cell: by value, at random by its content, and the genes it does not express behind.

Lives here: the compiled pieces that put places in order. Lives elsewhere: the loop over cells that calls them
(continuous_kernel), the sort itself (rank_value_kernel).

Legend: P places.
"""

from typing import Any

import numba
import numpy as np

from .rank_value_kernel import sort_descending

_FEW = 1024
"""Whole values below this are sorted by counting them."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(cache=True, nogil=True)
def mix(x: Any) -> Any:
    """A uint64 whose bits all depend on all bits of ``x`` (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def shuffle(order: Any, n: int, kept: int, state: Any) -> None:
    """Put a random choice of ``kept`` of the first ``n`` in front, by the bits of ``state``."""
    for i in range(min(kept, n - 1)):
        state += _GOLDEN
        j = i + np.int64(mix(state) % np.uint64(n - i))
        order[i], order[j] = order[j], order[i]


@numba.njit(cache=True, nogil=True)
def state_of(seed: Any, places: Any, token_P: Any, xs: Any, n: int, narrow: Any, narrow_bits: Any) -> Any:
    """A number that depends on the seed and on the content of the cell alone."""
    state = seed
    for i in range(n):
        narrow[0] = xs[i]
        token = np.uint64(token_P[places[i]])
        state = mix(state ^ ((token << np.uint64(32)) | np.uint64(narrow_bits[0])))
    return state


@numba.njit(cache=True, nogil=True)
def by_value(xs: Any, n: int, keys: Any, packed: Any, spare: Any, low: Any, high: Any, order: Any) -> int:
    """Positions by value, largest first (NaN before all), equal ones as they stand; how many are not negative."""
    odd, small = False, True
    for i in range(n):
        odd |= not (xs[i] >= 0)
        small &= (xs[i] < _FEW) & (np.floor(xs[i]) == xs[i])
    if small and not odd:
        most = 0
        low[:] = 0
        for i in range(n):
            x = int(xs[i])
            low[x] += np.uint32(1)
            most = max(most, x)
        at = np.uint32(0)
        for x in range(most, -1, -1):
            count = low[x]
            low[x] = at
            at = np.uint32(at + count)
        for i in range(n):
            x = int(xs[i])
            order[low[x]] = i
            low[x] += np.uint32(1)
        return n
    if not odd:
        for i in range(n):
            keys[i] = xs[i]
        sort_descending(keys[:n].view(np.int64), packed, spare, low, high, 32)
        for i in range(n):
            order[i] = packed[i] & 0xFFFFFFFF
        return n
    for i in range(n):
        keys[i] = -xs[i] if xs[i] == xs[i] else -np.inf
    sorted_n = np.argsort(keys[:n], kind="mergesort")
    front = 0
    for i in range(n):
        order[i] = sorted_n[i]
        front += not (xs[sorted_n[i]] < 0)
    return front


@numba.njit(cache=True, nogil=True)
def zeros_of(places: Any, n: int, token_P: Any, seen_P: Any, zeros: Any) -> int:
    """Places of the genes that the cells have and this one does not express; their number."""
    for i in range(n):
        seen_P[places[i]] = True
    m = 0
    for place in range(token_P.size):
        if token_P[place] >= 0 and not seen_P[place]:
            zeros[m] = place
            m += 1
        seen_P[place] = False
    return m
