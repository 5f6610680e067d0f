"""Properties of the rank-value tokenizer, against a stable sort in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scmf.tokenizers.rank_value import RankValueTokenizer
from scmf.tokenizers.rank_value_kernel import sort_descending

N_GENES = 400
GENES = np.array([f"ENSG{i:011d}" for i in range(N_GENES)])
FEW = np.array([0.25, 1.0, 3.0])  # medians that tie when counts do


def make(medians, **options):
    token_ids = {name: i for i, name in enumerate(["<pad>", "<mask>", *GENES.tolist()])}
    return RankValueTokenizer.from_tables(
        token_ids, dict(zip(GENES.tolist(), medians.tolist(), strict=True)),
        **{"max_length": N_GENES, "special_tokens": False, **options},
    )  # fmt: skip


def reference(block, medians, totals):
    """Tokens and values of each cell by scipy's arithmetic and numpy's stable sort."""
    scaled = sp.csr_matrix(sp.csr_matrix(block) / totals[:, None] * 10_000 / medians[None, :])
    scaled.sort_indices()
    for row in range(scaled.shape[0]):
        part = slice(scaled.indptr[row], scaled.indptr[row + 1])
        order = np.argsort(-scaled.data[part], kind="stable")
        yield scaled.indices[part][order] + 2, scaled.data[part][order]


@st.composite
def cells(draw, largest=60):
    """A block of counts (cells, genes), float32, each cell with a count, and medians with or without ties."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n_cells, n_genes = draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 40, 60, N_GENES]))
    dense = draw(st.sampled_from([0.05, 0.5, 1.0]))
    block = rng.integers(1, draw(st.sampled_from([2, 4, largest])), (n_cells, N_GENES)).astype(np.float32)
    block[rng.random(block.shape) > dense] = 0
    block[:, n_genes:] = 0
    block[:, 0] += 1
    medians = rng.choice(FEW, N_GENES) if draw(st.booleans()) else rng.lognormal(0, 1.5, N_GENES)
    return block, medians


@settings(max_examples=60, deadline=None)
@given(cells(), st.sampled_from([np.float32, np.float64, np.int64, np.uint16]))
def test_order_is_that_of_a_stable_sort_and_values_are_those_of_scipy(drawn, dtype):
    block, medians = drawn
    block = block.astype(dtype)
    totals = block.sum(axis=1).astype(np.float64 if block.dtype.kind != "f" else dtype)
    ranked = make(medians).rank(sp.csr_matrix(block), GENES, values="scaled")
    for row, (ids, values) in enumerate(reference(block, medians, totals)):
        part = slice(ranked.offsets[row], ranked.offsets[row + 1])
        assert np.array_equal(ranked.ids[part], ids) and np.array_equal(ranked.values[part], values)


@settings(max_examples=60, deadline=None)
@given(cells(), st.integers(1, N_GENES))
def test_a_crop_keeps_the_front(drawn, longest):
    block, medians = drawn
    whole = make(medians).rank(block, GENES)
    short = make(medians, max_length=longest).rank(block, GENES)
    for row in range(len(block)):
        front = whole.ids[whole.offsets[row] :][: min(longest, whole.lengths[row])]
        assert np.array_equal(short.ids[short.offsets[row] : short.offsets[row + 1]], front)


@settings(max_examples=40, deadline=None)
@given(cells(), st.randoms(use_true_random=False))
def test_order_of_cells_and_of_genes_changes_nothing(drawn, random):
    block, medians = drawn
    rows, columns = list(range(len(block))), list(range(N_GENES))
    random.shuffle(rows)
    random.shuffle(columns)
    tokenizer = make(medians)
    one = tokenizer.rank(block, GENES, values="scaled")
    two = tokenizer.rank(sp.csr_matrix(block[rows][:, columns]), GENES[columns], values="scaled")
    for new, old in enumerate(rows):
        a, b = slice(one.offsets[old], one.offsets[old + 1]), slice(two.offsets[new], two.offsets[new + 1])
        assert np.array_equal(one.values[a], two.values[b]) and np.array_equal(one.ids[a], two.ids[b])


