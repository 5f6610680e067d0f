"""Properties of the continuous tokenizer, against plain numpy and against itself."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.tokenizers.continuous import ContinuousTokenizer
from scmf.tokenizers.continuous_kernel import pairwise_sum

N_GENES = 300
GENES = np.array([f"ENSG{i:011d}" for i in range(N_GENES)])
SPECIAL = ["<pad>", "<T>", "<S>", "<unk>"]
IDS = {name: i for i, name in enumerate([*SPECIAL, *GENES.tolist()])}


def make(**options):
    return ContinuousTokenizer.from_tables(IDS, **{"max_length": N_GENES + 2, **options})


def parts(encoded):
    """Ids and values of each cell."""
    spans = zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    ids, values = encoded.columns["input_ids"], encoded.columns["values"]
    return [(ids[a:b], values[a:b]) for a, b in spans]


def same(one, two):
    assert np.array_equal(one.offsets, two.offsets)
    assert np.array_equal(one.columns["input_ids"], two.columns["input_ids"])
    assert np.array_equal(one.columns["values"], two.columns["values"], equal_nan=True)
    for name in one.cells:
        assert np.array_equal(one.cells[name], two.cells[name], equal_nan=True)


@st.composite
def blocks(draw, odd=False):
    """A block of counts (cells, genes) and the columns' genes in any order; each cell has a count."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_cells, n_genes = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 63, 64, 65, 130, N_GENES]))
    density, largest = draw(st.sampled_from([0.05, 0.5, 1.0])), draw(st.sampled_from([2, 6, 3000, 2**25]))
    block = rng.integers(1, largest, (n_cells, n_genes)).astype(np.float64)
    block[rng.random(block.shape) > density] = 0
    block[:, 0] += 1
    if odd:
        block[rng.random(block.shape) < 0.1] *= -1
        block[rng.random(block.shape) < 0.05] = np.nan
        block[rng.random(block.shape) < 0.1] /= 7
    columns = np.sort(rng.choice(N_GENES, n_genes, replace=False))
    return block, columns if draw(st.booleans()) else rng.permutation(columns)


@settings(max_examples=60, deadline=None)
@given(blocks(), st.sampled_from([np.float32, np.float64, np.int64]), st.booleans())
def test_values_and_depth_are_those_of_numpy(drawn, dtype, vocabulary):
    block, columns = drawn
    block = block.astype(dtype)
    order = "vocabulary" if vocabulary else "column"
    found = make(depth_tokens=True, order=order, target_depth="f2").encode_cells(sp.csr_matrix(block), GENES[columns])
    for row, (ids, values) in zip(block.astype(np.float64), parts(found), strict=True):
        places = np.flatnonzero(row)
        places = places[np.argsort(columns[places])]
        assert np.array_equal(ids, [*(columns[places] + 4), 1, 2])
        total = row.sum()
        expected = [*np.log1p(row[places] / total * 1e4), np.log10(total * 2.0), np.log10(total)]
        assert np.allclose(values, np.array(expected, np.float32), rtol=1e-7, atol=0)


@settings(max_examples=60, deadline=None)
@given(blocks(), st.integers(1, N_GENES), st.sampled_from([None, 50.0]))
def test_clipped_counts_are_those_of_numpy_in_every_order(drawn, longest, target):
    block, columns = drawn
    block = np.minimum(block, 2.0**23)
    options = {"transform": "clipped_counts", "clip": 20.0, "target_sum": target, "max_length": longest}
    for order in ("column", "vocabulary", "value", "random"):
        found = parts(make(order=order, **options).encode_cells(block, GENES[columns]))
        for row, (ids, values) in zip(block, found, strict=True):
            count_of = dict(zip((columns + 4).tolist(), row.tolist(), strict=True))
            counts = np.array([count_of[i] for i in ids.tolist()])
            assert ids.size == np.unique(ids).size == min(longest, np.count_nonzero(row)) and (counts > 0).all()
            scaled = counts if target is None else counts / row.sum() * target
            assert np.allclose(values, np.minimum(scaled, 20), rtol=1e-6)
            if order == "value":
                assert np.array_equal(counts, np.sort(row)[::-1][: ids.size])
            elif order != "random":
                places = np.flatnonzero(row)
                places = places[np.argsort(columns[places])]
                assert np.array_equal(ids, columns[places][:longest] + 4)


