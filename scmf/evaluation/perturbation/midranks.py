"""Ranks among perturbations, ties counted half: how near to a prediction the right perturbation is.

Lives here: `midrank_scores`, distances that are safe against rounding, `pds_cosine`, `retrieval`, `nir` and the rank of
PerturBench on them. Lives elsewhere: ranks of the 2025 challenge (ranks), what changes are taken against (units).

Two distances are equal when they differ by less than `TIE` (cosine) or `TIE` of the larger one: predictions that are
equal row by row get one distance, whatever a matrix product rounds. A vector whose norm is below `TIE` of the median
norm of the truth has no direction: its cosine distance is 1.

Array legend: P perturbations (rows are predictions, columns truths), G genes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TIE = 1e-9


def midrank_scores(far_PP: np.ndarray, *, scale: float | None = None) -> np.ndarray:
    """1 - midrank / (n - 1) of the diagonal in its row, (P,): 1 is best, .5 is what equal predictions average.

    Parameters
    ----------
    far_PP
        Distance of each prediction (row) to each truth (column); not a number counts as farther than all.
    scale
        Distances that differ by less than `TIE` of it are equal; of the larger of the two when None.
    """
    if len(far_PP) == 1:
        return np.ones(1)
    worst, best = rank_ends(far_PP, scale=scale)
    return (worst + best) / 2


def rank_ends(far_PP: np.ndarray, *, scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores 1 - rank / (n - 1) of the diagonal in its row with all equals lost, and with all won, (P,) each.

    Parameters are those of `midrank_scores`; packages that draw lots among equals lie between the two.
    """
    far = np.where(np.isnan(far_PP), np.inf, far_PP)
    own = np.diagonal(far)[:, None]
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(far), np.abs(own)) if scale is None else scale
        equal = (far == own) | (np.isfinite(far) & (np.abs(far - own) <= TIE * size))
    nearer = ((far < own) & ~equal).sum(axis=1)
    rivals = max(far.shape[1] - 1, 1)
    return 1 - (nearer + equal.sum(axis=1) - 1) / rivals, 1 - nearer / rivals


def cosine_distances(x_PG: np.ndarray, y_QG: np.ndarray) -> np.ndarray:
    """1 - cosine, clipped to [0, 2], (P, Q); 1 where a side has no direction. Equal rows get one value."""
    scale = _scale(y_QG)
    first_P, of_P = _equal_rows(x_PG, scale)
    x, y = _units(x_PG[first_P], scale), _units(y_QG, scale)
    far: np.ndarray = np.clip(1 - x @ y.T, 0, 2)[of_P]
    return far


def euclidean_distances(x_PG: np.ndarray, y_QG: np.ndarray) -> np.ndarray:
    """Euclidean distances, (P, Q), each as the norm of a difference. Equal rows get one value."""
    first_P, of_P = _equal_rows(x_PG, _scale(y_QG))
    return np.stack([np.linalg.norm(y_QG - row, axis=1) for row in x_PG[first_P]])[of_P]


def l1_distances(x_PG: np.ndarray, y_QG: np.ndarray) -> np.ndarray:
    """Sums of absolute differences, (P, Q). Equal rows get one value."""
    first_P, of_P = _equal_rows(x_PG, _scale(y_QG))
    return np.stack([np.abs(y_QG - row).sum(axis=1) for row in x_PG[first_P]])[of_P]


DISTANCES = {"cosine": cosine_distances, "l2": euclidean_distances, "l1": l1_distances}
"""Name to distance of all predictions to all truths."""


def without_targets(genes: Sequence[str] | np.ndarray, targets: Sequence[Sequence[str]]) -> np.ndarray:
    """Which genes no perturbation of the table targets, bool (G,): dropped once for all rows (panel exclusion)."""
    names = sorted({gene for own in targets for gene in own})
    return ~np.isin(np.asarray(genes, dtype=str), names)


def retrieval(
    predicted_PG: np.ndarray,
    true_PG: np.ndarray,
    genes: Sequence[str] | np.ndarray,
    targets: Sequence[Sequence[str]],
    *,
    distance: str = "cosine",
) -> np.ndarray:
    """Share of rivals that lie farther from the prediction than the own truth does, (P,): 1 best, .5 chance.

    The targets of all perturbations are left out of every vector. Against control this is ``pds_cosine`` of the Virtual
    Cell Challenge 2026 (cell_eval2 0.20.0), against the perturbed mean ``retrieval``.

    Parameters
    ----------
    predicted_PG, true_PG
        Changes, one row a perturbation.
    genes, targets
        Names of the columns; perturbed genes of each row.
    distance
        ``cosine``, ``l1`` or ``l2``.
    """
    kept = without_targets(genes, targets)
    far = DISTANCES[distance](predicted_PG[:, kept], true_PG[:, kept])
    return midrank_scores(far, scale=1.0 if distance == "cosine" else None)


def nir(predicted_PG: np.ndarray, true_PG: np.ndarray) -> np.ndarray:
    """Normalized inverse rank, (P,): as `retrieval` by Euclidean distance of profiles on all genes (Miller 2025)."""
    return midrank_scores(euclidean_distances(predicted_PG, true_PG))


def _scale(y_QG: np.ndarray) -> float:
    norms = np.linalg.norm(y_QG, axis=1)
    return float(np.median(norms)) if len(norms) else 0.0


def _equal_rows(x_PG: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """First row of each set of equal rows, and the set of each row; what is below `TIE` of ``scale`` is equal."""
    grid = np.nan_to_num(np.round(x_PG / (scale * TIE)) if scale > 0 else x_PG) + 0.0
    seen: dict[bytes, int] = {}
    of = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in grid], dtype=np.int64)
    return np.unique(of, return_index=True)[1], of


def _units(x_PG: np.ndarray, scale: float) -> np.ndarray:
    """Rows of norm 1; zeros where a row has no direction."""
    norms = np.linalg.norm(x_PG, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((norms > TIE * scale)[:, None], x_PG / norms[:, None], 0.0)
