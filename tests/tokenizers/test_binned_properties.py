"""Properties of the binned tokenizer: what may change a token and what may not, for drawn cells."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.tokenizers.binned import BinnedTokenizer
from scmf.tokenizers.binned_draws import OfficialDraws, digit_bounds

N_GENES = 120
GENES = tuple(f"g{i}" for i in range(N_GENES))
TABLE = {gene: (i * 37) % 997 for i, gene in enumerate(GENES)}
MORE = settings(max_examples=60, deadline=None)


def make(**options):
    return BinnedTokenizer.from_tables(TABLE, **{"max_length": N_GENES + 1, **options})


@st.composite
def cells(draw):
    """A block of whole counts (cells, genes), many or few of them tied, each cell with a count."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_cells, largest = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 60, 3000, 10**6]))
    block = rng.integers(1, largest + 1, (n_cells, N_GENES)).astype(draw(st.sampled_from([np.float32, np.float64])))
    block[rng.random(block.shape) > draw(st.sampled_from([0.05, 0.5, 1.0]))] = 0
    block[np.arange(n_cells), rng.integers(0, N_GENES, n_cells)] += 1
    return block


settings_of_tokens = st.fixed_dictionaries({
    "max_length": st.sampled_from([2, 9, 50, N_GENES + 1]),
    "n_bins": st.sampled_from([2, 5, 51]),
    "include_zero_genes": st.booleans(),
    "special_tokens": st.booleans(),
    "seed": st.integers(0, 5),
})  # fmt: skip


