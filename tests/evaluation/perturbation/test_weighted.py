"""Weights, weighted metrics, distances of sets, hits, the published linear model, the dynamic range."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import ttest_ind

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.benchmark import pertpy_distance
from scmf.evaluation.perturbation.calibration import drf_scperteval, dynamic_range, wins
from scmf.evaluation.perturbation.energy_distance import energy_unbiased
from scmf.evaluation.perturbation.hits import hit_recall, largest, recall_at
from scmf.evaluation.perturbation.linear_published import fit_published_linear
from scmf.evaluation.perturbation.metrics import spearman_brown
from scmf.evaluation.perturbation.space import median_distance, mmd_unbiased
from scmf.evaluation.perturbation.weighted import mse_ratio, overlap, sign_accuracy, weighted_mse, weighted_r2
from scmf.evaluation.perturbation.welch import gene_weights, moments, pooled, welch

RNG = np.random.default_rng(0)


def test_moments_and_the_test_are_those_of_numpy_and_scipy():
    x, y = RNG.poisson(1.0, (20, 8)).astype(float), RNG.poisson(1.5, (31, 8)).astype(float)
    found = welch(moments(sp.csr_matrix(x)), moments(y))
    theirs = ttest_ind(x, y, axis=0, equal_var=False)
    np.testing.assert_allclose(found.t, theirs.statistic, rtol=1e-12)
    np.testing.assert_allclose(found.p, theirs.pvalue, rtol=1e-10)
    stored = sp.csr_matrix(x + 1)
    stored.data -= 1  # zeros that are stored count as zeros
    np.testing.assert_allclose(moments(stored).variance, x.var(axis=0, ddof=1), rtol=1e-12)
    both = pooled([moments(x), moments(y)])
    np.testing.assert_allclose(both.variance, np.concatenate([x, y]).var(axis=0, ddof=1), rtol=1e-12)


def test_weights_add_up_to_one_and_are_alike_where_nothing_differs():
    weights = gene_weights(np.array([0.0, -3.0, 1.5, np.nan]))
    assert weights == pytest.approx([0, 0.8, 0.2, 0])
    assert gene_weights(np.full(4, 2.0)) == pytest.approx([0.25] * 4)


def test_the_truth_is_perfect_and_the_mean_scores_nothing():
    truth, weights = RNG.normal(size=30), gene_weights(RNG.normal(size=30))
    assert weighted_mse(truth, truth, weights) == 0 and weighted_r2(truth, truth, weights) == 1
    assert weighted_r2(np.zeros(30), truth, weights) <= 0
    assert np.isnan(weighted_r2(truth, np.ones(30), weights))


def test_signs_are_right_wrong_or_not_predicted():
    truth, significant = np.linspace(-1, 1, 12), np.ones(12, bool)
    assert sign_accuracy(4 * truth, truth, significant) == 1
    assert sign_accuracy(-truth, truth, significant) == sign_accuracy(0 * truth, truth, significant) == 0
    assert np.isnan(sign_accuracy(truth, truth, np.arange(12) < 9))
    genes = np.array([f"g{i}" for i in range(30)])
    assert overlap(np.arange(30.0), np.arange(30.0), genes) == 1 and np.isnan(overlap(truth, truth, genes[:12]))


def test_the_error_is_0_for_the_truth_and_1_for_the_control_without_noise():
    truth, control, none = RNG.normal(size=(4, 9)), np.zeros((4, 9)), np.zeros(4)
    for predicted, wanted in ((truth, 0.0), (control, 1.0)):
        top, bottom = mse_ratio(
            predicted, truth, control, noise_hat_P=none, noise_P=none, control_noise_P=none
        )  # fmt: skip
        assert top.sum() / bottom.sum() == pytest.approx(wanted)
    noisy = mse_ratio(control, truth, control, noise_hat_P=none + 5, noise_P=none + 0.1, control_noise_P=none)
    assert noisy[0] == pytest.approx((truth**2).sum(axis=1) - 0.1), "equal predictions have no noise to take off"


def test_unbiased_distances_do_not_depend_on_the_size_of_the_sets():
    draws = [(RNG.normal(size=(n, 4)), RNG.normal(size=(n, 4))) for n in (10, 200) for _ in range(60)]
    for distance in (energy_unbiased, lambda x, y: mmd_unbiased(x, y, width=2.0)):
        means = [np.mean([distance(x, y) for x, y in part]) for part in (draws[:60], draws[60:])]
        assert np.abs(means) == pytest.approx([0, 0], abs=0.05)
    x = RNG.normal(size=(30, 4))
    assert mmd_unbiased(x, x + 3, width=median_distance(x)) > 0.5 > mmd_unbiased(x, x, width=0.0) == 0
    with pytest.raises(EvaluationError, match="two cells or more"):
        mmd_unbiased(x[:1], x, width=1.0)


def test_hits_are_found_in_the_order_of_scores_and_equal_scores_share_them():
    effect = np.arange(20.0)[:, None]
    assert largest(effect).ravel().tolist() == [False] * 18 + [True] * 2
    hit = largest(effect).ravel()
    assert recall_at(np.arange(20.0), hit, [0, 0.05, 0.1, 1]).tolist() == [0, 0.5, 1, 1]
    assert recall_at(np.zeros(20), hit, [0.25]) == pytest.approx([0.25]), "chance is the budget"
    assert hit_recall(effect, effect) == {}
    many = np.arange(60.0)[:, None]
    assert hit_recall(many, many)["hit_recall_10"] == 1


def test_the_published_linear_model_predicts_measured_singles_alone():
    genes = np.array([f"g{i}" for i in range(30)])
    control = RNG.gamma(1, 1, 30)
    profiles = {(f"g{i}",): control + RNG.normal(0, 0.2, 30) for i in range(5)} | {("g0", "g1"): control}
    model = fit_published_linear(profiles, control, genes)
    assert model.predict(("g9",)).shape == (30,) and len(model.used) == 6
    assert model.predict(("g0", "g1")) is None and model.predict(("elsewhere",)) is None
    with pytest.raises(EvaluationError, match="no single training perturbation"):
        fit_published_linear({("elsewhere",): control}, control, genes)


def test_the_dynamic_range_and_the_wins():
    assert dynamic_range(0.2, 1.0, perfect=0.0) == pytest.approx(0.8)
    assert dynamic_range(5.0, 1.0, perfect=0.0) == -1 and np.isnan(dynamic_range(0.5, 1.0, perfect=1.0))
    ones = wins(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 1.0, 4.0, 0.0]), higher_is_better=True)
    assert ones.tolist() == [0.5, 1, 0, 0.5]
    drf = drf_scperteval(np.array([0.5]), np.array([2.0]), perfect=1.0, higher_is_better=True)
    assert np.isnan(drf).all(), "a negative control beyond perfect is dropped there"


def test_spearman_brown_corrects_positive_correlations():
    assert spearman_brown(0.5) == pytest.approx(2 / 3) and np.isnan(spearman_brown(-0.1))


def test_the_mmd_of_pertpy_is_refused():
    with pytest.raises(EvaluationError, match="squared distance of two means"):
        pertpy_distance("mmd")
