"""Welch's t of every gene, and the weights that follow from it: which genes a perturbation changes.

Lives here: moments of cells, the test, weights. Lives elsewhere: metrics with these weights (weighted), the genes with
the largest t of scanpy's overestimated variance (metrics).

Array legend: G genes, N cells.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp


class Moments(NamedTuple):
    """Mean and unbiased variance of each gene, float64 (G,), and the number of cells."""

    mean: np.ndarray
    variance: np.ndarray
    n: int

    @property
    def noise(self) -> float:
        """Sampling variance of the mean profile, summed over genes; 0 for fewer than two cells."""
        return float(self.variance.sum() / self.n) if self.n > 1 else 0.0


class Welch(NamedTuple):
    """Test of each gene, float64 (G,); a gene without any variance has t = 0 and p = 1."""

    t: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray
    """Benjamini-Hochberg."""


def moments(x_NG: Any) -> Moments:
    """Moments of cells, sparse or dense; the variance as a mean of squares about the mean of the cells."""
    n = x_NG.shape[0]
    if sp.issparse(x_NG):
        x = sp.csr_matrix(x_NG, dtype=np.float64)
        mean = np.asarray(x.mean(axis=0)).ravel()
        filled = x.getnnz(axis=0)
        off = x.copy()
        off.data = (x.data - mean[x.indices]) ** 2
        squares = np.asarray(off.sum(axis=0)).ravel() + (n - filled) * mean**2
    else:
        dense = np.asarray(x_NG, np.float64)
        mean = dense.mean(axis=0)
        squares = ((dense - mean) ** 2).sum(axis=0)
    return Moments(mean, squares / max(n - 1, 1), n)


def pooled(parts: list[Moments]) -> Moments:
    """Moments of all cells of several sets together."""
    n = sum(part.n for part in parts)
    mean = np.sum([part.n * part.mean for part in parts], axis=0) / n
    squares = np.sum([(part.n - 1) * part.variance + part.n * (part.mean - mean) ** 2 for part in parts], axis=0)
    return Moments(mean, squares / max(n - 1, 1), n)


def welch(a: Moments, b: Moments) -> Welch:
    """Welch's t-test of two sets of cells."""
    from scipy.stats import false_discovery_control
    from scipy.stats import t as student

    one, other = a.variance / a.n, b.variance / b.n
    error = one + other
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (a.mean - b.mean) / np.sqrt(error)
        freedom = error**2 / (one**2 / max(a.n - 1, 1) + other**2 / max(b.n - 1, 1))
    t = np.nan_to_num(t, nan=0.0, posinf=0.0, neginf=0.0)
    freedom = np.where(np.isfinite(freedom) & (freedom > 0), freedom, 1.0)
    p = np.clip(np.nan_to_num(2 * student.sf(np.abs(t), freedom), nan=1.0), 0, 1)
    return Welch(t, p, false_discovery_control(p))


def gene_weights(t_G: np.ndarray, *, exponent: float = 2.0) -> np.ndarray:
    """Weights of genes that add up to 1: |t| taken to [0, 1], to a power; alike where all are equal (Mejia 2025).

    What is not finite weighs 0.
    """
    size = np.abs(t_G)
    finite = np.isfinite(size)
    if not finite.any():
        return np.full(len(size), 1 / len(size))
    low, high = size[finite].min(), size[finite].max()
    weights = np.nan_to_num((size - low) / (high - low), nan=0.0) ** exponent if high > low else np.zeros(len(size))
    weights = np.where(finite, weights, 0.0)
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(size), 1 / len(size))
