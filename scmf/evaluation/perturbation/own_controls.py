"""Scores of predictions with own controls: one half of the control cells for the prediction, the other for the truth.

The same holds for the mean of the training perturbations.

Lives here: which cells are which reference, means, intervals. Lives elsewhere: the halves (control_halves), metrics of
profiles (units), of sets (space, energy_distance), their definitions (own_metric_table).

Array legend: P units, G genes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.control_halves import LEAST, A, B, half_of_cells
from scmf.evaluation.perturbation.energy_distance import energy_unbiased
from scmf.evaluation.perturbation.hits import hit_recall
from scmf.evaluation.perturbation.metric_table import SET_CELLS, SUBGROUP
from scmf.evaluation.perturbation.metrics import pearson
from scmf.evaluation.perturbation.own_metric_table import OWN_METRICS
from scmf.evaluation.perturbation.space import Space, mmd_unbiased
from scmf.evaluation.perturbation.truth import Pair, PerturbationTruth, Prediction, profile_of
from scmf.evaluation.perturbation.units import Units, means_of, profile_scores
from scmf.evaluation.perturbation.welch import Moments, moments, pooled, welch
from scmf.evaluation.score import package
from scmf.evaluation.uncertainty import bootstrap_means, bootstrap_ratios
from scmf.results.score import FEW_UNITS, Score

log = logging.getLogger(__name__)

PROTOCOL = "own_controls"
"""Added to the protocol of a split, since every number of it is another one."""

CONTROL_METRICS = (
    "pearson_delta", "r2w_delta_control", "sign_accuracy", "overlap_top20", "mse_ratio", "pearson_delta_shared",
)  # fmt: skip
"""What is not filed for a prediction that saw all control cells, or where a half is too small."""


@dataclass(frozen=True)
class OwnReferences:
    """References of a screen, computed once.

    Parameters
    ----------
    truth
        The screen with all its cells.
    """

    truth: PerturbationTruth

    @cached_property
    def halves(self) -> np.ndarray:
        """Half of each cell."""
        return half_of_cells(self.truth)

    @cached_property
    def too_small(self) -> bool:
        """Whether a half of the control cells of a tested covariate is too small."""
        covariates = {covariate for covariate, _ in self.truth.pairs}
        return any(len(self.rows(one, self.truth.control, half)) < LEAST for one in covariates for half in (A, B))

    def rows(self, covariate: str, condition: str, half: str, part: str | None = None) -> np.ndarray:
        """Cells of a pair in a half."""
        rows = self.truth.rows(covariate, condition, part)
        return rows[self.halves[rows] == half]

    def control(self, covariate: str, half: str) -> Moments:
        """Control cells of a half."""
        rows = self.rows(covariate, self.truth.control, half)
        if not len(rows):
            raise EvaluationError(
                f"one control cell of {covariate!r}", wanted="two or more, one in each half",
                where="perturbation.control", fix="leave this cell type out of the split",
            )  # fmt: skip
        return moments(self.truth.x_NG[rows])

    def trained_mean(self, covariate: str, half: str) -> np.ndarray:
        """Mean over training perturbations; moved from the other covariates where this one has none."""
        truth, profiles = self.truth, []
        here = [pair for pair in truth.training_pairs if pair[0] == covariate]
        for pair in here or truth.training_pairs:
            rows = self.rows(*pair, half, "train")
            if len(rows):
                mean = moments(truth.x_NG[rows]).mean
                profiles.append(mean if here else mean - self.control(pair[0], half).mean)
        if not profiles:
            return self.control(covariate, half).mean
        moved = 0.0 if here else self.control(covariate, half).mean
        return np.mean(profiles, axis=0) + moved

    def units(self, prediction: Prediction) -> Units:
        """The units of a prediction; a pair that is not predicted has NaN."""
        truth = self.truth
        pairs, blank = truth.pairs, np.full(len(truth.genes), np.nan)
        covariates = sorted({covariate for covariate, _ in pairs})
        controls = {(one, half): self.control(one, half) for one in covariates for half in (A, B)}
        means = {(one, half): self.trained_mean(one, half) for one in covariates for half in (A, B)}
        tested = {pair: moments(truth.x_NG[truth.rows(*pair, "test")]) for pair in pairs}
        every = self._perturbed(covariates)
        cells = {
            pair: moments(prediction[pair]) for pair in pairs if pair in prediction and np.ndim(prediction[pair]) == 2
        }
        tests, against = [], []
        for pair in pairs:
            others = [one for key, one in every.items() if key[0] == pair[0] and key != pair]
            control = controls[pair[0], B]
            tests.append(welch(tested[pair], pooled(others) if len(others) > 2 else control))
            against.append(welch(tested[pair], control))
        exact = getattr(prediction, "profile", None) is not None

        def stacked(half: str) -> np.ndarray | None:
            return None if self.too_small else np.stack([controls[pair[0], half].mean for pair in pairs])

        return Units(
            genes=truth.genes,
            targets=[truth.genes_of(condition) for _, condition in pairs],
            groups=np.array([covariate for covariate, _ in pairs]),
            predicted_PG=np.stack([profile_of(prediction, pair) if pair in prediction else blank for pair in pairs]),
            true_PG=np.stack([truth.mean(*pair) for pair in pairs]),
            control_a_PG=stacked(A),
            control_b_PG=stacked(B),
            mean_a_PG=np.stack([means[pair[0], A] for pair in pairs]),
            mean_b_PG=np.stack([means[pair[0], B] for pair in pairs]),
            tests=tests,
            control_tests=against,
            noise_hat_P=np.array([cells[pair].noise if pair in cells and not exact else 0.0 for pair in pairs]),
            noise_P=np.array([tested[pair].noise for pair in pairs]),
            control_noise_P=np.array([controls[pair[0], B].noise for pair in pairs]),
            rivals=self._rivals(pairs) if truth.kind == "unseen_cell_type" else None,
        )

    def _perturbed(self, covariates: list[str]) -> dict[Pair, Moments]:
        """All perturbed cells of the tested covariates, by pair."""
        truth = self.truth
        chosen = (truth.conditions != truth.control) & np.isin(truth.covariates, covariates)
        pairs = sorted(set(zip(truth.covariates[chosen].tolist(), truth.conditions[chosen].tolist(), strict=True)))
        return {pair: moments(truth.x_NG[truth.rows(*pair)]) for pair in pairs}

    def _rivals(self, pairs: list[Pair]) -> dict[int, np.ndarray]:
        """Own truth, and the same perturbation in every other covariate, moved by the difference of the controls."""
        truth, found = self.truth, {}
        for i, (covariate, condition) in enumerate(pairs):
            others = sorted(set(truth.covariates[truth.conditions == condition].tolist()) - {covariate})
            control = self.control(covariate, B).mean
            moved = [
                control + moments(truth.x_NG[truth.rows(other, condition)]).mean - self.control(other, B).mean
                for other in others
            ]
            found[i] = np.stack([truth.mean(covariate, condition), *moved])
        return found


def own_scores(
    truth: PerturbationTruth, predictions: Mapping[str, Prediction], *, draws: int = 1000
) -> Iterator[Score]:
    """Score every prediction; it was made with `scmf.evaluation.perturbation.control_halves.seen_by_models`.

    Parameters
    ----------
    truth
        The screen with all its cells.
    predictions
        Method to predicted cells or profiles. A pair may be missing: it has no value then. A prediction whose attribute
        ``controls`` is ``all`` saw every control cell: metrics against control are not filed for it.
    draws
        Draws of the bootstrap over perturbations.
    """
    references, space = OwnReferences(truth), Space(truth)
    for method in sorted(predictions):
        started = time.perf_counter()
        log.info(f"perturbation, own controls: {method}")
        prediction = predictions[method]
        each, ratios = score_units(references, prediction, space)
        yield score_of(truth, method, each, ratios, hits_of(references, prediction), draws, started)


def score_units(
    references: OwnReferences, prediction: Prediction, space: Space
) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Values of each unit, and the terms of ratios of sums."""
    truth, pairs = references.truth, references.truth.pairs
    units = references.units(prediction)
    each, ratios = profile_scores(units)
    if units.control_a_PG is not None:
        shared = np.stack([truth.control_mean(covariate) for covariate, _ in pairs])
        changes = zip(units.predicted_PG - shared, units.true_PG - shared, strict=True)
        each["pearson_delta_shared"] = np.array([pearson(x, y) for x, y in changes])
    each |= _sets(truth, prediction, space)
    known = np.array([pair in prediction for pair in pairs])
    each = {name: np.where(known, values, np.nan) for name, values in each.items()}
    ratios = {name: (np.where(known, a, 0.0), np.where(known, b, 0.0)) for name, (a, b) in ratios.items()}
    if getattr(prediction, "controls", A) == "all":
        each = {name: values for name, values in each.items() if name not in CONTROL_METRICS}
        ratios = {}
    return each, ratios


