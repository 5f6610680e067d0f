"""Drug response metrics: against formulas worked out by hand and other functions, then properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, rankdata
from sklearn.metrics import root_mean_squared_error

from scmf.core.errors import EvaluationError
from tests.reference.response import LOWER_IS_BETTER, binary, continuous, definitions, over_folds

# Whole numbers have many ties, which is where definitions differ.
vectors = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 1)), min_size=4, max_size=40)


def average_precision(scores, labels):
    """Precision at each threshold times what recall gains there, written out."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        kept = labels[scores >= threshold]
        recall = kept.sum() / labels.sum()
        total += kept.mean() * (recall - recall_before)
        recall_before = recall
    return total


@given(vectors)
def test_binary_equals_mann_whitney_and_the_sum_over_thresholds(pairs):
    scores, labels = np.array(pairs, dtype=float).T
    if len(set(labels)) < 2:
        return
    found = binary(scores, labels)
    wins = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert found["auroc"] == pytest.approx(wins / ((labels == 1).sum() * (labels == 0).sum()), abs=1e-12)
    assert found["average_precision"] == pytest.approx(average_precision(scores, labels), abs=1e-12)


@given(vectors)
def test_continuous_equals_the_formulas_written_out(pairs):
    first, second = np.array([(a, a + 3 * b - a * a / 5) for a, b in pairs], dtype=float).T
    if not np.ptp(first) or not np.ptp(second):
        return
    found = continuous(first, second)
    assert found["pearson"] == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-12)
    assert found["spearman"] == pytest.approx(np.corrcoef(rankdata(first), rankdata(second))[0, 1], abs=1e-12)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(second, first), abs=1e-12)


@given(vectors, st.randoms(use_true_random=False))
def test_the_order_of_cells_and_the_scale_of_the_score_change_nothing(pairs, random):
    scores, labels = np.array(pairs, dtype=float).T
    if len(set(labels)) < 2:
        return
    shuffled = list(pairs)
    random.shuffle(shuffled)
    others, other_labels = np.array(shuffled, dtype=float).T
    assert binary(others, other_labels) == pytest.approx(binary(scores, labels), abs=1e-12)
    assert binary(np.exp(scores) - 7, labels) == pytest.approx(binary(scores, labels), abs=1e-12)


def test_truth_gives_the_ceiling_and_its_opposite_the_floor():
    labels = np.array([0, 1, 1, 0, 1])
    assert binary(labels, labels) == {"auroc": 1.0, "average_precision": 1.0}
    assert binary(-labels, labels)["auroc"] == 0.0
    assert binary(np.ones(5), labels) == pytest.approx({"auroc": 0.5, "average_precision": 0.6})  # chance
    values = np.array([1.0, 4.0, 2.0])
    assert continuous(values, values) == pytest.approx({"pearson": 1.0, "spearman": 1.0, "rmse": 0.0})
    assert continuous(-values, values)["spearman"] == -1.0


def test_single_precision_is_widened_before_anything_is_summed():
    rng = np.random.default_rng(0)
    values = (1e4 + rng.normal(size=5000)).astype(np.float32)
    other = values + rng.normal(size=5000).astype(np.float32)
    wide = continuous(other.astype(np.float64), values.astype(np.float64))
    assert continuous(other, values) == wide


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: binary(np.ones(3), np.ones(4)), r"shapes \(3,\) and \(4,\)"),
        (lambda: binary(np.arange(3), np.ones(3)), "labels 1"),
        (lambda: binary(np.arange(3), np.array([0, 1, 2])), "labels 0, 1, 2"),
        (lambda: binary(np.array([0.1, np.nan, 1.0]), np.array([0, 1, 1])), "1 of 3 pairs are not finite"),
        (lambda: continuous(np.ones(3), np.arange(3)), "all 3 predicted values are 1"),
        (lambda: continuous(np.ones((3, 1)), np.ones((3, 1))), "shapes"),
        (lambda: over_folds({}), "no fold"),
        (lambda: over_folds({"a": {"auroc": 1.0}, "b": {"auroc": 1.0, "x": 2.0}}), "no x of fold a"),
    ],
)
def test_what_has_no_value_is_an_error_that_says_why(call, found):
    with pytest.raises(EvaluationError, match=found):
        call()


def test_a_mean_over_folds_is_plain_and_every_metric_has_a_definition():
    assert over_folds({"a": {"m": 0.0, "n": 1.0}, "b": {"m": 1.0, "n": 4.0}}) == {"m": 0.5, "n": 2.5}
    known = {*binary(np.array([0, 1]), np.array([0, 1])), *continuous(np.array([0, 1]), np.array([0, 2]))}
    assert set(definitions()) == known and set(LOWER_IS_BETTER) <= known
