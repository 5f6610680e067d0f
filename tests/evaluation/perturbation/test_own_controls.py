"""Scores with own controls: floors, ceilings, no inflation without effects, what must change nothing."""

from dataclasses import replace

import numpy as np
import pytest

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.baselines import Moved, no_change, train_mean
from scmf.evaluation.perturbation.benchmark import Perturbation
from scmf.evaluation.perturbation.control_halves import A, B, half_of_cells, seen_by_models
from scmf.evaluation.perturbation.own_controls import CONTROL_METRICS, own_scores
from scmf.evaluation.perturbation.own_references import own_baselines, own_ceiling
from tests.fixtures.perturbation_cells import screen

SEVEN = ("g0", "g1", "g2", "g3", "g0+g1", "g1+g2", "g0+g3", "g2+g3", "g1+g3", "g0+g2")


def with_ids(truth):
    return replace(truth, cell_ids=np.array([f"cell{i}" for i in range(len(truth.conditions))]))


@pytest.fixture(scope="module")
def truth():
    return with_ids(screen(n_cells=60, n_genes=40, conditions=SEVEN))


def only(truth, prediction):
    return next(iter(own_scores(truth, {"mine": prediction}, draws=50)))


def test_halves_go_by_the_ids_alone(truth):
    halves = half_of_cells(truth)
    order = np.random.default_rng(0).permutation(len(halves))
    np.testing.assert_array_equal(half_of_cells(truth.kept(order)), halves[order])
    control = truth.conditions == "control"
    assert (halves[control] == A).sum() == (halves[control] == B).sum() == 30
    seen = seen_by_models(truth)
    assert (seen.conditions == "control").sum() == 30 and seen.pairs == truth.pairs
    with pytest.raises(EvaluationError, match="cells without ids"):
        half_of_cells(screen())


def test_the_truth_reaches_the_ceiling(truth):
    metrics = only(truth, {pair: truth.cells(pair) for pair in truth.pairs}).metrics
    assert metrics["retrieval"] == metrics["nir"] == 1
    assert metrics["wmse"] < 1e-15 and metrics["mse"] < 1e-15
    assert metrics["pearson_delta_perturbed"] > 0.8 and metrics["pearson_delta"] > 0.8
    assert metrics["mmd_pca"] < 0.01 and metrics["mse_ratio"] < 0.05
    assert metrics["sign_accuracy"] > 0.9


def test_no_change_is_the_floor(truth):
    prediction = no_change(seen_by_models(truth))
    score = only(truth, prediction)
    metrics = score.metrics
    assert metrics["retrieval"] == 0.5, "equal predictions average a half"
    assert metrics["sign_accuracy"] == metrics["overlap_top20"] * 0 == metrics["pearson_delta"] == 0
    assert metrics["mse_ratio"] == pytest.approx(1, abs=0.15) and metrics["r2w_delta"] < 0
    assert score.protocol == "unseen_combination_own_controls" and set(score.definitions) == set(metrics)
    assert {"retrieval", "mse_ratio", "wmse"} <= set(score.intervals)
    assert score.details["not_filed"].keys() == {"hit_recall_5", "hit_recall_10", "hit_recall_20", "score_2026"}


def test_own_controls_remove_the_inflation_where_nothing_has_an_effect():
    shared, own = [], []
    for seed in range(6):
        rng, truth = np.random.default_rng(seed), with_ids(screen(n_cells=44, n_genes=60, conditions=SEVEN, seed=seed))
        calm = truth.x_NG[rng.integers(0, 44, len(truth.conditions))]  # every cell is a control cell
        truth = replace(truth, x_NG=calm, _means={})
        metrics = only(truth, train_mean(seen_by_models(truth))).metrics
        shared.append(metrics["pearson_delta_shared"])
        own.append(metrics["pearson_delta"])
    spread = 2 * np.std(own) / np.sqrt(len(own))
    assert np.mean(shared) > 0.25, "both sides share the noise of the control"
    assert abs(np.mean(own)) < max(spread, 0.1) and np.mean(own) < np.mean(shared) - 0.2