def hits_of(references: OwnReferences, prediction: Prediction) -> dict[str, float]:
    """``hit_recall`` at each budget where there are enough perturbations of one covariate, all of them predicted."""
    truth = references.truth
    if len({covariate for covariate, _ in truth.pairs}) > 1 or any(pair not in prediction for pair in truth.pairs):
        return {}
    predicted = np.stack([profile_of(prediction, pair) for pair in truth.pairs])
    return hit_recall(predicted, np.stack([truth.mean(*pair) for pair in truth.pairs]))


def _sets(truth: PerturbationTruth, prediction: Prediction, space: Space) -> dict[str, np.ndarray]:
    """Distances of sets of equal size; none where a pair has no predicted cells."""
    found = {name: np.full(len(truth.pairs), np.nan) for name in ("mmd_pca", "energy_u")}
    for i, pair in enumerate(truth.pairs):
        if pair not in prediction or np.ndim(prediction[pair]) != 2:
            continue
        cells, true = np.asarray(prediction[pair], np.float64), truth.cells(pair)
        most = min(len(cells), len(true), SET_CELLS)
        if most > 1:
            x, y = space.project(cells, most=most), space.project(true, most=most)
            found["mmd_pca"][i] = mmd_unbiased(x, y, width=space.width)
            found["energy_u"][i] = energy_unbiased(x, y)
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def score_of(
    truth: PerturbationTruth, method: str, each: dict[str, np.ndarray],
    ratios: dict[str, tuple[np.ndarray, np.ndarray]], hits: dict[str, float], draws: int, started: float,
) -> Score:  # fmt: skip
    """A score of values by unit."""
    pairs, several = truth.pairs, len({covariate for covariate, _ in truth.pairs}) > 1
    named = [f"{condition} in {covariate}" if several else condition for covariate, condition in pairs]
    metrics, intervals = means_of(each, ratios) | hits, _intervals(each, ratios, draws)
    groups = np.array([truth.subgroup(condition) for _, condition in pairs])
    for group in sorted(set(groups.tolist())) if len(set(groups.tolist())) > 1 else []:
        mine = np.flatnonzero(groups == group)
        found = means_of(each, ratios, mine)
        metrics |= {f"{name}.{group}": value for name, value in found.items()}
        part = {name: values[mine] for name, values in each.items()}
        terms = {name: (a[mine], b[mine]) for name, (a, b) in ratios.items()}
        intervals |= {f"{name}.{group}": value for name, value in _intervals(part, terms, draws).items()}
    details: dict[str, Any] = {
        "subgroups": dict(zip(named, groups.tolist(), strict=True)),
        "per_perturbation": {
            name: {key: round(float(one), 6) for key, one in zip(named, values, strict=True) if np.isfinite(one)}
            for name, values in each.items()
            if name in ("retrieval", "wmse", "pearson_delta")
        },
        "not_filed": _not_filed(metrics, len(pairs)),
    }
    return Score(
        benchmark="perturbation",
        protocol=f"{truth.kind}_{PROTOCOL}",
        method=method,
        metrics=metrics,
        **OWN_METRICS.facts(metrics, subgroup=SUBGROUP, sklearn=package("scikit-learn")),
        n_cells=int(sum(len(truth.rows(*pair, "test")) for pair in pairs)),
        n_train=int((truth.parts == "train").sum()),
        seconds=time.perf_counter() - started,
        details=details,
        intervals={name: value for name, value in intervals.items() if name in metrics},
    )


