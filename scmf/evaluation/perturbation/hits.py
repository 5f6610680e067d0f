"""Hit discovery at a budget: how many perturbations with the largest effect on a gene a predicted ranking finds.

Lives here: hits and their recall. Definitions: perturb-hd 0.1.0.

Array legend: P perturbations, G read-out genes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TOP_SHARE, BUDGETS, LEAST = 0.1, (0.05, 0.1, 0.2), 50
"""Share of perturbations that are hits, shares that are tested, fewest perturbations that are scored."""


def largest(effect_PG: np.ndarray, *, share: float = TOP_SHARE) -> np.ndarray:
    """Hits, bool (P, G): the largest share of the effects on each gene, one at least; equal ones of the last too."""
    count = max(1, int(np.floor(share * len(effect_PG))))
    return effect_PG >= np.sort(effect_PG, axis=0)[-count]


def recall_at(score_P: np.ndarray, hit_P: np.ndarray, budgets: Sequence[float] = BUDGETS) -> np.ndarray:
    """Share of the hits among the first ceil(budget x P) by score, (budgets,); equal scores share their hits.

    NaN where there is no hit.
    """
    n = len(score_P)
    if not hit_P.any():
        return np.full(len(budgets), np.nan)
    order = np.argsort(-score_P, kind="stable")
    _, of = np.unique(-score_P[order], return_inverse=True)
    share = np.bincount(of, weights=hit_P[order].astype(np.float64)) / np.bincount(of)
    found = np.concatenate([[0.0], np.cumsum(share[of])]) / hit_P.sum()
    places = np.minimum(np.ceil(np.asarray(budgets) * n).astype(int), n)
    return np.asarray(found[places])


def hit_recall(predicted_PG: np.ndarray, true_PG: np.ndarray) -> dict[str, float]:
    """``hit_recall_<percent>`` at each budget: mean over genes, increases and decreases apart; chance is the budget.

    Nothing for fewer than `LEAST` perturbations.
    """
    if len(true_PG) < LEAST:
        return {}
    rows = []
    for sign in (1, -1):
        hits = largest(sign * true_PG)
        rows += [recall_at(sign * predicted_PG[:, gene], hits[:, gene]) for gene in range(true_PG.shape[1])]
    means = np.nanmean(np.stack(rows), axis=0)
    return {f"hit_recall_{round(100 * budget)}": float(mean) for budget, mean in zip(BUDGETS, means, strict=True)}
