"""Batch integration: do batches mix while cell types stay apart? The scIB metrics, by scib-metrics.

The ten metrics of ``scib_metrics.benchmark.Benchmarker``'s default, unscaled, on all cells given.
Neighbors are exact (sklearn), not approximate, so that a number does not depend on a random index.
kBET searches once more, within each label, on a diffusion map: exactly as well.
"""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError, MissingExtraError
from scmf.core.paths import cache_dir
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.integration.metric_table import BATCH, BIO, MEANS, SCIB_METRICS
from scmf.evaluation.score import check_vectors, package
from scmf.evaluation.subsamples import DRAWS, bounded
from scmf.results.score import Score

log = logging.getLogger(__name__)

_NAMES = tuple(metric.name for metric in SCIB_METRICS)
NEIGHBORS = 90
SMALLEST_LABEL = 10
"""Cells that kBET asks of a label."""


def _scib_metrics() -> Any:
    """Import scib-metrics with a persistent JAX compilation cache."""
    folder = cache_dir() / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import scib_metrics
    except ImportError as error:
        raise MissingExtraError("scib-metrics", "eval", needed_for="the integration benchmark") from error
    scib_metrics.logger.setLevel("WARNING")  # it would say on stdout which label it leaves out of kBET
    return scib_metrics


def _single_precision() -> Any:
    """JAX with 32-bit numbers, as scib-metrics asks for, whatever another package (pertpy) has turned on."""
    import jax

    return jax.enable_x64(False)


