"""Five folds of all cells: by hand as cz-benchmarks does it, and what is left out."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.annotation.benchmark import CROSS_VALIDATED, Annotation
from scmf.evaluation.annotation.cross_validation import cross_validated
from scmf.evaluation.annotation.metric_table import FOLDED


def cells(kinds=3, n=90):
    """Overlapping clouds (N, 4), and a label that is too rare."""
    rng = np.random.default_rng(0)
    kind = np.arange(n) % kinds
    x_ND = rng.normal(scale=2, size=(kinds, 4))[kind] + rng.normal(scale=1.5, size=(n, 4))
    labels = np.array([f"type{i}" for i in range(kinds)])[kind]
    labels[:9] = "rare"
    return x_ND, labels


def by_hand(x_ND, codes, average):
    """The loop of cz-benchmarks without its pipelines: folds, deviation of the training part, one model a fold."""
    found = {}
    for name in ("lr", "knn", "rf"):
        rows = []
        for train, test in StratifiedKFold(5, shuffle=True, random_state=42).split(x_ND, codes):
            deviation = 1.0 if name == "rf" else x_ND[train].std(axis=0)
            forest = RandomForestClassifier(random_state=42)
            model = {"lr": LogisticRegression(), "knn": KNeighborsClassifier(5), "rf": forest}[name]
            model.fit(x_ND[train] / deviation, codes[train])
            predicted = model.predict(x_ND[test] / deviation)
            chance = model.predict_proba(x_ND[test] / deviation)
            chance = chance[:, 1] if chance.shape[1] == 2 else chance
            rows.append([
                accuracy_score(codes[test], predicted),
                *(f(codes[test], predicted, average=average) for f in (f1_score, precision_score, recall_score)),
                roc_auc_score(codes[test], chance, multi_class="ovr", average="macro"),
            ])  # fmt: skip
        found |= {f"{metric}_{name}": value for metric, value in zip(FOLDED, np.mean(rows, axis=0), strict=True)}
    return found | {metric: np.mean([found[f"{metric}_{name}"] for name in ("lr", "knn", "rf")]) for metric in FOLDED}


@pytest.mark.parametrize(("kinds", "average"), [(2, "binary"), (3, "macro")])
def test_it_equals_the_loop_of_cz_benchmarks_done_by_hand(kinds, average):
    x_ND, labels = cells(kinds)
    found = cross_validated(x_ND, labels, method="x")
    kept = labels != "rare"
    wanted = by_hand(x_ND[kept], np.unique(labels[kept], return_inverse=True)[1], average)
    assert found.metrics == pytest.approx(wanted, abs=1e-12)
    assert set(found.definitions) == set(found.metrics)
    assert 0.4 < found.metrics["accuracy"] < 0.97, "a set on which a classifier can be better or worse"
    assert (found.protocol, found.n_cells, found.n_train) == (CROSS_VALIDATED, kept.sum(), kept.sum() * 4 // 5 + 1)
    assert found.details == {"left_out": {"rare": 9}}


def test_it_asks_for_no_split():
    x_ND, labels = cells(2)
    everywhere = CellLabels(labels, None, np.full(len(labels), "train"))
    found = list(Annotation().run({"x": x_ND}, everywhere, protocols=[CROSS_VALIDATED]))
    assert [score.metrics for score in found] == [cross_validated(x_ND, labels, method="x").metrics]


def test_one_frequent_label_is_refused():
    x_ND, labels = cells(2)
    with pytest.raises(EvaluationError, match="1 labels with 10 cells or more"):
        cross_validated(x_ND, np.where(labels == "rare", "rare", "all"), method="x")
