"""Which of two numbers is better, and whether that can be said at all.

Lives here: the spread of one estimate, the test of a difference, the marks of a column. Lives elsewhere: rows
(pages), the verdict against expected samples (judge), paired differences on the same units
(scmf.evaluation.uncertainty).

The test, two-sided at .05: Welch's t where both have two seeds or more; else the same with the standard error that an
interval implies, as if it were known exactly (the normal distribution where both have only an interval); seeds that
have intervals, too, scatter by both: the cells are drawn anew on both sides or on neither. The estimates are taken as
if they did not know of each other. Two methods that were scored on the same cells are more alike than that, so it
says "not distinguishable" rather too often than too rarely.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05

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
        Share of draws inside. 1 is the range of a few draws, which implies no standard error.
    units
        Where there are several seeds: the standard error over cells, donors, perturbations that the intervals of the
        single seeds imply, on average; 0 where they have none.
    """

    samples: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    units: float = 0.0

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
        return (self.high - self.low) / 2 / statistics.NormalDist().inv_cdf((1 + self.level) / 2)

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the standard error; infinite when an interval implies it."""
        return len(self.samples) - 1 if len(self.samples) > 1 else math.inf


def differ(a: Estimate, b: Estimate) -> bool | None:
    """Whether two numbers can be told apart; None where neither seeds nor intervals say how far they scatter."""
    if a.samples == b.samples:
        return False
    if a.error is None or b.error is None:
        return None
    gap, va, vb = a.value - b.value, a.error**2, b.error**2
    spread = va**2 / a.degrees + vb**2 / b.degrees  # of the seeds: Welch and Satterthwaite
    if len(a.samples) < 2 or len(b.samples) < 2:
        va, vb = va + a.units**2, vb + b.units**2
    if va + vb == 0:  # no scatter at all, or less than numbers can hold
        return gap != 0
    z = abs(gap) / math.sqrt(va + vb)
    if spread == 0:
        return 2 * statistics.NormalDist().cdf(-z) < ALPHA
    from scipy.special import stdtr

    return bool(2 * stdtr((va + vb) ** 2 / spread, -z) < ALPHA)


def interval(estimate: Estimate) -> tuple[float, float, str] | None:
    """Low, high and what they are: the interval as it was drawn, else that of the mean over seeds (Student's t)."""
    if estimate.low is not None and estimate.high is not None:
        return estimate.low, estimate.high, "drawn"
    n = len(estimate.samples)
    if n < 2 or estimate.error is None:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 1 - ALPHA / 2)) * estimate.error
    return estimate.value - half, estimate.value + half, f"mean of {n} seeds, t"


def marks(column: Sequence[Estimate | None], *, higher: bool, ranked: Sequence[bool]) -> list[str]:
    """A mark for every entry of a column: `BEST`, `EQUAL`, `WORSE`, `UNKNOWN`, or "" for what has no place.

    Where fewer than two compete, or all are the same number, nothing is best.

    Parameters
    ----------
    column
        Estimates; None where there is no number.
    higher
        Whether more is better.
    ranked
        False for rows that compete with nobody (a ceiling, chance).
    """
    found = [""] * len(column)
    places = {i: entry for i, entry in enumerate(column) if entry is not None and ranked[i]}
    if len({entry.value for entry in places.values()}) < 2:
        return found
    sign = 1 if higher else -1
    best = max(places, key=lambda i: sign * places[i].value)
    for i, entry in places.items():
        apart = differ(entry, places[best])
        same = entry.value == places[best].value
        found[i] = BEST if i == best else EQUAL if same or apart is False else UNKNOWN if apart is None else WORSE
    return found
