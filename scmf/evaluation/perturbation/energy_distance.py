"""The energy distance between two sets of cells, in its published forms: they differ by more than a factor of ten.

All are 2 E d(x, y) - E d(x, x') - E d(y, y'). pertpy and cell-eval take the Euclidean distance and all pairs, a cell
with itself among them (a V-statistic, which depends on the size of the sets); scPerturb takes the squared Euclidean
distance and pairs of two different cells (a U-statistic); scperteval the Euclidean distance and such pairs. A number
without the name of its form means nothing.

Array legend: N, M cells, D dimensions.
"""

from __future__ import annotations

import numpy as np

from scmf.core.errors import EvaluationError


def energy_distance_pertpy(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """Energy distance of pertpy (1.0.3, ``edistance``) and cell-eval: Euclidean, V-statistic. Unit of the data."""
    _check(x_ND, y_MD, at_least=1)
    between, within_x, within_y = (_sum(a, b, squared=False) for a, b in ((x_ND, y_MD), (x_ND, x_ND), (y_MD, y_MD)))
    n, m = len(x_ND), len(y_MD)
    return 2 * between / (n * m) - within_x / n**2 - within_y / m**2


def energy_distance_scperturb(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """Energy distance of scPerturb (0.1.0, ``edist``): squared Euclidean, U-statistic. Squared unit of the data."""
    _check(x_ND, y_MD, at_least=2)
    between, within_x, within_y = (_sum(a, b, squared=True) for a, b in ((x_ND, y_MD), (x_ND, x_ND), (y_MD, y_MD)))
    n, m = len(x_ND), len(y_MD)
    return 2 * between / (n * m) - within_x / (n * (n - 1)) - within_y / (m * (m - 1))


def energy_unbiased(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """``energy_u``: energy distance of scperteval (0.2.0): Euclidean, U-statistic; may be below 0. Unit of the data."""
    _check(x_ND, y_MD, at_least=2)
    between, within_x, within_y = (_sum(a, b, squared=False) for a, b in ((x_ND, y_MD), (x_ND, x_ND), (y_MD, y_MD)))
    n, m = len(x_ND), len(y_MD)
    return 2 * between / (n * m) - within_x / (n * (n - 1)) - within_y / (m * (m - 1))


def _sum(x_ND: np.ndarray, y_MD: np.ndarray, *, squared: bool) -> float:
    """Sum of all pairwise distances, in blocks that fit into memory."""
    from scipy.spatial.distance import cdist

    kind = "sqeuclidean" if squared else "euclidean"
    rows = max(1, 4_000_000 // max(len(y_MD), 1))
    x, y = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    return float(sum(cdist(x[start : start + rows], y, kind).sum() for start in range(0, len(x), rows)))


def _check(x_ND: np.ndarray, y_MD: np.ndarray, *, at_least: int) -> None:
    for cells in (x_ND, y_MD):
        if cells.ndim != 2 or len(cells) < at_least or cells.shape[1] != x_ND.shape[1]:
            raise EvaluationError(
                f"sets of the shapes {x_ND.shape} and {y_MD.shape}",
                wanted=f"two matrices (cells, dimensions) of equal width with {at_least} cells or more",
                where="energy distance",
                fix="predict cells, not a mean profile",
            )
        if not np.isfinite(cells).all():
            raise EvaluationError("values that are not finite", wanted="finite numbers", where="energy distance")
