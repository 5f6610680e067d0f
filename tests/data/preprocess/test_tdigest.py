"""T-digests against exact quantiles and against crick, which the official Geneformer uses."""

import threading

import crick
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import DataError
from scmf.data.preprocess.tdigest import GeneDigests
from scmf.data.preprocess.tdigest_kernel import add_rows


def mixture(n, rng):
    """Two overlapping populations, as a gene has them in two cell types."""
    values = np.concatenate([rng.lognormal(0, 1, n // 2), rng.gamma(2, 3, n - n // 2)])
    return rng.permutation(values)


def arrival(values, order, rng):
    if order == "rising":
        return np.sort(values)
    if order == "lower_is_better":
        return np.sort(values)[::-1]
    if order == "drifting":
        n = len(values)
        return np.sort(values)[np.argsort(3 * np.arange(n) / n + rng.normal(size=n))]
    return values


def rank_error(values, median):
    return abs(float((values < median).mean()) - 0.5)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=64))
@settings(max_examples=100, deadline=None)
def test_the_median_of_few_values_is_exact(values):
    digests = GeneDigests(1, buffer=64)
    digests.add(0, np.array(values))
    assert digests.quantile(0.5)[0] == np.median(values)


def test_other_quantiles_of_few_values_are_those_of_numpy():
    values = np.random.default_rng(0).lognormal(size=101)
    digests = GeneDigests(1)
    digests.add(0, values)
    for q in (0.01, 0.2, 0.77, 0.99):
        assert digests.quantile(q)[0] == pytest.approx(np.quantile(values, q, method="hazen"), rel=1e-12)


@pytest.mark.parametrize("order", ["random", "rising", "lower_is_better", "drifting"])
def test_the_rank_of_the_median_is_off_by_less_than_three_thousandths_and_as_little_as_cricks(order):
    rng = np.random.default_rng(1)
    ours, cricks = [], []
    for _ in range(6):
        values = arrival(mixture(100_000, rng), order, rng)
        digests = GeneDigests(1)
        digests.add(0, values)
        ours.append(rank_error(values, digests.quantile(0.5)[0]))
        theirs = crick.TDigest()
        theirs.update(values)
        cricks.append(rank_error(values, theirs.quantile(0.5)))
    assert max(ours) < (3e-3 if order == "drifting" else 1e-3)
    assert np.mean(ours) < 1.5 * np.mean(cricks) + 2e-4


def test_merged_digests_of_shards_are_as_good_as_one():
    rng = np.random.default_rng(2)
    values = mixture(120_000, rng)
    merged = GeneDigests(2)
    for shard in np.array_split(values, 7):
        part = GeneDigests(1)
        part.add(0, shard)
        merged.merge(part, np.array([1]))
    assert merged.n_values.tolist() == [0, len(values)]
    assert np.isnan(merged.quantile(0.5)[0])
    assert rank_error(values, merged.quantile(0.5)[1]) < 1e-3


def test_merged_small_digests_stay_exact():
    a, b = GeneDigests(1), GeneDigests(1)
    a.add(0, np.array([1.0, 5.0]))
    b.add(0, np.array([2.0]))
    a.merge(b)
    assert a.quantile(0.5)[0] == 2.0
    assert b.n_values.tolist() == [1]


def test_a_digest_that_was_saved_goes_on_as_if_nothing_had_happened(tmp_path):
    rng = np.random.default_rng(3)
    values = mixture(9_000, rng)
    whole, first = GeneDigests(3), GeneDigests(3)
    whole.add(1, values)
    first.add(1, values[:4_321])
    np.savez(tmp_path / "state.npz", **first.state())
    with np.load(tmp_path / "state.npz") as state:
        second = GeneDigests.from_state(state)
    second.add(1, values[4_321:])
    for mine, theirs in zip(second.state().values(), whole.state().values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_no_value_is_lost_or_counted_twice_however_they_arrive(sizes, seed):
    rng = np.random.default_rng(seed)
    digests, other = GeneDigests(2, compression=20, buffer=16), GeneDigests(2, compression=20, buffer=16)
    for size in sizes:
        digests.add(1, rng.lognormal(size=size))
        other.add(1, rng.lognormal(size=2 * size))
    digests.merge(other)
    assert digests.n_values.tolist() == [0, 3 * sum(sizes)]
    assert (np.diff([digests.quantile(q)[1] for q in (0.1, 0.5, 0.9)]) >= 0).all()


def test_equal_values_and_extremes_are_kept():
    digests = GeneDigests(3, buffer=16)
    digests.add(0, np.full(1_000, 2.5))
    digests.add(1, np.concatenate([np.zeros(400), np.full(601, 1e300)]))
    digests.add(2, np.concatenate([np.full(400, 1.0), [1e-300, 1e300]]))
    assert digests.quantile(0.5).tolist() == [2.5, 1e300, 1.0]
    assert digests.quantile(1.0)[2] == 1e300
    assert digests.quantile(0.0)[2] == 1e-300


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_no_value_is_refused(bad):
    with pytest.raises(DataError, match="negative, NaN or infinite"):
        GeneDigests(1).add(0, np.array([1.0, bad]))


def test_digests_of_other_compression_are_refused():
    with pytest.raises(DataError, match="same settings"):
        GeneDigests(1).merge(GeneDigests(1, compression=200))


def test_threads_that_share_the_genes_give_the_same_bits_as_one():
    rng = np.random.default_rng(4)
    n_genes, n_cells = 40, 3_000
    indptr = np.arange(0, 20 * n_cells + 1, 20)
    indices = np.concatenate([rng.permutation(n_genes)[:20] for _ in range(n_cells)]).astype(np.uint16)
    data = rng.poisson(3, len(indices)).astype(np.float32)
    totals = np.add.reduceat(data, indptr[:-1]).astype(np.float64)

    def tally(edges):
        digests, counts_G = GeneDigests(n_genes, buffer=32), np.zeros(n_genes)
        threads = [
            threading.Thread(
                target=add_rows,
                args=(
                    *(indptr, indices, data, np.arange(n_genes), totals, 1e4, first, last, counts_G),
                    *digests.constants,
                    *digests.arrays,
                ),
            )
            for first, last in zip(edges[:-1], edges[1:], strict=True)
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        return digests.quantile(0.5), digests.n_values, counts_G

    one, three = tally([0, n_genes]), tally([0, 7, 30, n_genes])
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one[1], np.bincount(indices[data > 0], minlength=n_genes))
    np.testing.assert_array_equal(one[2], np.bincount(indices, weights=data, minlength=n_genes))
