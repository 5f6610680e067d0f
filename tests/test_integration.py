"""Batch integration: every number is that of scib_metrics' own Benchmarker, given exact neighbours."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.spatial
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.errors import EvaluationError
from scmf.eval.integration import BATCH, BIO, Integration, _neighbors, _scib_metrics, definitions
from scmf.eval.score import Truth

N = 120
LABELS = np.array(["alpha", "beta", "delta"])[np.arange(N) % 3]
BATCHES = np.where(np.arange(N) // 3 % 2, "lab1", "lab2")
TRUTH = Truth(LABELS, BATCHES, np.full(N, "test"))
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


def exact_neighbours(x_ND, count):
    """The cell itself, then all others by distance, in float64: written without our code."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    distances = scipy.spatial.distance.cdist(x_ND.astype(np.float64), x_ND.astype(np.float64))
    np.fill_diagonal(distances, -1)
    indices = distances.argsort(axis=1, kind="stable")[:, :count]
    return NeighborsResults(indices=indices, distances=np.take_along_axis(distances, indices, axis=1).clip(0))


# --- against the Benchmarker ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores():
    told = []
    found = {s.method: s for s in Integration().run(VECTORS, TRUTH, unintegrated=BEFORE, note=told.append)}
    assert told == list(VECTORS)
    return found


@pytest.fixture(scope="module")
def official(scores):
    """The table of scib_metrics itself: methods in rows."""
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
        bench.prepare(neighbor_computer=exact_neighbours)
        bench.benchmark()
        return bench.get_results(min_max_scale=False, clean_names=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", VECTORS.keys())
def test_every_metric_equals_that_of_the_benchmarker(scores, official, method):
    metrics = scores[method].metrics
    assert set(metrics) == {*BIO, *BATCH, "bio_conservation", "batch_correction", "overall"}
    # cosine distances and JAX sums are float32
    for name, value in metrics.items():
        wanted = float(official.loc[method, BENCHMARKER.get(name, name)])
        assert value == pytest.approx(wanted, abs=2e-6), name


@pytest.mark.slow
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
    with pytest.raises(EvaluationError, match="of collapsed is not a number"):
        list(Integration().run({"collapsed": np.ones((N, 8))}, TRUTH, unintegrated=BEFORE))


# --- neighbours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mixed", "split", "noise"])
def test_neighbours_are_exact(method):
    found, wanted = _neighbors(VECTORS[method], 90), exact_neighbours(VECTORS[method], 90)
    assert (found.indices == wanted.indices).mean() > 0.999, "float32 may swap two that are almost as near"
    np.testing.assert_allclose(found.distances[:, 1:], wanted.distances[:, 1:], rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=25), st.integers(2, 25))
def test_each_cell_is_its_own_first_neighbour_whatever_twins_it_has(values, count):
    x_ND = np.array(values, dtype=np.float32)[:, None]
    count = min(count, len(x_ND))
    found = _neighbors(x_ND, count)
    assert found.indices[:, 0].tolist() == list(range(len(x_ND)))
    assert not found.distances[:, 0].any()
    assert all(len(set(row)) == count for row in found.indices), "no neighbour stands twice"
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
        list(Integration().run(VECTORS, Truth(LABELS, batches, TRUTH.parts), unintegrated=BEFORE))
    assert "data.batch_key" in caught.value.where
    assert caught.value.wanted and caught.value.fix


def test_a_label_too_rare_for_kbet_does_not_count_as_lying_in_two_batches():
    labels = np.where(np.arange(N) < 9, "rare", "frequent")
    batches = np.where((labels == "rare") & (np.arange(N) % 2 > 0), "lab1", "lab2")
    with pytest.raises(EvaluationError, match="or is rare"):
        list(Integration().run(VECTORS, Truth(labels, batches, TRUTH.parts), unintegrated=BEFORE))
