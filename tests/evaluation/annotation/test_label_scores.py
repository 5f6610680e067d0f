"""Scores of labels: a table of counts gives what its cells give, and classes what sklearn's report says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import classification_report, f1_score

from scmf.core.errors import EvaluationError
from scmf.evaluation.annotation.label_scores import from_confusion, per_class, score

# As printed in the official Geneformer notebook examples/cell_classification.ipynb
PUBLISHED = [[3794, 385, 328], [562, 8680, 566], [13, 485, 2415]]


def test_a_published_table_gives_the_published_numbers():
    found = from_confusion(PUBLISHED)
    assert found["accuracy"] == pytest.approx(0.864232644532157, abs=1e-12)
    assert found["macro_f1"] == pytest.approx(0.8426513907521005, abs=1e-12)


TABLES = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 6), min_size=k, max_size=k), min_size=k, max_size=k)
)


@given(TABLES.filter(lambda table: np.sum(table) > 0))
def test_a_table_gives_what_its_cells_give(table):
    counts = np.array(table)
    true, predicted = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    found = from_confusion(table)
    weighted = f1_score(true, predicted, average="weighted", labels=np.unique(true), zero_division=0.0)
    assert found == pytest.approx({**score(predicted, true), "weighted_f1": weighted}, abs=1e-12)


@pytest.mark.parametrize("table", [[[0, 0], [0, 0]], [[1, 2, 3]], [[1, -1], [0, 1]], []])
def test_what_is_no_table_of_counts_is_refused(table):
    with pytest.raises(EvaluationError, match="a table of shape") as caught:
        from_confusion(table)
    assert caught.value.wanted and caught.value.fix


def test_per_class_equals_the_report_of_sklearn_and_counts_both_sides():
    rng = np.random.default_rng(0)
    true, predicted = (np.array(list("abc"))[rng.integers(3, size=90)] for _ in range(2))
    trained = np.array(["a"] * 5 + ["b"] * 2)
    wanted = classification_report(true, predicted, output_dict=True, zero_division=0.0)
    found = per_class(predicted, true, trained)
    assert set(found) == {"a", "b", "c"}
    for label, values in found.items():
        row = wanted[label]
        assert (values["f1"], values["precision"], values["recall"]) == pytest.approx(
            (row["f1-score"], row["precision"], row["recall"])
        )
        assert values["n"] == row["support"]
    assert [found[label]["n_train"] for label in "abc"] == [5, 2, 0]
    assert np.mean([values["f1"] for values in found.values()]) == pytest.approx(score(predicted, true)["macro_f1"])


def test_a_label_that_is_only_predicted_has_no_row():
    assert set(per_class(np.array(["a", "z"]), np.array(["a", "a"]), np.array(["a", "z"]))) == {"a"}