@settings(max_examples=40, deadline=None)
@given(cells(largest=4), st.sampled_from([2.0, 0.5, 1024.0]))
def test_twice_the_counts_are_the_same_tokens(drawn, factor):
    # Powers of two scale counts and totals without rounding.
    block, medians = drawn
    one, two = (make(medians).rank(part, GENES) for part in (block, block * np.float32(factor)))
    assert np.array_equal(one.ids, two.ids)


@settings(max_examples=40, deadline=None)
@given(cells(), st.lists(st.integers(0, N_GENES - 1), max_size=30), st.randoms(use_true_random=False))
def test_columns_of_one_gene_count_as_their_sum(drawn, doubled, random):
    block, medians = drawn
    genes = [*GENES.tolist(), *(random.choice([GENES[g], GENES[g].lower(), f"{GENES[g]}.7"]) for g in doubled)]
    wide = np.concatenate([block, block[:, doubled]], axis=1)
    summed = block.copy()
    np.add.at(summed.T, doubled, block.T[doubled])
    one = make(medians).rank(summed, GENES, values="scaled")
    two = make(medians).rank(sp.csr_matrix(wide), genes, values="scaled")
    assert np.array_equal(one.offsets, two.offsets)
    assert np.array_equal(one.values, two.values) and np.array_equal(one.ids, two.ids)


@settings(max_examples=40, deadline=None)
@given(cells(), st.integers(1, 5))
def test_blocks_of_any_size_give_the_same_tokens(drawn, size):
    block, medians = drawn
    tokenizer, matrix = make(medians), sp.csr_matrix(block)
    parts = [tokenizer.rank(matrix[start : start + size], GENES).ids for start in range(0, len(block), size)]
    assert np.array_equal(np.concatenate(parts), tokenizer.rank(matrix, GENES).ids)


def sorted_positions(values):
    """What the compiled sort makes of values that are not negative."""
    low, high = np.empty(1024, np.uint32), np.empty(1024, np.uint32)
    packed, spare = np.empty(values.size, np.int64), np.empty(values.size, np.int64)
    sort_descending(values.view(np.int64), packed, spare, low, high, 32)
    positions = packed & (2**32 - 1)
    if values.size <= 4096:  # the narrow items must give the same
        narrow, spare = np.empty(values.size, np.uint32), np.empty(values.size, np.uint32)
        sort_descending(values.view(np.int64), narrow, spare, low, high, 12)
        assert np.array_equal(narrow & 4095, positions)
    return positions


@pytest.mark.parametrize(("width", "dtype"), [(32, np.int64), (12, np.uint32)])
def test_the_compiled_sort_reads_no_scratch(width, dtype):
    values = np.concatenate([[200000.0, 200001.0], np.arange(100.0)])  # the two largest stand in one bucket
    low, high = np.empty(1024, np.uint32), np.empty(1024, np.uint32)
    packed = np.full(values.size + 9, 2**32 - 1, dtype)
    sort_descending(values.view(np.int64), packed, packed.copy(), low, high, width)
    found = packed[: values.size] & dtype(2**width - 1)
    assert np.array_equal(found, np.argsort(-values, kind="stable"))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 300).flatmap(
        lambda n: arrays(np.float64, n, elements=st.floats(0, allow_nan=False, allow_infinity=True))
    )
)
def test_the_compiled_sort_orders_all_floats(values):
    values = values + 0.0  # no negative zero
    assert np.array_equal(sorted_positions(values), np.argsort(-values, kind="stable"))


@pytest.mark.parametrize("outlier", [None, 1e300, 0.0])
@pytest.mark.parametrize("spread", [0, 1e-15, 1e-9, 1e-6, 1e-3])
def test_the_compiled_sort_is_exact_when_thousands_of_values_are_hardly_apart(outlier, spread):
    values = 1 + np.random.default_rng(0).random(5000) * spread
    if outlier is not None:
        values[17] = outlier
    assert np.array_equal(sorted_positions(values), np.argsort(-values, kind="stable"))