def _intervals(each: Mapping[str, np.ndarray], ratios: Mapping[str, tuple[np.ndarray, np.ndarray]], draws: int) -> Any:
    """Intervals over perturbations, the same draws for all; none for fewer than five."""
    if len(next(iter(each.values()))) < FEW_UNITS:
        return {}
    known = {name: values for name, values in each.items() if np.isfinite(values).sum() >= FEW_UNITS}
    terms = {name: both for name, both in ratios.items() if np.count_nonzero(both[1]) >= FEW_UNITS}
    means = bootstrap_means(known, unit="perturbations", draws=draws) if known else {}
    return means | bootstrap_ratios(terms, unit="perturbations", draws=draws)


def _not_filed(metrics: Mapping[str, float], n_units: int) -> dict[str, str]:
    """Metric to the reason why it is not there."""
    reasons = dict.fromkeys(CONTROL_METRICS, f"the prediction saw all control cells, or a half has fewer than {LEAST}")
    reasons |= dict.fromkeys(("mmd_pca", "energy_u"), "a profile was predicted, no cells")
    reasons |= dict.fromkeys(("retrieval", "nir"), "no rival")
    reasons |= {f"hit_recall_{n}": f"{n_units} perturbations of the 50 that it takes" for n in (5, 10, 20)}
    reasons["score_2026"] = "predicted counts of all genes are asked for"
    return {name: reason for name, reason in reasons.items() if name not in metrics}
