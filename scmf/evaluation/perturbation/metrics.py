"""Metrics of one predicted perturbation: a predicted mean profile against the true one, both against the control.

Lives here: each formula with its source; the differentially expressed genes of the truth. Lives elsewhere: metrics that
need all perturbations at once (ranks), distances between sets of cells (energy_distance), means over
perturbations and intervals (benchmark).

Array legend: G genes, N cells.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from scmf.evaluation.perturbation.welch import moments, welch

TOP_DE, TOP_EXPRESSED = 20, 1000
PSEUDOCOUNT = 0.1
"""Added to means before the logarithm, as PerturBench does."""


def pearson(x_G: np.ndarray, y_G: np.ndarray) -> float:
    """Pearson correlation; 0 where one side does not vary, as GEARS counts what is not a number."""
    x, y = x_G - x_G.mean(), y_G - y_G.mean()
    size = np.sqrt((x @ x) * (y @ y))
    # A constant profile leaves rounding behind: no correlation comes of it.
    flat = min(np.abs(x).max(initial=0.0), np.abs(y).max(initial=0.0)) < 1e-12
    return 0.0 if flat or size == 0 else float(np.clip((x @ y) / size, -1, 1))


def cosine(x_G: np.ndarray, y_G: np.ndarray) -> float:
    """Cosine of the angle; 0 where one side is zero."""
    size = np.linalg.norm(x_G) * np.linalg.norm(y_G)
    return 0.0 if size < 1e-12 else float(np.clip((x_G @ y_G) / size, -1, 1))


def spearman_brown(r: float) -> float:
    """Correlation of two full sets of cells from that of two halves, 2r / (1 + r); NaN for r of 0 and below.

    A perfect prediction of the expectation would reach its square root. Correlations alone are corrected: ranks and
    overlaps have a chance level other than 0.
    """
    return 2 * r / (1 + r) if r > 0 else float("nan")


def log_fold_change(mean_G: np.ndarray, control_G: np.ndarray) -> np.ndarray:
    """log2(mean + 0.1) - log2(control + 0.1) of mean log-normalized expression, float64 (G,), as PerturBench."""
    return np.log2(np.maximum(mean_G, 0) + PSEUDOCOUNT) - np.log2(np.maximum(control_G, 0) + PSEUDOCOUNT)


def profile_metrics(
    predicted_G: np.ndarray,
    true_G: np.ndarray,
    control_G: np.ndarray,
    *,
    de: np.ndarray,
    expressed: np.ndarray | None = None,
    nondropout: np.ndarray | None = None,
) -> dict[str, float]:
    """All metrics of one pair; see `scmf.evaluation.perturbation.metric_table`.

    Parameters
    ----------
    predicted_G, true_G, control_G
        Mean log-normalized expression, float64 (G,). The control is that of the truth.
    de
        Columns of the top differentially expressed genes of the truth.
    expressed
        Columns of the genes most expressed in the control cells of the truth; None where they are all genes.
    nondropout
        Columns of the top genes without dropouts; None where they are not known.
    """
    error, delta, wanted = predicted_G - true_G, predicted_G - control_G, true_G - control_G
    fold, true_fold = log_fold_change(predicted_G, control_G), log_fold_change(true_G, control_G)
    found = {
        "pearson": pearson(predicted_G, true_G),
        "pearson_delta": pearson(delta, wanted),
        "pearson_top20": pearson(predicted_G[de], true_G[de]),
        "pearson_delta_top20": pearson(delta[de], wanted[de]),
        "cosine_logfc": cosine(fold, true_fold),
        "mse": float(np.mean(error**2)),
        "mse_top20": float(np.mean(error[de] ** 2)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
    }
    if expressed is not None:
        found["pearson_delta_top1000"] = pearson(delta[expressed], wanted[expressed])
        found["l2_top1000"] = float(np.linalg.norm(error[expressed]))
    if nondropout is not None:
        found["pearson_delta_top20_nondropout"] = pearson(delta[nondropout], wanted[nondropout])
        found["mse_top20_nondropout"] = float(np.mean(error[nondropout] ** 2))
    return found


def top_de(perturbed: sp.csr_matrix, control: sp.csr_matrix, genes: np.ndarray, count: int = TOP_DE) -> np.ndarray:
    """Columns of the ``count`` genes with the largest |t|, largest first; equal ones by name.

    Welch's t with the overestimated variance of scanpy (``method="t-test_overestim_var"``): the control enters with the
    number of perturbed cells.
    """
    n = perturbed.shape[0]
    mean, variance = _moments(perturbed)
    other, other_variance = _moments(control)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (mean - other) / np.sqrt(variance / n + other_variance / n)
    # Equal constants leave rounding behind: over a variance of 0 it would be the largest t of all.
    t = np.where(np.abs(mean - other) > 1e-12 * (np.abs(mean) + np.abs(other)), np.abs(t), 0.0)
    t = np.nan_to_num(t, nan=0.0, posinf=float(np.finfo(np.float32).max))
    return _largest(t, genes, count)


def top_nondropout(
    perturbed: sp.csr_matrix, control: sp.csr_matrix, genes: np.ndarray, count: int = TOP_DE
) -> np.ndarray:
    """Columns of the ``count`` genes with the largest |t| (Welch) among those that are no dropouts, largest first.

    No dropout: a gene that perturbed cells express, or that neither they nor control cells do (GEARS f374e43).
    """
    mine, other = moments(perturbed), moments(control)
    kept = np.flatnonzero((mine.mean != 0) | (other.mean == 0))
    return kept[_largest(np.abs(welch(mine, other).t)[kept], genes[kept], count)]


def most_expressed(control_G: np.ndarray, genes: np.ndarray, count: int = TOP_EXPRESSED) -> np.ndarray | None:
    """Columns of the ``count`` genes most expressed in control, equal ones by name; None if there are no more."""
    return _largest(control_G, genes, count) if len(genes) > count else None


def _largest(values: np.ndarray, genes: np.ndarray, count: int) -> np.ndarray:
    """Largest first; what differs by rounding alone is equal, so that the order of cells and genes decides nothing."""
    return np.lexsort((genes, -np.round(values, 9)))[:count]


def _moments(x: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of each column, float64 (G,)."""
    n = x.shape[0]
    x = x.astype(np.float64)
    mean = np.asarray(x.mean(axis=0)).ravel()
    squared = np.asarray(x.multiply(x).mean(axis=0)).ravel()
    return mean, np.maximum(squared - mean**2, 0) * (n / max(n - 1, 1))
