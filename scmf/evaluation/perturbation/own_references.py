"""Rows that stand beside predictions with own controls: the baselines fitted on half of the control cells, the ceiling.

Lives elsewhere: the baselines themselves (baselines, linear_published), scores (own_controls).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.baselines import (
    Moved,
    additive,
    linear,
    nearest,
    no_change,
    replicates,
    train_mean,
    training_effects,
)
from scmf.evaluation.perturbation.linear_published import fit_published_linear
from scmf.evaluation.perturbation.metrics import spearman_brown
from scmf.evaluation.perturbation.own_controls import OwnReferences, score_of, score_units
from scmf.evaluation.perturbation.space import Space
from scmf.evaluation.perturbation.truth import PerturbationTruth, Prediction
from scmf.results.score import Score

log = logging.getLogger(__name__)

SPLITS = 5
"""Halves whose mean is the ceiling."""


def own_baselines(seen: PerturbationTruth) -> dict[str, Prediction]:
    """Method to prediction, from the cells that a model may see.

    ``linear_effects`` is a model of ours; ``linear_ahlmann_eltze`` is the published one, which has no prediction of a
    combination or of a gene that is not measured. ``additive`` has none where a single perturbation is missing.
    """
    found: dict[str, Prediction] = {
        "no_change": no_change(seen),
        "train_mean": train_mean(seen),
        "linear_effects": linear(seen),
        "nearest": nearest(seen),
    }
    added = additive_where_known(seen)
    if added is not None:
        found["additive"] = added
    published = published_linear(seen)
    if published is not None:
        found["linear_ahlmann_eltze"] = published
    return found


def additive_where_known(seen: PerturbationTruth) -> Prediction | None:
    """Sums of single effects of the combinations all of whose singles train; None where there are none."""
    trained = set(training_effects(seen))
    known = {
        (covariate, condition)
        for covariate, condition in seen.pairs
        if len(seen.genes_of(condition)) > 1 and all((covariate, gene) in trained for gene in seen.genes_of(condition))
    }
    whole = additive(seen)
    assert isinstance(whole, Moved)
    return Moved(seen, {pair: effect for pair, effect in whole.effects.items() if pair in known}) if known else None


def published_linear(seen: PerturbationTruth) -> Prediction | None:
    """The published linear model, one a covariate; None where it predicts nothing."""
    effects: dict[tuple[str, str], np.ndarray] = {}
    for covariate in sorted({covariate for covariate, _ in seen.pairs}):
        profiles = {
            seen.genes_of(condition): seen.mean(covariate, condition, "train")
            for other, condition in seen.training_pairs
            if other == covariate
        }
        try:
            model = fit_published_linear(profiles, seen.control_mean(covariate), seen.genes)
        except EvaluationError as error:
            log.info(f"linear_ahlmann_eltze, {covariate}: not filed, {error}")
            continue
        for pair in seen.pairs:
            predicted = model.predict(seen.genes_of(pair[1])) if pair[0] == covariate else None
            if predicted is not None:
                effects[pair] = predicted - seen.control_mean(covariate)
    if not effects:
        log.info("linear_ahlmann_eltze: not filed, it predicts neither combinations nor genes that are not measured")
    return Moved(seen, effects) if effects else None


def own_ceiling(truth: PerturbationTruth, *, draws: int = 1000) -> Score:
    """One half of the test cells as the prediction of the other, each with its own controls: mean of five halvings.

    ``details["full_depth"]`` has the Spearman-Brown correction of the correlations.
    """
    started, values, terms = time.perf_counter(), [], []
    for seed in range(SPLITS):
        prediction, other = replicates(truth, seed=seed)
        each, ratios = score_units(OwnReferences(other), prediction, Space(other))
        values.append(each)
        terms.append(ratios)
    each = {name: np.mean([one[name] for one in values], axis=0) for name in values[0]}
    ratios = {name: tuple(np.sum([one[name][side] for one in terms], axis=0) for side in (0, 1)) for name in terms[0]}
    score = score_of(truth, "ceiling", each, ratios, {}, draws, started)
    correlations = {name: value for name, value in score.metrics.items() if name.startswith("pearson")}
    corrected: Mapping[str, float] = {name: spearman_brown(value) for name, value in correlations.items()}
    kept = {name: value for name, value in corrected.items() if np.isfinite(value)}
    return replace(score, details=score.details | {"full_depth": kept})
