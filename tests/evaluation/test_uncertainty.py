"""Intervals: against scipy's bootstrap, against known truth, and the fast forms against the slow one."""

import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import EvaluationError
from scmf.evaluation import uncertainty
from scmf.evaluation.annotation.benchmark import score
from scmf.evaluation.uncertainty import (
    Difference,
    bootstrap,
    bootstrap_labels,
    bootstrap_means,
    differs,
    differs_labels,
    differs_means,
    draw_rows,
)
from scmf.results.score import Interval


def labels(n=1000, classes=10, right=0.7, seed=0):
    rng = np.random.default_rng(seed)
    names = np.array([f"type{i}" for i in range(classes)])
    true = names[rng.integers(classes, size=n)]
    return np.where(rng.random(n) < right, true, names[rng.integers(classes, size=n)]), true


# --- against another package and against the truth ---------------------------------------------------


def test_interval_of_a_mean_equals_that_of_scipy():
    x = np.random.default_rng(0).normal(size=60)
    wanted = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    slow = bootstrap(lambda rows: {"mean": x[rows].mean()}, len(x), unit="cells", draws=20000)["mean"]
    fast = bootstrap_means({"mean": x}, unit="cells", draws=20000)["mean"]
    for found in (slow, fast):
        # the standard error of a 2.5 % quantile of 20,000 draws is about 0.02 of a deviation
        assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.08 * x.std() / np.sqrt(60))


def covered(make, interval, sets):
    """Share of simulated sets whose interval holds the true mean, which is 0."""
    rng = np.random.default_rng(7)
    inside = [interval(*make(rng), seed) for seed in range(sets)]
    return np.mean([found.low <= 0 <= found.high for found in inside])


def test_intervals_over_30_units_hold_the_true_mean_as_often_as_theory_says():
    found = covered(
        lambda rng: (rng.normal(size=30),),
        lambda x, seed: bootstrap_means({"m": x}, unit="cells", draws=400, seed=seed)["m"],
        sets=4000,
    )
    # the percentile interval takes the normal for the t quantile and n for n - 1: a little less than 95 %
    theory = 1 - 2 * scipy.stats.t.sf(1.96 * np.sqrt(29 / 30), 29)
    assert theory == pytest.approx(0.936, abs=0.001)
    assert found == pytest.approx(theory, abs=0.02), "three standard errors of 4,000 sets, and what 400 draws lose"


def test_intervals_over_donors_hold_the_true_mean_and_those_over_cells_do_not():
    donors = np.repeat(np.arange(25), 20)

    def make(rng):
        return (rng.normal(size=25)[donors] + rng.normal(size=len(donors)),)

    def over(units, unit):
        return lambda x, seed: bootstrap(lambda r: {"m": x[r].mean()}, units, unit=unit, draws=200, seed=seed)["m"]

    assert 0.87 <= covered(make, over(donors, "donors"), sets=150) <= 0.98
    assert covered(make, over(len(donors), "cells"), sets=150) < 0.6


# --- the fast forms are the slow one ------------------------------------------------------------------


def test_rates_of_counts_equal_the_score_of_the_drawn_cells():
    predicted, true = labels(60, classes=5)
    true_N, (predicted_N,), n_labels = uncertainty._codes(true, [predicted])
    for rows in draw_rows(60, draws=30, seed=3):
        counts = np.bincount(rows, minlength=60)[None].astype(float)
        found = uncertainty._rates(counts, true_N, predicted_N, n_labels)
        wanted = score(predicted[rows], true[rows])
        assert {name: value[0] for name, value in found.items()} == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("by_donor", [False, True])
def test_label_intervals_equal_the_plain_bootstrap_within_its_noise(by_donor):
    predicted, true = labels(300, classes=4)
    donors = np.arange(300) % 12
    slow = bootstrap(lambda rows: score(predicted[rows], true[rows]), donors if by_donor else 300, unit="x", draws=600)
    fast = bootstrap_labels(predicted, true, groups=donors if by_donor else None, unit="x", draws=5000)
    for name, wanted in slow.items():
        width = wanted.high - wanted.low
        assert fast[name].n_units == wanted.n_units == (12 if by_donor else 300)
        assert fast[name].low == pytest.approx(wanted.low, abs=0.12 * width)
        assert fast[name].high == pytest.approx(wanted.high, abs=0.12 * width)