class Integration:
    """Benchmark ``integration``."""

    name = "integration"
    protocol = "scib"

    def run(
        self,
        representations: Mapping[str, np.ndarray],
        truth: CellLabels,
        *,
        unintegrated: np.ndarray,
        max_cells: int | None = None,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> Iterator[Score]:
        """Score every representation.

        Parameters
        ----------
        representations
            Method to matrix (N, D).
        truth
            Labels and batches of the N cells; cells that lack one are left out.
        unintegrated
            Principal components before any integration (N, 50), for the principal component regression.
        max_cells, draws, seed
            Where there are more cells, the score is the mean over so many subsamples of ``max_cells`` cells (see
            `scmf.evaluation.subsamples`). Time and memory grow with the square of the cells. None: all cells.

        Raises
        ------
        EvaluationError
            If there are fewer than two batches, no frequent label lies in two of them, or a metric has no value
            (a representation that gives every cell the same vector).
        """
        rows, truth = complete_cells(truth)
        scib, unintegrated = _scib_metrics(), unintegrated[rows]
        for method, x_ND in representations.items():
            log.info(method)
            x_ND = x_ND[rows]
            check_vectors(x_ND, method, where=self.name)
            measure = partial(self._score, scib, method, x_ND, truth, unintegrated)
            yield bounded(measure, truth, max_cells=max_cells, draws=draws, seed=seed)

    def _score(
        self,
        scib: Any,
        method: str,
        x_ND: np.ndarray,
        truth: CellLabels,
        unintegrated: np.ndarray,
        rows: np.ndarray | None,
    ) -> Score:
        """Score of the cells ``rows``; of all when None."""
        started = time.perf_counter()
        if rows is not None:
            x_ND, truth, unintegrated = x_ND[rows], truth.take(rows), unintegrated[rows]
            check_batches(truth)
        with warnings.catch_warnings(), _single_precision():
            warnings.simplefilter("ignore")  # JAX and pandas speak of their own future here
            metrics = self._metrics(scib, x_ND, truth, unintegrated)
        check_finite(metrics, method)
        return Score(
            benchmark=self.name,
            protocol=self.protocol,
            method=method,
            metrics=metrics,
            **SCIB_METRICS.facts(metrics, by=package("scib-metrics"), **MEANS),
            n_cells=len(x_ND),
            n_train=None,
            seconds=time.perf_counter() - started,
        )

    def _metrics(self, scib: Any, x_ND: np.ndarray, truth: CellLabels, unintegrated: np.ndarray) -> dict[str, float]:
        x_ND = np.ascontiguousarray(x_ND, dtype=np.float32)
        labels, batches = truth.labels, truth.batches
        near = exact_neighbors(x_ND, min(NEIGHBORS, len(x_ND)))
        near_90, near_50, near_15 = (near.subset_neighbors(n=min(n, len(x_ND))) for n in (NEIGHBORS, 50, 15))
        compute: dict[str, Callable[[], Any]] = {
            "isolated_labels": lambda: scib.isolated_labels(x_ND, labels, batches),
            "kmeans": lambda: scib.nmi_ari_cluster_labels_kmeans(x_ND, labels),
            "silhouette_label": lambda: scib.silhouette_label(x_ND, labels),
            "clisi": lambda: scib.clisi_knn(near_90, labels),
            "bras": lambda: scib.bras(x_ND, labels, batches),
            "ilisi": lambda: scib.ilisi_knn(near_90, batches),
            "kbet": lambda: _kbet(scib, near_50, batches, labels),
            "graph_connectivity": lambda: scib.graph_connectivity(near_15, labels),
            "pcr_comparison": lambda: scib.pcr_comparison(unintegrated, x_ND, batches, categorical=True),
        }
        found: dict[str, float] = {}
        for name, function in compute.items():
            try:
                value = function()
            except CANNOT as error:
                raise cannot(name, len(x_ND), error) from error
            if name == "kmeans":
                found |= {"kmeans_nmi": float(value["nmi"]), "kmeans_ari": float(value["ari"])}
            else:
                found[name] = float(value)
        found["bio_conservation"] = float(np.mean([found[name] for name in BIO]))
        found["batch_correction"] = float(np.mean([found[name] for name in BATCH]))
        found["overall"] = 0.6 * found["bio_conservation"] + 0.4 * found["batch_correction"]
        return found


CANNOT = (ValueError, IndexError, ZeroDivisionError, TypeError, FloatingPointError)
"""What libraries raise of too few cells, labels or batches."""


def cannot(metric: str, n_cells: int, error: Exception) -> EvaluationError:
    """What is said where a metric cannot be computed of these cells."""
    lines = str(error).splitlines() or [type(error).__name__]
    return EvaluationError(
        f"{metric} cannot be computed of {n_cells:,} cells ({lines[0]})",
        wanted="more cells, with two labels or more in several batches", where=Integration.name,
        fix="give more cells, or leave integration out of eval.benchmarks",
    )  # fmt: skip


def _kbet(scib: Any, near: Any, batches: np.ndarray | None, labels: np.ndarray) -> float:
    """The score kBET of scib-metrics, with exact neighbors within a label.

    scib-metrics would search them with a seeded approximate index, which every process compiles for a minute. On the
    cells of a label both find the same neighbors (`tests/evaluation/integration` compares).
    """

    def exact(x_ND: np.ndarray, n_neighbors: int, **_: Any) -> Any:
        return exact_neighbors(x_ND, n_neighbors)

    searches = scib.nearest_neighbors
    own, searches.pynndescent = searches.pynndescent, exact
    try:
        return float(scib.kbet_per_label(near, batches, labels))
    finally:
        searches.pynndescent = own


def check_finite(metrics: Mapping[str, float], method: str) -> None:
    """Raise `EvaluationError` when a metric of ``method`` has no value."""
    if lost := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise EvaluationError(
            f"{lost[0]} of {method} is not a number",
            wanted="a representation in which cells differ",
            where=Integration.name,
            fix="check the weights of the model, or leave integration out of eval.benchmarks",
        )


def complete_cells(truth: CellLabels) -> tuple[np.ndarray, CellLabels]:
    """Indices of the cells with a label and a batch, and what is known of them; see `check_batches`."""
    rows = truth.complete
    known = truth if len(rows) == len(truth.labels) else truth.take(rows)
    check_batches(known)
    return rows, known


def check_batches(truth: CellLabels) -> None:
    """Raise `EvaluationError` unless some label is frequent enough and lies in two batches."""
    if truth.batches is None or len(set(truth.batches)) < 2:
        raise EvaluationError(
            "fewer than two batches", wanted="at least two", where="data.batch_key", fix="name a column of obs"
        )
    for label in set(truth.labels):
        mine = truth.batches[truth.labels == label]
        if len(mine) >= SMALLEST_LABEL and len(set(mine)) > 1:
            return
    raise EvaluationError(
        "every label lies in one batch alone or is rare",
        wanted=f"a label with {SMALLEST_LABEL} cells or more in two batches, to tell batch from label",
        where="data.batch_key, data.label_key",
        fix="leave integration out of eval.benchmarks",
    )


def exact_neighbors(x_ND: np.ndarray, count: int) -> Any:
    """Exact Euclidean neighbors, the cell itself first."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(x_ND).kneighbors(x_ND)
    # Equal vectors may push a cell behind its twin; the metrics take column 0 for the cell itself.
    own = np.arange(len(x_ND))
    for row in np.flatnonzero(indices[:, 0] != own):
        seat = np.flatnonzero(indices[row] == row)
        column = int(seat[0]) if len(seat) else count - 1
        indices[row, 1 : column + 1] = indices[row, :column].copy()
        distances[row, 1 : column + 1] = distances[row, :column].copy()
        indices[row, 0], distances[row, 0] = row, 0.0
    return NeighborsResults(indices=indices, distances=distances)


def definitions() -> dict[str, str]:
    """One line a metric."""
    return SCIB_METRICS.definitions(_NAMES, by=package("scib-metrics"), **MEANS)