def test_magnifying_predictions_keeps_ranks_and_signs(truth):
    seen = seen_by_models(truth)
    effects = train_mean(seen).effects
    rng = np.random.default_rng(0)
    effects = {pair: effect + rng.normal(0, 0.2, 40) for pair, effect in effects.items()}
    one, four = (only(truth, Moved(seen, {p: size * e for p, e in effects.items()})).metrics for size in (1, 4))
    assert four["sign_accuracy"] == one["sign_accuracy"] and four["pearson_delta"] == pytest.approx(
        one["pearson_delta"]
    )
    assert four["mse"] > one["mse"]


def test_the_order_of_cells_and_genes_changes_nothing(truth):
    rng, prediction = np.random.default_rng(1), {pair: truth.cells(pair) + 0.3 for pair in truth.pairs}
    cells, genes = rng.permutation(len(truth.conditions)), rng.permutation(40)
    moved = replace(truth.kept(cells), x_NG=truth.x_NG[cells][:, genes], genes=truth.genes[genes], _means={})
    same = {pair: values[:, genes] for pair, values in prediction.items()}
    assert only(moved, same).metrics == pytest.approx(only(truth, prediction).metrics, rel=1e-5, abs=1e-6)


def test_control_cells_of_the_truth_do_not_reach_predictions(truth):
    changed = truth.x_NG.copy().tolil()
    hidden = np.flatnonzero((truth.conditions == "control") & (half_of_cells(truth) == B))
    changed[hidden] = 9.0
    other = replace(truth, x_NG=changed.tocsr(), _means={})
    for name, prediction in own_baselines(seen_by_models(truth)).items():
        same = own_baselines(seen_by_models(other))[name]
        for pair in prediction:
            np.testing.assert_array_equal(prediction.profile(pair), same.profile(pair))


def test_a_prediction_that_saw_all_controls_has_no_metric_against_control(truth):
    class Seen(dict):
        controls = "all"

    score = only(truth, Seen({pair: truth.cells(pair) for pair in truth.pairs}))
    assert not set(CONTROL_METRICS) & set(score.metrics) and {"retrieval", "wmse", "mmd_pca"} <= set(score.metrics)
    assert set(CONTROL_METRICS) <= set(score.details["not_filed"])


def test_few_control_cells_are_no_reference():
    small = with_ids(screen(n_cells=30, n_genes=30))
    metrics = only(small, {pair: small.cells(pair) for pair in small.pairs}).metrics
    assert not set(CONTROL_METRICS) & set(metrics) and metrics["retrieval"] == 1


def test_the_baselines_say_what_they_cannot_predict(truth):
    found = own_baselines(seen_by_models(truth))
    assert set(found) == {"no_change", "train_mean", "linear_effects", "nearest", "additive"}, (
        "doubles: no published one"
    )
    rare = truth.kept(np.flatnonzero(truth.conditions != "g3"))
    added = own_baselines(seen_by_models(rare))["additive"]
    assert {condition for _, condition in added} == {"g0+g1", "g1+g2", "g0+g2"}
    score = only(rare, added)
    assert len(score.details["per_perturbation"]["wmse"]) == 3 and np.isfinite(list(score.metrics.values())).all()


def test_the_ceiling_has_its_own_controls(truth):
    score = own_ceiling(truth, draws=50)
    assert (
        score.method == "ceiling"
        and 0.5 < score.metrics["pearson_delta"] < score.details["full_depth"]["pearson_delta"]
    )
    calm = replace(truth, x_NG=truth.x_NG[np.random.default_rng(0).integers(0, 60, len(truth.conditions))], _means={})
    assert abs(own_ceiling(calm, draws=50).metrics["pearson_delta_perturbed"]) < 0.2


def test_an_unseen_cell_type_is_ranked_among_the_other_types():
    kinds = with_ids(screen(kinds=("a", "b", "c"), held={"c": "test"}, n_cells=60, n_genes=40))
    score = only(kinds, {pair: kinds.cells(pair) for pair in kinds.pairs})
    assert score.protocol == "unseen_cell_type_own_controls" and score.metrics["retrieval"] > 0.75


def test_no_change_moves_no_gene_by_rounding():
    truth = screen(n_cells=37)
    prediction = Perturbation().baselines(truth)["no_change"]
    for pair in truth.pairs:
        np.testing.assert_array_equal(prediction.profile(pair), truth.control_mean(pair[0]))
