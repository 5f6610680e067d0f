"""Scores of predicted drug response: binary (sensitive or not) and continuous (ln IC50), and means over folds.

Lives here: the metrics of the tables that SCAD and DeepCDR stand in (scFoundation, Hao et al. 2024, Fig. 3 and 4), as
functions of arrays. Lives elsewhere: labels of cell types (label_scores), perturbation screens (perturbation).

Array legend: N cells, or pairs of a cell line and a drug.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.score import package


def binary(score_N: np.ndarray, label_N: np.ndarray) -> dict[str, float]:
    """Metrics of a score that should be high where the label is 1.

    Parameters
    ----------
    score_N
        Predicted score, float (N,); its scale does not matter.
    label_N
        0 or 1, or bool, (N,).

    Returns
    -------
    dict
        ``auroc`` and ``average_precision``. Equal scores are one threshold.

    Raises
    ------
    EvaluationError
        Lengths differ, a value is not finite, or the labels are not both 0 and 1.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    score_N, label_N = _pair(score_N, label_N, "tests.reference.response.binary")
    found = sorted(set(label_N.tolist()))
    if found != [0.0, 1.0]:
        raise EvaluationError(
            f"labels {', '.join(f'{value:g}' for value in found[:5])}",
            wanted="0 and 1, at least one of each: with one class there is no curve",
            where="tests.reference.response.binary",
            fix="choose folds in which both occur",
        )
    return {
        "auroc": float(roc_auc_score(label_N, score_N)),
        "average_precision": float(average_precision_score(label_N, score_N)),
    }


def continuous(predicted_N: np.ndarray, measured_N: np.ndarray) -> dict[str, float]:
    """Metrics of a predicted quantity.

    Parameters
    ----------
    predicted_N, measured_N
        Values in one unit, for example ln IC50 in micromolar, float (N,). Single precision is widened first.

    Returns
    -------
    dict
        ``pearson``, ``spearman`` and ``rmse`` (in the unit of the values).

    Raises
    ------
    EvaluationError
        Lengths differ, a value is not finite, or one side is constant: then there is no correlation.
    """
    from scipy.stats import pearsonr, spearmanr

    predicted_N, measured_N = _pair(predicted_N, measured_N, "tests.reference.response.continuous")
    for name, values in (("predicted", predicted_N), ("measured", measured_N)):
        if not np.ptp(values):
            raise EvaluationError(
                f"all {len(values)} {name} values are {values[0]:g}",
                wanted="two different values or more: a constant has no correlation",
                where="tests.reference.response.continuous",
                fix="look at the prediction, or file an absence",
            )
    return {
        "pearson": float(pearsonr(predicted_N, measured_N).statistic),
        "spearman": float(spearmanr(predicted_N, measured_N).statistic),
        "rmse": float(np.sqrt(np.mean((predicted_N - measured_N) ** 2))),
    }


def over_folds(folds: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """Plain mean of each metric over folds.

    Parameters
    ----------
    folds
        Fold to its metrics, from `binary` or `continuous`.

    Raises
    ------
    EvaluationError
        There is no fold, or a fold lacks a metric: a mean over an incomplete set does not exist.
    """
    names = {name for metrics in folds.values() for name in metrics}
    lacking = [f"{name} of fold {fold}" for fold, metrics in folds.items() for name in sorted(names - set(metrics))]
    if not names or lacking:
        raise EvaluationError(
            f"no {lacking[0]}" if lacking else "no fold",
            wanted="every metric of every fold",
            where="tests.reference.response.over_folds",
            fix="measure what is missing",
        )
    return {name: float(np.mean([metrics[name] for metrics in folds.values()])) for name in sorted(names)}


def definitions() -> dict[str, str]:
    """One line a metric."""
    sklearn, scipy = package("scikit-learn"), package("scipy")
    return {
        "auroc": f"area under the ROC curve (sklearn.metrics.roc_auc_score, {sklearn})",
        "average_precision": "sum of precision times rise of recall over thresholds, not the trapezoid "
        f"(sklearn.metrics.average_precision_score, {sklearn})",
        "pearson": f"Pearson correlation of predicted and measured values (scipy.stats.pearsonr, {scipy})",
        "spearman": f"Spearman correlation, ties at their mean rank (scipy.stats.spearmanr, {scipy})",
        "rmse": "root of the mean squared difference, in the unit of the values (numpy)",
    }


LOWER_IS_BETTER = ("rmse",)
"""Metrics that are better when lower."""


def _pair(x_N: np.ndarray, y_N: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    x_N, y_N = np.asarray(x_N, dtype=np.float64), np.asarray(y_N, dtype=np.float64)
    if x_N.ndim != 1 or x_N.shape != y_N.shape or len(x_N) < 2:
        raise EvaluationError(
            f"shapes {x_N.shape} and {y_N.shape}", wanted="two vectors of one length, 2 or more", where=where,
            fix="bring both into one order",
        )  # fmt: skip
    if not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        bad = int((~np.isfinite(x_N) | ~np.isfinite(y_N)).sum())
        raise EvaluationError(
            f"{bad} of {len(x_N)} pairs are not finite",
            wanted="numbers",
            where=where,
            fix="leave them out and say so",
        )
    return x_N, y_N
