"""How often a cell comes in an epoch: a subset, balanced groups, weights. Pure functions of (seed, epoch).

A `Sampler` says how often each cell comes in an epoch: one small integer a cell. Group sizes are exact and every cell
of a group comes equally often, give or take one, so a balanced epoch repeats the rare and thins the common without
bias.

Lives here: the samplers. Lives elsewhere: what the stream does with their numbers (plan).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from scmf.core.errors import ConfigError, DataError
from scmf.data.stores.missing import text_categories

_MOST = np.iinfo(np.uint16).max


class Sampler(Protocol):
    """How often each cell of a corpus comes in an epoch; a pure function of the epoch."""

    def __call__(self, epoch: int) -> np.ndarray:
        """Times that each cell comes, a small unsigned integer (n_cells,)."""


@dataclass(frozen=True)
class EachOnceSampler:
    """The cells of a mask once each; the same in every epoch.

    Parameters
    ----------
    keep
        Boolean (n_cells,).
    """

    keep: np.ndarray

    def __post_init__(self) -> None:
        if not self.keep.any():
            raise DataError(
                "no cell is kept", wanted="at least one", where="the split and the filters", fix="widen them"
            )

    def __call__(self, epoch: int) -> np.ndarray:
        """See `Sampler`."""
        return self.keep.astype(np.uint8)


class BalancedGroupSampler:
    """Groups (donors, tissues, assays) in given shares, cells within a group evenly.

    Parameters
    ----------
    codes
        Group of each cell (n_cells,), -1 for none (those cells are left out).
    shares
        Share of each group among the cells of an epoch; they add up to 1.
    n_places
        Cells of an epoch.
    seed
        Seed; which cells of a group come once more than the others changes with the epoch.
    """

    def __init__(self, codes: np.ndarray, shares: np.ndarray, *, n_places: int, seed: int) -> None:
        self._codes = codes
        counts = np.bincount(codes[codes >= 0], minlength=len(shares))
        if (shares[counts == 0] > 0).any():
            empty = int(np.flatnonzero((counts == 0) & (shares > 0))[0])
            raise DataError(f"group {empty} has no cell", wanted="cells in every group with a share", where="weights")
        # Largest remainders, so that the groups add up to n_places exactly.
        exact = shares * n_places
        self._targets = np.floor(exact).astype(np.int64)
        rest = n_places - int(self._targets.sum())
        self._targets[np.argsort(self._targets - exact, kind="stable")[:rest]] += 1
        self._counts, self._seed = counts, seed
        if (self._targets > _MOST * np.maximum(counts, 1)).any():
            raise ConfigError("a cell would come more than 65,535 times", where="weights", fix="lower its weight")

    def __call__(self, epoch: int) -> np.ndarray:
        """See `Sampler`."""
        each, more = np.divmod(self._targets, np.maximum(self._counts, 1))
        times = np.zeros(len(self._codes), np.uint16)
        inside = self._codes >= 0
        times[inside] = each[self._codes[inside]]
        for group in np.flatnonzero(more):
            rng = np.random.default_rng([self._seed, epoch, int(group), 2])
            members = np.flatnonzero(self._codes == group)
            times[rng.choice(members, size=int(more[group]), replace=False, shuffle=False)] += 1
        return times


def balanced(
    groups: pd.Series,
    *,
    keep: np.ndarray | None = None,
    power: float = 0.0,
    weights: Mapping[str, float] | None = None,
    n_places: int | None = None,
    seed: int = 0,
) -> BalancedGroupSampler:
    """Sample groups in shares that are not those of the corpus.

    Parameters
    ----------
    groups
        Group of each cell, such as ``obs["tissue"]``; cells without one (NaN, empty text) are left out.
    keep
        Boolean (n_cells,): the cells that may come.
    power
        A group of n cells gets a share proportional to ``n ** power``: 0 makes all groups equal, 1 is the corpus.
    weights
        Group -> relative weight, instead of ``power``; groups that are not named do not come.
    n_places
        Cells of an epoch; default: as many as may come.
    seed
        Seed.

    Raises
    ------
    ConfigError
        A weight is negative, or names a group that no cell has.
    """
    column = text_categories(groups)
    codes = np.asarray(column.codes, np.int32)
    names = [str(name) for name in column.categories]
    if keep is not None:
        codes = np.where(keep, codes, -1).astype(np.int32)
    counts = np.bincount(codes[codes >= 0], minlength=len(names)).astype(np.float64)
    if not counts.any():
        raise DataError("no cell has a group", wanted="a value in at least one cell", where="weights", fix="see obs")
    if weights is None:
        raw = np.where(counts > 0, np.maximum(counts, 1) ** power, 0.0)
    else:
        strange = sorted(set(weights) - set(names))
        if strange or min(weights.values()) < 0 or not any(weights.values()):
            found = f"a weight for {strange[0]!r}" if strange else f"weights {dict(weights)}"
            raise ConfigError(
                found,
                wanted=f"weights, 0 or more, for groups among {', '.join(names[:8])}",
                where="weights",
                fix="correct it",
            )
        raw = np.array([weights.get(name, 0.0) for name in names])
        codes = np.where(np.isin(codes, np.flatnonzero(raw)), codes, -1).astype(np.int32)
    return BalancedGroupSampler(codes, raw / raw.sum(), n_places=n_places or int(counts.sum()), seed=seed)
