"""Calibration of every metric on a screen: what tells a repeat of the experiment from another perturbation.

Lives here: scores of the candidates over splits, dynamic range (DRF), how often the duplicate wins (BDS, swap).
Lives elsewhere: halves and candidates (calibration_units), thresholds and the sentence (calibration_rule).

Array legend: K splits, P units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.core.progress import bar
from scmf.evaluation.perturbation.calibration_units import HalvedScreen, units_of
from scmf.evaluation.perturbation.challenge_counts import half_seeds
from scmf.evaluation.perturbation.energy_distance import energy_unbiased
from scmf.evaluation.perturbation.metric_table import SET_CELLS
from scmf.evaluation.perturbation.own_metric_table import OWN_METRICS
from scmf.evaluation.perturbation.space import Space, mmd_unbiased
from scmf.evaluation.perturbation.truth import PerturbationTruth
from scmf.evaluation.perturbation.units import profile_scores

SPLITS = 10

PLAIN = ("mse_ratio", "mmd_pca", "energy_u")
"""Metrics whose positive control is the plain duplicate: sets of cells, and what takes noise off."""

CANDIDATES = ("positive", "negative", "plain", "other", "no_change")


FLOOR = 1e-6
"""Added to the range by scperteval."""


@dataclass(frozen=True)
class Calibrated:
    """What one metric can tell on one screen.

    Parameters
    ----------
    name
        The metric.
    positive, negative, plain, no_change
        Mean over units and splits: of the positive control, of the mean of the others, of the plain duplicate, of the
        control cells.
    plain_sd
        Standard deviation over splits of the value of the plain duplicate.
    drf
        Dynamic range fraction; NaN where the negative control is perfect.
    drf_scperteval
        Median over units of the form of scperteval, for comparison.
    bds
        Mean over units of the share of splits in which the positive control wins.
    swap
        The same of the plain duplicate against that of a random other unit.
    swap_units
        Units whose swap is above a half.
    units
        Units that have a value.
    """

    name: str
    positive: float
    negative: float
    plain: float
    plain_sd: float
    no_change: float
    drf: float
    drf_scperteval: float
    bds: float
    swap: float
    swap_units: int
    units: int

    @property
    def no_change_scaled(self) -> float:
        """Where the control cells lie between the mean of the others (0) and a plain duplicate (1).

        NaN where the duplicate is not better than the mean of the others by two standard deviations: no scale.
        """
        span = self.plain - self.negative
        better = span if OWN_METRICS[self.name].higher_is_better else -span
        return (self.no_change - self.negative) / span if better > max(2 * self.plain_sd, 1e-12) else float("nan")


def calibrate(truth: PerturbationTruth, *, splits: int = SPLITS) -> dict[str, Calibrated]:
    """Metric to what it can tell, on all units of a screen, whatever its split is.

    Raises
    ------
    EvaluationError
        Fewer than two units that can be halved, or a covariate without enough control cells.
    """
    pairs = units_of(truth)
    _refuse_small(truth, pairs)
    space = Space(truth)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    with bar("calibration", splits, unit="splits") as shown:
        for number, seed in enumerate(half_seeds(splits)):
            halved = HalvedScreen.drawn(truth, pairs, seed)
            for candidate, values in _scores(halved, space, number).items():
                for name, value_P in values.items():
                    found.setdefault(name, {}).setdefault(candidate, []).append(value_P)
            shown.move_to(number + 1)
    kept = {name: {key: np.stack(values) for key, values in sides.items()} for name, sides in found.items()}
    order = [metric.name for metric in OWN_METRICS if metric.name in kept]
    return {name: _summary(name, kept[name]) for name in order}


def _scores(halved: HalvedScreen, space: Space, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Candidate to metric to values (P,); a ratio of sums has its numerator, and once its denominator."""
    swap = halved.swapped(seed)
    profiles = {
        "positive": halved.with_profiles(halved.interpolated_PG),
        "negative": halved.with_profiles(halved.negative_PG),
        "plain": halved.units,
        "other": halved.with_profiles(halved.other_PG(swap), halved.units.noise_hat_P[swap]),
        "no_change": halved.with_profiles(halved.control_PG),
    }
    found: dict[str, dict[str, np.ndarray]] = {}
    for candidate, units in profiles.items():
        each, ratios = profile_scores(units)
        found[candidate] = each | {name: terms[0] for name, terms in ratios.items()}
        if candidate == "plain":
            found["denominator"] = {name: terms[1] for name, terms in ratios.items()}
    if not halved.by_type:
        for name, sides in _sets(halved, space, swap, seed).items():
            for candidate, values in sides.items():
                found[candidate][name] = values
    for name in PLAIN:
        if name in found["plain"]:
            found["positive"][name] = found["plain"][name]
    return found


