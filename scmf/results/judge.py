"""The judge: observed against expected samples of one number. The only place that makes a verdict.

The rule, for a stochastic method with at least five expected samples::

    band(a) = max(min_band, t(1 - a/2, n_exp - 1) * sd(expected) * sqrt(1/n_exp + 1/n_obs))
    |mean_obs - mean_exp| <= band(.05)        match
    else, fewer than three observed           undecided: run seeds until there are three
    else, inside band(.01)                    close
    else                                      off, up or down (better than expected is off, too)

A number whose first look, at one seed, lay outside can be close at best: three seeds do not make it a match.

A deterministic method is judged by the min_band alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scmf.core.errors import EvaluationError

MIN_SAMPLES = 5
"""Fewest expected samples of a stochastic method."""

MIN_OBSERVED = 3
"""Observed seeds after which a verdict is final."""

FIRST_ALPHA, FINAL_ALPHA = 0.05, 0.01
"""Level of the band at the first look, and once `MIN_OBSERVED` seeds are there."""

VerdictKind = Literal["match", "close", "off_up", "off_down", "missing", "failed", "not_applicable", "stale"]


@dataclass(frozen=True)
class Verdict:
    """What the comparison of observed with expected samples says.

    Parameters
    ----------
    kind
        ``match``, ``close``, ``off_up``, ``off_down``, or why there is no comparison: ``missing``,
        ``failed``, ``not_applicable``, ``stale``.
    reason
        One clause; always there when there is no comparison.
    band, delta
        Half-width of the band and observed minus expected mean, in the unit of the metric; None
        without a comparison.
    n_exp, n_obs
        Samples on both sides.
    alpha
        Level of the band; None for a deterministic method.
    undecided
        True when `MIN_OBSERVED` seeds have not been run and the first ones lie outside the band.
    """

    kind: VerdictKind
    reason: str = ""
    band: float | None = None
    delta: float | None = None
    n_exp: int = 0
    n_obs: int = 0
    alpha: float | None = None
    undecided: bool = False

    @property
    def ok(self) -> bool:
        """True for ``match``, ``close`` and ``not_applicable``; False for everything else."""
        return self.kind in ("match", "close", "not_applicable")

    @property
    def needs_more_seeds(self) -> int:
        """How many more seeds must run before the verdict is final; 0 when it is."""
        return MIN_OBSERVED - self.n_obs if self.undecided else 0


def band(samples: Sequence[float], n_observed: int, *, min_band: float, alpha: float) -> float:
    """Half-width of the two-sided prediction band for the mean of ``n_observed`` new samples."""
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    n = len(samples)
    quantile = float(stdtrit(n - 1, 1 - alpha / 2))
    return max(min_band, quantile * statistics.stdev(samples) * math.sqrt(1 / n + 1 / n_observed))


def judge(
    expected_samples: Sequence[float],
    observed_samples: Sequence[float],
    *,
    min_band: float,
    deterministic: bool = False,
    first_look_missed: bool = False,
    left_out: int = 0,
) -> Verdict:
    """Compare observed with expected samples by the rule of this module.

    Parameters
    ----------
    expected_samples, observed_samples
        Raw values, one a seed.
    min_band
        Smallest half-width of the band, in the unit of the metric.
    deterministic
        The method has no seed: the min_band alone decides, and no further seed can help.
    first_look_missed
        The first of the observed seeds, judged alone, lay outside its band: the other seeds were run to decide, so
        that ``close`` is the best there can be. Twice a look at .05 would let too much pass as a match.
    left_out
        Recorded samples that are not among ``expected_samples``, because their seeds are among the observed. One is
        borne by a set of `MIN_SAMPLES`: the band grows with what is left. With more there is no verdict.

    Raises
    ------
    EvaluationError
        A value is not finite or the min_band is negative.
    """
    expected, observed = [float(x) for x in expected_samples], [float(x) for x in observed_samples]
    if not all(map(math.isfinite, [*expected, *observed, min_band])) or min_band < 0:
        raise EvaluationError(
            f"samples {expected} and {observed}, min_band {min_band}",
            wanted="finite samples and a min_band of 0 or more",
            where="scmf.results.judge",
            fix="correct expected.yaml or measure again",
        )
    n_exp, n_obs = len(expected), len(observed)
    if not deterministic and n_exp + left_out < MIN_SAMPLES:
        reason = f"fewer than {MIN_SAMPLES} expected samples ({n_exp + left_out})"
        return Verdict("missing", reason, n_exp=n_exp, n_obs=n_obs)
    if not deterministic and n_exp < MIN_SAMPLES - 1:
        reason = f"{left_out} of the seeds are expected samples themselves, {n_exp} others are left"
        return Verdict("missing", reason, n_exp=n_exp, n_obs=n_obs)
    if not n_exp or not n_obs:
        return Verdict("missing", f"no {'observed' if n_exp else 'expected'} value", n_exp=n_exp, n_obs=n_obs)
    # statistics.mean is exact: equal samples have a difference of exactly 0
    delta = statistics.mean(observed) - statistics.mean(expected)
    outside: VerdictKind = "off_up" if delta > 0 else "off_down"
    if deterministic:
        kind = "match" if abs(delta) <= min_band else outside
        return Verdict(kind, band=min_band, delta=delta, n_exp=n_exp, n_obs=n_obs)
    width = band(expected, n_obs, min_band=min_band, alpha=FIRST_ALPHA)
    if abs(delta) <= width and not first_look_missed:
        return Verdict("match", band=width, delta=delta, n_exp=n_exp, n_obs=n_obs, alpha=FIRST_ALPHA)
    if n_obs < MIN_OBSERVED:
        reason = f"outside the band; {MIN_OBSERVED - n_obs} more seeds decide"
        return Verdict(
            outside, reason, band=width, delta=delta, n_exp=n_exp, n_obs=n_obs, alpha=FIRST_ALPHA, undecided=True
        )
    width = band(expected, n_obs, min_band=min_band, alpha=FINAL_ALPHA)
    kind = "close" if abs(delta) <= width else outside
    return Verdict(kind, band=width, delta=delta, n_exp=n_exp, n_obs=n_obs, alpha=FINAL_ALPHA)
