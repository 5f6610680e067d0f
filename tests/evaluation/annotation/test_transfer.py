"""Label transfer: unseen labels are counted, scored apart, and told apart by the doubt of the probe."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.annotation.benchmark import LINEAR, NEAREST, TRANSFER, Annotation, score
from scmf.evaluation.annotation.transfer import auroc

N = 300
DONORS = np.array([f"d{i}" for i in np.arange(N) // 50])


@pytest.fixture(scope="module")
def cells():
    """Three clouds (N, 5), the third of which lies between the others and has no training cell."""
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=N)
    centers = np.array([[1.2] * 5, [-1.2] * 5, [0.0] * 5])
    x_ND = centers[kind] + rng.normal(scale=1.3, size=(N, 5))
    labels = np.array(["alpha", "beta", "new"])[kind]
    parts = np.where((np.arange(N) % 2 == 0) & (labels != "new"), "train", "test")
    return x_ND, CellLabels(labels, None, parts)


@pytest.fixture(scope="module")
def found(cells):
    x_ND, truth = cells
    protocols = (LINEAR, NEAREST, TRANSFER)
    scores = Annotation().run({"x": x_ND}, truth, protocols=protocols, unseen="report")
    return {score.protocol: score for score in scores}


def test_seen_and_unseen_cells_are_scored_apart(cells, found):
    _, truth = cells
    test = truth.labels[truth.rows("test")]
    for one in found.values():
        metrics = one.metrics
        assert set(metrics) == {"accuracy", "macro_f1", "accuracy_all", "unseen_share", "unseen_detection_auroc"}
        assert set(one.definitions) == set(metrics) == set(one.higher_is_better)
        assert metrics["unseen_share"] == np.mean(test == "new")
        assert metrics["accuracy_all"] == pytest.approx(metrics["accuracy"] * np.mean(test != "new"))
        assert metrics["unseen_detection_auroc"] > 0.7, "cells between two clouds are doubtful"
        assert one.details["unseen"] == {"new": int((test == "new").sum())}
        assert one.n_cells == len(test)
        assert not one.higher_is_better["unseen_share"]


def test_the_knn_of_transfer_is_ten_votes_on_vectors_as_they_are(cells, found):
    x_ND, truth = cells
    train, test = truth.rows("train"), truth.rows("test")
    near = np.linalg.norm(x_ND[test][:, None] - x_ND[train][None], axis=-1).argsort(axis=1)[:, :10]
    votes = (truth.labels[train][near][:, :, None] == np.array(["alpha", "beta"])).mean(axis=1)
    predicted, seen = np.array(["alpha", "beta"])[votes.argmax(axis=1)], truth.labels[test] != "new"
    metrics = found[TRANSFER].metrics
    wanted = score(predicted[seen], truth.labels[test][seen])
    assert {name: metrics[name] for name in wanted} == wanted
    assert 0.5 < metrics["accuracy"] < 1, "a set on which a probe can be better or worse"
    assert metrics["unseen_detection_auroc"] == pytest.approx(roc_auc_score(~seen, 1 - votes.max(axis=1)))
    assert "Tutorial_ZeroShot_Reference_Mapping" in found[TRANSFER].definitions["accuracy"]


def test_the_knn_of_transfer_minds_the_unit_of_a_feature_and_the_other_does_not(cells):
    x_ND, truth = cells
    rng = np.random.default_rng(1)
    wide_ND = np.column_stack([x_ND, 1000 * rng.normal(size=N)])
    scores = {
        s.protocol: s.metrics["accuracy"]
        for s in Annotation().run({"x": wide_ND}, truth, protocols=(NEAREST, TRANSFER), unseen="report")
    }
    assert scores[TRANSFER] < 0.8 < scores[NEAREST]


def test_more_neighbors_can_be_asked_for(cells):
    x_ND, truth = cells
    train, test = truth.rows("train"), truth.rows("test")
    run = Annotation(transfer_neighbors=40).run({"x": x_ND}, truth, protocols=[TRANSFER], unseen="report")
    wanted = KNeighborsClassifier(40).fit(x_ND[train], truth.labels[train]).predict(x_ND[test])
    assert next(iter(run)).metrics["accuracy_all"] == np.mean(wanted == truth.labels[test])


def test_without_unseen_labels_the_scores_are_the_usual_ones(cells):
    x_ND, truth = cells
    kept = truth.labels != "new"
    x_ND, truth = x_ND[kept], CellLabels(truth.labels[kept], None, truth.parts[kept])
    usual = {s.protocol: s.metrics for s in Annotation().run({"x": x_ND}, truth)}
    for one in Annotation().run({"x": x_ND}, truth, unseen="report"):
        assert one.metrics == usual[one.protocol] | {
            "accuracy_all": usual[one.protocol]["accuracy"], "unseen_share": 0.0,
        }  # fmt: skip
        assert one.details["unseen"] == {}


def test_intervals_hold_the_values_and_say_their_unit(cells, found):
    x_ND, truth = cells
    by_donor = CellLabels(truth.labels, None, truth.parts, DONORS)
    again = {s.protocol: s for s in Annotation().run({"x": x_ND}, by_donor, unseen="report")}
    for protocol in (LINEAR, NEAREST):
        for scored, unit in ((found[protocol], "cells"), (again[protocol], "donors")):
            assert set(scored.intervals) == {"accuracy", "macro_f1", "accuracy_all", "unseen_detection_auroc"}
            for name, interval in scored.intervals.items():
                assert interval.low <= scored.metrics[name] <= interval.high
                assert interval.unit == unit
        assert again[protocol].metrics == found[protocol].metrics
        assert again[protocol].intervals["accuracy"].n_units == 6
    assert found[LINEAR].intervals["accuracy"].n_units < found[LINEAR].intervals["accuracy_all"].n_units


def test_predictions_without_a_certainty_have_no_detection(cells):
    _, truth = cells
    found = Annotation().majority(truth, unseen="report")
    assert set(found.metrics) == {"accuracy", "macro_f1", "accuracy_all", "unseen_share"}


def test_a_split_that_shares_no_label_is_refused(cells):
    x_ND, truth = cells
    labels = np.where(truth.parts == "test", "other", truth.labels)
    with pytest.raises(EvaluationError, match="no label of the test cells among the training cells: other"):
        list(Annotation().run({"x": x_ND}, CellLabels(labels, None, truth.parts), unseen="report"))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_equals_that_of_sklearn_ties_and_all(pairs):
    scores, positive = (np.array(column) for column in zip(*pairs, strict=True))
    if positive.all() or not positive.any():
        assert np.isnan(auroc(scores, positive))
    else:
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
