"""Space: what is computed once of the truth of a screen (top genes, significant genes, components), and MMD in it.

Lives elsewhere: what is scored in it (benchmark, own_controls), the energy distances (energy_distance).

Array legend: N, M cells, G genes, D dimensions.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation import ranks as perturbation_ranks
from scmf.evaluation.perturbation.metric_table import COMPONENTS, SET_CELLS
from scmf.evaluation.perturbation.metrics import top_de, top_nondropout
from scmf.evaluation.perturbation.truth import Pair, PerturbationTruth

WIDTH_CELLS = 2000
"""Most cells that the width of a kernel is taken from."""


class Space:
    """What is computed once of the truth: DE genes, significant genes, principal components."""

    def __init__(self, truth: PerturbationTruth) -> None:
        self.truth = truth
        self._pca: Any = None
        self._de: dict[Pair, np.ndarray] = {}
        self._nondropout: dict[Pair, np.ndarray] = {}
        self._expressed: dict[Pair, perturbation_ranks.Expressed] = {}

    def de(self, pair: Pair) -> np.ndarray:
        """Columns of the top DE genes of a pair."""
        if pair not in self._de:
            self._de[pair] = top_de(*self._sides(pair), self.truth.genes)
        return self._de[pair]

    def nondropout(self, pair: Pair) -> np.ndarray:
        """Columns of the top genes of a pair that are no dropouts."""
        if pair not in self._nondropout:
            self._nondropout[pair] = top_nondropout(*self._sides(pair), self.truth.genes)
        return self._nondropout[pair]

    def _sides(self, pair: Pair) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """True test cells of a pair, and control cells of its covariate."""
        truth = self.truth
        return truth.x_NG[truth.rows(*pair, "test")], truth.x_NG[truth.rows(pair[0], truth.control)]

    def expressed(self, pair: Pair) -> perturbation_ranks.Expressed:
        """Differential expression of the true cells of a pair."""
        if pair not in self._expressed:
            control = self.truth.cells((pair[0], self.truth.control), None)
            self._expressed[pair] = perturbation_ranks.differential_expression(self.truth.cells(pair), control)
        return self._expressed[pair]

    def project(self, cells_NG: np.ndarray, *, most: int = SET_CELLS) -> np.ndarray:
        """At most ``most`` cells, drawn with a fixed seed, in the space of the truth (n, D)."""
        if self._pca is None:
            from sklearn.decomposition import PCA

            truth, rows = self.truth, self._rows
            count = min(COMPONENTS, len(rows) - 1, len(truth.genes) - 1)
            # exact: an iterative solver gives other components each time where few cells leave them nearly equal
            fitted = PCA(count, svd_solver="covariance_eigh").fit(truth.x_NG[rows].astype(np.float64))
            # directions in which no true cell varies are arbitrary
            kept = int((fitted.explained_variance_ratio_ > 1e-9).sum())
            self._pca = PCA(max(kept, 1), svd_solver="covariance_eigh").fit(truth.x_NG[rows].astype(np.float64))
        if len(cells_NG) > most:
            cells_NG = cells_NG[np.sort(np.random.default_rng(0).permutation(len(cells_NG))[:most])]
        projected: np.ndarray = self._pca.transform(cells_NG)
        return projected

    @property
    def _rows(self) -> np.ndarray:
        """True test cells, and control cells of the covariates that are tested."""
        truth = self.truth
        kinds = {covariate for covariate, _ in truth.pairs}
        seen = (truth.parts == "test") | (truth.conditions == truth.control)
        return np.flatnonzero(seen & np.isin(truth.covariates, list(kinds)))

    @cached_property
    def width(self) -> float:
        """Median distance of true test and control cells in the space: no prediction has a part in it."""
        cells = self.truth.x_NG[self._rows]
        return median_distance(self.project(cells.toarray().astype(np.float64), most=WIDTH_CELLS))


def median_distance(x_ND: np.ndarray) -> float:
    """Median Euclidean distance of two different cells: the width of the kernel."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(x_ND))) if len(x_ND) > 1 else 0.0


def mmd_unbiased(x_ND: np.ndarray, y_MD: np.ndarray, *, width: float) -> float:
    """Unbiased squared maximum mean discrepancy, kernel exp(-d^2 / 2 width^2) (Gretton 2012); may be below 0.

    0 for a width of 0: all cells are equal.
    """
    from scipy.spatial.distance import cdist

    if min(len(x_ND), len(y_MD)) < 2:
        raise EvaluationError(
            f"sets of {len(x_ND)} and {len(y_MD)} cells", wanted="two cells or more in each", where="mmd_pca"
        )
    if width <= 0:
        return 0.0

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(cdist(a, b, "sqeuclidean") / (-2 * width**2))

    n, m = len(x_ND), len(y_MD)
    within = [(kernel(cells, cells).sum() - size) / (size * (size - 1)) for cells, size in ((x_ND, n), (y_MD, m))]
    return float(within[0] + within[1] - 2 * kernel(x_ND, y_MD).mean())
