"""Which numbers can be told apart: against scipy, and the rules of marks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.results.significance import BEST, EQUAL, UNKNOWN, WORSE, Estimate, differ, interval, marks

SAMPLES = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=6)


@given(SAMPLES, SAMPLES)
def test_seeds_are_compared_by_welch_as_scipy_does(a, b):
    from scipy.stats import ttest_ind

    one, other = Estimate(tuple(a)), Estimate(tuple(b))
    if len(set(a)) > 1 and len(set(b)) > 1 and a != b:
        assert differ(one, other) == (ttest_ind(a, b, equal_var=False).pvalue < 0.05)
    assert differ(one, other) == differ(other, one)
    assert differ(one, one) is False


def test_intervals_are_compared_by_their_errors_and_single_numbers_not_at_all():
    a = Estimate((0.80,), 0.78, 0.82)
    assert differ(a, Estimate((0.81,), 0.79, 0.83)) is False
    assert differ(a, Estimate((0.90,), 0.88, 0.92)) is True
    assert differ(a, Estimate((0.85,))) is None
    # a range of subsamples is no interval of a level below one
    assert Estimate((0.8,), 0.7, 0.9, level=1.0).error is None


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
def test_an_interval_of_any_level_implies_the_standard_error_it_was_drawn_from(level):
    from scipy.stats import norm

    half = norm.ppf((1 + level) / 2) * 0.03
    assert Estimate((0.5,), 0.5 - half, 0.5 + half, level=level).error == pytest.approx(0.03, rel=1e-9)


def test_seeds_with_intervals_scatter_over_the_cells_as_well():
    from scipy.stats import norm

    baseline = Estimate((0.80,), 0.74, 0.86)
    agreed = (0.880, 0.881, 0.882)  # seeds agree, but all of them were scored on the same few cells
    assert differ(Estimate(agreed), baseline) is True
    assert differ(Estimate(agreed, units=0.03), baseline) is False
    # without any scatter of the seeds it is the normal test of two intervals
    flat, half = Estimate((0.88, 0.88), units=0.03), norm.ppf(0.975) * 0.03
    assert differ(flat, baseline) == differ(Estimate((0.88,), 0.88 - half, 0.88 + half), baseline)
    # seeds against seeds stay Welch's: what they share is the same for both
    other = (0.80, 0.801, 0.802)
    assert differ(Estimate(agreed, units=0.03), Estimate(other, units=0.03)) is True


def test_two_seeds_against_an_interval_do_not_count_as_a_known_error():
    # scipy's own Welch with one side known exactly: a huge sample of the same standard error
    from scipy.stats import ttest_ind_from_stats

    seeds, other = Estimate((0.50, 0.52)), Estimate((0.55,), 0.54, 0.56)
    n = 10**9
    spread = other.error * math.sqrt(n)
    p = ttest_ind_from_stats(0.51, math.sqrt(2) * 0.01, 2, 0.55, spread, n, equal_var=False).pvalue
    assert p > 0.05 and differ(seeds, other) is False
    assert abs(0.04) / math.hypot(seeds.error, other.error) > 1.96  # the normal distribution would have said otherwise


def test_the_interval_over_seeds_is_students():
    low, high, what = interval(Estimate((1.0, 2.0, 3.0)))
    assert (low, high) == pytest.approx((2 - 4.302652729911275 / math.sqrt(3), 2 + 4.302652729911275 / math.sqrt(3)))
    assert "3 seeds" in what and interval(Estimate((1.0,))) is None
    assert interval(Estimate((1.0,), 0.5, 1.5)) == (0.5, 1.5, "drawn")


def test_marks_of_a_column():
    column = [
        Estimate((0.9,), 0.88, 0.92), Estimate((0.89,), 0.87, 0.91), Estimate((0.5,), 0.48, 0.52), None,
        Estimate((0.99,), 0.98, 1.0), Estimate((0.3,)),
    ]  # fmt: skip
    ranked = [True, True, True, True, False, True]
    assert marks(column, higher=True, ranked=ranked) == [BEST, EQUAL, WORSE, "", "", UNKNOWN]
    lower_is_better = [Estimate((0.1,), 0.09, 0.11), Estimate((0.4,), 0.39, 0.41)]
    assert marks(lower_is_better, higher=False, ranked=[True, True]) == [BEST, WORSE]
    assert marks([None, None], higher=True, ranked=[True, True]) == ["", ""]


def test_nothing_is_best_where_one_competes_or_all_are_equal():
    same = [Estimate((0.0,)), Estimate((0.0,)), Estimate((1.0,))]
    assert marks(same, higher=True, ranked=[True, True, False]) == ["", "", ""]
    assert marks(same, higher=True, ranked=[True, False, False]) == ["", "", ""]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2)), min_size=2, max_size=6), st.booleans())
def test_marks_go_along_with_their_rows_and_turn_with_the_direction(pairs, higher):
    column = [Estimate((value,), value - half, value + half) for value, half in pairs]
    ranked = [True] * len(column)
    found = marks(column, higher=higher, ranked=ranked)
    assert found.count(BEST) == (len({value for value, _ in pairs}) > 1)
    turned = [Estimate((-e.value,), -e.high, -e.low) for e in column]
    assert marks(turned, higher=not higher, ranked=ranked) == found
