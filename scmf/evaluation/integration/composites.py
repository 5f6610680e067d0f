"""Batch integration as scGPT scores it: AvgBIO, AvgBATCH and Overall; and scIB's overall score of a table of methods.

Lives here: the protocol ``scgpt`` of the benchmark ``integration`` (NMI and ARI of the best of twenty clusterings,
silhouettes and graph connectivity as scib 1.x defines them), the two composites as functions of numbers. Lives
elsewhere: the protocol ``scib`` with ten metrics (integration), whose silhouette of batches (BRAS), clusters (k-means)
and graph (directed neighbors) differ from these.

Array legend: N cells, D embedding width.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError, MissingExtraError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.integration.benchmark import CANNOT, cannot, check_batches, check_finite, complete_cells
from scmf.evaluation.integration.metric_table import BATCH, BIO, SCGPT_METRICS
from scmf.evaluation.score import check_vectors, package
from scmf.evaluation.subsamples import DRAWS, bounded
from scmf.results.score import Score

log = logging.getLogger(__name__)

RESOLUTIONS = tuple(round(0.1 * step, 1) for step in range(1, 21))
NEIGHBORS = 15
"""Neighbors of the graph, the cell itself among them: the default of scanpy."""


def composites(nmi: float, ari: float, asw_label: float, asw_batch: float, graph_conn: float) -> dict[str, float]:
    """The three composites of scGPT (Cui et al. 2024, Methods; Table S2).

    Returns
    -------
    dict
        ``avg_bio`` = (NMI + ARI + ASW_label) / 3, ``avg_batch`` = (ASW_batch + graph connectivity) / 2, ``overall``
        = 0.6 avg_bio + 0.4 avg_batch.
    """
    avg_bio, avg_batch = (nmi + ari + asw_label) / 3, (asw_batch + graph_conn) / 2
    return {"avg_bio": avg_bio, "avg_batch": avg_batch, "overall": 0.6 * avg_bio + 0.4 * avg_batch}


def scib_overall(
    table: Mapping[str, Mapping[str, float]], *, bio: Sequence[str] = BIO, batch: Sequence[str] = BATCH
) -> dict[str, dict[str, float]]:
    """ScIB's scores of methods among each other (Luecken et al. 2022): each metric scaled over the methods first.

    The scores of a method depend on which others are in the table: they are for one page and never recorded.

    Parameters
    ----------
    table
        Method to metric to value.
    bio, batch
        Metrics of the two means.

    Returns
    -------
    dict
        Method to ``bio_conservation``, ``batch_correction`` and ``overall`` (0.6 and 0.4). A metric that is the same
        for all methods counts 0 for all, as sklearn's MinMaxScaler and with it scib-metrics have it.

    Raises
    ------
    EvaluationError
        If there are fewer than two methods, or one lacks a metric.
    """
    names = [*bio, *batch]
    lacking = [f"{name} of {method}" for method, row in table.items() for name in names if name not in row]
    if len(table) < 2 or lacking:
        raise EvaluationError(
            f"no {lacking[0]}" if lacking else f"{len(table)} methods",
            wanted="every metric of two methods or more: what is scaled over methods has no value alone",
            where="scib_overall",
            fix="measure what is missing, or leave the method out",
        )
    values = np.array([[row[name] for name in names] for row in table.values()])
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    found = {}
    for method, row in zip(table, scaled, strict=True):
        conserved, corrected = float(row[: len(bio)].mean()), float(row[len(bio) :].mean())
        found[method] = {
            "bio_conservation": conserved,
            "batch_correction": corrected,
            "overall": 0.6 * conserved + 0.4 * corrected,
        }
    return found


class Composites:
    """Protocol ``scgpt`` of the benchmark ``integration``."""

    name = "integration"
    protocol = "scgpt"

    def run(
        self,
        representations: Mapping[str, np.ndarray],
        truth: CellLabels,
        *,
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
        max_cells, draws, seed
            As in `scmf.evaluation.integration.benchmark.Integration.run`; ``seed`` is that of the clustering, too.

        Raises
        ------
        EvaluationError
            As in `scmf.evaluation.integration.benchmark.Integration.run`.
        """
        rows, truth = complete_cells(truth)
        for method, x_ND in representations.items():
            log.info(method)
            x_ND = x_ND[rows]
            check_vectors(x_ND, method, where=self.name)
            measure = partial(self._score, method, x_ND, truth, seed)
            yield bounded(measure, truth, max_cells=max_cells, draws=draws, seed=seed)

    def _score(self, method: str, x_ND: np.ndarray, truth: CellLabels, seed: int, rows: np.ndarray | None) -> Score:
        """Score of the cells ``rows``; of all when None."""
        started = time.perf_counter()
        if rows is not None:
            x_ND, truth = x_ND[rows], truth.take(rows)
            check_batches(truth)
        order = _canonical_order(x_ND, truth)
        x_ND, truth = x_ND[order].astype(np.float64), truth.take(order)
        assert truth.batches is not None  # else check_batches had raised
        try:
            graph = neighbor_graph(x_ND)
            best, by_resolution = best_clustering(graph, truth.labels, seed=seed)
            parts = {
                "nmi": best["nmi"],
                "ari": best["ari"],
                "asw_label": asw_label(x_ND, truth.labels),
                "asw_batch": asw_batch(x_ND, truth.labels, truth.batches),
                "graph_conn": graph_connectivity(graph, truth.labels),
            }
        except CANNOT as error:
            raise cannot("the scores of scGPT", len(x_ND), error) from error
        metrics = parts | composites(**parts)
        check_finite(metrics, method)
        return Score(
            benchmark=self.name,
            protocol=self.protocol,
            method=method,
            metrics=metrics,
            **SCGPT_METRICS.facts(metrics, **_fields(seed)),
            n_cells=len(x_ND),
            n_train=None,
            seconds=time.perf_counter() - started,
            details={
                "clustering": {"resolution": best["resolution"], "clusters": int(best["clusters"])},
                "nmi_by_resolution": by_resolution,
            },
        )


