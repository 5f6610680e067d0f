"""Subsamples: as many cells of each batch and label as there should be, and what a mean over them says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.subsamples import bounded, strata_sizes, subsamples
from scmf.results.score import Score

N = 400
LABELS = np.repeat(["often", "seldom", "rare"], [300, 96, 4])
BATCHES = np.where(np.arange(N) % 4 == 0, "one", "two")
TRUTH = CellLabels(LABELS, BATCHES, np.full(N, "test"))


def score_of(rows):
    mean = float(np.arange(N).mean() if rows is None else rows.mean())
    n = N if rows is None else len(rows)
    return Score("integration", "scib", "x", {"mean": mean}, {"mean": "mean row"}, n, None, 1.0, {"first": n})


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.floats(0, 1))
def test_sizes_are_in_proportion_one_at_least_and_sum_up(sizes, share):
    sizes = np.array(sizes)
    total = len(sizes) + int(share * (sizes.sum() - len(sizes)))
    taken = strata_sizes(sizes, total)
    assert taken.sum() == total
    assert (taken >= 1).all() and (taken <= sizes).all()
    wanted = sizes * total / sizes.sum()
    # the cells that small strata get beyond their share come from the others
    assert (np.abs(taken - wanted) <= 1 + np.maximum(1 - wanted, 0).sum()).all()
    np.testing.assert_array_equal(strata_sizes(sizes, sizes.sum()), sizes)


def test_each_subsample_has_every_batch_of_every_label_and_they_differ():
    found = subsamples(TRUTH, 80, draws=4, seed=3)
    kinds = [np.unique([f"{LABELS[i]} {BATCHES[i]}" for i in rows], return_counts=True) for rows in found]
    for (names, counts), rows in zip(kinds, found, strict=True):
        assert len(rows) == len(set(rows)) == 80 and (np.diff(rows) > 0).all()
        assert len(names) == 6
        np.testing.assert_array_equal(counts, kinds[0][1])
    assert len({tuple(rows) for rows in found}) == 4
    again = subsamples(TRUTH, 80, draws=4, seed=3)
    assert all((a == b).all() for a, b in zip(found, again, strict=True))
    assert (subsamples(TRUTH, 80, draws=4, seed=4)[0] != found[0]).any()
    assert (subsamples(TRUTH, 80, draws=2, seed=3)[1] == found[1]).all(), "more draws leave the first as they are"


def test_cells_without_batches_are_drawn_by_label():
    rows = subsamples(CellLabels(LABELS, None, TRUTH.parts), 40)[0]
    assert np.unique(LABELS[rows], return_counts=True)[1].tolist() == [30, 1, 9]


@pytest.mark.parametrize("max_cells", [None, N, N + 1])
def test_up_to_the_bound_the_score_is_that_of_all_cells(max_cells):
    found = bounded(score_of, TRUTH, max_cells=max_cells, draws=5, seed=0)
    assert found == score_of(None)


def test_beyond_it_the_score_is_a_mean_with_an_interval_and_says_so():
    each = [score_of(rows).metrics["mean"] for rows in subsamples(TRUTH, 50, draws=6, seed=1)]
    found = bounded(score_of, TRUTH, max_cells=50, draws=6, seed=1)
    assert found.metrics["mean"] == pytest.approx(np.mean(each))
    interval = found.intervals["mean"]
    assert (interval.low, interval.high, interval.level) == (min(each), max(each), 1.0)
    assert (interval.unit, interval.n_units, interval.draws) == ("subsamples", 6, 6)
    assert "mean of 6 subsamples of 50 of 400 cells" in found.definitions["mean"]
    assert (found.n_cells, found.seconds) == (50, 6.0)
    told = found.details["subsamples"]
    assert (told["cells"], told["of"], told["seed"]) == (50, N, 1)
    assert [draw["metrics"]["mean"] for draw in told["each"]] == each and told["each"][0]["first"] == 50


@pytest.mark.parametrize("options", [{"max_cells": 5}, {"max_cells": 50, "draws": 1}])
def test_too_few_cells_or_draws_are_refused(options):
    with pytest.raises(EvaluationError, match="6 pairs of batch and label") as caught:
        subsamples(TRUTH, **options)
    assert caught.value.wanted and caught.value.fix
