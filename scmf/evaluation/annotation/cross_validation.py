"""Labels predicted in five folds of all cells, as the label-prediction task of cz-benchmarks 0.15.1 does it.

No split is asked for: cells of one donor or study lie on both sides, so that the numbers are higher than those of a
held-out donor, and say less. They are here because others print them. Lives elsewhere: probes with a split
(annotation).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.annotation.metric_table import CLASSIFIERS, CROSS_VALIDATION_METRICS, FOLDED
from scmf.evaluation.score import package
from scmf.results.score import Score

CROSS_VALIDATED = "cross_validated"
FOLDS, SEED, SMALLEST_CLASS = 5, 42, 10


def _classifiers() -> dict[str, Any]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "lr": make_pipeline(StandardScaler(with_mean=False), LogisticRegression()),
        "knn": make_pipeline(StandardScaler(with_mean=False), KNeighborsClassifier()),
        "rf": RandomForestClassifier(random_state=SEED),
    }


def _scorers(average: str) -> dict[str, Any]:
    from sklearn.metrics import accuracy_score, f1_score, make_scorer, precision_score, recall_score, roc_auc_score

    return {
        "accuracy": make_scorer(accuracy_score),
        "f1": make_scorer(f1_score, average=average),
        "precision": make_scorer(precision_score, average=average),
        "recall": make_scorer(recall_score, average=average),
        "auroc": make_scorer(
            roc_auc_score, average="macro", multi_class="ovr", response_method="predict_proba"
        ),
    }  # fmt: skip


def cross_validated(x_ND: np.ndarray, labels: np.ndarray, *, method: str) -> Score:
    """Mean over five stratified folds of each metric, for three classifiers and for their mean.

    Parameters
    ----------
    x_ND
        Representation (N, D).
    labels
        Labels, str (N,). Those with fewer than ten cells are left out with their cells.
    method
        Name of the representation.

    Returns
    -------
    Score
        ``accuracy``, ``f1``, ``precision``, ``recall`` and ``auroc`` (means of the three classifiers), and each again
        with ``_lr``, ``_knn`` and ``_rf``. With two labels F1, precision and recall are those of the second in
        alphabetical order, else means over labels.

    Raises
    ------
    EvaluationError
        If fewer than two labels have ten cells.
    """
    from sklearn.model_selection import StratifiedKFold, cross_validate

    started = time.perf_counter()
    names, code_N, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts >= SMALLEST_CLASS)
    if len(kept) < 2:
        raise EvaluationError(
            f"{len(kept)} labels with {SMALLEST_CLASS} cells or more",
            wanted="two or more",
            where="data.label_key",
            fix="choose another column, or leave out the protocol cross_validated",
        )
    rows = np.isin(code_N, kept)
    x_ND, code_N = x_ND[rows], np.searchsorted(kept, code_N[rows])
    scorers = _scorers("binary" if len(kept) == 2 else "macro")
    metrics: dict[str, float] = {}
    for name, classifier in _classifiers().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence within 100 steps, as in cz-benchmarks
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
            found = cross_validate(classifier, x_ND, code_N, cv=folds, scoring=scorers)
        metrics |= {f"{metric}_{name}": float(found[f"test_{metric}"].mean()) for metric in FOLDED}
    metrics |= {
        metric: float(np.mean([metrics[f"{metric}_{name}"] for name in CLASSIFIERS])) for metric in FOLDED
    }  # fmt: skip
    return Score(
        benchmark="annotation",
        protocol=CROSS_VALIDATED,
        method=method,
        metrics=metrics,
        **_facts(metrics, len(kept)),
        n_cells=len(x_ND),
        n_train=len(x_ND) - len(x_ND) // FOLDS,
        seconds=time.perf_counter() - started,
        details={"left_out": {str(names[i]): int(counts[i]) for i in range(len(names)) if i not in kept}},
    )


def _facts(names: Iterable[str], n_labels: int) -> dict[str, Any]:
    how = (
        f"mean of {FOLDS} stratified folds of all cells, shuffled with seed {SEED}, labels with {SMALLEST_CLASS} cells "
        f"or more, columns divided by their deviation except for the forest (as cz-benchmarks 0.15.1; "
        f"{package('scikit-learn')})"
    )
    mean = "of the second label" if n_labels == 2 else "unweighted mean over labels"
    return CROSS_VALIDATION_METRICS.facts(names, mean=mean, how=how)
