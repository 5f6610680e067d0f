"""Counts and depths found again from log-normalized values alone; anything else is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scmf.core.errors import CountsError
from scmf.data.stores.recover_depth import MAX_SMALLEST, counts_and_depth

CELLS = pd.Index([f"c{i}" for i in range(200)])


def normalized(counts, depth):
    return sparse.csr_matrix(np.log1p(np.asarray(counts) / np.asarray(depth)[:, None] * 1e4))


def recovered(values):
    return counts_and_depth(values, where="here", cells=CELLS)


@given(st.integers(0, 2**32 - 1))
def test_any_counts_with_a_single_molecule_come_back_with_their_depth(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.3, 4.0, size=40), size=(30, 40))
    counts[:, 0] = 1
    depth = counts.sum(axis=1) + rng.integers(0, 60_000, size=30)
    found, sizes = recovered(normalized(counts, depth))
    np.testing.assert_array_equal(found.toarray(), counts)
    np.testing.assert_array_equal(sizes, depth)


def test_a_smallest_count_above_one_is_found():
    found, sizes = recovered(normalized([[2, 3, 0, 7], [4, 6, 9, 0]], [101, 997]))
    assert found.toarray().tolist() == [[2, 3, 0, 7], [4, 6, 9, 0]] and sizes.tolist() == [101, 997]


def test_a_common_factor_of_a_whole_cell_cannot_be_seen():
    found, sizes = recovered(normalized([[2, 4, 6]], [100]))
    assert found.toarray().tolist() == [[1, 2, 3]] and sizes.tolist() == [50]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.random.default_rng(0).random((5, 8)) + 0.1, "explain the values of 5 of 5 cells, the first is 'c0'"),
        ([[1.0, 2.0], [0.0, 0.0]], "1 cells without a value, the first is 'c1'"),
        ([[np.nan, 1.0]], "explain the values of 1 of 1"),
        ([[np.inf, 1.0]], "explain the values of 1 of 1"),
        ([[-3.0, 1.0]], "explain the values of 1 of 1"),
    ],
)
def test_what_is_not_log_normalised_counts_is_refused(values, said):
    with pytest.raises(CountsError, match=said):
        recovered(sparse.csr_matrix(np.asarray(values, dtype=float)))


def test_another_target_or_rounded_values_are_refused():
    counts, depth = np.random.default_rng(1).poisson(2.0, size=(6, 30)) + 1, [4001, 5003, 6007, 7001, 8009, 9001]
    good = normalized(counts, depth)
    assert recovered(good)[1].tolist() == depth
    rounded = good.copy()
    rounded.data = rounded.data.round(2)
    scaled = sparse.csr_matrix(np.log1p(counts / np.asarray(depth)[:, None] * 13_523.7))
    for bad in (rounded, scaled):
        with pytest.raises(CountsError, match="no counts and depth explain"):
            recovered(bad)
    assert MAX_SMALLEST >= 2