CHOICES = {
    "transform": ["log1p_10k", "clipped_counts", "as_given"],
    "order": ["column", "vocabulary", "value", "random"],
    "target_sum": [None, 7.0],
    "keep_zeros": [False, True],
    "unknown_genes": ["drop", "token"],
    "duplicate_genes": ["sum", "first"],
    "depth_tokens": [False, True],
    "depth_of": ["values", "counts"],
    "target_depth": ["t4", "f2", "a1"],
}


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans())
def test_any_options_give_blocks_that_hold_together(data, match_official):
    """Whatever is combined: rows do not depend on their block, nothing is written past the end, ids are known."""
    block, columns = data.draw(blocks(odd=match_official))
    options = {key: data.draw(st.sampled_from(values), label=key) for key, values in CHOICES.items()}
    longest = data.draw(st.sampled_from([3, 40, N_GENES + 2, 5000]), label="max_length")
    genes = GENES[columns].tolist()
    if data.draw(st.booleans(), label="odd names"):
        genes[0] = "unheard of"
        block = np.concatenate([block, np.ones((len(block), 1))], axis=1)
        genes.append(genes[-1] if options["duplicate_genes"] == "first" or not match_official else "unheard of too")
    tokenizer = make(**options, max_length=longest, match_official=match_official)
    given_totals = {} if match_official else {"n_counts": np.full(len(block), 1e9)}

    def encode(counts, **more):
        return tokenizer.encode_cells(counts, genes, empty="keep", **more)

    try:
        found = encode(sp.csr_matrix(block), **given_totals)
    except ValueError as error:
        assert "found: " in str(error) and "do: " in str(error)
        return
    assert found.lengths.max(initial=0) <= longest and found.offsets[-1] == found.columns["input_ids"].size
    known = {*IDS.values(), 103}
    assert set(found.columns["input_ids"].tolist()) <= known
    for row in range(len(block)):
        more = {} if match_official else {"n_counts": given_totals["n_counts"][:1]}
        alone = encode(block[[row]], **more)
        assert np.array_equal(alone.columns["input_ids"], parts(found)[row][0])
        assert np.array_equal(alone.columns["values"], parts(found)[row][1], equal_nan=True)
    same(found, encode(block, **given_totals))
    shuffled = sp.csr_matrix(block)
    for a, b in zip(shuffled.indptr[:-1], shuffled.indptr[1:], strict=True):
        shuffled.indices[a:b], shuffled.data[a:b] = shuffled.indices[a:b][::-1].copy(), shuffled.data[a:b][::-1].copy()
    same(found, encode(shuffled, **given_totals))


@settings(max_examples=40, deadline=None)
@given(blocks(), st.randoms(use_true_random=False), st.sampled_from(["column", "vocabulary", "random", "value"]))
def test_order_of_cells_and_of_columns_changes_nothing(drawn, random, order):
    block, columns = drawn
    rows, places = list(range(len(block))), list(range(len(columns)))
    random.shuffle(rows)
    random.shuffle(places)
    tokenizer = make(order=order, depth_tokens=True)
    one = tokenizer.encode_cells(block, GENES[columns])
    two = tokenizer.encode_cells(sp.csr_matrix(block[rows][:, places]), GENES[columns[places]])
    for new, old in enumerate(rows):
        (ids_a, values_a), (ids_b, values_b) = parts(one)[old], parts(two)[new]
        assert np.array_equal(values_a, values_b)
        assert np.array_equal(ids_a, ids_b)


@settings(max_examples=40, deadline=None)
@given(blocks(), st.lists(st.integers(0, N_GENES - 1), max_size=20), st.randoms(use_true_random=False))
def test_columns_of_one_gene_count_as_their_sum(drawn, doubled, random):
    block, columns = drawn
    doubled = [place for place in doubled if place < len(columns)]
    names = GENES[columns]
    wide = np.concatenate([block, block[:, doubled]], axis=1)
    genes = [*names, *(random.choice([names[g], names[g].lower(), f"{names[g]}.7"]) for g in doubled)]
    summed = block.copy()
    np.add.at(summed.T, doubled, block.T[doubled])
    for order in ("column", "vocabulary", "random"):
        tokenizer = make(order=order, depth_tokens=True)
        same(tokenizer.encode_cells(summed, names), tokenizer.encode_cells(sp.csr_matrix(wide), genes))


@settings(max_examples=40, deadline=None)
@given(blocks(), st.sampled_from([2.0, 0.5, 1024.0]))
def test_depth_alone_tells_twice_the_counts(drawn, factor):
    # Powers of two scale values and totals without rounding.
    block, columns = drawn
    options = {"transform": "as_given", "depth_tokens": True, "depth_of": "values", "depth_scale": "linear"}
    one, two = (make(**options).encode_cells(part, GENES[columns]) for part in (block, block * factor))
    assert np.array_equal(one.cells["depth"][:, 1] * np.float32(factor), two.cells["depth"][:, 1])
    logged = [make(match_official=True).encode_cells(part, GENES[columns]).columns for part in (block, block * factor)]
    if len(columns) < N_GENES:
        assert np.array_equal(logged[0]["values"], logged[1]["values"])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([np.float32, np.float64]), st.integers(0, 20_000), st.integers(0, 2**32 - 1))
def test_the_pairwise_sum_is_that_of_numpy_to_the_bit(kind, size, seed):
    x = np.random.default_rng(seed).lognormal(0, 3, size).astype(kind)
    assert pairwise_sum(x) == x.sum()


@pytest.mark.parametrize("seed", range(3))
def test_a_padded_batch_holds_what_was_encoded(seed):
    rng = np.random.default_rng(seed)
    block = rng.poisson(0.3, (9, N_GENES))
    block[:, 0] += 1
    tokenizer = make(depth_tokens=True, pad_value=-7)
    batch, found = tokenizer(block, GENES), tokenizer.encode_cells(block, GENES)
    for row, (ids, values) in enumerate(parts(found)):
        n = ids.size
        assert np.array_equal(batch["input_ids"][row, :n], ids) and (batch["input_ids"][row, n:] == 0).all()
        assert np.array_equal(batch["values"][row, :n], values) and (batch["values"][row, n:] == -7).all()
        assert batch["attention_mask"][row].sum() == n == batch["length"][row]
