"""How well weights of edges agree with a network: AUROC, AUPRC in both forms, early precision ratio.

The universe of pairs decides these numbers as much as the weights do, so it is part of the function. Lives here: the
universe and the formulas. Lives elsewhere: the benchmark (gene_network), the networks (network_truth).

Array legend: R regulators, T targets; a matrix (R, T) holds one entry a pair.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scmf.errors import EvaluationError


def weight_matrix(edges: Mapping[str, np.ndarray], regulators: list[str], targets: list[str]) -> np.ndarray:
    """|weight| of every pair, float64 (R, T): 0 where there is no edge, the largest of several.

    Parameters
    ----------
    edges
        Columns ``regulator``, ``target``, ``weight`` (a data frame will do).

    Raises
    ------
    EvaluationError
        A column is missing or a weight is not finite.
    """
    if lost := [name for name in ("regulator", "target", "weight") if name not in edges]:
        raise EvaluationError(f"edges without {lost[0]!r}", wanted="regulator, target, weight", where="gene network")
    weights = np.abs(np.asarray(edges["weight"], np.float64))
    if not np.isfinite(weights).all():
        raise EvaluationError("weights that are not finite", wanted="finite numbers", where="gene network")
    row, column = {name: i for i, name in enumerate(regulators)}, {name: i for i, name in enumerate(targets)}
    i = np.array([row.get(str(name), -1) for name in edges["regulator"]], np.int64)
    j = np.array([column.get(str(name), -1) for name in edges["target"]], np.int64)
    known = (i >= 0) & (j >= 0)
    matrix = np.zeros((len(regulators), len(targets)))
    np.maximum.at(matrix, (i[known], j[known]), weights[known])
    return matrix


def pairs_of(regulators: list[str], targets: list[str]) -> np.ndarray:
    """The universe, bool (R, T): every pair but a gene with itself."""
    return np.asarray(regulators)[:, None] != np.asarray(targets)[None]


def edge_scores(weights: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """All metrics of the pairs of a universe.

    Parameters
    ----------
    weights
        Score of each pair (P,), larger is more likely an edge.
    truth
        Whether the pair is an edge, bool (P,).

    Returns
    -------
    dict
        ``auroc``; ``auprc_trapezoid`` (BEELINE: area under the precision-recall points by the trapezoid rule);
        ``average_precision`` (the step-wise sum); ``auprc_ratio`` (average precision over edge density); ``epr``
        (precision among the top k pairs, k the number of edges, all pairs that tie with the k-th included and pairs
        without a weight left out, over edge density). Empty where there is no edge or nothing else.
    """
    n_edges, n_pairs = int(truth.sum()), len(truth)
    if n_edges in (0, n_pairs):
        return {}
    order = np.argsort(-weights, kind="stable")
    ranked, hit = weights[order], truth[order].astype(np.float64)
    last = np.flatnonzero(np.diff(ranked, append=-np.inf) != 0)  # the last pair of each group of ties
    found = np.cumsum(hit)[last]
    taken = last + 1.0
    precision, recall, false_rate = found / taken, found / n_edges, (taken - found) / (n_pairs - n_edges)
    recall_0, precision_0 = np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision])
    density = n_edges / n_pairs
    # a pair without a weight is no prediction: as BEELINE, the top ones stop where the weights do
    weighted = int((weights > 0).sum()) or n_pairs
    top = int(np.searchsorted(taken, min(n_edges, weighted)))
    average = float(np.sum(np.diff(recall_0) * precision))
    return {
        "auroc": float(np.trapezoid(recall_0, np.concatenate([[0.0], false_rate]))),
        "auprc_trapezoid": float(np.trapezoid(precision_0, recall_0)),
        "average_precision": average,
        "auprc_ratio": average / density,
        "epr": float(precision[top] / density),
    }


def definitions(*, universe: str) -> dict[str, str]:
    """One line a metric, with the universe of pairs."""
    return {
        "auroc": f"area under the ROC curve over {universe}; a pair without a weight has 0",
        "auprc_trapezoid": f"area under the precision-recall points by the trapezoid rule (as BEELINE 3746408) over "
        f"{universe}",
        "average_precision": f"average precision, sum of precision times step of recall (as scikit-learn) over "
        f"{universe}",
        "auprc_ratio": f"average precision over the share of true pairs, over {universe}; 1 is chance",
        "epr": "early precision ratio: precision among as many top pairs as there are true ones, ties included and "
        "pairs without a weight left out, over the share of true pairs (as BEELINE 3746408), "
        f"over {universe}; 1 is chance",
    }
