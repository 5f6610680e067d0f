"""The perturbation benchmark: floors, ceilings, what must change nothing, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import EvaluationError, SourceError
from scmf.evaluation.perturbation.baselines import moved, train_mean
from scmf.evaluation.perturbation.benchmark import Perturbation
from scmf.evaluation.perturbation.truth import PerturbationTruth, read_prediction
from scmf.evaluation.run import cells_of
from scmf.evaluation.tasks import load_suite
from tests.fixtures.perturbation_cells import DOUBLES, SINGLES, screen

FEW = settings(max_examples=4, deadline=None)
SCORED = Perturbation(draws=20)


def perfect(truth):
    return {pair: truth.cells(pair) for pair in truth.pairs}


def only(truth, prediction, method="mine", benchmark=SCORED):
    return next(iter(benchmark.run(truth, {method: prediction})))


def test_the_truth_itself_reaches_every_ceiling():
    truth = screen()
    metrics = only(truth, perfect(truth)).metrics
    for name in ("pearson", "pearson_delta", "pearson_top20", "pearson_delta_top20", "cosine_logfc", "pds"):
        assert metrics[name] == pytest.approx(1)
    for name in ("mse", "mse_top20", "mse_top20_nondropout", "rmse", "mae", "rank_cosine_logfc", "rank_rmse"):
        assert metrics[name] == pytest.approx(0, abs=1e-9)
    assert metrics["energy_distance_pertpy"] == pytest.approx(0, abs=1e-9)
    assert metrics["des"] == 1
    assert not {"l2_top1000", "pearson_delta_top1000"} & set(metrics), "the top 1,000 of 30 genes are all genes"


def test_no_change_is_the_floor():
    truth = screen()
    score = only(truth, SCORED.baselines(truth)["no_change"])
    assert score.metrics["pearson_delta"] == score.metrics["cosine_logfc"] == score.metrics["des"] == 0
    assert score.protocol == "unseen_combination" and score.n_cells == 4 * 24
    assert score.intervals == {} and score.details["units"]["values"].keys() >= {"mse", "des"}, "four are no draw"
    five = screen(conditions=(*SINGLES, *DOUBLES, "g1+g3"))
    more = only(five, SCORED.baselines(five)["no_change"]).intervals
    assert set(more) >= {"pearson_delta", "mse"} and more["mse"].unit == "perturbations"
    assert not score.higher_is_better["mse"] and score.higher_is_better["pearson_delta"]
    assert set(score.definitions) == set(score.metrics)
    # one prediction for all is never recognized: ties count half, which is (P - 1) / 2P for P perturbations
    assert score.metrics["rank_cosine_logfc"] == score.metrics["rank_rmse"] == pytest.approx(3 / 8)
    assert score.metrics["energy_distance_pertpy"] > 0


def test_subgroups_and_the_score_of_the_challenge_have_intervals():
    truth = screen(kinds=("a", "b"), n_cells=12, conditions=(*SINGLES, *DOUBLES, "g1+g3", "g0+g2"))
    truth = replace(truth, parts=np.where(truth.conditions == "g0", "test", truth.parts), _means={})
    for score in SCORED.run(truth, {name: SCORED.baselines(truth)[name] for name in ("train_mean", "nearest")}):
        groups = list(score.details["subgroups"].values())
        assert [groups.count(name) for name in ("seen1", "seen2", "unseen_single")] == [6, 6, 2]
        assert {"mse.seen1", "pearson_delta.seen2", "vcc_score"} <= set(score.intervals)
        assert not any(name.endswith("unseen_single") for name in score.intervals), "two are no draw"
        interval, value = score.intervals["vcc_score"], score.metrics["vcc_score"]
        assert interval.low <= value <= interval.high
        if score.method == "train_mean":
            assert interval.low == interval.high == value == 0, "the baseline is 0 in every draw"


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("norman-combinations", {"no_change": 7 / 15, "train_mean": 7 / 15, "linear": 7 / 15}),
        ("mcfaline-line", {"no_change": 4 / 9, "linear": 4 / 9}),
    ],
)
def test_equal_predictions_tie_on_real_screens_whatever_a_matrix_product_rounds(task, wanted):
    task = load_suite().tasks[task]
    try:
        cells = cells_of(task)
    except SourceError as error:
        pytest.skip(str(error))
    truth = PerturbationTruth.of(cells.adata)
    quick = Perturbation(cells=False, draws=5)
    for method, prediction in quick.baselines(truth).items():
        if method in wanted:
            assert only(truth, prediction, benchmark=quick).metrics["rank_cosine_logfc"] == pytest.approx(
                wanted[method]
            )


def test_a_screen_with_additive_effects_is_predicted_by_adding_them():
    truth = screen(n_cells=200, seed=3)
    scores = {score.method: score.metrics for score in SCORED.run(truth, SCORED.baselines(truth))}
    assert set(scores) == {"no_change", "train_mean", "linear", "nearest", "additive"}
    best = scores["additive"]
    assert best["pearson_delta"] > 0.9
    assert all(best["mse"] <= scores[name]["mse"] for name in scores)
    assert best["vcc_score"] > scores["train_mean"]["vcc_score"] == 0
    ceiling = SCORED.ceiling(truth)
    assert ceiling.method == "ceiling" and ceiling.metrics["pearson_delta"] > best["pearson_delta"] - 0.05


def test_an_unseen_cell_type_takes_the_effects_of_the_others():
    truth = screen(kinds=("a", "b", "c"), held={"c": "test"}, n_cells=60)
    assert truth.kind == "unseen_cell_type"
    scores = {score.method: score.metrics for score in SCORED.run(truth, SCORED.baselines(truth))}
    assert scores["train_mean"]["pearson_delta"] > 0.7 > scores["no_change"]["pearson_delta"]
    assert scores["nearest"]["pearson_delta"] > 0.7


def test_groups_of_a_mixed_split_are_told_apart():
    conditions = ("g0", "g1", "g2", "g3", "g0+g1", "g1+g2", "g2+g3")
    truth = screen(conditions=conditions)
    parts = truth.parts.copy()
    parts[np.isin(truth.conditions, ["g3", "g2+g3", "g0+g1"])] = "test"
    parts[np.isin(truth.conditions, ["g0", "g1", "g2", "g1+g2"])] = "train"
    mixed = PerturbationTruth(truth.x_NG, truth.genes, truth.conditions, truth.covariates, parts, "control", "+")
    assert mixed.kind == "unseen_perturbation"
    assert [mixed.subgroup(name) for name in ("g3", "g2+g3", "g0+g1")] == ["unseen_single", "seen1", "seen2"]
    metrics = only(mixed, perfect(mixed)).metrics
    assert {"pearson_delta.seen1", "pearson_delta.seen2", "pearson_delta.unseen_single"} <= set(metrics)


@FEW
@given(st.integers(0, 10**6))
def test_the_order_of_cells_and_genes_changes_nothing(seed):
    truth, rng = screen(n_cells=12, n_genes=24), np.random.default_rng(seed)
    prediction = train_mean(truth)
    cells, genes = rng.permutation(truth.x_NG.shape[0]), rng.permutation(len(truth.genes))
    shuffled = PerturbationTruth(
        truth.x_NG[cells][:, genes], truth.genes[genes], truth.conditions[cells], truth.covariates[cells],
        truth.parts[cells], "control", "+",
    )  # fmt: skip
    same = {pair: prediction[pair][:, genes] for pair in truth.pairs}
    before, after = only(truth, prediction).metrics, only(shuffled, same).metrics
    assert after == pytest.approx(before, rel=1e-5, abs=1e-6)


@FEW
@given(st.integers(0, 10**6))
def test_predicted_control_cells_are_never_looked_at(seed):
    truth = screen(n_cells=12, n_genes=24)
    prediction = dict(train_mean(truth).items())
    clean = only(truth, prediction).metrics
    rng = np.random.default_rng(seed)
    prediction["all", "control"] = prediction["k562", "control"] = rng.normal(0, 100, (7, 24))
    assert only(truth, prediction).metrics == clean


def test_profiles_without_cells_have_no_metrics_of_sets():
    truth = screen()
    profiles = {pair: truth.mean(*pair) for pair in truth.pairs}
    metrics = only(truth, profiles).metrics
    assert metrics["pearson_delta"] == pytest.approx(1) and "des" not in metrics
    assert "energy_distance_pertpy" not in metrics


@FEW
@given(st.integers(0, 10**6))
def test_moved_cells_have_the_mean_that_is_asked_for(seed):
    rng = np.random.default_rng(seed)
    control = np.log1p(rng.poisson(rng.gamma(0.5, 1, 20), (15, 20))).astype(float)
    effect = rng.normal(0, 0.7, 20) * (rng.random(20) < 0.7)
    cells = moved(control, effect)
    assert np.allclose(cells.mean(axis=0), control.mean(axis=0) + effect, atol=1e-9)
    assert np.array_equal(cells[:, effect == 0], control[:, effect == 0])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p, pair: p.pop(pair), "no prediction of"),
        (lambda p, pair: p.update({pair: np.zeros((4, 7))}), r"shape \(4, 7\)"),
        (lambda p, pair: p.update({pair: np.full((4, 30), np.nan)}), "not finite"),
        (lambda p, pair: p.update({pair: np.zeros((0, 30))}), "shape"),
        (lambda p, pair: p.update({("k562", "g1+g0"): p.pop(pair)}), r"does not have, the first is 'g1\+g0'"),
    ],
)
def test_a_bad_prediction_is_refused_in_words(spoil, said):
    truth = screen()
    prediction = perfect(truth)
    spoil(prediction, truth.pairs[0])
    with pytest.raises(EvaluationError, match=said):
        only(truth, prediction)


def anndata_of(truth, prediction):
    import anndata as ad
    import pandas as pd

    blocks = [prediction[pair] for pair in truth.pairs]
    obs = pd.DataFrame(
        {"condition": [pair[1] for pair, block in zip(truth.pairs, blocks, strict=True) for _ in block]}
    ).astype(str)
    obs.index = [f"c{i}" for i in range(len(obs))]
    return ad.AnnData(sp.csr_matrix(np.concatenate(blocks)), obs=obs, var=pd.DataFrame(index=truth.genes))


def test_predicted_cells_are_read_from_a_file_in_any_order_of_genes():
    truth = screen()
    file = anndata_of(truth, perfect(truth))[:, ::-1].copy()
    found = read_prediction(file, truth)
    assert all(np.allclose(found[pair], truth.cells(pair)) for pair in truth.pairs)
    with pytest.raises(EvaluationError, match="genes are missing"):
        read_prediction(file[:, :20].copy(), truth)
    counts = file.copy()
    counts.X = sp.csr_matrix(np.round(counts.X.toarray() * 40))
    with pytest.raises(EvaluationError, match="log1p"):
        read_prediction(counts, truth)
    del file.obs["condition"]
    with pytest.raises(EvaluationError, match="condition"):
        read_prediction(file, truth)


def test_a_screen_without_controls_or_without_test_cells_is_refused():
    truth = screen()
    other = PerturbationTruth(truth.x_NG, truth.genes, truth.conditions, truth.covariates, truth.parts, "ctrl", "+")
    with pytest.raises(EvaluationError, match="control cells"):
        other.check()
    all_train = PerturbationTruth(
        truth.x_NG, truth.genes, truth.conditions, truth.covariates, np.repeat("train", len(truth.parts)), "control"
    )
    with pytest.raises(EvaluationError, match="test cells"):
        all_train.check()
