"""What the controls of scperteval are, from the cells and halves of a case: profiles and sets of cells by source.

Lives here: the sources, its spaces of genes and components. Lives elsewhere: what is compared (calibration); our own
controls, which differ (scmf.evaluation.perturbation.calibration).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.welch import Moments, Welch, moments, welch
from scmf.experiments.metric_parity.inputs import Cells

FIT_COMPONENTS, FIT_CELLS = 50, 50_000
"""The package fits so many components, on so many cells."""

Halves = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Controls:
    """Sources of one case.

    Parameters
    ----------
    cells
        The screen.
    names
        Perturbations that are calibrated.
    halves
        Perturbation to the rows of the truth and of the duplicate.
    seed, cap
        Of draws; most cells of the reference of all perturbed cells.
    predicted
        Name of the prediction that is scored against all cells; None in calibration.
    """

    cells: Cells
    names: list[str]
    halves: Halves
    seed: int
    cap: int
    predicted: str | None = None
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, cells: Cells, expected: Mapping[str, Any], halves: Halves) -> Controls:
        """The controls of a case."""
        return cls(cells, list(expected["perturbations"]), halves, int(expected["seed"]), int(expected["subsample"]))

    def scoring(self, predicted: str) -> Controls:
        """The same with a prediction, scored against all cells of each perturbation."""
        if predicted not in self.cells.predictions:
            raise EvaluationError(f"no cells of {predicted!r}", wanted="predicted cells", where="the case")
        kept = {key: value for key, value in self._kept.items() if key[0] != "test"}
        return replace(self, predicted=predicted, _kept=kept)

    def rows(self, source: str, name: str) -> np.ndarray:
        """Rows of a source of true cells."""
        if source == "truth":
            return self.cells.rows(name) if self.predicted else self.halves[name][0]
        if source == "tech_dup":
            return self.halves[name][1]
        if source == "control":
            return self.cells.rows(self.cells.control)
        if source == "all_perturbed":
            reference = self._reference
            return reference[self.cells.labels[reference] != name]
        raise EvaluationError(f"source {source!r}", wanted="one that is known", where="calibration")

    def profile(self, source: str, name: str) -> np.ndarray:
        """Mean profile of a source, float64 (G,)."""
        if source == "prediction":
            side = self.cells.predictions[str(self.predicted)]
            return side.mean(side.rows(name))
        if source in ("control_mean", "global_mean"):
            means = self._means
            return self.cells.mean(self.rows("control", name)) if source == "control_mean" else means.mean(axis=0)
        if source == "all_perturbed_mean":
            return (self._means.sum(axis=0) - self._means[self.names.index(name)]) / max(len(self.names) - 1, 1)
        if source == "interpolated":
            alpha = 1 - self.test("tech_dup", name).adjusted
            other = self.profile("all_perturbed_mean", name)
            return alpha * self.cells.mean(self.rows("tech_dup", name)) + (1 - alpha) * other
        return self.cells.mean(self.rows(source, name))

    def test(self, source: str, name: str) -> Welch:
        """Welch's test of a source against the perturbed cells of the others."""
        key = ("test", source, name)
        if key not in self._kept:
            mine = moments(self.cells.x_NG[self.rows(source, name)])
            self._kept[key] = welch(mine, self._others(name))
        found: Welch = self._kept[key]
        return found

    def truth_test(self, name: str) -> Welch:
        """The test whose t gives weights and top genes."""
        return self.test("truth", name)

    def subset(self, kind: str | None, value: str | None, name: str) -> np.ndarray:
        """Columns of a subset of genes; all of them where no kind is named."""
        if kind == "top_k":
            return np.argsort(-np.abs(self.truth_test(name).t))[: int(value or 0)]
        if kind == "degs_padj":
            return np.flatnonzero(self.truth_test(name).adjusted < float(value or 0))
        if kind == "heg_k":
            return np.argsort(-self.profile("control_mean", name))[: int(value or 0)]
        return np.arange(len(self.cells.genes))

    def cells_in(self, space: str, value: str, source: str, name: str) -> np.ndarray:
        """Cells of a source in a space, dense float64 (n, D)."""
        side = self.cells.predictions[str(self.predicted)] if source == "prediction" else self.cells
        rows = side.rows(name) if source == "prediction" else self.rows(source, name)
        x = side.x_NG[rows].toarray()
        if space == "top_k":
            return x[:, self.subset("top_k", value, name)]
        projected: np.ndarray = self._pca.transform(x)[:, : int(value)]
        return projected

    @property
    def _means(self) -> np.ndarray:
        if ("means",) not in self._kept:
            self._kept["means",] = np.stack([self.cells.mean(self.cells.rows(name)) for name in self.names])
        found: np.ndarray = self._kept["means",]
        return found

    @property
    def _reference(self) -> np.ndarray:
        """One sample of all perturbed cells."""
        rows = np.flatnonzero(self.cells.labels != self.cells.control)
        if len(rows) <= self.cap:
            return rows
        key = np.array((self.seed, zlib.crc32(b"pool")), dtype=np.uint32)
        return np.sort(np.random.default_rng(key).choice(rows, size=self.cap, replace=False))

    def _others(self, name: str) -> Moments:
        return moments(self.cells.x_NG[self.rows("all_perturbed", name)])

    @property
    def _pca(self) -> Any:
        if ("pca",) not in self._kept:
            from sklearn.decomposition import PCA

            n = self.cells.x_NG.shape[0]
            rows = np.arange(n)
            if n > FIT_CELLS:
                rows = np.sort(np.random.default_rng(self.seed).choice(n, FIT_CELLS, replace=False))
            x = self.cells.x_NG[rows].toarray()
            self._kept["pca",] = PCA(min(FIT_COMPONENTS, *x.shape), random_state=self.seed).fit(x)
        return self._kept["pca",]
