"""Annotation: the scores by hand and by a published table, the probes by what must not move them."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import EvaluationError, MissingExtraError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.annotation.benchmark import CONSTANT, HEAD, LINEAR, NEAREST, SHUFFLED, Annotation, confusion, score

# Test cells of the cardiomyopathy classifier (rows true, columns predicted), as printed in the official
# Geneformer notebook examples/cell_classification.ipynb: accuracy 0.8642, macro F1 0.8427.
NAMES = ["nf", "hcm", "dcm"]
PUBLISHED = np.array([[3794, 385, 328], [562, 8680, 566], [13, 485, 2415]])


def spread(matrix, names):
    """Labels (true, predicted) of as many cells as the matrix counts, in no order."""
    true, predicted = np.indices(matrix.shape).reshape(2, -1)
    order = np.random.default_rng(0).permutation(matrix.sum())
    names = np.array(names)
    return (names[np.repeat(labels, matrix.ravel())][order] for labels in (true, predicted))


# --- scores ---------------------------------------------------------------------------------------


def test_score_equals_the_published_one_of_the_same_table():
    true, predicted = spread(PUBLISHED, NAMES)
    found = score(predicted, true)
    assert found["accuracy"] == pytest.approx(0.864232644532157, abs=1e-12)
    assert found["macro_f1"] == pytest.approx(0.8426513907521005, abs=1e-12)


def test_score_is_the_formula():
    true, predicted = spread(PUBLISHED, NAMES)
    right = np.diag(PUBLISHED)
    f1 = 2 * right / (PUBLISHED.sum(axis=0) + PUBLISHED.sum(axis=1))
    assert score(predicted, true) == pytest.approx(
        {"accuracy": right.sum() / PUBLISHED.sum(), "macro_f1": f1.mean()}, abs=1e-12
    )


def test_confusion_counts_rows_as_true():
    true, predicted = spread(PUBLISHED, NAMES)
    order = [NAMES.index(name) for name in sorted(NAMES)]
    assert confusion(predicted, true) == {
        "labels": sorted(NAMES), "matrix": PUBLISHED[np.ix_(order, order)].tolist(),
    }  # fmt: skip


def test_a_class_never_predicted_counts_as_zero_and_one_that_never_occurs_not_at_all():
    found = score(np.array(["a", "a", "a", "c"]), np.array(["a", "a", "b", "a"]))
    # a: precision 2/3, recall 2/3; b: never predicted; c: does not occur among the true labels
    assert found == {"accuracy": 0.5, "macro_f1": pytest.approx((2 / 3 + 0) / 2)}
    assert confusion(np.array(["c"]), np.array(["a"])) == {"labels": ["a", "c"], "matrix": [[0, 1], [0, 0]]}


LABELS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30)


@given(LABELS, st.randoms(use_true_random=False))
def test_score_lies_between_0_and_1_and_knows_no_order_of_cells(pairs, random):
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = score(predicted, true)
    assert all(0 <= value <= 1 for value in found.values())
    assert score(true, true) == {"accuracy": 1.0, "macro_f1": 1.0}
    assert found["accuracy"] == np.mean(true == predicted)
    random.shuffle(pairs)
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    assert score(predicted, true) == pytest.approx(found, abs=1e-12)


# --- probes ---------------------------------------------------------------------------------------

N, TYPES = 480, np.array(["alpha", "beta", "delta", "gamma"])


@pytest.fixture(scope="module")
def cells():
    """Four overlapping clouds of cells (N, 6), so that no probe is perfect, and their truth."""
    rng = np.random.default_rng(1)
    labels = TYPES[rng.integers(0, 4, N)]
    centers = {name: rng.normal(size=6) for name in TYPES}
    x_ND = np.stack([centers[name] for name in labels]) + rng.normal(scale=1.2, size=(N, 6))
    parts = np.array(["train", "train", "valid", "test"])[np.arange(N) % 4]
    return x_ND.astype(np.float32), CellLabels(labels, None, parts)


def metrics(x_ND, truth):
    return {result.protocol: result.metrics for result in Annotation().run({"x": x_ND}, truth)}


def test_a_probe_says_what_it_is_and_on_how_many_cells(cells):
    x_ND, truth = cells
    found = list(Annotation().run({"x": x_ND, "y": x_ND[:, :2]}, truth))
    assert [(s.method, s.protocol) for s in found] == [
        ("x", LINEAR), ("x", NEAREST), ("y", LINEAR), ("y", NEAREST),
    ]  # fmt: skip
    for result in found:
        assert result.benchmark == "annotation"
        assert (result.n_train, result.n_cells) == (240, 120)
        assert set(result.definitions) == set(result.metrics) == {"accuracy", "macro_f1"}
        assert all("sklearn" in line and "scikit-learn " in line for line in result.definitions.values())
        assert np.sum(result.details["confusion"]["matrix"]) == 120
        assert result.higher_is_better == {"accuracy": True, "macro_f1": True}


def test_probes_equal_their_description_done_by_hand(cells):
    from sklearn.linear_model import LogisticRegression

    x_ND, truth = cells
    train, test = truth.parts == "train", truth.parts == "test"
    x_ND = x_ND.astype(np.float64)
    z_ND = (x_ND - x_ND[train].mean(axis=0)) / x_ND[train].std(axis=0)
    linear = LogisticRegression(max_iter=5000).fit(z_ND[train], truth.labels[train]).predict(z_ND[test])
    near = np.linalg.norm(z_ND[test][:, None] - z_ND[train][None], axis=-1).argsort(axis=1)[:, :15]
    votes = (truth.labels[train][near][:, :, None] == TYPES).sum(axis=1)
    found = metrics(*cells)
    assert found[LINEAR] == score(linear, truth.labels[test])
    assert found[NEAREST] == score(TYPES[votes.argmax(axis=1)], truth.labels[test])
    assert 0.5 < found[LINEAR]["accuracy"] < 0.95, "a set on which a probe can be better or worse"


def test_the_order_of_cells_changes_nothing(cells):
    x_ND, truth = cells
    order = np.random.default_rng(2).permutation(N)
    assert metrics(x_ND[order], CellLabels(truth.labels[order], None, truth.parts[order])) == metrics(x_ND, truth)


def test_the_order_the_unit_and_the_origin_of_features_change_nothing(cells):
    x_ND, truth = cells
    moved_ND = x_ND[:, [3, 0, 5, 1, 4, 2]] * np.array([1, 10, 0.1, 3, 1, 7]) + np.arange(6)
    for protocol, values in metrics(moved_ND, truth).items():
        assert values == pytest.approx(metrics(x_ND, truth)[protocol], abs=1e-6)


def test_valid_cells_are_neither_fitted_nor_scored(cells):
    x_ND, truth = cells
    valid = truth.parts == "valid"
    other_ND, labels = x_ND.copy(), truth.labels.copy()
    other_ND[valid], labels[valid] = 1e3, "unheard of"
    assert metrics(other_ND, CellLabels(labels, None, truth.parts)) == metrics(x_ND, truth)


def test_test_cells_do_not_move_the_scale(cells):
    # One wild test cell may cost its own label; were it in the mean and deviation, all cells would suffer.
    x_ND, truth = cells
    wild_ND = x_ND.copy()
    wild_ND[np.flatnonzero(truth.parts == "test")[0]] = 1e6
    for protocol, values in metrics(wild_ND, truth).items():
        assert abs(values["accuracy"] - metrics(x_ND, truth)[protocol]["accuracy"]) <= 1 / 120 + 1e-12


def test_shuffled_labels_give_about_chance(cells):
    x_ND, truth = cells
    labels = np.random.default_rng(3).permutation(truth.labels)
    chance = np.bincount(np.unique(labels, return_inverse=True)[1]).max() / N
    for values in metrics(x_ND, CellLabels(labels, None, truth.parts)).values():
        assert values["accuracy"] < chance + 3 * math.sqrt(chance * (1 - chance) / 120)


def test_features_that_hold_the_truth_give_1(cells):
    _, truth = cells
    x_ND = (truth.labels[:, None] == TYPES).astype(np.float32)
    assert all(values == {"accuracy": 1.0, "macro_f1": 1.0} for values in metrics(x_ND, truth).values())


def test_fewer_training_cells_than_neighbors_are_enough():
    truth = CellLabels(np.array(["a", "b", "a", "b"]), None, np.array(["train", "train", "test", "test"]))
    x_ND = np.array([[0.0], [9.0], [1.0], [8.0]])
    found = {s.protocol: s for s in Annotation(knn_neighbors=15).run({"x": x_ND}, truth)}
    assert found[LINEAR].metrics["accuracy"] == 1.0
    assert found[NEAREST].n_train == 2


# --- the constant and the head ----------------------------------------------------------------------


def test_majority_is_the_most_frequent_training_label_whatever_the_test_cells_are():
    labels = np.array(["b", "b", "a", "c", "a", "a", "b", "a"])
    parts = np.array(["train", "train", "train", "train", "test", "test", "test", "valid"])
    found = Annotation().majority(CellLabels(labels, None, parts))
    assert (found.method, found.protocol) == ("majority", CONSTANT)
    # b for a, a, b: accuracy 1/3; F1 of b is 2 * 1 / (3 + 1), of a 0
    assert found.metrics == pytest.approx({"accuracy": 1 / 3, "macro_f1": 0.25})


def test_labels_predicted_elsewhere_are_scored_alike(cells):
    _, truth = cells
    found = Annotation().scored(
        truth.labels[truth.rows("test")], truth, protocol=HEAD, method="pretrained", started=time.perf_counter()
    )
    assert found.metrics == {"accuracy": 1.0, "macro_f1": 1.0}
    assert (found.protocol, found.n_cells, found.n_train) == (HEAD, 120, 240)


# --- what stands beside the metrics -------------------------------------------------------------------


def test_each_class_and_an_interval_stand_beside_the_metrics(cells):
    x_ND, truth = cells
    for found in Annotation().run({"x": x_ND}, truth):
        assert set(found.details) == {"confusion", "per_class"}
        rows = found.details["per_class"]
        assert sum(row["n"] for row in rows.values()) == 120
        assert sum(row["n_train"] for row in rows.values()) == 240
        assert np.mean([row["f1"] for row in rows.values()]) == pytest.approx(found.metrics["macro_f1"])
        assert set(found.intervals) == {"accuracy", "macro_f1"}
        for name, interval in found.intervals.items():
            assert interval.low < found.metrics[name] < interval.high
            assert (interval.unit, interval.n_units, interval.draws, interval.level) == ("cells", 120, 1000, 0.95)
            # four deviations of a share of 120 cells
            assert 0.08 < interval.high - interval.low < 4 * math.sqrt(0.25 / 120)


def test_with_donors_whole_donors_are_drawn_and_no_metric_moves(cells):
    x_ND, truth = cells
    donors = np.array([f"d{i}" for i in np.arange(N) // 40])
    found = list(Annotation().run({"x": x_ND}, CellLabels(truth.labels, None, truth.parts, donors)))
    assert {score.protocol: score.metrics for score in found} == metrics(x_ND, truth)
    assert all((i.unit, i.n_units) == ("donors", 12) for score in found for i in score.intervals.values())
    one = CellLabels(truth.labels, None, truth.parts, np.full(N, "d0"))
    assert next(iter(Annotation().run({"x": x_ND}, one))).intervals["accuracy"].unit == "cells", "one donor is no draw"


def test_a_probe_of_shuffled_labels_is_a_row_of_its_own_and_gives_chance(cells):
    x_ND, truth = cells
    found = list(Annotation().shuffled_labels(x_ND, truth))
    assert [(score.method, score.protocol) for score in found] == [(SHUFFLED, LINEAR), (SHUFFLED, NEAREST)]
    chance = np.unique(truth.labels, return_counts=True)[1].max() / N
    for score_ in found:
        assert score_.metrics["accuracy"] < chance + 3 * math.sqrt(chance * (1 - chance) / 120)
    again = list(Annotation().shuffled_labels(x_ND, truth))
    assert [score_.metrics for score_ in again] == [score_.metrics for score_ in found]
    assert truth.labels.tolist() == cells[1].labels.tolist(), "the truth is left as it was"


# --- what cannot be scored --------------------------------------------------------------------------


def test_a_label_missing_in_the_training_split_is_named(cells):
    x_ND, truth = cells
    labels = np.where((truth.labels == "delta") & (truth.parts == "test"), "epsilon", truth.labels)
    count = int((labels == "epsilon").sum())
    with pytest.raises(EvaluationError) as caught:
        list(Annotation().run({"x": x_ND}, CellLabels(labels, None, truth.parts)))
    assert caught.value.found == f"label missing in the training split: epsilon ({count} test cells)"
    assert caught.value.wanted and caught.value.fix
    assert caught.value.where == "data.split, data.label_key"


@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_part_without_cells_is_named(cells, empty):
    x_ND, truth = cells
    parts = np.where(truth.parts == empty, "valid", truth.parts)
    with pytest.raises(EvaluationError, match=f"no cells in part '{empty}'"):
        list(Annotation().run({"x": x_ND}, CellLabels(truth.labels, None, parts)))


def test_a_protocol_that_does_not_exist_is_named(cells):
    with pytest.raises(EvaluationError, match="protocol 'svm'"):
        list(Annotation().run({"x": cells[0]}, cells[1], protocols=["svm"]))


@pytest.mark.parametrize(("value", "message"), [(1.0, "the same vector"), (np.nan, "not finite")])
def test_vectors_that_say_nothing_are_refused(cells, value, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        list(Annotation().run({"flat": np.full((N, 6), value)}, cells[1]))
    assert "flat" in caught.value.found and caught.value.fix


def loaded(obs, split=("train", "test"), **facts):
    import anndata as ad
    import pandas as pd

    from scmf.data.loading.facts import DataFacts, LoadedCells

    adata = ad.AnnData(np.zeros((2, 1)), obs=pd.DataFrame(obs, index=["a", "b"]))
    return LoadedCells(adata, DataFacts("mine", "0" * 64, **facts), None if split is None else np.array(split))


def test_truth_is_read_from_the_columns_that_the_facts_name():
    obs = {"type": ["x", "y"], "study": ["s", "t"]}
    truth = CellLabels.of(loaded(obs, label_key="type", batch_key="study"))
    assert truth.labels.tolist() == ["x", "y"]
    assert truth.batches.tolist() == ["s", "t"]
    assert truth.rows("test").tolist() == [1]
    assert CellLabels.of(loaded(obs, label_key="type", batch_key=None)).batches is None
    assert truth.donors is None
    assert CellLabels.of(loaded(obs, label_key="type", donor_key="study")).donors.tolist() == ["s", "t"]


@pytest.mark.parametrize(
    ("key", "split", "where"), [(None, ("train", "test"), "data.label_key"), ("type", None, "data.split")]
)
def test_cells_without_labels_or_split_are_refused(key, split, where):
    with pytest.raises(EvaluationError) as caught:
        CellLabels.of(loaded({"type": ["x", "y"]}, split, label_key=key))
    assert caught.value.where == where


def test_a_missing_package_is_told_before_anything_is_trained(monkeypatch):
    import importlib.metadata

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(MissingExtraError, match=r"scmodelforge\[eval\]"):
        Annotation()
