"""cell-eval as a backend: its own table, our metrics beside it, the ceiling, and what it cannot be asked."""

import importlib.util
import json

import numpy as np
import pytest

from scmf.core.errors import ConfigError, EvaluationError, MissingExtraError
from scmf.evaluation.external.cell_eval_run import CellEval
from scmf.evaluation.perturbation.benchmark import Perturbation
from tests.fixtures.perturbation_cells import screen

needs_cell_eval = pytest.mark.skipif(importlib.util.find_spec("cell_eval") is None, reason="cell-eval is not installed")

FAST = ("clustering_agreement", "pearson_edistance")
"""Metrics of one value for the whole screen, the slowest."""


def noisy(truth, seed=1):
    """Other cells of the truth, scaled gene by gene."""
    rng = np.random.default_rng(seed)
    found = {}
    for pair in truth.pairs:
        cells = truth.cells(pair)
        found[pair] = np.maximum(cells[rng.permutation(len(cells))] * rng.uniform(0.6, 1.4, cells.shape[1]), 0)
    return found


@pytest.fixture(scope="module")
def truth():
    return screen(n_cells=60, seed=5)


@pytest.fixture(scope="module")
def scores(truth):
    """Scores of a prediction and of the truth itself."""
    perfect = {pair: truth.cells(pair) for pair in truth.pairs}
    return {
        one.method: one for one in CellEval(skip=FAST, draws=50).run(truth, {"mine": noisy(truth), "ceiling": perfect})
    }


@needs_cell_eval
@pytest.mark.parametrize(
    ("ours", "name"), [("mae", "mae"), ("mse", "mse"), ("pearson_delta", "pearson_delta"), ("des", "overlap_at_N")]
)
def test_its_means_are_those_of_our_definitions(truth, scores, ours, name):
    mine = next(iter(Perturbation(draws=10).run(truth, {"mine": noisy(truth)})))
    assert scores["mine"].metrics[name] == pytest.approx(mine.metrics[ours], abs=1e-6)


@needs_cell_eval
def test_truth_gives_the_ceiling_of_every_metric_and_errors_fall(scores):
    best = scores["ceiling"]
    assert set(best.lower_is_better) == {"mse", "mae", "mse_delta", "mae_delta"}
    for name, value in best.metrics.items():
        if name.startswith("precision_at_") and not name.endswith("_N"):
            continue  # cannot reach 1 where fewer genes are significant than it asks for
        assert value == pytest.approx(0.0 if name in best.lower_is_better else 1.0, abs=1e-6), name
    assert not any(best.higher_is_better[name] for name in best.lower_is_better)


@needs_cell_eval
def test_a_score_holds_values_counts_and_what_has_no_mean(truth, scores):
    score = scores["mine"]
    assert (score.benchmark, score.protocol) == ("perturbation", "cell_eval")
    assert set(score.metrics) == set(score.definitions)
    assert score.intervals == {}, "four conditions are listed below, and no interval is drawn of them"
    assert not set(score.details["left_out"]) & set(score.metrics)
    assert all("cell-eval 0.8" in line for line in score.definitions.values())
    conditions = {condition for _, condition in truth.pairs}
    assert all(set(row) == conditions for row in score.details["per_perturbation"].values())
    assert any(name.startswith("de_nsig_counts") for name in score.details["counts"])
    json.dumps(score.details, allow_nan=False)


@needs_cell_eval
def test_each_cell_type_has_its_own_control_and_the_mean_is_over_all_pairs():
    truth = screen(n_cells=30, kinds=("k562", "rpe1"), seed=3, held={"rpe1": "test", "k562": "test"})
    prediction = {pair: truth.cells(pair) * 1.1 for pair in truth.pairs}
    (score,) = CellEval(profile="anndata", skip=FAST, draws=20).run(truth, {"mine": prediction})
    wanted = [np.abs(truth.mean(*pair) * 0.1).mean() for pair in truth.pairs]
    assert score.metrics["mae"] == pytest.approx(np.mean(wanted), abs=1e-6)
    assert all(" in " in name for name in score.details["per_perturbation"]["mae"])


@needs_cell_eval
def test_a_mean_profile_cannot_be_asked(truth):
    profiles = {pair: truth.mean(*pair) for pair in truth.pairs}
    with pytest.raises(EvaluationError, match="predicted as a mean profile"):
        list(CellEval().run(truth, {"mine": profiles}))
    with pytest.raises(EvaluationError, match="no prediction of"):
        list(CellEval().run(truth, {"mine": {}}))


@needs_cell_eval
def test_an_unknown_profile_is_said_before_anything_runs():
    with pytest.raises(ConfigError, match="profile 'vc'"):
        CellEval(profile="vc")


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"scmodelforge\[cell-eval\]"):
        CellEval()
