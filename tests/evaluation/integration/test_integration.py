"""Batch integration: every number is that of scib_metrics' own Benchmarker, given exact neighbors."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.spatial
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.integration.benchmark import BATCH, BIO, Integration, _scib_metrics, definitions, exact_neighbors
from scmf.evaluation.integration.composites import scib_overall
from tests.evaluation.integration.test_lisi import lisi_by_hand

N = 120
LABELS = np.array(["alpha", "beta", "delta"])[np.arange(N) % 3]
BATCHES = np.where(np.arange(N) // 3 % 2, "lab1", "lab2")
TRUTH = CellLabels(LABELS, BATCHES, np.full(N, "test"))
BENCHMARKER = {  # our name -> the name of the function in scib_metrics
    "kmeans_nmi": "nmi_ari_cluster_labels_kmeans_nmi",
    "kmeans_ari": "nmi_ari_cluster_labels_kmeans_ari",
    "clisi": "clisi_knn",
    "ilisi": "ilisi_knn",
    "kbet": "kbet_per_label",
    "bio_conservation": "Bio conservation",
    "batch_correction": "Batch correction",
    "overall": "Total",
}


def vectors():
    """Cells whose types stand apart, under four methods (N, 8)."""
    rng = np.random.default_rng(0)
    centres = dict(zip("abd", rng.normal(scale=3, size=(3, 8)), strict=True))
    mixed = np.stack([centres[label[0]] for label in LABELS]) + rng.normal(size=(N, 8))
    split = mixed + 6 * (BATCHES == "lab1")[:, None]
    twins = mixed.copy()
    twins[3], twins[50:53] = twins[0], twins[49]
    made = {"mixed": mixed, "split": split, "noise": rng.normal(size=(N, 8)), "twins": twins}
    return {name: x_ND.astype(np.float32) for name, x_ND in made.items()}


VECTORS = vectors()
BEFORE = VECTORS["split"][:, :5]


def reference_neighbors(x_ND, count):
    """The cell itself, then all others by distance, in float64: written without our code."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    distances = scipy.spatial.distance.cdist(x_ND.astype(np.float64), x_ND.astype(np.float64))
    np.fill_diagonal(distances, -1)
    indices = distances.argsort(axis=1, kind="stable")[:, :count]
    return NeighborsResults(indices=indices, distances=np.take_along_axis(distances, indices, axis=1).clip(0))


# --- against the Benchmarker ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores():
    return {s.method: s for s in Integration().run(VECTORS, TRUTH, unintegrated=BEFORE)}


