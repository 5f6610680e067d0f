"""What the continuous tokenizer does with cells, bad cells, odd gene names, and when it is saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scmf.tokenizers.continuous import ContinuousTokenizer

GENES = [f"ENSG{i:011d}" for i in range(1, 7)]
A, B, C, D, E, F = GENES
TF = ["unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]"]


def make(*, depth=False, special=(), aliases=None, assays=None, max_length=100, **options):
    """Specials behind the genes, as in scFoundation's vocabulary."""
    names = [*GENES, *(("<T>", "<S>") if depth else ()), "<pad>", *special]
    return ContinuousTokenizer.from_tables(
        {name: i for i, name in enumerate(names)}, None, aliases, assays=assays,
        max_length=max_length, depth_tokens=depth, **options,
    )  # fmt: skip


def clipped(*, assays=None, **options):
    """Specials in front, as in TranscriptFormer's vocabulary."""
    token_ids = {name: i for i, name in enumerate([*TF, *GENES])}
    given = {"max_length": 100, "transform": "clipped_counts"} | options
    return ContinuousTokenizer.from_tables(token_ids, assays=assays, **given)


def csr(*rows, dtype=np.float32):
    return sp.csr_matrix(np.array(rows, dtype=dtype))


def cells(encoded):
    """Pairs of token and value of each cell."""
    ids, values = encoded.columns["input_ids"].tolist(), encoded.columns["values"].tolist()
    pairs = list(zip(ids, values, strict=True))
    return [pairs[a:b] for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]


def tokens(tokenizer, counts, genes=GENES, **options):
    return [
        [tokenizer.convert_ids_to_tokens(i) for i, _ in cell]
        for cell in cells(tokenizer.encode_cells(counts, genes, **options))
    ]


# --- values and layout ------------------------------------------------------------------------------------


def test_log1p_per_10k_of_the_total_of_known_genes():
    found = make().encode_cells(csr([1, 0, 3, 0, 0, 0, 90]), [*GENES, "unheard of"])
    assert found.columns["input_ids"].tolist() == [0, 2]
    assert found.columns["values"].tolist() == np.log1p(np.array([2500.0, 7500.0])).astype("f4").tolist()
    given = make().encode_cells(csr([1, 0, 3, 0, 0, 0, 90]), [*GENES, "unheard of"], n_counts=[94])
    assert given.columns["values"].tolist() == np.log1p(np.array([1, 3]) / 94 * 1e4).astype("f4").tolist()


def test_counts_are_clipped_and_may_be_brought_to_a_sum_before():
    row = csr([40, 0, 8, 2, 0, 0])
    assert cells(clipped().encode_cells(row, GENES)) == [[(7, 30.0), (9, 8.0), (10, 2.0)]]
    assert cells(clipped(clip=5).encode_cells(row, GENES)) == [[(7, 5.0), (9, 5.0), (10, 2.0)]]
    assert cells(clipped(target_sum=100).encode_cells(row, GENES)) == [[(7, 30.0), (9, 16.0), (10, 4.0)]]
    assert cells(clipped(target_sum=100).encode_cells(row, GENES, n_counts=[100])) == [[(7, 30.0), (9, 8.0), (10, 2.0)]]


def test_values_given_stay_as_they_are():
    assert cells(make(transform="as_given").encode_cells(csr([0.5, 0, 0, 2.25, 0, 0]), GENES)) == [
        [(0, 0.5), (3, 2.25)]
    ]


