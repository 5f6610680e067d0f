"""The Virtual Cell Challenge 2026 in one place: six scores, their scale from baseline to replicate, ``score_2026``.

Lives here: scores of a predicted screen, the replicate, scaling. Lives elsewhere: the formulas (challenge_profiles,
challenge_de), profiles and draws (challenge_counts). Definitions: cell_eval2 0.20.0, preset ``vcc2026``.

Array legend: P perturbations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.challenge_counts import (
    Groups,
    Screen,
    common_response_cells,
    half_seeds,
    halves,
)
from scmf.evaluation.perturbation.challenge_de import Tested, direction_scores, expression_tests
from scmf.evaluation.perturbation.challenge_profiles import ErrorTerms, error_terms, pds_cosine

ERROR = "expr_mse_unbiased_capped_norm"

SCALED = {
    "pds_cosine": 0.0,
    ERROR: 0.0,
    "direction_fidelity": 0.0,
    "direction_reach": 0.0,
    "sig_jaccard": 0.0,
    "lfc_nmae": -6.0,
}
"""The six scores, and what counts where one is missing: the raw worst of the bounded ones is scaled, the two errors
have a scaled worst."""

_BOUNDED = ("pds_cosine", "direction_fidelity", "direction_reach", "sig_jaccard")


@dataclass(frozen=True)
class Side:
    """One side with the control cells its changes are taken against."""

    screen: Screen
    control: Screen
    names: Sequence[str]

    @cached_property
    def groups(self) -> Groups:
        """Profiles of the perturbations."""
        return Groups.of(self.screen, self.names)

    @cached_property
    def control_groups(self) -> Groups:
        """Profile of the control cells."""
        return Groups.of(self.control, [self.control.control])

    @cached_property
    def tests(self) -> list[Tested]:
        """Differential expression of each perturbation."""
        control = self.control.of(self.control.control)
        return [expression_tests(self.screen.of(name), control) for name in self.names]


@dataclass(frozen=True)
class ChallengeScores:
    """Scores by perturbation and over all.

    Parameters
    ----------
    names
        Perturbations.
    each
        Metric to values (P,); NaN where one is not defined.
    terms
        Terms of the noise-corrected error.
    """

    names: list[str]
    each: Mapping[str, np.ndarray]
    terms: ErrorTerms

    @property
    def aggregate(self) -> dict[str, float]:
        """The six scores over all perturbations: means over those that have one, a ratio of sums for the error."""
        found = {name: _mean(self.each[name]) for name in SCALED if name != ERROR}
        return {**found, ERROR: self.terms.ratio}


def score_sides(predicted: Side, true: Side, *, full: Sequence[Tested] | None = None) -> ChallengeScores:
    """Score one side against the other; see `score_screen` for a prediction, `replicate` for halves.

    Parameters
    ----------
    predicted, true
        Both sides, the same perturbations in the same order.
    full
        Tests of all cells, for ``lfc_nmae`` of halves.
    """
    screen, names = true.screen, list(true.names)
    targets = [screen.targets_of(name) for name in names]
    control, own = true.control_groups, predicted.control_groups
    scored_PG = np.stack([~np.isin(screen.genes, list(own_genes)) for own_genes in targets])
    terms = error_terms(
        predicted.groups.profiles_PG,
        true.groups.profiles_PG,
        control.profiles_PG[0],
        noise_hat_P=predicted.groups.noise_P,
        noise_P=true.groups.noise_P,
        control_noise=float(control.noise_P[0]),
        scored_PG=scored_PG,
    )
    each: dict[str, np.ndarray] = {
        "pds_cosine": pds_cosine(
            predicted.groups, true.groups, own.profiles_PG[0], control.profiles_PG[0],
            genes=screen.genes, targets=targets,
        )
    }  # fmt: skip
    rows = [
        direction_scores(
            predicted.tests[i], true.tests[i], screen.genes, targets[i], full=() if full is None else (full[i],)
        )
        for i in range(len(names))
    ]
    each |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return ChallengeScores(names, each, terms)


def score_screen(predicted: Screen, true: Screen) -> ChallengeScores:
    """Scores of predicted counts; the control cells are those of the truth on both sides.

    Raises
    ------
    EvaluationError
        A perturbation has no predicted cells, the genes are others, or a side holds no counts.
    """
    true.check(where="the truth")
    if not np.array_equal(predicted.genes, true.genes):
        raise EvaluationError("other genes", wanted="the genes of the truth in its order", where="the prediction")
    if lost := sorted(set(true.names) - set(predicted.names)):
        raise EvaluationError(f"no cells of {lost[0]!r}", wanted="every perturbation", where="the prediction")
    return score_sides(Side(predicted, true, true.names), Side(true, true, true.names))


def baseline(true: Screen) -> dict[str, float]:
    """Scores of the common response, which knows the evaluated cells: 0 of the scale."""
    return score_screen(common_response_cells(true), true).aggregate


def replicate(true: Screen, *, seeds: Sequence[int] | None = None) -> list[ChallengeScores]:
    """Scores of one half of the cells against the other, each with its own half of the control: 1 of the scale."""
    full = Side(true, true, true.names).tests
    found = []
    for seed in half_seeds() if seeds is None else seeds:
        first, second = (true.taken(rows) for rows in halves(true.labels, seed))
        found.append(score_sides(Side(second, second, true.names), Side(first, first, true.names), full=full))
    return found


def mean_of(scores: Sequence[ChallengeScores]) -> dict[str, float]:
    """Mean of the aggregates."""
    return {name: float(np.mean([one.aggregate[name] for one in scores])) for name in SCALED}


def scaled(user: Mapping[str, float], base: Mapping[str, float], top: Mapping[str, float]) -> dict[str, float]:
    """(u - b) / (r - b) of each score and ``score``, their mean.

    What is missing counts its worst: 0 for the four bounded scores, before scaling; 0 for the error and -6 for
    ``lfc_nmae``, after it. The error is clipped to [0, 1], ``lfc_nmae`` at -6 from below; the others are not.
    """
    found = {}
    for name, worst in SCALED.items():
        value, b, r = user.get(name, float("nan")), base[name], top[name]
        if name in _BOUNDED and not np.isfinite(value):
            value = 0.0
        s = (value - b) / (r - b) if np.isfinite(value) and r != b else float("nan")
        if name == ERROR:
            s = float(np.clip(np.nan_to_num(s, nan=worst), 0, 1))
        elif name == "lfc_nmae":
            s = max(float(np.nan_to_num(s, nan=worst)), worst)
        found[name] = float(s)
    return {**found, "score": float(np.mean(list(found.values())))}


def _mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")
