"""The composites of scGPT and scIB: printed rows, other packages, and what must not move them."""

import numpy as np
import pytest
import scipy.spatial
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler

from scmf.core.errors import EvaluationError, MissingExtraError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.integration import composites as module
from scmf.evaluation.integration.benchmark import BATCH, BIO, _scib_metrics
from scmf.evaluation.integration.composites import (
    RESOLUTIONS,
    Composites,
    asw_batch,
    asw_label,
    best_clustering,
    composites,
    graph_connectivity,
    neighbor_graph,
    scib_overall,
)

N = 120
LABELS = np.array(["alpha", "beta", "delta"])[np.arange(N) % 3]
BATCHES = np.where(np.arange(N) // 3 % 2, "lab1", "lab2")
TRUTH = CellLabels(LABELS, BATCHES, np.full(N, "test"))


def vectors():
    """Cells whose types stand apart (N, 8): mixed over batches, pulled apart by them, and noise."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(scale=3, size=(3, 8))[np.arange(N) % 3] + rng.normal(size=(N, 8))
    split = mixed + 6 * (BATCHES == "lab1")[:, None]
    return {"mixed": mixed, "split": split, "noise": rng.normal(size=(N, 8))}


VECTORS = vectors()


@pytest.fixture(scope="module")
def scores():
    return {s.method: s for s in Composites().run(VECTORS, TRUTH)}


# --- the arithmetic -----------------------------------------------------------------------------------


def test_a_printed_row_of_scgpt_is_reproduced():
    # Table S2, scGPT (fine-tuned), Perirhinal Cortex; parts and composites are printed with three digits
    found = composites(nmi=0.930, ari=0.919, asw_label=0.848, asw_batch=0.898, graph_conn=0.964)
    assert found == pytest.approx({"avg_bio": 0.899, "avg_batch": 0.930, "overall": 0.911}, abs=0.0015)


TABLES = st.lists(st.lists(st.integers(0, 1000), min_size=10, max_size=10), min_size=2, max_size=6)


@given(TABLES)
def test_scib_overall_is_the_mean_of_what_sklearn_scales(thousandths):
    rows = np.array(thousandths) / 1000
    names = [*BIO, *BATCH]
    table = {f"m{i}": dict(zip(names, row, strict=True)) for i, row in enumerate(rows)}
    scaled = MinMaxScaler().fit_transform(rows)
    for row, found in zip(scaled, scib_overall(table).values(), strict=True):
        bio, batch = row[:5].mean(), row[5:].mean()
        assert found == pytest.approx(
            {"bio_conservation": bio, "batch_correction": batch, "overall": 0.6 * bio + 0.4 * batch}, abs=1e-6
        )


def test_scib_overall_needs_every_metric_of_two_methods():
    full = dict.fromkeys((*BIO, *BATCH), 0.5)
    with pytest.raises(EvaluationError, match="1 methods"):
        scib_overall({"a": full})
    with pytest.raises(EvaluationError, match="no kbet of b"):
        scib_overall({"a": full, "b": {name: value for name, value in full.items() if name != "kbet"}})


# --- the parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", VECTORS)
def test_silhouettes_equal_those_of_scib_metrics(method):
    _scib_metrics()
    from scib_metrics import silhouette_batch, silhouette_label

    x_ND = VECTORS[method].astype(np.float32)
    assert asw_label(x_ND, LABELS) == pytest.approx(float(silhouette_label(x_ND, LABELS)), abs=1e-6)
    assert asw_batch(x_ND, LABELS, BATCHES) == pytest.approx(float(silhouette_batch(x_ND, LABELS, BATCHES)), abs=1e-6)


def test_a_label_in_one_batch_does_not_count_in_the_silhouette_of_batches():
    x_ND, batches = VECTORS["split"], np.where(LABELS == "alpha", "lab1", BATCHES)
    kept = LABELS != "alpha"
    assert asw_batch(x_ND, LABELS, batches) == asw_batch(x_ND[kept], LABELS[kept], batches[kept])
    assert np.isnan(asw_batch(x_ND[~kept], LABELS[~kept], batches[~kept]))


@pytest.mark.parametrize("method", VECTORS)
def test_connectivity_is_that_of_the_graph_of_mutual_or_single_neighbors(method):
    x_ND = VECTORS[method]
    distances = scipy.spatial.distance.cdist(x_ND, x_ND)
    edges = np.zeros((N, N), bool)
    edges[np.arange(N)[:, None], distances.argsort(axis=1)[:, :15]] = True
    edges |= edges.T
    shares = []
    for label in np.unique(LABELS):
        mine = np.flatnonzero(label == LABELS)
        reach = np.eye(len(mine), dtype=bool)
        for _ in mine:
            reach = reach @ edges[np.ix_(mine, mine)] | reach
        shares.append(reach.sum(axis=1).max() / len(mine))
    assert graph_connectivity(neighbor_graph(x_ND), LABELS) == pytest.approx(np.mean(shares))


def mutual_information(a, b):
    """Normalized by the mean of the two entropies; from the table of counts."""
    p = np.array([[np.mean((a == i) & (b == j)) for j in np.unique(b)] for i in np.unique(a)])
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    entropy = [-(q * np.log(q)).sum() for q in (rows, columns)]
    shared = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.outer(rows, columns)), 0).sum()
    return shared / np.mean(entropy)


def adjusted_rand(a, b):
    """By counting all pairs of cells."""
    pairs = np.triu_indices(len(a), 1)
    same_a, same_b = ((x[:, None] == x[None])[pairs] for x in (a, b))
    chance = same_a.sum() * same_b.sum() / len(pairs[0])
    return ((same_a & same_b).sum() - chance) / ((same_a.sum() + same_b.sum()) / 2 - chance)


@pytest.mark.parametrize("method", ["split", "noise"])
def test_the_best_of_twenty_clusterings_is_scored_by_the_formulas(method):
    import scanpy

    graph = neighbor_graph(VECTORS[method])
    best, seen = best_clustering(graph, LABELS, seed=0)
    clusters = {}
    for resolution in RESOLUTIONS:
        scanpy.tl.leiden(graph, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        clusters[f"{resolution:.1f}"] = graph.obs["leiden"].to_numpy().astype(str)
    assert len(clusters) == 20 and list(clusters)[0] == "0.1" and list(clusters)[-1] == "2.0"
    assert seen == pytest.approx({name: mutual_information(LABELS, found) for name, found in clusters.items()})
    assert best["nmi"] == max(seen.values())
    assert best["ari"] == pytest.approx(adjusted_rand(LABELS, clusters[f"{best['resolution']:.1f}"]))


# --- the whole ----------------------------------------------------------------------------------------


def test_a_score_says_what_it_is(scores):
    for method, found in scores.items():
        assert (found.benchmark, found.protocol, found.method) == ("integration", "scgpt", method)
        assert (found.n_cells, found.n_train) == (N, None)
        assert set(found.definitions) == set(found.metrics)
        assert all(-0.2 <= value <= 1 for value in found.metrics.values())
        assert "opt_louvain" in found.definitions["nmi"] and "Leiden" in found.definitions["nmi"]
        parts = {name: found.metrics[name] for name in ("nmi", "ari", "asw_label", "asw_batch", "graph_conn")}
        assert composites(**parts) == {name: found.metrics[name] for name in ("avg_bio", "avg_batch", "overall")}
        assert found.details["nmi_by_resolution"][f"{found.details['clustering']['resolution']:.1f}"] == parts["nmi"]


def test_mixing_separation_and_noise_are_told_apart(scores):
    mixed, split, noise = (scores[name].metrics for name in ("mixed", "split", "noise"))
    assert mixed["nmi"] == mixed["ari"] == 1 and mixed["graph_conn"] == 1
    assert mixed["avg_batch"] > split["avg_batch"] + 0.3
    assert mixed["avg_bio"] > noise["avg_bio"] + 0.3
    assert mixed["overall"] > max(split["overall"], noise["overall"])


def test_many_cells_are_scored_by_subsamples_and_one_seed_gives_one_score():
    options = {"max_cells": 60, "draws": 3, "seed": 5}
    one, two = (next(Composites().run({"noise": VECTORS["noise"]}, TRUTH, **options)) for _ in range(2))
    assert one.metrics == two.metrics and one.intervals == two.intervals
    assert one.n_cells == 60 and one.intervals["nmi"].unit == "subsamples"
    assert "mean of 3 subsamples of 60 of 120 cells" in one.definitions["overall"]
    # the composites of the means are the means of the composites: both are linear
    parts = {name: one.metrics[name] for name in ("nmi", "ari", "asw_label", "asw_batch", "graph_conn")}
    assert composites(**parts)["overall"] == pytest.approx(one.metrics["overall"])


def test_cells_without_batches_and_vectors_that_are_all_one_are_refused():
    with pytest.raises(EvaluationError, match="fewer than two batches"):
        list(Composites().run(VECTORS, CellLabels(LABELS, None, TRUTH.parts)))
    with pytest.raises(EvaluationError, match="flat gives every cell the same vector"):
        list(Composites().run({"flat": np.ones((N, 8))}, TRUTH))


def test_a_batch_of_its_own_for_every_cell_is_told(monkeypatch):
    with pytest.raises(EvaluationError, match="asw_batch of mixed is not a number"):
        list(Composites().run({"mixed": VECTORS["mixed"]}, CellLabels(LABELS, np.arange(N).astype(str), TRUTH.parts)))


def test_a_missing_scanpy_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(MissingExtraError, match=r"scmodelforge\[eval\]"):
        module._scanpy()
