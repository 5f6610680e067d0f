"""Metrics that look at all perturbations at once: whether the right one is recognized, its genes found.

The ranks of PerturBench and the scores of the Virtual Cell Challenge (PDS, DES and what is made of them with MAE). The
two ranks run in opposite directions: 0 is best for PerturBench, 1 for PDS. Lives elsewhere: metrics of one perturbation
(metrics).

Array legend: P perturbations, G genes, N cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scmf.evaluation.perturbation.midranks import TIE, cosine_distances

FDR = 0.05


def perturbench_rank(predicted_PG: np.ndarray, true_PG: np.ndarray, *, similarity: str) -> np.ndarray:
    """Share of predictions that lie nearer to the truth of a perturbation than its own prediction does, (P,).

    0 is best, (P - 1) / 2P is chance: .25 for two perturbations. Equal ones count half, which is what PerturBench's
    shuffling gives on average; predictions that are equal stay so, whatever a matrix product rounds.

    Parameters
    ----------
    predicted_PG, true_PG
        Profiles, one row a perturbation in the same order.
    similarity
        ``cosine`` (larger is nearer) or ``rmse`` (smaller is nearer).

    Notes
    -----
    Source: altoslabs/perturbench d357daf, `analysis/benchmarks/metrics.py`: columns are true, rows predicted profiles.
    """
    if similarity == "cosine":
        far_PP = cosine_distances(predicted_PG, true_PG)
    else:
        far_PP = np.stack([np.sqrt(np.mean((predicted_PG - row) ** 2, axis=1)) for row in true_PG], axis=1)
    return np.array([_seat(far_PP[:, column], column) for column in range(len(true_PG))])


def discrimination(
    predicted_PG: np.ndarray, true_PG: np.ndarray, genes: np.ndarray, targets: Sequence[Sequence[str]]
) -> np.ndarray:
    """Perturbation discrimination score (PDS) of each perturbation, (P,): 1 is best, (P + 1) / 2P is chance.

    1 - rank / P, where the rank is that of the own true change among all true changes, by L1 distance to the predicted
    change; the perturbed genes take no part. Equal distances count half.

    Parameters
    ----------
    predicted_PG, true_PG
        Changes against control.
    genes, targets
        Names of the columns; perturbed genes of each row.

    Notes
    -----
    Source: cell-eval 0.8.2, ``discrimination_score`` with ``metric="l1"``.
    """
    scores = []
    for row, own in enumerate(targets):
        kept = ~np.isin(genes, list(own))
        far_P = np.abs(true_PG[:, kept] - predicted_PG[row, kept]).sum(axis=1)
        scores.append(1 - _seat(far_P, row))
    return np.array(scores)


def _seat(far: np.ndarray, own: int) -> float:
    """Share of entries that are nearer than ``own``; equal ones, or nearly so, count half."""
    equal = np.abs(far - far[own]) <= TIE * max(abs(float(far[own])), TIE)
    return float((((far < far[own]) & ~equal).sum() + (equal.sum() - 1) / 2) / len(far))


class Expressed(NamedTuple):
    """Differential expression of a set of cells against control, one entry a gene (G,)."""

    fold: np.ndarray
    """log2 of the ratio of geometric means, ``expm1`` of mean log expression; +-inf where control or cells have
    none."""
    fdr: np.ndarray
    """Benjamini-Hochberg adjusted p of a two-sided Mann-Whitney U test."""


def differential_expression(cells_NG: np.ndarray, control_NG: np.ndarray) -> Expressed:
    """Wilcoxon rank-sum test of every gene, as pdex 0.3.0 does it for cell-eval.

    scipy.stats.mannwhitneyu (asymptotic, with continuity and tie correction) and false_discovery_control; genes that do
    not vary have p = 1.
    """
    from scipy.stats import false_discovery_control, mannwhitneyu

    varies = (np.ptp(cells_NG, axis=0) > 0) | (np.ptp(control_NG, axis=0) > 0)
    varies |= cells_NG[0] != control_NG[0]
    p = np.ones(cells_NG.shape[1])
    if varies.any():
        p[varies] = mannwhitneyu(cells_NG[:, varies], control_NG[:, varies], axis=0, method="asymptotic").pvalue
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.expm1(cells_NG.mean(axis=0)) / np.expm1(control_NG.mean(axis=0))
        fold = np.nan_to_num(np.log2(np.maximum(ratio, 0)), nan=0.0, posinf=np.inf, neginf=-np.inf)
    return Expressed(fold, false_discovery_control(np.clip(np.nan_to_num(p, nan=1.0), 0, 1)))


def significant(found: Expressed, genes: np.ndarray | None = None) -> np.ndarray:
    """Columns with FDR below .05, the largest change first, equal ones by name (or as the columns stand)."""
    columns = np.flatnonzero(found.fdr < FDR)
    change = -np.abs(found.fold[columns]).astype(np.float32)
    return columns[np.lexsort((columns if genes is None else genes[columns].astype(str), change))]


def expression_overlap(predicted: Expressed, true: Expressed, genes: np.ndarray | None = None) -> float:
    """Differential expression score (DES): share of the truly significant genes among as many predicted ones.

    0 where nothing is significant in truth. Source: cell-eval 0.8.2, ``overlap_at_N``.
    """
    wanted = significant(true, genes)
    if not len(wanted):
        return 0.0
    return len(np.intersect1d(significant(predicted, genes)[: len(wanted)], wanted)) / len(wanted)


def challenge_score(user: Mapping[str, float], base: Mapping[str, float]) -> float:
    """Score of the Virtual Cell Challenge against a baseline: mean of three, each 0 at the baseline and 1 at best.

    Parameters
    ----------
    user, base
        ``mae`` (0 is best), ``pds`` and ``des`` (1 is best), of the method and of the baseline.

    Notes
    -----
    Source: cell-eval 0.8.2, ``score_agg_metrics``: 1 - user / base for MAE, (user - base) / (1 - base) for the others;
    what is not a number counts 0, what is below 0 counts 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [1 - np.float64(user["mae"]) / np.float64(base["mae"])]
        parts += [(np.float64(user[name]) - base[name]) / (1 - np.float64(base[name])) for name in ("pds", "des")]
    return float(np.mean(np.clip(np.nan_to_num(parts, nan=0.0), 0, None)))