def by_cell(found):
    """Token -> value of each cell; which cell holds a token twice would show in the length."""
    parts = [slice(a, b) for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    rows = [(found.columns["input_ids"][p].tolist(), found.columns["values"][p].tolist()) for p in parts]
    assert all(len(set(ids)) == len(ids) for ids, _ in rows)
    return [dict(zip(ids, values, strict=True)) for ids, values in rows]


@MORE
@given(cells(), settings_of_tokens, st.integers(0, 3))
def test_tokens_of_a_cell_are_the_same_alone_in_any_batch_and_in_any_order(block, options, draw):
    tokenizer = make(**options)
    together = by_cell(tokenizer.encode_cells(block, GENES, draw=draw))
    alone = [by_cell(tokenizer.encode_cells(row[None], GENES, draw=draw))[0] for row in block]
    reversed_ = by_cell(tokenizer.encode_cells(block[::-1], GENES, draw=draw))
    assert together == alone == reversed_[::-1]


@MORE
@given(cells(), settings_of_tokens, st.randoms(use_true_random=False))
def test_the_order_of_columns_changes_nothing(block, options, random):
    order = list(range(N_GENES))
    random.shuffle(order)
    tokenizer = make(**options, long_cells=random.choice(["sample", "first"]))
    moved = tokenizer.encode_cells(block[:, order], [GENES[i] for i in order])
    wanted = tokenizer.encode_cells(block, GENES)
    assert np.array_equal(moved.offsets, wanted.offsets)
    assert all(np.array_equal(moved.columns[key], wanted.columns[key]) for key in ("input_ids", "values"))


@MORE
@given(cells(), settings_of_tokens, st.booleans())
def test_increasing_transforms_leave_every_digit(block, options, match_official):
    tokenizer = make(**options, match_official=match_official)
    wanted = tokenizer(block, GENES)
    wide = block.astype(np.float64)
    exact = np.array([not on_a_value(n, options["n_bins"]) for n in (wanted["values"] > 0).sum(axis=1)])
    scaled = tokenizer(wide * 4, GENES)
    assert all(np.array_equal(scaled[key], wanted[key]) for key in wanted)
    for other in (np.log1p(wide * 10_000 / wide.sum(axis=1, keepdims=True)), wide + 7 * (wide > 0)):
        found = tokenizer(other, GENES)
        assert all(np.array_equal(found[key][exact], wanted[key][exact]) for key in wanted)


def on_a_value(n, n_bins):
    """Whether an edge of n values lies on one of them up to rounding alone, which then decides the side."""
    seats = (n - 1) * np.linspace(0, 1, n_bins - 1)
    away = np.abs(seats - np.round(seats))
    return bool(((away > 0) & (away < 1e-9)).any())


@MORE
@given(cells(), st.sampled_from([2, 5, 51, 300]))
def test_digits_lie_within_the_bounds_of_digitize(block, n_bins):
    tokenizer = make(n_bins=n_bins, include_zero_genes=True)
    drawn = tokenizer(block, GENES)["values"]
    by_token = np.argsort([tokenizer.get_vocab()[gene] for gene in GENES])
    for row, digits in zip(block[:, by_token], drawn, strict=True):
        x = row[row > 0]
        edges = np.quantile(x, np.linspace(0, 1, n_bins - 1))
        left, right = np.digitize(x, edges), np.digitize(x, edges, right=True)
        assert np.all((digits[row > 0] <= left) & (digits[row > 0] >= np.minimum(left, right + 1)))
        assert not digits[row == 0].any()


@MORE
@given(
    st.lists(st.floats(2.0**-40, 2.0**40, width=32), min_size=1, max_size=300),
    st.sampled_from([2, 3, 51]),
    st.booleans(),
)
def test_bounds_of_any_positive_numbers_are_those_of_numpy(numbers, n_bins, narrow):
    x = np.array(numbers, np.float32 if narrow else np.float64)
    found = digit_bounds(np.array([0, x.size]), x, n_bins)
    edges = np.quantile(x, np.linspace(0, 1, n_bins - 1))
    assert np.array_equal(found.edges[0], edges)
    assert np.array_equal(found.top, (edges[None] <= x[:, None]).sum(axis=1))
    assert np.array_equal(found.span, (edges[None] == x[:, None]).sum(axis=1))


@MORE
@given(cells(), settings_of_tokens, st.booleans())
def test_dense_and_every_sparse_form_are_the_same_cells(block, options, match_official):
    tokenizer = make(**options, match_official=match_official)
    wanted = tokenizer(block, GENES)
    stored_zero = sp.csr_matrix(np.where(block == 0, 1, block))
    stored_zero.data[np.asarray(block == 0).ravel()] = 0
    for other in (sp.csr_matrix(block), sp.csc_matrix(block), sp.coo_array(block), stored_zero):
        found = tokenizer(other, GENES)
        assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


@settings(max_examples=20, deadline=None)
@given(cells(), settings_of_tokens)
def test_a_copy_gives_the_same_tokens(block, options):
    tokenizer = make(**options)
    wanted = tokenizer(block, GENES)
    again = copy.deepcopy(tokenizer)(block, GENES)
    assert all(np.array_equal(again[key], wanted[key]) for key in wanted)


@settings(max_examples=20, deadline=None)
@given(cells(), st.integers(0, 9))
def test_the_official_draws_go_on_from_call_to_call(block, seed):
    tokenizer = make(match_official=True, seed=seed, max_length=20, long_cells="first")
    whole = tokenizer.encode_cells(block, GENES)
    draws = OfficialDraws(seed)
    parts = [tokenizer.encode_cells(row[None], GENES, draws=draws) for row in block]
    for key in ("input_ids", "values"):
        assert np.array_equal(whole.columns[key], np.concatenate([part.columns[key] for part in parts]))


def test_threads_side_by_side_make_the_tokens_of_one():
    rng = np.random.default_rng(0)
    blocks = [sp.csr_matrix(rng.poisson(0.7, (200, N_GENES)).astype(np.float32)) for _ in range(24)]
    tokenizer = make(max_length=30)

    def encode(block):
        return tokenizer.encode_cells(block, GENES, empty="keep")

    wanted = [encode(block) for block in blocks]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(wanted, pool.map(encode, blocks), strict=True):
            assert np.array_equal(one.offsets, other.offsets)
            assert all(np.array_equal(one.columns[key], other.columns[key]) for key in one.columns)
