"""Which metric may head the table of a screen, from its calibration, and the sentence that says so.

Lives here: thresholds, the rule. Lives elsewhere: the numbers (calibration), calibration of a card (calibrate_card).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scmf.evaluation.perturbation.calibration import Calibrated

ORDER = {
    "retrieval": "ranks",
    "wmse": "errors",
    "r2w_delta": "errors",
    "mmd_pca": "sets",
    "mse_ratio": "errors",
    "pearson_delta_perturbed": "correlations",
}
"""Metrics that may head a table, in the order in which they are asked, and their kind."""

LEAST_UNITS, LEAST_DRF, LEAST_BDS, LEAST_SWAP, MOST_TRIVIAL = 8, 0.30, 0.80, 0.80, 0.05
"""Units, dynamic range, wins against the others, wins against another duplicate; what no change may reach."""

CONFIDENCE = 0.95


def swap_bound(units_won: int, units: int) -> float:
    """One-sided lower 95 % bound (Clopper-Pearson) of the share of units whose own duplicate is recognized."""
    from scipy.stats import beta

    return float(beta.ppf(1 - CONFIDENCE, units_won, units - units_won + 1)) if units_won else 0.0


def why_not(metric: Calibrated) -> list[str]:
    """What keeps a metric from the head of a table; nothing where it may stand there."""
    reasons = []
    if metric.name not in ORDER:
        return ["reported only"]
    if metric.units < LEAST_UNITS:
        reasons.append(f"{metric.units} units, {LEAST_UNITS} at least")
    for label, value, least in (
        ("DRF", metric.drf, LEAST_DRF), ("BDS", metric.bds, LEAST_BDS), ("swap", metric.swap, LEAST_SWAP),
    ):  # fmt: skip
        if not value >= least:
            reasons.append(f"{label} {value:.2f}, {least:.2f} at least")
    if not (bound := swap_bound(metric.swap_units, metric.units)) > 0.5:
        reasons.append(f"lower bound of recognized units {bound:.2f}, more than 0.50 asked for")
    if math.isnan(metric.no_change_scaled):
        reasons.append("a duplicate is not better than the mean of the others by two standard deviations")
    elif metric.no_change_scaled > MOST_TRIVIAL:
        reasons.append(f"no change reaches {metric.no_change_scaled:.2f} of a duplicate, {MOST_TRIVIAL:.2f} at most")
    return reasons


@dataclass(frozen=True)
class Verdict:
    """Which metric heads the table.

    Parameters
    ----------
    head, beside
        The first that may, and the first of another kind; None where there is none.
    sentence
        What a page says.
    """

    head: str | None
    beside: str | None
    sentence: str


def verdict_of(found: Mapping[str, Calibrated]) -> Verdict:
    """The rule."""
    able = [name for name in ORDER if name in found and not why_not(found[name])]
    if not able:
        asked = [found[name] for name in ORDER if name in found]
        nearest = max(asked, key=_nearness, default=None)
        said = "not comparable: no metric separates a replicate from another perturbation here"
        if nearest is not None:
            said += (
                f"; nearest is {nearest.name} (DRF {nearest.drf:.2f}, BDS {nearest.bds:.2f}, swap {nearest.swap:.2f}): "
                + "; ".join(why_not(nearest))
            )
        return Verdict(None, None, said)
    head = able[0]
    beside = next((name for name in able[1:] if ORDER[name] != ORDER[head]), None)
    one = found[head]
    said = f"{head} tells perturbations apart (DRF {one.drf:.2f}, BDS {one.bds:.2f}, swap {one.swap:.2f})"
    return Verdict(head, beside, said + (f"; {beside} stands beside it" if beside else ""))


def _nearness(metric: Calibrated) -> float:
    parts = ((metric.drf, LEAST_DRF), (metric.bds, LEAST_BDS), (metric.swap, LEAST_SWAP))
    return sum(min((value if math.isfinite(value) else 0.0) / least, 1.0) for value, least in parts)