def test_a_thousand_draws_of_a_thousand_cells_take_far_less_than_a_second():
    predicted, true = labels()
    bootstrap_labels(predicted, true, draws=10)
    started = time.process_time()
    bootstrap_labels(predicted, true, draws=1000)
    assert time.process_time() - started < 0.5


def test_means_leave_out_units_without_a_value():
    x = np.random.default_rng(0).normal(size=40)
    with_gaps = np.concatenate([x, np.full(3, np.nan)])
    found = bootstrap_means({"a": with_gaps, "b": np.full(43, np.nan)}, unit="perturbations")
    assert set(found) == {"a"}, "a metric without a value has no interval"
    moved = bootstrap_means({"a": with_gaps + 100}, unit="perturbations")["a"]  # a gap taken for 0 would pull it down
    assert (moved.low, moved.high) == pytest.approx((found["a"].low + 100, found["a"].high + 100), abs=1e-9)
    assert found["a"].low < x.mean() < found["a"].high
    assert found["a"].n_units == 43


# --- what an interval says ------------------------------------------------------------------------------


def test_an_interval_says_what_was_drawn():
    x = np.arange(20.0)
    found = bootstrap(lambda rows: {"m": x[rows].mean()}, 20, unit="cells", draws=50, level=0.8)["m"]
    assert isinstance(found, Interval)
    assert (found.level, found.unit, found.n_units, found.draws) == (0.8, "cells", 20, 50)


def test_draws_without_a_value_are_left_out_and_counted():
    def metrics(rows):
        return {"mostly": float("nan") if 0 not in rows else 1.0, "rarely": 1.0 if len(set(rows)) == 3 else np.nan}

    found = bootstrap(metrics, 3, unit="cells", draws=400, seed=1)
    held = sum(0 in rows for rows in draw_rows(3, draws=400, seed=1))
    assert set(found) == {"mostly"}, "a number in fewer than half of the draws (2 of 9) has no interval"
    assert found["mostly"].draws == held < 400


def test_whole_groups_are_drawn():
    groups = np.array(["b", "a", "a", "c", "b", "a"])
    for rows in draw_rows(groups, draws=20, seed=0):
        counts = np.bincount(rows, minlength=6)
        for name in "abc":
            assert len(set(counts[groups == name])) == 1
        assert sum(counts[[1, 0, 3]]) == 3, "as many groups as there are"


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=2, max_size=40),
    st.integers(0, 5), st.randoms(use_true_random=False),
)  # fmt: skip
def test_intervals_of_labels_lie_in_range_and_know_no_order_of_cells(pairs, seed, random):
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = bootstrap_labels(predicted, true, draws=150, seed=seed)
    assert all(0 <= interval.low <= interval.high <= 1 for interval in found.values())
    assert found == bootstrap_labels(predicted, true, draws=150, seed=seed)
    random.shuffle(pairs)
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    assert found == bootstrap_labels(predicted, true, draws=150, seed=seed)
    right = bootstrap_labels(true, true, draws=20, seed=seed)
    assert all((interval.low, interval.high) == (1, 1) for interval in right.values())


@settings(max_examples=25)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.floats(-10, 10), st.floats(0.1, 10))
def test_intervals_of_means_move_and_stretch_with_the_values(values, shift, scale):
    x = np.array(values)
    one = bootstrap_means({"m": x}, unit="cells", draws=100)["m"]
    two = bootstrap_means({"m": shift + scale * x}, unit="cells", draws=100)["m"]
    assert x.min() - 1e-6 <= one.low <= one.high <= x.max() + 1e-6
    assert (two.low, two.high) == pytest.approx((shift + scale * one.low, shift + scale * one.high), abs=1e-6, rel=1e-9)


