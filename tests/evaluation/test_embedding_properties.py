"""What must hold of every score of cell embeddings: annotation and the composites of scGPT.

The ten metrics of scIB are held to the same in test_integration, where JAX has compiled them already.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.annotation.benchmark import LINEAR, NEAREST, TRANSFER, Annotation
from scmf.evaluation.integration.composites import Composites

N, D = 96, 6
PROBES = (LINEAR, NEAREST, TRANSFER)
FEW = settings(max_examples=3)
SEEDS = st.integers(0, 10_000)


def cells(seed, spread=1.5):
    """Three overlapping types in two batches and four donors (N, D)."""
    rng = np.random.default_rng(seed)
    kind = np.arange(N) % 3
    x_ND = rng.normal(scale=2, size=(3, D))[kind] + rng.normal(scale=spread, size=(N, D))
    parts = np.array(["train", "test", "train", "valid"])[np.arange(N) // 3 % 4]
    batches, donors = (np.array(list(names))[np.arange(N) // 12 % len(names)] for names in ("ab", "uvwx"))
    return x_ND, CellLabels(np.array(["alpha", "beta", "delta"])[kind], batches, parts, donors)


def annotation(x_ND, truth, **options):
    found = Annotation(knn_neighbors=5).run({"x": x_ND}, truth, protocols=PROBES, **options)
    return {score.protocol: score for score in found}


def integration(x_ND, truth):
    return next(iter(Composites().run({"x": x_ND}, truth))).metrics


@FEW
@given(SEEDS)
def test_the_order_of_cells_and_of_columns_changes_nothing(seed):
    x_ND, truth = cells(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(N), rng.permutation(D)
    before, integrated = annotation(x_ND, truth), integration(x_ND, truth)
    for other_ND, other in (
        (x_ND[rows], truth.take(rows)), (x_ND[:, columns], truth), (x_ND[rows][:, columns], truth.take(rows)),
    ):  # fmt: skip
        for protocol, found in annotation(other_ND, other).items():
            wanted = before[protocol]
            assert found.metrics == pytest.approx(wanted.metrics, abs=1e-9)
            assert found.details == wanted.details
            assert found.intervals == wanted.intervals, "draws of pairs of labels know no order"
        # sums over columns in another order differ in the last bits of float64
        assert integration(other_ND, other) == pytest.approx(integrated, abs=1e-9)


@FEW
@given(SEEDS, st.permutations(["alpha", "beta", "delta"]))
def test_other_names_of_labels_batches_and_donors_change_nothing(seed, names):
    x_ND, truth = cells(seed)
    to = dict(zip(["alpha", "beta", "delta"], names, strict=True))
    other = CellLabels(
        np.array([to[label] for label in truth.labels]),
        np.where(truth.batches == "a", "z", "b"),
        truth.parts,
        np.where(truth.donors == "u", "z", truth.donors),
    )
    # a tie of votes goes to the label that comes first
    found, wanted = annotation(x_ND, other)[LINEAR], annotation(x_ND, truth)[LINEAR]
    assert found.metrics == pytest.approx(wanted.metrics, abs=1e-9)
    assert integration(x_ND, other) == pytest.approx(integration(x_ND, truth), abs=1e-9)


def test_probes_of_shuffled_labels_are_right_by_chance():
    # One shuffle alone may name a whole cloud of cells rightly: the mean of many is a third.
    x_ND, truth = cells(0)
    right = {protocol: [] for protocol in (LINEAR, NEAREST)}
    for seed in range(40):
        for score in Annotation().shuffled_labels(x_ND, truth, seed=seed):
            right[score.protocol].append(score.metrics["accuracy"])
    for protocol, found in right.items():
        assert annotation(x_ND, truth)[protocol].metrics["accuracy"] > 0.8
        error = np.std(found) / np.sqrt(len(found))
        assert error < 0.05
        assert abs(np.mean(found) - 1 / 3) < 3.5 * error


@FEW
@given(SEEDS)
def test_shuffled_labels_leave_nothing_to_conserve(seed):
    x_ND, truth = cells(seed, spread=0.5)
    labels = np.random.default_rng(seed).permutation(truth.labels)
    shuffled = CellLabels(labels, truth.batches, truth.parts, truth.donors)
    found = integration(x_ND, shuffled)
    assert found["nmi"] < 0.3 and abs(found["ari"]) < 0.1
    assert found["asw_label"] == pytest.approx(0.5, abs=0.05)


@FEW
@given(SEEDS)
def test_vectors_that_hold_the_truth_reach_the_ceiling(seed):
    _, truth = cells(seed)
    noise = np.random.default_rng(seed).normal(scale=1e-3, size=(N, 3))
    x_ND = 10.0 * (truth.labels[:, None] == np.unique(truth.labels)) + noise
    for found in annotation(x_ND, truth).values():
        assert found.metrics == {"accuracy": 1.0, "macro_f1": 1.0}
        assert all(row["f1"] == 1 for row in found.details["per_class"].values())
    found = integration(x_ND, truth)
    assert found["nmi"] == found["ari"] == found["graph_conn"] == 1.0
    assert found["asw_label"] > 0.999 and found["overall"] > 0.95


@FEW
@given(st.floats(-100, 100))
def test_one_vector_for_all_cells_is_one_clear_error(value):
    _, truth = cells(0)
    flat_ND = np.full((N, D), value)
    for run in (lambda: annotation(flat_ND, truth), lambda: integration(flat_ND, truth)):
        with pytest.raises(EvaluationError, match="x gives every cell the same vector") as caught:
            run()
        assert caught.value.wanted and caught.value.fix


@FEW
@given(SEEDS)
def test_labels_of_cells_that_are_not_scored_change_nothing(seed):
    x_ND, truth = cells(seed)
    valid = truth.parts == "valid"
    labels = np.where(valid, "unheard of", truth.labels)
    other = CellLabels(labels, truth.batches, truth.parts, truth.donors)
    for options in ({}, {"unseen": "report"}):
        for protocol, found in annotation(x_ND, other, **options).items():
            wanted = annotation(x_ND, truth, **options)[protocol]
            assert (found.metrics, found.details) == (wanted.metrics, wanted.details)
