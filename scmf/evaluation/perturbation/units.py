"""Metrics of predicted profiles with own references: the truth and the prediction share the noise of no cell.

Lives here: what a metric needs of all units of a table (`Units`), the metrics of profiles on it. Lives elsewhere: which
cells are which reference (own_controls for predictions, calibration for duplicates), metrics of sets (set_distances).

Array legend: P units, R rivals, G genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scmf.evaluation.perturbation.metrics import pearson
from scmf.evaluation.perturbation.midranks import cosine_distances, midrank_scores, nir, without_targets
from scmf.evaluation.perturbation.weighted import mse_ratio, overlap, sign_accuracy, weighted_mse, weighted_r2
from scmf.evaluation.perturbation.welch import Welch, gene_weights


@dataclass(frozen=True)
class Units:
    """The units of a table: a covariate and a perturbation each.

    Parameters
    ----------
    genes, targets
        Names of the genes (G,); perturbed genes of each unit.
    groups
        Covariate of each unit (P,): ranks are among the units of one covariate.
    predicted_PG, true_PG
        Profiles.
    control_a_PG, control_b_PG
        Control mean that the prediction, and the truth, is compared with; None where a half is too small.
    mean_a_PG, mean_b_PG
        Mean of the training perturbations that the prediction, and the truth, is compared with.
    tests
        Welch's test of the true cells against those of other perturbations (P): its t gives the weights.
    control_tests
        Welch's test of the true cells against the control of the truth.
    noise_hat_P, noise_P, control_noise_P
        Sampling variance of the prediction, the truth and its control mean, summed over genes.
    rivals
        Unit to the profiles that its own truth is ranked among (R, G), the own one first; the truths of its covariate
        where it is not there.
    """

    genes: np.ndarray
    targets: Sequence[Sequence[str]]
    groups: np.ndarray
    predicted_PG: np.ndarray
    true_PG: np.ndarray
    control_a_PG: np.ndarray | None
    control_b_PG: np.ndarray | None
    mean_a_PG: np.ndarray
    mean_b_PG: np.ndarray
    tests: Sequence[Welch]
    control_tests: Sequence[Welch]
    noise_hat_P: np.ndarray
    noise_P: np.ndarray
    control_noise_P: np.ndarray
    rivals: Mapping[int, np.ndarray] | None = None


def profile_scores(units: Units) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Metric to one value a unit (P,), NaN where it has none; metric to the two terms of a ratio of sums."""
    x, y = units.predicted_PG, units.true_PG
    each: dict[str, np.ndarray] = {
        "mse": ((x - y) ** 2).mean(axis=1),
        "mae": np.abs(x - y).mean(axis=1),
        "wmse": _rows(units, lambda i, w: weighted_mse(x[i], y[i], w)),
        **_retrieved(units),
    }
    a, b = x - units.mean_a_PG, y - units.mean_b_PG
    each["r2w_delta"] = _rows(units, lambda i, w: weighted_r2(a[i], b[i], w))
    each["pearson_delta_perturbed"] = np.array([pearson(p, q) for p, q in zip(a, b, strict=True)])
    if units.control_a_PG is None or units.control_b_PG is None:
        return each, {}
    a, b = x - units.control_a_PG, y - units.control_b_PG
    each["r2w_delta_control"] = _rows(units, lambda i, w: weighted_r2(a[i], b[i], w))
    each["pearson_delta"] = np.array([pearson(p, q) for p, q in zip(a, b, strict=True)])
    tests = units.control_tests
    each["sign_accuracy"] = np.array([sign_accuracy(a[i], b[i], tests[i].adjusted < 0.05) for i in range(len(x))])
    each["overlap_top20"] = np.array([overlap(a[i], tests[i].t, units.genes) for i in range(len(x))])
    terms = mse_ratio(
        x, y, units.control_b_PG,
        noise_hat_P=units.noise_hat_P, noise_P=units.noise_P, control_noise_P=units.control_noise_P,
    )  # fmt: skip
    return each, {"mse_ratio": terms}


def _rows(units: Units, one: Callable[[int, np.ndarray], float]) -> np.ndarray:
    return np.array([one(i, gene_weights(test.t)) for i, test in enumerate(units.tests)])


def _retrieved(units: Units) -> dict[str, np.ndarray]:
    """``retrieval`` and ``nir``; nothing where a unit has fewer than one rival."""
    found = {name: np.full(len(units.targets), np.nan) for name in ("retrieval", "nir")}
    kept = without_targets(units.genes, units.targets)
    a = (units.predicted_PG - units.mean_a_PG)[:, kept]
    for group in sorted(set(units.groups.tolist())):
        mine = np.flatnonzero(units.groups == group)
        if units.rivals is not None:
            for i in mine:
                profiles = units.rivals.get(int(i))
                if profiles is None or len(profiles) < 2:
                    continue
                changes = (profiles - units.mean_b_PG[i])[:, kept]
                found["retrieval"][i] = _first(cosine_distances(a[[i]], changes), scale=1.0)
                far = np.linalg.norm(profiles - units.predicted_PG[i], axis=1)[None]
                found["nir"][i] = _first(far)
        elif len(mine) > 1:
            true, means = units.true_PG[mine][:, kept], units.mean_b_PG[mine][:, kept]
            if (means == means[0]).all():
                far = cosine_distances(a[mine], true - means[0])
            else:  # each unit has a mean of its own, which all its rivals are compared with
                far = np.concatenate(
                    [cosine_distances(a[[i]], true - mean) for i, mean in zip(mine, means, strict=True)]
                )
            found["retrieval"][mine] = midrank_scores(far, scale=1.0)
            found["nir"][mine] = nir(units.predicted_PG[mine], units.true_PG[mine])
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _first(far_1R: np.ndarray, *, scale: float | None = None) -> float:
    """Score of the first among all of one row."""
    n = far_1R.shape[1]
    square = np.repeat(far_1R, n, axis=0)  # row 0 is the only one whose diagonal is asked for
    return float(midrank_scores(square, scale=scale)[0])


def means_of(
    each: Mapping[str, np.ndarray], ratios: Mapping[str, tuple[np.ndarray, np.ndarray]], rows: np.ndarray | None = None
) -> dict[str, float]:
    """Mean of each metric over the units that have a value, ratios of sums; a metric without any value is left out."""
    found = {}
    for name, values in each.items():
        mine = values if rows is None else values[rows]
        if np.isfinite(mine).any():
            found[name] = float(np.nanmean(mine))
    for name, (numerator, denominator) in ratios.items():
        top, bottom = (part.sum() if rows is None else part[rows].sum() for part in (numerator, denominator))
        if bottom > 0:
            found[name] = float(top / bottom)
    return found