def test_a_batch_is_padded_right_with_its_mask_depth_and_lengths():
    batch = make(depth=True, pad_value=103)(csr([1, 0, 0, 0, 0, 0], [1, 8, 0, 1, 0, 0]), GENES)
    assert batch["input_ids"].tolist() == [[0, 6, 7, 8, 8], [0, 1, 3, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert batch["values"][0, 1:].tolist() == [4, 0, 103, 103] and batch["values"][1, 4] == 1
    assert batch["depth"].tolist() == [[4, 0], [4, 1]] and batch["length"].tolist() == [3, 5]
    kinds = {name: np.asarray(batch[name]).dtype for name in batch}
    assert kinds["input_ids"] == kinds["attention_mask"] == np.int64
    assert kinds["values"] == kinds["depth"] == np.float32


def test_padding_to_max_length_and_none():
    assert make(max_length=9)(csr([1, 2, 0, 0, 0, 0]), GENES, padding="max_length")["input_ids"].shape == (1, 9)
    ragged = make()(csr([1, 2, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0]), GENES, padding=False)
    assert [row.tolist() for row in ragged["input_ids"]] == [[0, 1], [2]]


@pytest.mark.parametrize(("depth", "t"), [("t3.5", 3.5), ("f1", 2), ("f10", 3), ("a0.5", 2.5), ("a-1", 1)])
def test_depth_to_reach_is_a_number_a_multiple_or_a_sum(depth, t):
    found = make(depth=True, target_depth=depth).encode_cells(csr([60, 40, 0, 0, 0, 0]), GENES)
    assert found.cells["depth"].tolist() == [[t, 2]]
    assert cells(found)[0][-2:] == [(6, t), (7, 2.0)]


def test_depth_of_values_and_linear_depth_are_those_of_bulk_samples():
    row = csr([0.5, 1.5, 0, 0, 0, 0])
    options = {"transform": "as_given", "depth_of": "values", "target_depth": "f1"}
    assert make(depth=True, depth_scale="linear", **options).encode_cells(row, GENES).cells["depth"].tolist() == [
        [2, 2]
    ]
    found = make(depth=True, **options).encode_cells(row, GENES).cells["depth"]
    assert found.tolist() == np.log10([[2.0, 2.0]]).astype("f4").tolist()
    logged = make(depth=True, depth_of="values").encode_cells(csr([1, 1, 0, 0, 0, 0]), GENES).cells["depth"]
    assert logged[0, 1] == np.float32(np.log10(2 * np.log1p(5000)))


def test_depth_of_values_given_needs_totals():
    with pytest.raises(ValueError, match="n_counts: total counts of each cell"):
        make(depth=True, transform="as_given").encode_cells(csr([0.5, 0, 0, 0, 0, 0]), GENES)
    found = make(depth=True, transform="as_given").encode_cells(csr([0.5, 0, 0, 0, 0, 0]), GENES, n_counts=[1000])
    assert found.cells["depth"].tolist() == [[4, 3]]


# --- order and length -------------------------------------------------------------------------------------


def test_orders():
    row, genes = csr([5, 1, 7, 5, 0, 2]), [C, A, F, B, D, E]
    assert tokens(clipped(), row, genes) == tokens(clipped(order="vocabulary"), row, genes) == [[A, B, C, E, F]]
    assert tokens(clipped(order="value"), row, genes) == [[F, B, C, E, A]]
    assert sorted(tokens(clipped(order="random"), row, genes)[0]) == [A, B, C, E, F]


def test_what_is_too_long_loses_its_end_and_keeps_its_depth():
    row = csr([1, 2, 3, 4, 5, 6])
    assert tokens(make(depth=True, max_length=4), row) == [[A, B, "<T>", "<S>"]]
    assert tokens(make(depth=True, max_length=4, order="value"), row) == [[F, E, "<T>", "<S>"]]
    depth = make(depth=True, max_length=4).encode_cells(row, GENES).cells["depth"]
    assert depth[0, 1] == np.float32(np.log10(21))


def test_a_random_order_depends_on_seed_draw_and_cell_alone():
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(80)]
    counts = rng.integers(0, 4, (30, 80)).astype("f4")
    given = {"min_cells": 1, "max_length": 20, "transform": "clipped_counts", "order": "random"}
    tokenizer = ContinuousTokenizer.fit(counts, genes, **given)
    found = cells(tokenizer.encode_cells(counts, genes))
    shuffled = rng.permutation(80)
    assert cells(tokenizer.encode_cells(counts[:, shuffled], [genes[i] for i in shuffled])) == found
    alone = [cells(tokenizer.encode_cells(counts[[row]], genes))[0] for row in range(30)]
    assert alone == found and len({tuple(cell) for cell in found}) == 30
    assert cells(tokenizer.encode_cells(counts, genes, draw=1)) != found
    assert cells(ContinuousTokenizer.fit(counts, genes, seed=1, **given).encode_cells(counts, genes)) != found
    # No gene is preferred: each comes about as often as it is expressed.
    many = np.ones((1, 80), "f4")
    times = np.zeros(90)
    for draw in range(400):
        np.add.at(times, tokenizer.encode_cells(many, genes, draw=draw).columns["input_ids"], 1)
    assert times[times > 0].min() > 60 and times.max() < 140 and np.count_nonzero(times) == 80


def test_zeros_may_stand_behind_and_unknown_genes_have_a_token():
    row = csr([0, 4, 0, 1, 0, 0, 9])
    genes = [*GENES, "unheard of"]
    assert tokens(clipped(keep_zeros=True), row, genes) == [[B, D, A, C, E, F]]
    assert tokens(clipped(keep_zeros=True, max_length=4, order="vocabulary"), row, genes) == [[B, D, A, C]]
    assert tokens(clipped(unknown_genes="token"), row, genes) == [[B, D, "unknown"]]
    assert tokens(clipped(unknown_genes="token", order="vocabulary"), row, genes) == [[B, D, "unknown"]]
    found = sorted(tokens(clipped(keep_zeros=True, order="random"), row, genes)[0][2:])
    assert found == [A, C, E, F]


# --- genes --------------------------------------------------------------------------------------------------


def test_columns_of_one_gene_are_summed_taken_once_or_refused():
    genes, row = [B, f"{A}.7", A.lower(), C], csr([1, 2, 3, 4])
    assert cells(clipped(order="vocabulary").encode_cells(row, genes)) == [[(7, 5.0), (8, 1.0), (9, 4.0)]]
    assert cells(clipped(duplicate_genes="first").encode_cells(row, genes)) == [[(7, 2.0), (8, 1.0), (9, 4.0)]]
    with pytest.raises(ValueError, match="in two columns or more"):
        clipped(duplicate_genes="error").encode_cells(row, genes)


def test_aliases_lead_to_genes():
    assert tokens(make(aliases={"TSPAN6": A, "X": "no gene"}), csr([3, 1]), ["TSPAN6", B]) == [[A, B]]


def test_many_columns_are_aligned_by_name():
    genes = [*reversed(GENES), *(f"X{i}" for i in range(20))]
    counts = np.zeros((1, 26))
    counts[0, :6] = [6, 5, 4, 3, 2, 1]
    found = make(transform="as_given", order="vocabulary").encode_cells(counts, genes)
    assert cells(found) == [[(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0), (5, 6.0)]]


# --- cells that are not fit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, np.nan, np.inf, 0.5])
def test_bad_counts_are_one_clear_error(bad):
    with pytest.raises(
        ValueError, match=r"found: a count of .*\nwanted: raw counts.*\nwhere: counts, row 1, column 2\ndo: "
    ):
        make().encode_cells(csr([1, 0, 0, 0, 0, 0], [2, 0, bad, 0, 0, 0]), GENES)


def test_values_given_may_be_fractions_but_not_negative():
    with pytest.raises(ValueError, match="a value of -0.5"):
        make(transform="as_given").encode_cells(csr([1, 0, -0.5, 0, 0, 0]), GENES)


def test_other_errors_say_what_to_do():
    row = csr([1, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="none of 6 gene names"):
        make().encode_cells(row, list("abcdef"))
    with pytest.raises(ValueError, match="counts of shape"):
        make().encode_cells(row, GENES[:5])
    with pytest.raises(ValueError, match="1 cell.s. of the block: each has no counts"):
        make().encode_cells(csr([1, 0, 0, 0, 0, 0], [0] * 6), GENES)
    with pytest.raises(ValueError, match="has counts but n_counts 0"):
        make().encode_cells(row, GENES, n_counts=[0])
    with pytest.raises(ValueError, match="empty='drop'"):
        make().encode_cells(row, GENES, empty="drop")
    with pytest.raises(ValueError, match="dtype int8"):
        ContinuousTokenizer.from_tables({"<pad>": 0, A: 300}, max_length=3).encode_cells(row, GENES, dtype=np.int8)
    with pytest.raises(ValueError, match="a column outside the matrix"):
        make().encode_cells(sp.csr_matrix((np.ones(1), np.array([9]), np.array([0, 1])), shape=(1, 6)), GENES)
    with pytest.raises(ValueError, match="call tokenizer.counts, genes."):
        make().tokenize("text")


def test_an_empty_cell_may_be_kept_as_an_empty_row():
    found = make(depth=True).encode_cells(csr([0] * 6, [1, 0, 0, 0, 0, 0]), GENES, empty="keep")
    assert found.lengths.tolist() == [0, 3] and found.cells["depth"].tolist() == [[0, 0], [4, 0]]
    assert make().encode_cells(csr([0] * 6), GENES, empty="keep").lengths.tolist() == [0]
    assert make().encode_cells(sp.csr_matrix((0, 6)), GENES).lengths.size == 0


def test_a_total_of_one_keeps_its_depth_token():
    assert tokens(make(depth=True), csr([1, 0, 0, 0, 0, 0])) == [[A, "<T>", "<S>"]]
    assert tokens(make(depth=True, match_official=True), csr([1, 0, 0, 0, 0, 0])) == [[A, "<T>"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "sqrt"}, "transform 'sqrt'"),
        ({"order": "name"}, "order 'name'"),
        ({"target_depth": "x4"}, "target_depth 'x4'"),
        ({"target_depth": "t"}, "target_depth 't'"),
        ({"depth_tokens": True}, "no <T>, <S>"),
        ({"special_tokens": True}, "no <cls>, <eos>"),
        ({"unknown_genes": "token"}, "no <unk>"),
        ({"max_length": 0}, "max_length 0"),
        ({"assays": {"unknown": 1}}, "ids from 0 without a gap"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    given = {"max_length": 5} | options
    with pytest.raises(ValueError, match=message):
        ContinuousTokenizer.from_tables({"<pad>": 0, A: 1}, **given)


def test_a_vocabulary_that_is_none_is_refused():
    with pytest.raises(ValueError, match="1 ids given twice"):
        ContinuousTokenizer.from_tables({"<pad>": 0, A: 1, B: 1}, max_length=5)
    with pytest.raises(ValueError, match="0 genes"):
        ContinuousTokenizer.from_tables({"<pad>": 0}, max_length=5)


# --- faults of the official codes, on demand -----------------------------------------------------------------


def test_the_match_official_scfoundation_shifts_takes_any_order_and_goes_on():
    shifted = make(depth=True, match_official=True).encode_cells(csr([1, 2, 4]), [A, B, B])
    assert shifted.columns["input_ids"].tolist() == [0, 1, 2, 7, 103]
    permuted = make(depth=True, match_official=True).encode_cells(csr([1, 2, 0, 0, 0, 0]), [F, E, D, C, B, A])
    assert permuted.columns["input_ids"].tolist() == [0, 1, 6, 7]
    behind = make(depth=True, match_official=True).encode_cells(csr([1] * 8), [*GENES, "x", "y"])
    assert behind.columns["input_ids"].tolist() == [*range(8), 103, 103]
    with pytest.raises(ValueError, match="fewer tokens than there are columns without an id"):
        make(depth=True, match_official=True).encode_cells(csr([1, *[0] * 9]), [*GENES, *"wxyz"])
    odd = make(depth=True, match_official=True).encode_cells(csr([2, -1, np.nan, 0, 0]), GENES[:5])
    assert odd.columns["input_ids"].tolist() == [0, 6]  # the total is 1
    empty = make(depth=True, match_official=True).encode_cells(csr([0] * 5), GENES[:5], empty="keep")
    assert empty.columns["input_ids"].tolist() == [6]


def test_the_match_official_transcriptformer_cuts_names_refuses_duplicates_and_goes_on():
    match_official = clipped(match_official=True)
    assert tokens(match_official, csr([1, 2]), [f"{A}.odd.7", "AL6.1"]) == [[A]]
    with pytest.raises(ValueError, match="in two columns or more"):
        match_official.encode_cells(csr([1, 2]), [f"{A}.1", f"{A}.2"])
    assert cells(clipped(match_official=True, duplicate_genes="first").encode_cells(csr([1, 2]), [A, A])) == [
        [(7, 1.0)]
    ]
    found = cells(match_official.encode_cells(csr([-2, np.nan, 0.5, 40, 0, 0]), GENES))[0]
    assert [i for i, _ in found] == [7, 8, 9, 10]
    assert found[0][1] == 0 and np.isnan(found[1][1]) and [v for _, v in found[2:]] == [0.5, 30]
    scaled = clipped(match_official=True, target_sum=10, max_length=2).encode_cells(csr([1, 1, 8, 0, 0, 0]), GENES)
    assert scaled.columns["values"].tolist() == [5, 5]


def test_negative_counts_stand_behind_padding_when_they_are_sorted():
    found = clipped(match_official=True, order="value").encode_cells(csr([-2, 3, 0, 5, 0, -1]), GENES)
    assert found.columns["input_ids"].tolist() == [10, 8, 1, 1, 12, 7]
