"""Label transfer: test cells with labels that no training cell has are counted and told apart, not hidden.

Between studies and data sets some cell types of the test cells are new. A probe cannot name them; it can be unsure. So
the scores of labels that were seen stand beside the share of cells that were not, and beside how well the probe's
certainty tells the two apart. Lives elsewhere: the probes (annotation), scores of labels (label_scores).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.annotation.label_scores import definitions, score
from scmf.evaluation.annotation.metric_table import METRICS
from scmf.evaluation.uncertainty import bootstrap, bootstrap_labels
from scmf.results.score import Interval


@dataclass(frozen=True)
class Found:
    """Metrics with their definitions and intervals."""

    metrics: dict[str, float]
    definitions: dict[str, str]
    intervals: dict[str, Interval]


def check_some_seen(truth: CellLabels) -> None:
    """Raise `EvaluationError` when no test cell has a label of the training cells."""
    if sum(truth.unseen().values()) == len(truth.rows("test")):
        raise EvaluationError(
            f"no label of the test cells among the training cells: {', '.join(truth.unseen())}",
            wanted="some labels on both sides, spelled alike",
            where="data.split, data.label_key",
            fix="map the labels of both data sets to one vocabulary",
        )


def units(donors: np.ndarray | None) -> np.ndarray | None:
    """Donors (N,), to draw whole ones; None, to draw cells, where there are not two."""
    return None if donors is None or len(np.unique(donors)) < 2 else donors


def unit(groups: np.ndarray | None) -> str:
    """Word for what is drawn."""
    return "cells" if groups is None else "donors"


def auroc(score_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative, ties half (Mann and Whitney); NaN without both.

    Parameters
    ----------
    score_N
        Higher for positives.
    positive_N
        bool (N,).
    """
    from scipy.stats import rankdata

    n_positive = int(positive_N.sum())
    n_negative = len(positive_N) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(score_N)[positive_N].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def report(
    predicted: np.ndarray,
    true: np.ndarray,
    trained: np.ndarray,
    *,
    certainty: np.ndarray | None,
    donors: np.ndarray | None,
) -> Found:
    """Metrics of predicted labels of test cells, some of which no probe could name.

    Parameters
    ----------
    predicted, true
        Labels of the test cells, str (N,).
    trained
        Labels of the training cells.
    certainty
        Largest probability (or share of votes) of each test cell (N,); None where there is none.
    donors
        Donors of the test cells (N,) to draw for intervals; None draws cells.

    Returns
    -------
    Found
        ``accuracy`` and ``macro_f1`` of cells with a seen label, ``accuracy_all`` in which unseen cells count as wrong,
        ``unseen_share``, and ``unseen_detection_auroc`` where there are unseen cells and a certainty.
    """
    seen = np.isin(true, trained)
    right = (predicted == true).astype(float)
    metrics = score(predicted[seen], true[seen])
    metrics |= {"accuracy_all": float(right.mean()), "unseen_share": float((~seen).mean())}
    base = definitions()
    lines = {name: f"among test cells whose label some training cell has: {base[name]}" for name in base}
    lines |= METRICS.definitions(("accuracy_all", "unseen_share"))
    intervals: dict[str, Interval] = {}
    of_seen, of_all = units(None if donors is None else donors[seen]), units(donors)
    if seen.sum() > 1:
        intervals |= bootstrap_labels(predicted[seen], true[seen], groups=of_seen, unit=unit(of_seen))
    if len(true) > 1:
        drawn = bootstrap_labels(right, np.ones_like(right), groups=of_all, unit=unit(of_all))
        intervals["accuracy_all"] = drawn["accuracy"]
    if certainty is not None and not seen.all():
        doubt = 1 - certainty
        metrics["unseen_detection_auroc"] = auroc(doubt, ~seen)
        lines |= METRICS.definitions(("unseen_detection_auroc",))
        intervals |= bootstrap(
            lambda rows: {"unseen_detection_auroc": auroc(doubt[rows], ~seen[rows])},
            len(true) if of_all is None else of_all,
            unit=unit(of_all),
        )
    return Found(metrics, lines, intervals)