@pytest.fixture(scope="module")
def bench(scores):
    """What scib_metrics itself makes of the same cells."""
    _scib_metrics()
    import anndata as ad
    from scib_metrics.benchmark import Benchmarker

    cells = ad.AnnData(
        np.zeros((N, 1), np.float32),
        obs=pd.DataFrame({"type": LABELS, "lab": BATCHES}, index=[f"c{i}" for i in range(N)]),
        obsm={**VECTORS, "before": BEFORE},
    )
    bench = Benchmarker(
        cells, "lab", "type", list(VECTORS), pre_integrated_embedding_obsm_key="before", progress_bar=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench.prepare(neighbor_computer=reference_neighbors)
        bench.benchmark()
    return bench


@pytest.fixture(scope="module")
def official(bench):
    """The table of scib_metrics: methods in rows."""
    return bench.get_results(min_max_scale=False, clean_names=False)


@pytest.fixture(scope="module")
def official_scaled(bench):
    """The same, each metric scaled over the methods."""
    return bench.get_results(min_max_scale=True, clean_names=False)


@pytest.mark.nightly
@pytest.mark.parametrize("method", VECTORS.keys())
def test_every_metric_equals_that_of_the_benchmarker(scores, official, method):
    metrics = scores[method].metrics
    assert set(metrics) == {*BIO, *BATCH, "bio_conservation", "batch_correction", "overall"}
    # cosine distances and JAX sums are float32
    for name, value in metrics.items():
        wanted = float(official.loc[method, BENCHMARKER.get(name, name)])
        assert value == pytest.approx(wanted, abs=2e-6), name


@pytest.mark.nightly
def test_the_benchmarker_has_no_metric_that_we_leave_out(scores, official):
    ours = {BENCHMARKER.get(name, name) for name in scores["mixed"].metrics}
    assert ours == set(official.columns)


@pytest.mark.slow
def test_mixing_separation_and_noise_are_told_apart(scores):
    mixed, split, noise = (scores[name].metrics for name in ("mixed", "split", "noise"))
    for name in BATCH:
        assert mixed[name] > split[name], name
    for name in BIO:
        assert mixed[name] > noise[name], name
    assert mixed["kmeans_ari"] == mixed["kmeans_nmi"] == 1.0
    assert mixed["ilisi"] > 0.95 and mixed["kbet"] > 0.95
    assert split["ilisi"] < 0.1 and split["kbet"] == 0
    assert mixed["overall"] > max(split["overall"], noise["overall"])


@pytest.mark.slow
def test_a_score_says_what_it_is(scores):
    for method, found in scores.items():
        assert (found.benchmark, found.protocol, found.method) == ("integration", "scib", method)
        assert (found.n_cells, found.n_train) == (N, None)
        assert set(found.definitions) == set(found.metrics)
        # k-means against chance, and the excess over PCA, may fall below 0
        assert all(-0.1 <= value <= 1 + 1e-6 for value in found.metrics.values())
    for name in (*BIO, *BATCH):
        assert "scib-metrics 0." in definitions()[name]


@pytest.mark.slow
def test_the_means_are_those_of_the_paper(scores):
    for found in scores.values():
        metrics = found.metrics
        assert metrics["bio_conservation"] == pytest.approx(np.mean([metrics[name] for name in BIO]))
        assert metrics["batch_correction"] == pytest.approx(np.mean([metrics[name] for name in BATCH]))
        assert metrics["overall"] == pytest.approx(
            0.6 * metrics["bio_conservation"] + 0.4 * metrics["batch_correction"]
        )


@pytest.mark.slow
def test_a_representation_in_which_all_cells_are_one_is_refused():
    with pytest.raises(EvaluationError, match="collapsed gives every cell the same vector"):
        list(Integration().run({"collapsed": np.ones((N, 8))}, TRUTH, unintegrated=BEFORE))


# --- against other packages and the formulas -----------------------------------------------------------


def restated(x_ND):
    """Metrics without scib_metrics: sklearn, scipy and numpy, in float64."""
    x_ND = x_ND.astype(np.float64)
    order = scipy.spatial.distance.cdist(x_ND, x_ND)
    np.fill_diagonal(order, -1)
    near = order.argsort(axis=1, kind="stable")[:, :15]
    graph = np.zeros((N, N))
    graph[np.arange(N)[:, None], near[:, 1:]] = 1
    width = silhouette_samples(x_ND, LABELS)
    spread = {label: len(set(BATCHES[label == LABELS])) for label in set(LABELS)}
    isolated = [label for label, count in spread.items() if count == min(spread.values())]
    found = {
        "silhouette_label": (width.mean() + 1) / 2,
        "isolated_labels": np.mean([(width[label == LABELS].mean() + 1) / 2 for label in isolated]),
        "ilisi": np.median(lisi_by_hand(x_ND, BATCHES)) - 1,
        "clisi": (3 - np.median(lisi_by_hand(x_ND, LABELS))) / 2,
        "pcr_comparison": max(0, 1 - explained(x_ND) / explained(BEFORE.astype(np.float64))),
    }
    within, connected = [], []
    for label in np.unique(LABELS):
        mine = np.flatnonzero(label == LABELS)
        # of two batches the mean of the other and the nearest other are one, so that sklearn's silhouette is BRAS
        within.append(1 - np.abs(silhouette_samples(x_ND[mine], BATCHES[mine], metric="cosine")).mean())
        _, component = connected_components(graph[np.ix_(mine, mine)], connection="strong")
        connected.append(np.bincount(component).max() / len(mine))
    return found | {"bras": np.mean(within), "graph_connectivity": np.mean(connected)}


def explained(x_ND):
    """Variance of the principal components that batches explain, weighted by the variance of each."""
    scores = x_ND - x_ND.mean(axis=0)
    scores = scores @ np.linalg.svd(scores, full_matrices=False)[2].T
    means = np.stack([scores[batch == BATCHES].mean(axis=0) for batch in BATCHES])
    share = (means**2).sum(axis=0) / (scores**2).sum(axis=0)
    return (share * scores.var(axis=0)).sum() / scores.var(axis=0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mixed", "split", "noise"])
def test_every_metric_with_one_value_equals_the_formula(scores, method):
    for name, value in restated(VECTORS[method]).items():
        assert scores[method].metrics[name] == pytest.approx(value, abs=1e-5), name


@pytest.mark.slow
def test_clusters_that_k_means_finds_are_scored_as_sklearn_scores_them(scores):
    for method in ("mixed", "split"):  # clusters far apart, or three labels cut by two batches
        clusters = KMeans(3, n_init=50, random_state=0).fit_predict(VECTORS[method])
        metrics = scores[method].metrics
        assert metrics["kmeans_nmi"] == pytest.approx(normalized_mutual_info_score(LABELS, clusters), abs=1e-6), method
        assert metrics["kmeans_ari"] == pytest.approx(adjusted_rand_score(LABELS, clusters), abs=1e-6), method


def test_kbet_of_given_neighbors_equals_the_chi_square_test_of_scipy():
    _scib_metrics()
    from scib_metrics import kbet

    near = reference_neighbors(VECTORS["split"], 25)
    batches = np.where(np.arange(N) % 3, BATCHES, "lab3")
    names, expected = np.unique(batches, return_counts=True)
    observed = (batches[near.indices][:, :, None] == names).sum(axis=1)
    wanted = scipy.stats.chisquare(observed, np.broadcast_to(expected / N * 25, observed.shape), axis=1).pvalue
    accepted, _, p_values = kbet(near, batches)
    np.testing.assert_allclose(p_values, wanted, atol=1e-5)
    assert accepted == np.mean(wanted >= 0.05)


@pytest.mark.nightly
def test_the_overall_score_of_a_table_is_that_of_the_benchmarker(scores, official_scaled):
    found = scib_overall({method: score.metrics for method, score in scores.items()})
    for method, row in found.items():
        for name, value in row.items():
            # a difference of 2e-6 between two methods may stand in a denominator
            assert value == pytest.approx(float(official_scaled.loc[method, BENCHMARKER[name]]), abs=1e-4)


@pytest.mark.slow
def test_the_order_of_cells_and_columns_moves_no_more_than_float32_does(scores):
    rng = np.random.default_rng(4)
    cells, columns = rng.permutation(N), rng.permutation(8)
    x_ND = VECTORS["mixed"][cells][:, columns]
    (found,) = Integration().run({"mixed": x_ND}, TRUTH.take(cells), unintegrated=BEFORE[cells])
    assert found.metrics == pytest.approx(scores["mixed"].metrics, abs=1e-5)


# --- many cells -------------------------------------------------------------------------------------


def test_with_more_cells_than_allowed_subsamples_are_scored(monkeypatch):
    seen = []

    def metrics(self, scib, x_ND, truth, unintegrated):
        seen.append((len(x_ND), len(truth.labels), len(unintegrated), len(set(truth.labels)), len(set(truth.batches))))
        return {name: float(x_ND[0, 0]) for name in definitions()}

    monkeypatch.setattr(Integration, "_metrics", metrics)
    options = {"unintegrated": BEFORE, "draws": 3}
    (found,) = Integration().run({"mixed": VECTORS["mixed"]}, TRUTH, max_cells=60, **options)
    assert seen == [(60, 60, 60, 3, 2)] * 3
    assert found.n_cells == 60 and found.intervals["overall"].unit == "subsamples"
    assert all("mean of 3 subsamples of 60 of 120 cells" in line for line in found.definitions.values())
    seen.clear()
    (found,) = Integration().run({"mixed": VECTORS["mixed"]}, TRUTH, max_cells=N, **options)
    assert seen == [(N, N, N, 3, 2)] and not found.intervals and found.definitions == definitions()


# --- neighbors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mixed", "split", "noise"])
def test_neighbors_are_exact(method):
    found, wanted = exact_neighbors(VECTORS[method], 90), reference_neighbors(VECTORS[method], 90)
    assert (found.indices == wanted.indices).mean() > 0.999, "float32 may swap two that are almost as near"
    np.testing.assert_allclose(found.distances[:, 1:], wanted.distances[:, 1:], rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=25), st.integers(2, 25))
def test_each_cell_is_its_own_first_neighbor_whatever_twins_it_has(values, count):
    x_ND = np.array(values, dtype=np.float32)[:, None]
    count = min(count, len(x_ND))
    found = exact_neighbors(x_ND, count)
    assert found.indices[:, 0].tolist() == list(range(len(x_ND)))
    assert not found.distances[:, 0].any()
    assert all(len(set(row)) == count for row in found.indices), "no neighbor stands twice"
    assert (np.diff(found.distances, axis=1) >= 0).all()
    np.testing.assert_array_equal(found.distances, np.abs(x_ND[found.indices][..., 0] - x_ND))


# --- what cannot be scored --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, "fewer than two batches"),
        (np.full(N, "lab1"), "fewer than two batches"),
        (np.where(LABELS == "alpha", "lab1", "lab2"), "every label lies in one batch alone or is rare"),
    ],
)
def test_batches_that_cannot_be_compared_are_refused(batches, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        list(Integration().run(VECTORS, CellLabels(LABELS, batches, TRUTH.parts), unintegrated=BEFORE))
    assert "data.batch_key" in caught.value.where
    assert caught.value.wanted and caught.value.fix


def test_a_label_too_rare_for_kbet_does_not_count_as_lying_in_two_batches():
    labels = np.where(np.arange(N) < 9, "rare", "frequent")
    batches = np.where((labels == "rare") & (np.arange(N) % 2 > 0), "lab1", "lab2")
    with pytest.raises(EvaluationError, match="or is rare"):
        list(Integration().run(VECTORS, CellLabels(labels, batches, TRUTH.parts), unintegrated=BEFORE))
