"""How well a metric tells a repeat of the experiment from another perturbation: dynamic range, wins of the repeat.

Lives here: `dynamic_range` (DRF), `wins` (for BDS and swap), the form of DRF that scperteval has. Lives elsewhere: the
controls (calibration), which metric may head a table (calibration_rule).

Array legend: P perturbations, K splits.
"""

from __future__ import annotations

import numpy as np

FLOOR = 1e-6
"""Added to the range by scperteval."""


def dynamic_range(positive: float, negative: float, *, perfect: float) -> float:
    """(positive - negative) / (perfect - negative) of means over perturbations and splits, clipped to [-1, 1].

    NaN where the negative control is as good as perfect, or better.
    """
    span = perfect - negative
    toward = positive - negative
    if not np.isfinite(span) or not np.isfinite(toward) or abs(span) < 1e-12:
        return float("nan")
    return float(np.clip(toward / span, -1, 1))


def wins(
    first: np.ndarray, second: np.ndarray, *, higher_is_better: bool, tie: float = 0.5, rounding: float = 1e-12
) -> np.ndarray:
    """1 where the first is better, 0 where it is not, ``tie`` where both are equal or one is NaN.

    Parameters
    ----------
    first, second
        Values of a metric, of any equal shape.
    higher_is_better
        Direction of the metric.
    tie
        What equal ones count: a half; 0 is the rule of scperteval.
    rounding
        Differences that are not seen.
    """
    with np.errstate(invalid="ignore"):
        ahead = (first - second) if higher_is_better else (second - first)
    close = ~(np.abs(ahead) > rounding)
    return np.where(close, tie, (ahead > 0).astype(np.float64))


def drf_scperteval(
    positive_P: np.ndarray, negative_P: np.ndarray, *, perfect: float, higher_is_better: bool
) -> np.ndarray:
    """DRF of each perturbation as scperteval 0.2.0 has it, (P,): NaN where the negative is beyond perfect.

    Undefined ones are dropped from its mean and median, which hides failure; it is reported and decides nothing.
    """
    sign = 1.0 if higher_is_better else -1.0
    span, toward = sign * (perfect - negative_P), sign * (positive_P - negative_P)
    with np.errstate(invalid="ignore"):
        found = np.clip(toward / (span + FLOOR), -1, 1)
    return np.where(np.isfinite(negative_P) & (span >= 0), found, np.nan)
