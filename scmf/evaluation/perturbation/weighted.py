"""Metrics of one predicted profile that need weights or tests of genes: weighted error and R2, signs, overlap of genes.

Lives here: the formulas. Lives elsewhere: weights and tests (welch), metrics without them (metrics), ranks (midranks).

Array legend: G genes, P perturbations.
"""

from __future__ import annotations

import numpy as np

from scmf.evaluation.perturbation.challenge_profiles import spread

LEAST_GENES, TOP = 10, 20
"""Fewest significant genes whose signs are scored; genes of the overlap."""


def weighted_mse(predicted_G: np.ndarray, true_G: np.ndarray, weights_G: np.ndarray) -> float:
    """``wmse``: sum of weighted squared errors (Mejia 2025; scperteval 0.2.0, ``wmse_exp2``)."""
    return float((weights_G * (predicted_G - true_G) ** 2).sum())


def weighted_r2(predicted_G: np.ndarray, true_G: np.ndarray, weights_G: np.ndarray) -> float:
    """Weighted R2 of changes: 1 is perfect, at most 0 for a constant, unbounded below; NaN where nothing varies."""
    mean = float((weights_G * true_G).sum() / weights_G.sum())
    total = float((weights_G * (true_G - mean) ** 2).sum())
    return 1 - float((weights_G * (true_G - predicted_G) ** 2).sum()) / total if total > 0 else float("nan")


def weighted_pearson(predicted_G: np.ndarray, true_G: np.ndarray, weights_G: np.ndarray) -> float:
    """Weighted Pearson correlation; NaN where a side does not vary (Vollenweider and Buehlmann 2026)."""
    x, y = predicted_G - (weights_G * predicted_G).sum(), true_G - (weights_G * true_G).sum()
    size = float((weights_G * x**2).sum() * (weights_G * y**2).sum())
    return float((weights_G * x * y).sum() / np.sqrt(size)) if size > 0 else float("nan")


def sign_accuracy(predicted_G: np.ndarray, true_G: np.ndarray, significant_G: np.ndarray) -> float:
    """Share of significant genes whose change has the right sign; no change is wrong; NaN for fewer than ten genes."""
    if significant_G.sum() < LEAST_GENES:
        return float("nan")
    right = (np.sign(predicted_G) == np.sign(true_G)) & (predicted_G != 0)
    return float(right[significant_G].mean())


def overlap(predicted_G: np.ndarray, t_G: np.ndarray, genes: np.ndarray, *, count: int = TOP) -> float:
    """Share of the genes with the largest |t| of the truth among those with the largest predicted change."""
    if count >= len(genes):
        return float("nan")
    mine, true = (np.lexsort((genes, -np.round(np.abs(values), 9)))[:count] for values in (predicted_G, t_G))
    return len(np.intersect1d(mine, true)) / count


def mse_ratio(
    predicted_PG: np.ndarray,
    true_PG: np.ndarray,
    control_PG: np.ndarray,
    *,
    noise_hat_P: np.ndarray,
    noise_P: np.ndarray,
    control_noise_P: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Terms (P,) whose ratio of sums is ``mse_ratio``: 0 is perfect, 1 is the control; noise is taken off both.

    Parameters
    ----------
    predicted_PG, true_PG, control_PG
        Mean log-normalized expression.
    noise_hat_P
        Sampling variance of predicted cells, 0 for a predicted profile. It counts at most as much as that of the truth,
        and in all at most as much as the predictions differ from each other.
    noise_P, control_noise_P
        Sampling variance of the truth and of the control mean.
    """
    capped = np.minimum(noise_hat_P, noise_P)
    claim = float(capped.sum())
    every = np.ones(predicted_PG.shape, bool)
    budget = spread(predicted_PG, every) * predicted_PG.shape[1]
    share = min(1.0, budget / claim) if claim > 0 else 1.0
    numerator = ((predicted_PG - true_PG) ** 2).sum(axis=1) - noise_P - share * capped
    return numerator, ((true_PG - control_PG) ** 2).sum(axis=1) - noise_P - control_noise_P
