"""Ranks with ties: equal predictions average .5, magnifying and permuting change nothing, spikes win nothing."""

import numpy as np
import pytest

from scmf.evaluation.perturbation.midranks import DISTANCES, midrank_scores, nir, retrieval
from scmf.evaluation.perturbation.ranks import perturbench_rank

GENES = np.array([f"g{i}" for i in range(40)])
TARGETS = [(f"g{i}",) for i in range(7)]


def changes(seed, n=7):
    return np.random.default_rng(seed).normal(size=(n, len(GENES)))


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_truth_is_found_and_equal_predictions_average_a_half(distance):
    truth = changes(0)
    assert (retrieval(truth, truth, GENES, TARGETS, distance=distance) == 1).all()
    same = np.repeat(changes(1)[:1], 7, axis=0)
    noisy = same * (1 + 1e-15 * np.random.default_rng(0).normal(size=same.shape))
    for predicted in (same, noisy):
        assert retrieval(predicted, truth, GENES, TARGETS, distance=distance).mean() == pytest.approx(0.5, abs=1e-12)


def test_no_change_is_a_half_for_each_whatever_rounding_leaves_of_it():
    truth = changes(2)
    rest = 1e-16 * np.random.default_rng(3).normal(size=truth.shape)
    for predicted in (np.zeros_like(truth), rest):
        assert (retrieval(predicted, truth, GENES, TARGETS) == 0.5).all()


def test_one_perturbation_has_no_rival():
    assert midrank_scores(np.zeros((1, 1))).tolist() == [1.0]


def test_what_is_not_a_number_is_farther():
    assert midrank_scores(np.array([[0.5, np.nan], [0.1, 0.2]])).tolist() == [1.0, 0.0]


def test_magnified_predictions_keep_their_retrieval_and_spikes_on_targets_win_nothing():
    truth, predicted = changes(4), changes(4) + changes(5)
    found = retrieval(predicted, truth, GENES, TARGETS)
    np.testing.assert_array_equal(retrieval(4 * predicted, truth, GENES, TARGETS), found)
    knocked = truth.copy()
    knocked[np.arange(7), np.arange(7)] = -30
    spiked = np.zeros_like(truth)
    spiked[:, :7] = -30 * (1 - np.eye(7))
    assert (retrieval(spiked, knocked, GENES, TARGETS) == 0.5).all()


def test_the_order_of_genes_and_perturbations_changes_nothing():
    truth, predicted, rng = changes(6), changes(6) + 2 * changes(7), np.random.default_rng(8)
    genes, rows = rng.permutation(len(GENES)), rng.permutation(7)
    moved = retrieval(predicted[rows][:, genes], truth[rows][:, genes], GENES[genes], [TARGETS[i] for i in rows])
    np.testing.assert_array_equal(moved, retrieval(predicted, truth, GENES, TARGETS)[rows])
    np.testing.assert_array_equal(nir(predicted[rows], truth[rows]), nir(predicted, truth)[rows])


@pytest.mark.parametrize("similarity", ["cosine", "rmse"])
@pytest.mark.parametrize("n", [2, 3, 15])
def test_the_rank_of_perturbench_has_its_chance_for_equal_predictions(similarity, n):
    truth = changes(9, n)
    same = np.repeat(changes(10, 1), n, axis=0)
    ranks = perturbench_rank(same, truth, similarity=similarity)
    assert ranks == pytest.approx(np.full(n, (n - 1) / (2 * n)), abs=1e-15), "not what a matrix product rounds"
