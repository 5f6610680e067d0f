"""Label transfer: test cells with labels that no training cell has are counted and told apart, not hidden.

Between studies and data sets some cell types of the test cells are new. A probe cannot name them; it can be unsure. So
the scores of labels that were seen stand beside the share of cells that were not, and beside how well the probe's
certainty tells the two apart. Lives elsewhere: the probes (annotation), scores of labels (label_scores).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.annotation.label_scores import definitions, score
from scmf.evaluation.annotation.metric_table import METRICS
from scmf.evaluation.annotation.units import Units
from scmf.evaluation.uncertainty import bootstrap, bootstrap_labels
from scmf.results.score import Interval


@dataclass(frozen=True)
class Found:
    """Metrics with their definitions and intervals, and what is listed instead of intervals."""

    metrics: dict[str, float]
    definitions: dict[str, str]
    intervals: dict[str, Interval]
    details: dict[str, Any] = field(default_factory=dict)


def check_some_seen(truth: CellLabels) -> None:
    """Raise `EvaluationError` when no test cell has a label of the training cells."""
    if sum(truth.unseen().values()) == len(truth.rows("test")):
        raise EvaluationError(
            f"no label of the test cells among the training cells: {', '.join(truth.unseen())}",
            wanted="some labels on both sides, spelled alike",
            where="data.split, data.label_key",
            fix="map the labels of both data sets to one vocabulary",
        )


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
        Donors of the test cells (N,) to draw for intervals, empty where nobody knows; None draws cells.

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
    every = Units.of(donors, len(true))
    intervals = every.among(seen).intervals(partial(_labels, predicted[seen], true[seen]))
    drawn = every.intervals(partial(_labels, right, np.ones_like(right)))
    intervals |= {"accuracy_all": drawn["accuracy"]} if drawn else {}
    if certainty is not None and not seen.all():
        doubt = 1 - certainty
        metrics["unseen_detection_auroc"] = auroc(doubt, ~seen)
        lines |= METRICS.definitions(("unseen_detection_auroc",))

        def told_apart(rows: np.ndarray, groups: np.ndarray | None, unit: str) -> dict[str, Interval]:
            return bootstrap(
                lambda drawn: {"unseen_detection_auroc": auroc(doubt[rows[drawn]], ~seen[rows[drawn]])},
                len(rows) if groups is None else groups,
                unit=unit,
            )

        intervals |= every.intervals(told_apart)
    listed = every.listed(lambda rows: _both(predicted[rows], true[rows], seen[rows]))
    return Found(metrics, lines, intervals, listed)


def plain(predicted: np.ndarray, true: np.ndarray, *, donors: np.ndarray | None) -> Found:
    """Metrics of predicted labels of test cells (N,), all of which some training cell has; see `report`."""
    units = Units.of(donors, len(true))
    listed = units.listed(lambda rows: score(predicted[rows], true[rows]))
    drawn = units.intervals(partial(_labels, predicted, true))
    return Found(score(predicted, true), definitions(), drawn, listed)


def _labels(
    predicted: np.ndarray, true: np.ndarray, rows: np.ndarray, groups: np.ndarray | None, unit: str
) -> dict[str, Interval]:
    return bootstrap_labels(predicted[rows], true[rows], groups=groups, unit=unit)


def _both(predicted: np.ndarray, true: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Scores of the seen labels where there are some, and of all."""
    found = score(predicted[seen], true[seen]) if seen.any() else {}
    return found | {"accuracy_all": float((predicted == true).mean())}
