"""Four scores of the Virtual Cell Challenge 2026 on differential expression: direction, reach, overlap, size.

Lives here: the table of tests (`expression_tests`) and the scores of one perturbation on it. Lives elsewhere: the other
two scores (challenge_profiles), means, scaling (challenge_scale). Definitions: cell_eval2 0.20.0, preset ``vcc2026``.

Array legend: N, M cells, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

FDR, LEAST_MEAN, TINY = 0.05, 5.0, 1e-9
"""Threshold of significance; least mean of counts per million in control of a tested gene; pseudocount of means."""

REACH_SHARE, LEAST_GENES = 0.9, 10
"""Share of right signs that ``direction_reach`` asks for; fewest genes of ``lfc_nmae``."""


BLOCK = 4_000_000
"""Values sorted at a time."""


class Tested(NamedTuple):
    """Tests of all genes, float64 (G,); NaN where a gene is not tested."""

    fold: np.ndarray
    """log2 of (mean + 1e-9) / (control mean + 1e-9), of counts per million."""
    p: np.ndarray
    """Two-sided Mann-Whitney test, normal approximation, corrected for ties and continuity."""
    adjusted: np.ndarray
    """Benjamini-Hochberg over the tested genes."""

    @property
    def called(self) -> np.ndarray:
        """Which genes are significant, bool (G,)."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.adjusted < FDR)


def per_million(counts_NG: sp.csr_matrix) -> np.ndarray:
    """Counts / (total / 1e6), dense float64; in this order, since the other one breaks ties by rounding."""
    dense = counts_NG.toarray().astype(np.float64)
    totals = dense.sum(axis=1, keepdims=True) / 1e6
    return np.divide(dense, totals, out=np.zeros_like(dense), where=totals > 0)


def expression_tests(counts_NG: sp.csr_matrix, control_MG: sp.csr_matrix) -> Tested:
    """Tests of the cells of a perturbation against control cells, on genes that the control cells express."""
    from scipy.special import log1p  # the same digits on every machine, unlike that of numpy: ties hang on them
    from scipy.stats import false_discovery_control

    x, control = per_million(counts_NG), per_million(control_MG)
    mean_G = control.mean(axis=0)
    tested = np.flatnonzero(mean_G > LEAST_MEAN)
    fold, p, adjusted = (np.full(x.shape[1], np.nan) for _ in range(3))
    if not len(tested) or not len(x):
        return Tested(fold, p, adjusted)
    fold[tested] = np.log2((x[:, tested].mean(axis=0) + TINY) / (mean_G[tested] + TINY))
    p[tested] = mann_whitney(log1p(x[:, tested]), log1p(control[:, tested]))
    adjusted[tested] = false_discovery_control(np.clip(p[tested], 0, 1))
    adjusted[tested] = np.where(np.isnan(fold[tested]), 1.0, adjusted[tested])
    return Tested(fold, p, adjusted)


def mann_whitney(x_NG: np.ndarray, y_MG: np.ndarray) -> np.ndarray:
    """P value of the two-sided Mann-Whitney test of each gene, float64 (G,); 1 where all values are equal.

    Equal to ``scipy.stats.mannwhitneyu(method="asymptotic", use_continuity=True)``, which walks over genes one by one
    and takes hours where this takes minutes.
    """
    n, m = len(x_NG), len(y_MG)
    p = np.full(x_NG.shape[1], np.nan)
    step = max(1, BLOCK // max(n + m, 1))
    for start in range(0, x_NG.shape[1], step):
        block = slice(start, start + step)
        p[block] = _block(np.concatenate([x_NG[:, block], y_MG[:, block]]).T, n, m)
    return p


def _block(values_GN: np.ndarray, n: int, m: int) -> np.ndarray:
    from scipy.stats import norm

    count, total = values_GN.shape[0], n + m
    order = np.argsort(values_GN, axis=1)
    ordered = np.take_along_axis(values_GN, order, axis=1)
    first = np.ones((count, total), bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, count * total)).astype(np.float64)
    ranks = np.repeat(starts % total + (sizes + 1) / 2, sizes.astype(np.int64)).reshape(count, total)
    ties = np.bincount(starts // total, weights=sizes**3 - sizes, minlength=count)
    rank_sum = np.where(order < n, ranks, 0.0).sum(axis=1)
    u = rank_sum - n * (n + 1) / 2
    u = np.maximum(u, n * m - u)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(n * m / 12 * ((total + 1) - ties / (total * (total - 1))))
        z = (u - n * m / 2 - 0.5) / deviation
    p = np.clip(2 * norm.sf(z), 0, 1)
    return np.where(deviation > 0, p, 1.0)


def direction_scores(
    predicted: Tested, true: Tested, genes: np.ndarray, targets: Sequence[str], *, full: Sequence[Tested] = ()
) -> dict[str, float]:
    """The four scores of one perturbation; NaN where one is not defined.

    Parameters
    ----------
    predicted, true
        Tests of both sides.
    genes
        Names of the columns, which order equals.
    targets
        Perturbed genes: they count on no side, after the adjustment.
    full
        The table of all cells, whose genes and changes ``lfc_nmae`` is measured on; that of ``true`` if not given.
    """
    free = ~np.isin(genes, list(targets))
    wanted, called = true.called & free, predicted.called & free
    judged = np.isfinite(true.fold) & (true.fold != 0)
    with np.errstate(invalid="ignore"):
        right = judged & np.isfinite(predicted.fold) & (np.sign(predicted.fold) == np.sign(true.fold))
    calls = called & judged
    size, larger = int(wanted.sum()), max(int(calls.sum()), int(wanted.sum()))
    union = int((wanted | called).sum())
    return {
        "direction_fidelity": float((right & calls).sum() / larger) if larger else float("nan"),
        "direction_reach": _reach(predicted, wanted, judged, right, genes) / size if size else float("nan"),
        "sig_jaccard": float((wanted & called).sum() / union) if union else 1.0,
        "lfc_nmae": _fold_error(predicted, true, full[0] if full else true, free),
    }


def _reach(predicted: Tested, wanted: np.ndarray, judged: np.ndarray, right: np.ndarray, genes: np.ndarray) -> int:
    """How far the walk down the prediction's order goes with `REACH_SHARE` of the signs right."""
    walk = np.flatnonzero(wanted & judged & ~np.isnan(predicted.p))
    size = np.nan_to_num(np.abs(predicted.fold[walk]), nan=-np.inf, posinf=np.inf)
    keys = (genes[walk].astype(str), -size, predicted.p[walk], predicted.adjusted[walk], ~predicted.called[walk])
    hits = np.cumsum(right[walk[np.lexsort(keys)]])
    far = np.flatnonzero(hits / np.arange(1, len(hits) + 1) >= REACH_SHARE)
    return int(far[-1]) + 1 if len(far) else 0


def _fold_error(predicted: Tested, true: Tested, full: Tested, free: np.ndarray) -> float:
    """Error of log fold changes over their size, on the significant genes of ``full``."""
    scored = full.called & free & np.isfinite(full.fold)
    total = float(np.abs(full.fold[scored]).sum())
    if scored.sum() < LEAST_GENES or total == 0:
        return float("nan")
    guess, fold = (np.where(np.isfinite(side.fold), side.fold, 0.0)[scored] for side in (predicted, true))
    return float(np.abs(guess - fold).sum()) / total
