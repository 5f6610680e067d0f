"""How often a cell comes: exact group sizes, even within a group, weights in the long run."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, DataError
from scmf.data.stream.sampling import EachOnceSampler, balanced


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(1, 500), st.integers(0, 3))
def test_balanced_groups_have_exact_sizes_and_even_cells(codes, n_places, epoch):
    groups = pd.Series(codes).map(lambda code: f"donor {code}")
    copies = balanced(groups, n_places=n_places, seed=1)(epoch)
    assert copies.sum() == n_places
    sizes = pd.Series(copies).groupby(groups.to_numpy()).sum()
    assert sizes.max() - sizes.min() <= 1
    for _, part in pd.Series(copies).groupby(groups.to_numpy()):
        assert part.max() - part.min() <= 1


def test_power_one_is_the_corpus():
    groups = pd.Series(["a"] * 90 + ["b"] * 10)
    assert (balanced(groups, power=1.0)(0) == 1).all()


def test_the_cells_that_come_more_often_change_with_the_epoch():
    groups = pd.Series(["a"] * 90 + ["b"] * 10)
    sampler = balanced(groups, n_places=100)
    assert (sampler(0) == sampler(0)).all()
    assert (sampler(0) != sampler(1)).any()


def test_weights_name_groups_and_leave_out_the_others():
    groups = pd.Series(["a"] * 50 + ["b"] * 30 + ["c"] * 20)
    copies = balanced(groups, weights={"a": 1, "b": 3}, n_places=100)(0)
    assert copies[:50].sum() == 25
    assert copies[50:80].sum() == 75
    assert copies[80:].sum() == 0


def test_cells_without_a_group_or_outside_the_split_do_not_come():
    groups = pd.Series(["a", None, "b", "b"])
    assert balanced(groups, keep=np.array([True, True, True, False]), n_places=2)(0).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("weights", [{"z": 1.0}, {"a": -1.0}, {"a": 0.0}])
def test_wrong_weights_are_one_clear_error(weights):
    with pytest.raises(ConfigError, match="weight"):
        balanced(pd.Series(["a", "b"]), weights=weights)


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match="no cell is kept"):
        EachOnceSampler(np.zeros(4, bool))
