"""The ceiling of a correlation: what a perfect prediction would reach against cells that are noisy themselves.

Lives here: the Spearman-Brown correction of one half against the other. Lives elsewhere: the halves (baselines).
"""

from __future__ import annotations

import math


def spearman_brown(r: float) -> float:
    """Correlation of two full sets of cells from that of two halves, 2r / (1 + r); NaN for r of 0 and below.

    A perfect prediction of the expectation would reach its square root. Correlations alone are corrected: ranks and
    overlaps have a chance level other than 0.
    """
    return 2 * r / (1 + r) if r > 0 else math.nan
