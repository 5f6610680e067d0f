"""Which numbers can be told apart: against scipy, and the rules of marks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.report.standing import BEST, EQUAL, UNKNOWN, WORSE, Estimate, differ, interval, marks

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
    falling = [Estimate((0.1,), 0.09, 0.11), Estimate((0.4,), 0.39, 0.41)]
    assert marks(falling, higher=False, ranked=[True, True]) == [BEST, WORSE]
    assert marks([None, None], higher=True, ranked=[True, True]) == ["", ""]
