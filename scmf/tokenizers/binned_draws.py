"""The random draws of the official scGPT code, in its order, for ``match_official=True``.

Lives here: numpy's global generator as `Preprocessor`, `binning` and `tokenize_and_pad_batch` use it, as an object that
goes on from call to call; digits and samples drawn from it. Lives elsewhere: bounds of the digits (binned_kernel), the
default draws, which depend on no order (binned_kernel), what a user calls (binned).

Legend: B cells, N entries of all cells, K edges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .binned_kernel import bounds_rows


class OfficialDraws:
    """Numpy's legacy generator, seeded as ``np.random.seed(seed)``; a subclass may sample as another program does.

    Parameters
    ----------
    seed
        Seed, or a sequence of them.
    """

    def __init__(self, seed: int | tuple[int, ...]) -> None:
        self._random = np.random.RandomState(seed)

    def uniform(self, n: int) -> np.ndarray:
        """``n`` numbers in [0, 1), one for each value above 0, cell after cell in the order of the columns."""
        return self._random.rand(n)

    def choose(self, n: int, k: int) -> np.ndarray:
        """``k`` of the places 0 to ``n - 1``, in the order in which the genes will stand."""
        return self._random.choice(n, k, replace=False)


class Bounds(NamedTuple):
    """What quantile binning says about values before anything is drawn.

    Parameters
    ----------
    top, span
        int64 (N,): edges up to a value, and edges equal to it.
    edges
        float64 (B, K): the quantiles of each cell; 0 in a cell without values.
    """

    top: np.ndarray
    span: np.ndarray
    edges: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """Smallest digit that may be drawn; the largest is ``top``."""
        return self.top - np.maximum(self.span, 1) + 1


def digit_bounds(offsets: np.ndarray, values: np.ndarray, n_bins: int) -> Bounds:
    """Bounds of the digits of ragged cells.

    Parameters
    ----------
    offsets, values
        Cell b holds ``values[offsets[b]:offsets[b + 1]]``, all above 0; float32 or float64.
    n_bins
        As in the official code: ``n_bins - 1`` edges, digits 1 to ``n_bins - 1``.
    """
    share_K = np.linspace(0, 1, n_bins - 1)
    entries, edges_BK = np.empty(values.size, np.uint32), np.zeros((offsets.size - 1, share_K.size))
    bounds_rows(offsets, np.ascontiguousarray(values), share_K, entries, edges_BK)
    return Bounds((entries >> 16).astype(np.int64), (entries & 0xFFFF).astype(np.int64), edges_BK)


def official_digits(offsets: np.ndarray, values: np.ndarray, n_bins: int, draws: OfficialDraws) -> np.ndarray:
    """Digits (N,) of ragged cells as float32: the official arithmetic on the official draws."""
    bounds = digit_bounds(offsets, values, n_bins)
    return np.ceil(draws.uniform(values.size) * -bounds.span + bounds.top).astype(np.float32)