def _sets(halved: HalvedScreen, space: Space, swap: np.ndarray, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Distances of the truth to the duplicate, to cells of the others, to another duplicate, to control cells."""
    rng, truth = np.random.default_rng(seed), halved.truth
    projected = space.project(truth.x_NG.toarray().astype(np.float64), most=truth.x_NG.shape[0])
    found = {name: {key: np.zeros(len(halved.scored)) for key in ("plain", "negative", "other", "no_change")}
             for name in ("mmd_pca", "energy_u")}  # fmt: skip
    for i, pair in enumerate(halved.scored):
        others = np.concatenate([halved.rows_d[one] for one in halved.others(pair)])
        sides = {
            "plain": halved.rows_d[pair],
            "negative": rng.permutation(others)[: len(halved.rows_d[pair])],
            "other": halved.rows_d[halved.scored[swap[i]]],
            "no_change": halved.rows_d[pair[0], truth.control],
        }
        mine = halved.rows_t[pair]
        for key, rows in sides.items():
            most = min(len(mine), len(rows), SET_CELLS)
            x, y = projected[rows[:most]], projected[mine[:most]]
            found["mmd_pca"][key][i] = mmd_unbiased(x, y, width=space.width)
            found["energy_u"][key][i] = energy_unbiased(x, y)
    return found


def _summary(name: str, sides: Mapping[str, np.ndarray]) -> Calibrated:
    higher = OWN_METRICS[name].higher_is_better
    perfect = 1.0 if higher else 0.0
    total_K = np.ones(len(sides["plain"]))
    if "denominator" in sides:  # a ratio of sums over units and splits
        total_K = sides["denominator"].mean(axis=1)
    means = {key: float(np.nanmean(sides[key]) / total_K.mean()) if np.isfinite(sides[key]).any() else float("nan")
             for key in CANDIDATES}  # fmt: skip
    known = np.isfinite(sides["plain"]).any(axis=0)
    won = _shares(wins(sides["positive"], sides["negative"], higher_is_better=higher), sides["positive"])[known]
    swapped = _shares(wins(sides["plain"], sides["other"], higher_is_better=higher), sides["plain"])[known]
    drf = drf_scperteval(
        np.nanmean(sides["positive"][:, known], axis=0) if known.any() else np.array([np.nan]),
        np.nanmean(sides["negative"][:, known], axis=0) if known.any() else np.array([np.nan]),
        perfect=perfect, higher_is_better=higher,
    )  # fmt: skip
    return Calibrated(
        name=name,
        positive=means["positive"],
        negative=means["negative"],
        plain=means["plain"],
        plain_sd=_deviation(sides["plain"], total_K),
        no_change=means["no_change"],
        drf=dynamic_range(means["positive"], means["negative"], perfect=perfect),
        drf_scperteval=float(np.nanmedian(drf)) if np.isfinite(drf).any() else float("nan"),
        bds=float(won.mean()) if len(won) else float("nan"),
        swap=float(swapped.mean()) if len(swapped) else float("nan"),
        swap_units=int((swapped > 0.5).sum()),
        units=int(known.sum()),
    )


def _deviation(value_KP: np.ndarray, total_K: np.ndarray) -> float:
    """Standard deviation over splits of the value of all units; NaN for fewer than two splits that have one."""
    rows = [row[np.isfinite(row)].mean() / total for row, total in zip(value_KP, total_K, strict=True)
            if np.isfinite(row).any() and total > 0]  # fmt: skip
    return float(np.std(rows, ddof=1)) if len(rows) > 1 else float("nan")


def dynamic_range(positive: float, negative: float, *, perfect: float) -> float:
    """(positive - negative) / (perfect - negative) of means over perturbations and splits, clipped to [-1, 1].

    NaN where the negative control is as good as perfect, or better.
    """
    span = perfect - negative
    toward = positive - negative
    if not np.isfinite(span) or not np.isfinite(toward) or abs(span) < 1e-12:
        return float("nan")
    return float(np.clip(toward / span, -1, 1))


def wins(
    first: np.ndarray, second: np.ndarray, *, higher_is_better: bool, tie: float = 0.5, rounding: float = 1e-12
) -> np.ndarray:
    """1 where the first is better, 0 where it is not, ``tie`` where both are equal or one is NaN.

    Parameters
    ----------
    first, second
        Values of a metric, of any equal shape.
    higher_is_better
        Direction of the metric.
    tie
        What equal ones count: a half; 0 is the rule of scperteval.
    rounding
        Differences that are not seen.
    """
    with np.errstate(invalid="ignore"):
        ahead = (first - second) if higher_is_better else (second - first)
    close = ~(np.abs(ahead) > rounding)
    return np.where(close, tie, (ahead > 0).astype(np.float64))


def drf_scperteval(
    positive_P: np.ndarray, negative_P: np.ndarray, *, perfect: float, higher_is_better: bool
) -> np.ndarray:
    """DRF of each perturbation as scperteval 0.2.0 has it, (P,): NaN where the negative is beyond perfect.

    Undefined ones are dropped from its mean and median, which hides failure; it is reported and decides nothing.
    """
    sign = 1.0 if higher_is_better else -1.0
    span, toward = sign * (perfect - negative_P), sign * (positive_P - negative_P)
    with np.errstate(invalid="ignore"):
        found = np.clip(toward / (span + FLOOR), -1, 1)
    return np.where(np.isfinite(negative_P) & (span >= 0), found, np.nan)


def _shares(won_KP: np.ndarray, value_KP: np.ndarray) -> np.ndarray:
    """Share of the splits with a value that are won, (P,); a half where no split has one."""
    known = np.isfinite(value_KP)
    total = known.sum(axis=0)
    return np.where(total > 0, np.where(known, won_KP, 0.0).sum(axis=0) / np.maximum(total, 1), 0.5)


def _refuse_small(truth: PerturbationTruth, pairs: list[tuple[str, str]]) -> None:
    if len(pairs) < 2:
        raise EvaluationError(
            f"{len(pairs)} perturbations with four cells or more", wanted="two or more", where="calibration",
            fix="calibrate a screen that has them",
        )  # fmt: skip
    for covariate in sorted({covariate for covariate, _ in pairs}):
        if (n := len(truth.rows(covariate, truth.control))) < 4:
            raise EvaluationError(
                f"{n} control cells of {covariate!r}", wanted="four or more, two in each half", where="calibration",
                fix="leave this cell type out of the card",
            )  # fmt: skip
    several = len({covariate for covariate, _ in pairs}) < len(pairs)  # in one cell type; else one in several
    if not several and len({condition for _, condition in pairs}) == len(pairs):
        raise EvaluationError(
            "no perturbation has another to be told from", wanted="two in a cell type, or one in two cell types",
            where="calibration", fix="calibrate a screen that has them",
        )  # fmt: skip