def _canonical_order(x_ND: np.ndarray, truth: CellLabels) -> np.ndarray:
    """An order of the cells that knows neither their order nor that of the columns: clusters depend on it."""
    x_ND = np.sort(x_ND.astype(np.float64), axis=1)
    keys = [truth.labels, np.zeros(len(x_ND)) if truth.batches is None else truth.batches]
    return np.lexsort([*keys, (x_ND**3).sum(axis=1), (x_ND**2).sum(axis=1), x_ND.sum(axis=1)])


def _scanpy() -> Any:
    try:
        import scanpy
    except ImportError as error:
        raise MissingExtraError("scanpy", "eval", needed_for="the protocol scgpt") from error
    package("igraph")  # with which scanpy clusters
    return scanpy


# --- the metrics ----------------------------------------------------------------------------------


def neighbor_graph(x_ND: np.ndarray) -> Any:
    """Weighted graph of 15 exact Euclidean neighbors, an AnnData with ``obsp["connectivities"]`` (N, N)."""
    import anndata as ad

    cells = ad.AnnData(obsm={"X": x_ND})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and umap speak of their own future here
        _scanpy().pp.neighbors(cells, n_neighbors=NEIGHBORS, use_rep="X", transformer="sklearn")
    return cells


def best_clustering(graph: Any, labels: np.ndarray, *, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """The Leiden clustering with the highest NMI, the first of equals, and NMI by resolution.

    Returns
    -------
    dict
        ``resolution``, ``nmi`` (arithmetic mean), ``ari``, ``clusters``.
    dict
        Resolution, as text, to NMI.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    scanpy, best, seen = _scanpy(), {"nmi": -1.0}, {}
    for resolution in RESOLUTIONS:
        scanpy.tl.leiden(
            graph, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed
        )
        clusters = graph.obs["leiden"].to_numpy()
        nmi = float(normalized_mutual_info_score(labels, clusters))
        seen[f"{resolution:.1f}"] = nmi
        if nmi > best["nmi"]:
            ari = float(adjusted_rand_score(labels, clusters))
            best = {"resolution": resolution, "nmi": nmi, "ari": ari, "clusters": float(len(set(clusters)))}
    return best, seen


def asw_label(x_ND: np.ndarray, labels: np.ndarray) -> float:
    """Average silhouette width of labels, Euclidean, (s + 1) / 2."""
    from sklearn.metrics import silhouette_score

    return float((silhouette_score(x_ND, labels) + 1) / 2)


def asw_batch(x_ND: np.ndarray, labels: np.ndarray, batches: np.ndarray) -> float:
    """Mean over labels of the mean over cells of 1 - abs(s), s the silhouette width of batches within the label.

    Labels in one batch alone, or with a batch for every cell, do not count; NaN when none is left.
    """
    from sklearn.metrics import silhouette_samples

    means = []
    for label in np.unique(labels):
        mine = labels == label
        if 1 < len(np.unique(batches[mine])) < mine.sum():
            means.append(np.mean(1 - np.abs(silhouette_samples(x_ND[mine], batches[mine]))))
    return float(np.mean(means)) if means else float("nan")


def graph_connectivity(graph: Any, labels: np.ndarray) -> float:
    """Mean over labels of the share of its cells in the largest component of the graph among them."""
    from scipy.sparse.csgraph import connected_components

    shares = []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        _, component = connected_components(graph.obsp["connectivities"][mine][:, mine], connection="strong")
        shares.append(np.bincount(component).max() / len(mine))
    return float(np.mean(shares))


def definitions(seed: int = 0) -> dict[str, str]:
    """One line a metric."""
    return SCGPT_METRICS.definitions([metric.name for metric in SCGPT_METRICS], **_fields(seed))


def _fields(seed: int) -> dict[str, str]:
    """What definitions say of versions and clusters."""
    sklearn, scanpy = package("scikit-learn"), package("scanpy")
    clusters = (
        f"of labels and the clustering with the best NMI: Leiden ({scanpy}, igraph flavor, 2 iterations, seed {seed}) "
        "at resolutions 0.1 to 2.0 by 0.1, where scGPT took scib's opt_louvain; on the graph of "
        f"{NEIGHBORS} exact neighbors"
    )
    return {"sklearn": sklearn, "scanpy": scanpy, "clusters": clusters, "neighbors": str(NEIGHBORS)}
