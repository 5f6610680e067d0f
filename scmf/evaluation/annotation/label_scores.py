"""Scores of predicted labels, from labels or from a table of counts, and what plots show of them.

Lives here: accuracy, macro and weighted F1, F1 of each class, the confusion matrix. Lives elsewhere: who predicts
(annotation), intervals (uncertainty), labels that no training cell has (transfer).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.annotation.metric_table import METRICS
from scmf.evaluation.score import package


def score(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Metrics of predicted labels.

    Parameters
    ----------
    predicted, truth
        Labels, str (N,).

    Returns
    -------
    dict
        ``accuracy`` and ``macro_f1`` (unweighted mean of F1 over the classes that occur in ``truth``; a
        class that is never predicted has F1 0).
    """
    from sklearn.metrics import accuracy_score, f1_score

    macro_f1 = f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0.0)
    return {"accuracy": float(accuracy_score(truth, predicted)), "macro_f1": float(macro_f1)}


def definitions() -> dict[str, str]:
    """One line for each metric of `score`."""
    return METRICS.definitions(("accuracy", "macro_f1"), sklearn=package("scikit-learn"))


def from_confusion(matrix: Sequence[Sequence[int]] | np.ndarray) -> dict[str, float]:
    """The metrics of `score`, and weighted F1, from counts alone.

    Parameters
    ----------
    matrix
        Cells with the true label of the row and the predicted label of the column, int (K, K).

    Returns
    -------
    dict
        ``accuracy``, ``macro_f1`` (classes without a cell do not count), ``weighted_f1`` (weights: cells of a class).

    Raises
    ------
    EvaluationError
        If the table is not square, or counts nothing.
    """
    counts_KK = np.asarray(matrix, dtype=float)
    if counts_KK.ndim != 2 or counts_KK.shape[0] != counts_KK.shape[1] or counts_KK.sum() <= 0 or counts_KK.min() < 0:
        raise EvaluationError(
            f"a table of shape {counts_KK.shape}, sum {counts_KK.sum():g}",
            wanted="counts, rows and columns in the same order of labels",
            where="confusion matrix",
            fix="add rows or columns of 0 for labels that lack them",
        )
    right_K, support_K = np.diag(counts_KK), counts_KK.sum(axis=1)
    f1_K = 2 * right_K / np.maximum(support_K + counts_KK.sum(axis=0), 1)
    return {
        "accuracy": float(right_K.sum() / counts_KK.sum()),
        "macro_f1": float(f1_K[support_K > 0].mean()),
        "weighted_f1": float((f1_K * support_K).sum() / support_K.sum()),
    }


def confusion(predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Counts of (true, predicted) labels, rows are true, for the confusion plot."""
    from sklearn.metrics import confusion_matrix

    labels = sorted(set(truth) | set(predicted))
    return {"labels": labels, "matrix": confusion_matrix(truth, predicted, labels=labels).tolist()}


def per_class(predicted: np.ndarray, truth: np.ndarray, trained: np.ndarray) -> dict[str, dict[str, float]]:
    """Scores of each label that occurs among the test cells.

    Parameters
    ----------
    predicted, truth
        Labels of test cells, str (N,).
    trained
        Labels of the training cells.

    Returns
    -------
    dict
        Label to ``f1``, ``precision``, ``recall``, ``n`` (test cells) and ``n_train`` (training cells); a label that
        is never predicted has precision 0.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels = np.unique(truth)
    columns = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0.0)
    rows = {}
    for label, precision, recall, f1, n in zip(labels.tolist(), *columns, strict=True):
        rows[label] = {
            "f1": float(f1), "precision": float(precision), "recall": float(recall),
            "n": int(n), "n_train": int((trained == label).sum()),
        }  # fmt: skip
    return rows
