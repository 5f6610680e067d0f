"""Digits with few and with more than 256 edges, which the compiled loop draws in two ways, against numpy."""

import numpy as np
import pytest

from scmf.tokenizers.binned import BinnedTokenizer


def digits(x, n_bins, *, seed=0):
    """Digits that the tokenizer gives the values of one cell."""
    genes = [f"g{i}" for i in range(x.size)]
    tokenizer = BinnedTokenizer.from_tables(
        {gene: i for i, gene in enumerate(genes)}, max_length=x.size + 1, n_bins=n_bins, seed=seed
    )
    return tokenizer(x[None], genes)["values"][0]


@pytest.mark.parametrize("n_bins", [255, 256, 257, 258, 400, 1001, 32768])
def test_values_that_lie_apart_have_the_digits_of_digitize(n_bins):
    x = np.random.default_rng(0).permutation(np.arange(1, 3001) ** 1.5)
    edges = np.quantile(x, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(x, edges), np.digitize(x, edges, right=True)
    found = digits(x, n_bins)
    alone = left - right <= 1
    assert alone.mean() > 0.99
    assert np.array_equal(found[alone], left[alone])
    assert found.max() == n_bins - 1 and found.min() == 1


@pytest.mark.parametrize("n_bins", [257, 258, 600, 2000, 32768])
def test_tied_values_are_spread_evenly_over_all_their_bins(n_bins):
    """Half of the cell is 1 and half is 2: the digits of each are uniform from its first to its last edge."""
    n = 20_000
    x = np.repeat([1.0, 2.0], n // 2)
    found = digits(x, n_bins)
    edges = np.quantile(x, np.linspace(0, 1, n_bins - 1))
    for value in (1, 2):
        low, high = np.digitize(value, edges, right=True) + 1, np.digitize(value, edges)
        drawn = found[x == value]
        assert drawn.min() >= low and drawn.max() <= high
        width = high - low + 1
        share = (drawn - low + 0.5) / width  # uniform in (0, 1)
        for part in range(8):
            inside = ((share >= part / 8) & (share < (part + 1) / 8)).mean()
            bins = np.arange(low, high + 1)
            wanted = (((bins - low + 0.5) / width >= part / 8) & ((bins - low + 0.5) / width < (part + 1) / 8)).mean()
            assert inside == pytest.approx(wanted, abs=5 * np.sqrt(wanted / drawn.size))


def test_another_seed_draws_other_digits():
    x = np.ones(500)
    one, same, other = (digits(x, 600, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same) and (one != other).mean() > 0.9
