"""What scib-metrics is asked, on how many neighbors, and how its ten numbers become three. Fast: kBET is not run."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.spatial
from sklearn.neighbors import NearestNeighbors

from scmf.data.loading.labels import CellLabels
from scmf.evaluation.integration import benchmark
from scmf.evaluation.integration.benchmark import Integration

N = 130
RNG = np.random.default_rng(0)
LABELS = np.array(["alpha", "beta", "delta"])[np.arange(N) % 3]
BATCHES = np.where(RNG.random(N) < 0.4, "lab1", "lab2")
TRUTH = CellLabels(LABELS, BATCHES, np.full(N, "test"))
X = (RNG.normal(size=(N, 6)) + 2 * (LABELS == "beta")[:, None] + (BATCHES == "lab1")[:, None]).astype(np.float32)
BEFORE = RNG.normal(size=(N, 5)).astype(np.float32)
BIO = {"isolated_labels": 0.11, "nmi": 0.83, "ari": 0.47, "silhouette_label": 0.61, "clisi_knn": 0.97}
BATCH = {"bras": 0.72, "ilisi_knn": 0.05, "kbet_per_label": 0.31, "graph_connectivity": 0.9, "pcr_comparison": 0.23}


class Asked:
    """Stands for scib-metrics: gives fixed numbers and writes down what it was asked with."""

    def __init__(self):
        self.arguments = {}
        self.nearest_neighbors = SimpleNamespace(pynndescent=None)

    def __getattr__(self, name):
        def answer(*arguments, **keywords):
            self.arguments[name] = (arguments, keywords)
            kmeans = name == "nmi_ari_cluster_labels_kmeans"
            return {"nmi": BIO["nmi"], "ari": BIO["ari"]} if kmeans else (BIO | BATCH)[name]

        return answer


@pytest.fixture
def asked(monkeypatch):
    found = Asked()
    monkeypatch.setattr(benchmark, "_scib_metrics", lambda: found)
    return found


def score(x_ND=X, truth=TRUTH, before=BEFORE):
    (found,) = Integration().run({"mine": x_ND}, truth, unintegrated=before)
    return found.metrics


def test_the_total_is_six_tenths_of_the_biology_and_four_of_the_batches(asked):
    metrics = score()
    bio, batch = sum(BIO.values()) / 5, sum(BATCH.values()) / 5
    assert metrics["bio_conservation"] == pytest.approx(bio)
    assert metrics["batch_correction"] == pytest.approx(batch)
    assert metrics["overall"] == pytest.approx(0.6 * bio + 0.4 * batch)
    names = {"nmi": "kmeans_nmi", "ari": "kmeans_ari"}
    for name, value in (BIO | BATCH).items():
        ours = names.get(name, name.removesuffix("_knn").removesuffix("_per_label"))
        assert metrics[ours] == value, name


def test_each_metric_is_asked_on_its_own_neighbors_and_labels(asked):
    score()
    distances = scipy.spatial.distance.cdist(X.astype(np.float64), X.astype(np.float64))
    order = distances.argsort(axis=1, kind="stable")
    for name, count, *labels in (
        ("ilisi_knn", 90, BATCHES), ("clisi_knn", 90, LABELS), ("kbet_per_label", 50, BATCHES, LABELS),
        ("graph_connectivity", 15, LABELS),
    ):  # fmt: skip
        (near, *others), _ = asked.arguments[name]
        assert np.array_equal(near.indices, order[:, :count]), name
        assert np.allclose(near.distances, np.sort(distances, axis=1)[:, :count], atol=1e-3), name
        assert len(others) == len(labels) and all(map(np.array_equal, others, labels)), name
    for name, *wanted in (
        ("isolated_labels", X, LABELS, BATCHES), ("nmi_ari_cluster_labels_kmeans", X, LABELS),
        ("silhouette_label", X, LABELS), ("bras", X, LABELS, BATCHES), ("pcr_comparison", BEFORE, X, BATCHES),
    ):  # fmt: skip
        arguments, keywords = asked.arguments[name]
        assert len(arguments) == len(wanted) and all(map(np.array_equal, arguments, wanted)), name
        assert keywords == ({"categorical": True} if name == "pcr_comparison" else {})


def test_lisi_is_that_of_scib_metrics_on_ninety_neighbors(monkeypatch):
    scib = benchmark._scib_metrics()
    found = Asked()  # the others, which JAX compiles for long, are not what is asked
    found.ilisi_knn, found.clisi_knn = scib.ilisi_knn, scib.clisi_knn
    monkeypatch.setattr(benchmark, "_scib_metrics", lambda: found)
    metrics = score()
    from scib_metrics.nearest_neighbors import NeighborsResults

    values = {}
    for count in (50, 90):
        distances, indices = NearestNeighbors(n_neighbors=count).fit(X).kneighbors(X)
        near = NeighborsResults(indices=indices, distances=distances)
        values[count] = float(scib.ilisi_knn(near, BATCHES)), float(scib.clisi_knn(near, LABELS))
    assert (metrics["ilisi"], metrics["clisi"]) == pytest.approx(values[90], abs=1e-5)
    assert abs(values[50][0] - values[90][0]) > 1e-3 and abs(values[50][1] - values[90][1]) > 1e-3


def test_fewer_cells_than_neighbors_are_scored_on_all_of_them(asked):
    few = np.arange(40)
    score(X[few], TRUTH.take(few), BEFORE[few])
    shapes = {name: asked.arguments[name][0][0].indices.shape for name in ("ilisi_knn", "kbet_per_label")}
    assert shapes == {"ilisi_knn": (40, 40), "kbet_per_label": (40, 40)}


def test_subsamples_take_the_same_cells_from_all_they_are_given(asked):
    marked = np.arange(N, dtype=np.float32)
    x_ND, before = np.stack([marked, RNG.normal(size=N)], 1), np.stack([marked, marked], 1)
    list(Integration().run({"mine": x_ND}, TRUTH, unintegrated=before, max_cells=60, draws=2, seed=3))
    (given, mine, batches), _ = asked.arguments["pcr_comparison"]
    rows = mine[:, 0].astype(int)
    assert len(set(rows.tolist())) == 60
    assert np.array_equal(given[:, 0], marked[rows]) and np.array_equal(batches, BATCHES[rows])
    assert np.array_equal(asked.arguments["silhouette_label"][0][1], LABELS[rows])
