"""Which of two numbers is better, and whether that can be said at all.

Lives here: the spread of one estimate, the test of a difference, the marks of a column. Lives elsewhere: rows
(leaderboard_table), the verdict against expected samples (results), paired differences on the same units
(eval.uncertainty).

The test, two-sided at .05: Welch's t where both have two seeds or more; else the normal approximation of the
difference of two estimates that do not know of each other, with the standard errors that their intervals imply. Two
methods that were scored on the same cells are more alike than that, so it says "not distinguishable" rather too often
than too rarely.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05
Z95 = 1.959963984540054
"""97.5th percentile of the standard normal distribution."""

BEST, EQUAL, WORSE, UNKNOWN = "best", "not distinguishable", "worse", "one sample: not compared"


@dataclass(frozen=True)
class Estimate:
    """A number with what is known of its spread.

    Parameters
    ----------
    samples
        One value a seed; a single one for a method without a seed.
    low, high
        Ends of an interval over cells, donors, perturbations; None without one.
    level
        Share of draws inside.
    """

    samples: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    level: float = 0.95

    @property
    def value(self) -> float:
        """Mean of the samples."""
        return statistics.fmean(self.samples)

    @property
    def error(self) -> float | None:
        """Standard error: of the seeds where there are two or more, else what the interval implies; None without."""
        if len(self.samples) > 1:
            return statistics.stdev(self.samples) / math.sqrt(len(self.samples))
        if self.low is None or self.high is None or not 0.5 < self.level < 1:
            return None
        return (self.high - self.low) / 2 / Z95


def differ(a: Estimate, b: Estimate) -> bool | None:
    """Whether two numbers can be told apart; None where neither seeds nor intervals say how far they scatter."""
    if a.samples == b.samples:
        return False
    if len(a.samples) > 1 and len(b.samples) > 1:
        return _welch(a.samples, b.samples) < ALPHA
    errors = a.error, b.error
    if errors[0] is None or errors[1] is None:
        return None
    size = math.hypot(errors[0], errors[1])
    gap = abs(a.value - b.value)
    return gap > Z95 * size if size > 0 else gap > 0


def _welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test."""
    from scipy.special import stdtr

    va, vb = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    gap = statistics.fmean(a) - statistics.fmean(b)
    spread = va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)
    if spread == 0:  # no scatter at all, or less than numbers can hold
        return 1.0 if gap == 0 else 0.0
    degrees = (va + vb) ** 2 / spread
    return float(2 * stdtr(degrees, -abs(gap) / math.sqrt(va + vb)))


def interval(estimate: Estimate) -> tuple[float, float, str] | None:
    """Low, high and what they are: the interval as it was drawn, else that of the mean over seeds (Student's t)."""
    if estimate.low is not None and estimate.high is not None:
        return estimate.low, estimate.high, "drawn"
    n = len(estimate.samples)
    if n < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * statistics.stdev(estimate.samples) / math.sqrt(n)
    return estimate.value - half, estimate.value + half, f"mean of {n} seeds, t"


def marks(column: Sequence[Estimate | None], *, higher: bool, ranked: Sequence[bool]) -> list[str]:
    """A mark for every entry of a column: `BEST`, `EQUAL`, `WORSE`, `UNKNOWN`, or "" for what has no place.

    Parameters
    ----------
    column
        Estimates; None where there is no number.
    higher
        Whether more is better.
    ranked
        False for rows that compete with nobody (a ceiling, chance).
    """
    places = [i for i, entry in enumerate(column) if entry is not None and ranked[i]]
    found = [""] * len(column)
    if not places:
        return found
    sign = 1 if higher else -1

    def worth(i: int) -> float:
        entry = column[i]
        assert entry is not None
        return sign * entry.value

    best = max(places, key=worth)
    found[best] = BEST
    top = column[best]
    assert top is not None
    for i in places:
        entry = column[i]
        if i != best and entry is not None:
            apart = differ(entry, top)
            same = entry.value == top.value
            found[i] = EQUAL if same or apart is False else UNKNOWN if apart is None else WORSE
    return found
