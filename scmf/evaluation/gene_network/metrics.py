"""How well weights of edges agree with a network: AUROC, AUPRC in both forms, early precision ratio.

The universe of pairs decides these numbers as much as the weights do, so it is part of the function. Lives here: the
universe, the formulas, and their fast form for draws of regulators. Lives elsewhere: the benchmark (gene_network), the
networks (truth).

Array legend: R regulators, T targets, P pairs of the universe, K groups of pairs with the same weight, from the largest
weight down; a matrix (R, T) holds one entry a pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.errors import EvaluationError

COLUMNS = ("regulator", "target", "weight")


def weight_matrix(edges: Mapping[str, Any] | pd.DataFrame, regulators: list[str], targets: list[str]) -> np.ndarray:
    """|weight| of every pair, float64 (R, T): 0 where there is no edge, the largest of several.

    Parameters
    ----------
    edges
        Columns ``regulator``, ``target``, ``weight``; or a data frame without any of them, which is a matrix of
        weights: regulators are its index, targets its columns.

    Raises
    ------
    EvaluationError
        A column is missing or a weight is not a finite number.
    """
    is_matrix = isinstance(edges, pd.DataFrame) and not set(COLUMNS) & set(edges.columns)
    if not is_matrix and (lost := [name for name in COLUMNS if name not in edges]):
        raise EvaluationError(
            f"edges without {lost[0]!r}", wanted="regulator, target, weight; or a data frame, regulators by targets",
            where="gene network",
        )  # fmt: skip
    given = edges if is_matrix else edges["weight"]
    try:
        weights = np.abs(np.asarray(given, np.float64))
    except (TypeError, ValueError) as error:
        raise EvaluationError("weights that are no numbers", wanted="finite numbers", where="gene network") from error
    if not np.isfinite(weights).all():
        raise EvaluationError("weights that are not finite", wanted="finite numbers", where="gene network")
    row, column = {name: i for i, name in enumerate(regulators)}, {name: i for i, name in enumerate(targets)}
    matrix = np.zeros((len(regulators), len(targets)))
    if isinstance(edges, pd.DataFrame) and is_matrix:
        i, j = _numbers(row, edges.index), _numbers(column, edges.columns)
        np.maximum.at(matrix, np.ix_(i[i >= 0], j[j >= 0]), weights[np.ix_(i >= 0, j >= 0)])
        return matrix
    i, j = _numbers(row, edges["regulator"]), _numbers(column, edges["target"])
    known = (i >= 0) & (j >= 0)
    np.maximum.at(matrix, (i[known], j[known]), weights[known])
    return matrix


def _numbers(number: Mapping[str, int], names: Any) -> np.ndarray:
    """Number of each name, int64; -1 for a name without one."""
    return np.array([number.get(str(name), -1) for name in names], np.int64)


def pairs_of(regulators: list[str], targets: list[str]) -> np.ndarray:
    """The universe, bool (R, T): every pair but a gene with itself."""
    return np.asarray(regulators)[:, None] != np.asarray(targets)[None]


def edge_scores(weights: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """All metrics of the pairs of a universe.

    Parameters
    ----------
    weights
        Score of each pair (P,), 0 or more; larger is more likely an edge, 0 is no weight.
    truth
        Whether the pair is an edge, bool (P,).

    Returns
    -------
    dict
        ``auroc``; ``auprc_trapezoid`` (BEELINE: area under the precision-recall points by the trapezoid rule, which
        gives constant weights more than chance); ``average_precision`` (the step-wise sum); ``auprc_ratio`` (average
        precision over edge density); ``epr`` (precision among the top k pairs, k the number of edges, all pairs that
        tie with the k-th included and pairs without a weight left out, over edge density; 1 where no pair has a
        weight: all tie). Empty where there is no edge or nothing else.
    """
    order = np.argsort(-weights, kind="stable")
    ranked, hit = weights[order], truth[order].astype(np.int64)
    last = _ends_of_ties(ranked)
    return _scores(np.cumsum(hit)[last], last + 1, int(np.count_nonzero(ranked)))


class RegulatorDraws:
    """Metrics of regulators drawn with replacement, as `edge_scores` of their pairs; pairs are sorted once.

    Parameters
    ----------
    weights
        |weight| of each pair (R, T).
    is_edge, universe
        Whether a pair is an edge, and whether it counts, bool (R, T).
    """

    def __init__(self, weights: np.ndarray, is_edge: np.ndarray, universe: np.ndarray) -> None:
        flat = weights[universe]
        order = np.argsort(-flat, kind="stable")
        ranked = flat[order]
        self._n_regulators = len(weights)
        self._regulator_P = np.nonzero(universe)[0][order]
        self._hit_P = is_edge[universe][order]
        self._last_K = _ends_of_ties(ranked)
        self._n_weighted = int(np.count_nonzero(ranked))

    def __call__(self, drawn: np.ndarray) -> dict[str, float]:
        """Metrics of the regulators ``drawn``, int (n,); one that stands there twice counts twice."""
        times_P = np.bincount(drawn, minlength=self._n_regulators)[self._regulator_P]
        taken, found = np.cumsum(times_P)[self._last_K], np.cumsum(times_P * self._hit_P)[self._last_K]
        some = np.diff(taken, prepend=0) > 0  # groups of pairs of which some were drawn
        return _scores(found[some], taken[some], int(times_P[: self._n_weighted].sum()))


def _ends_of_ties(ranked: np.ndarray) -> np.ndarray:
    """Place of the last pair of each group of equal weights, int (K,), of weights from the largest down."""
    return np.flatnonzero(np.diff(ranked, append=-np.inf) != 0)


def _scores(found: np.ndarray, taken: np.ndarray, n_weighted: int) -> dict[str, float]:
    """Metrics from how many edges and how many pairs have at least the weight of each group, int (K,)."""
    n_edges, n_pairs = (int(found[-1]), int(taken[-1])) if len(taken) else (0, 0)
    if n_edges in (0, n_pairs):
        return {}
    precision, recall, false_rate = found / taken, found / n_edges, (taken - found) / (n_pairs - n_edges)
    recall_0, precision_0 = np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision])
    density = n_edges / n_pairs
    # a pair without a weight is no prediction: as BEELINE, the top ones stop where the weights do
    top = int(np.searchsorted(taken, min(n_edges, n_weighted or n_pairs)))
    average = float(np.sum(np.diff(recall_0) * precision))
    return {
        "auroc": float(np.trapezoid(recall_0, np.concatenate([[0.0], false_rate]))),
        "auprc_trapezoid": float(np.trapezoid(precision_0, recall_0)),
        "average_precision": average,
        "auprc_ratio": average / density,
        "epr": float(precision[top] / density),
    }