# --- differences ------------------------------------------------------------------------------------------


def test_a_paired_difference_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=50)  # units differ far more than methods do
    a, b = hard + 0.2 + 0.05 * rng.normal(size=50), hard + 0.05 * rng.normal(size=50)
    alone = [bootstrap_means({"m": x}, unit="perturbations")["m"] for x in (a, b)]
    assert alone[0].low < alone[1].high, "the two intervals overlap"
    found = differs_means({"m": a}, {"m": b}, unit="perturbations")["m"]
    assert found.distinguishable and found.value == pytest.approx((a - b).mean())
    slow = differs(lambda r: {"m": a[r].mean()}, lambda r: {"m": b[r].mean()}, 50, unit="perturbations")["m"]
    assert slow.distinguishable
    assert (slow.value, slow.interval.low) == pytest.approx((found.value, found.interval.low), abs=0.01)


def test_a_method_is_not_distinguishable_from_itself_nor_from_its_equal():
    predicted, true = labels(400)
    same = differs_labels(predicted, predicted, true)
    assert {name: (d.value, d.interval.low, d.interval.high) for name, d in same.items()} == {
        "accuracy": (0, 0, 0), "macro_f1": (0, 0, 0),
    }  # fmt: skip
    assert not any(difference.distinguishable for difference in same.values())
    # one of equal worth, which errs on other cells
    again = labels(400, seed=0)[1], labels(400, seed=0)[0]
    assert (again[0] == true).all()
    other = np.where(np.random.default_rng(5).random(400) < 0.7, true, "type0")
    assert not differs_labels(predicted, other, true)["accuracy"].distinguishable


def test_a_better_method_is_told_and_the_sign_says_which():
    predicted, true = labels(400)
    better = np.where(np.arange(400) % 4 == 0, true, predicted)
    found = differs_labels(better, predicted, true)
    assert found["accuracy"].value == pytest.approx(np.mean(better == true) - np.mean(predicted == true))
    assert found["macro_f1"].value == pytest.approx(
        score(better, true)["macro_f1"] - score(predicted, true)["macro_f1"], abs=1e-12
    )
    assert all(difference.distinguishable and difference.value > 0 for difference in found.values())
    turned = differs_labels(predicted, better, true)
    assert all(difference.distinguishable and difference.value < 0 for difference in turned.values())


def test_a_difference_is_distinguishable_only_when_its_interval_leaves_out_0():
    def made(low, high):
        return Difference(
            (low + high) / 2, Interval(low=low, high=high, level=0.95, unit="cells", n_units=10, draws=100)
        ).distinguishable

    assert made(0.1, 0.2) and made(-0.2, -0.1)
    assert not made(-0.1, 0.2) and not made(0.0, 0.2)


def test_over_donors_a_difference_that_one_donor_makes_is_not_distinguishable():
    _, true = labels(400)
    donors = np.arange(400) % 5
    wrong = np.where(true == "type0", "type1", "type0")
    a, b = true.copy(), np.where(donors == 0, wrong, true)
    assert differs_labels(a, b, true)["accuracy"].distinguishable
    assert not differs_labels(a, b, true, groups=donors, unit="donors")["accuracy"].distinguishable


# --- what cannot be drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize("units", [1, np.array(["one"] * 5)])
def test_one_unit_cannot_be_drawn_from(units):
    with pytest.raises(EvaluationError, match="1 of donors") as caught:
        bootstrap(lambda rows: {"m": 1.0}, units, unit="donors")
    assert caught.value.wanted and caught.value.fix


@pytest.mark.parametrize("wrong", [{"level": 95}, {"draws": 0}])
def test_a_level_in_percent_and_no_draws_are_refused(wrong):
    with pytest.raises(EvaluationError, match="level between 0 and 1"):
        bootstrap_means({"m": [1.0, 2.0]}, unit="cells", **wrong)


def test_metrics_of_different_units_are_refused():
    with pytest.raises(EvaluationError, match=r"metrics of \[2, 3\] units"):
        bootstrap_means({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}, unit="perturbations")
