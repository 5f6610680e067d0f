"""Distances of two sets of cells that do not depend on their sizes: unbiased MMD, unbiased energy distance.

Lives here: the formulas and the width of the kernel. Lives elsewhere: the energy distances of pertpy and scPerturb
(energy_distance), the space of the cells (benchmark).

Array legend: N, M cells, D dimensions.
"""

from __future__ import annotations

import numpy as np

from scmf.core.errors import EvaluationError


def median_distance(x_ND: np.ndarray) -> float:
    """Median Euclidean distance of two different cells: the width of the kernel."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(x_ND))) if len(x_ND) > 1 else 0.0


def mmd_unbiased(x_ND: np.ndarray, y_MD: np.ndarray, *, width: float) -> float:
    """Unbiased squared maximum mean discrepancy, kernel exp(-d^2 / 2 width^2) (Gretton 2012); may be below 0.

    0 for a width of 0: all cells are equal.
    """
    from scipy.spatial.distance import cdist

    _need_two(x_ND, y_MD)
    if width <= 0:
        return 0.0

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(cdist(a, b, "sqeuclidean") / (-2 * width**2))

    n, m = len(x_ND), len(y_MD)
    within = [(kernel(cells, cells).sum() - size) / (size * (size - 1)) for cells, size in ((x_ND, n), (y_MD, m))]
    return float(within[0] + within[1] - 2 * kernel(x_ND, y_MD).mean())


def energy_unbiased(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """``energy_u``: Euclidean energy distance, pairs of two different cells (scperteval 0.2.0); may be below 0."""
    from scipy.spatial.distance import cdist

    _need_two(x_ND, y_MD)
    n, m = len(x_ND), len(y_MD)
    within = [cdist(cells, cells).sum() / (size * (size - 1)) for cells, size in ((x_ND, n), (y_MD, m))]
    return float(2 * cdist(x_ND, y_MD).mean() - within[0] - within[1])


def _need_two(x_ND: np.ndarray, y_MD: np.ndarray) -> None:
    if min(len(x_ND), len(y_MD)) < 2:
        raise EvaluationError(
            f"sets of {len(x_ND)} and {len(y_MD)} cells", wanted="two cells or more in each", where="set distance"
        )
