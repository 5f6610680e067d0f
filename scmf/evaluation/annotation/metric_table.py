"""The metrics of the benchmark ``annotation``, one entry each.

Lives elsewhere: the formulas (label_scores, transfer, cross_validation).
"""

from __future__ import annotations

from scmf.results.metric import Metric, MetricTable

METRICS = MetricTable(
    Metric(
        "accuracy",
        "share of test cells with the right label (sklearn.metrics.accuracy_score, {sklearn})",
        min_band=0.005,
        place="head",
    ),
    Metric(
        "macro_f1",
        "unweighted mean of per-class F1 over classes that occur in the test cells "
        "(sklearn.metrics.f1_score, average='macro', {sklearn})",
        label="macro F1",
        min_band=0.005,
        place="head",
    ),
    Metric(
        "accuracy_all",
        "share of all test cells with the right label; those of unseen labels count as wrong",
        place="head",
    ),
    Metric(
        "unseen_share",
        "share of test cells whose label no training cell has; a fact of the split",
        higher_is_better=False,
        place="column",
    ),
    Metric(
        "unseen_detection_auroc",
        "AUROC of 1 - largest predicted probability (or share of votes), test cells of unseen against seen labels",
        label="unseen detection AUROC",
        place="column",
    ),
)
"""Of probes and heads that are fitted on training cells and scored on test cells."""

FOLDED = ("accuracy", "f1", "precision", "recall", "auroc")
"""Metrics of the protocol ``cross_validated``, each of the mean of the classifiers and of each classifier."""

CLASSIFIERS = {"lr": "logistic regression", "knn": "5 nearest neighbors", "rf": "random forest"}

_WHAT = {
    "accuracy": "share of cells with the right label",
    "f1": "F1, {mean}",
    "precision": "precision, {mean}",
    "recall": "recall, {mean}",
    "auroc": "area under the ROC curve, one label against the rest, unweighted mean",
}
_LABELS = {"f1": "F1", "auroc": "AUROC", "lr": "LR", "knn": "kNN", "rf": "RF"}


def _folded(metric: str, classifier: str = "", *, head: bool = False) -> Metric:
    name = f"{metric}_{classifier}" if classifier else metric
    by = CLASSIFIERS[classifier] if classifier else f"mean of {', '.join(CLASSIFIERS.values())}"
    label = " ".join(_LABELS.get(part, part) for part in name.split("_"))
    return Metric(name, f"{_WHAT[metric]}; {by}; {{how}}", label=label, place="head" if head else "detail")


CROSS_VALIDATION_METRICS = MetricTable(
    _folded("accuracy", head=True),
    _folded("f1", head=True),
    *(_folded("accuracy", name, head=True) for name in ("lr", "knn", "rf")),
    _folded("auroc", head=True),
    _folded("precision"),
    _folded("recall"),
    *(_folded(metric, name) for metric in FOLDED[1:] for name in CLASSIFIERS),
)
"""Of the protocol ``cross_validated``."""
