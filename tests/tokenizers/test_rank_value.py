"""What the rank-value tokenizer does with cells, bad cells, odd gene ids, and when it is saved and loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from transformers import AutoTokenizer, PretrainedConfig

from scmf.tokenizers.rank_value import RankValueTokenizer

GENES = [f"ENSG{i:011d}" for i in range(1, 7)]
MEDIANS = dict(zip(GENES, (1.0, 2.0, 4.0, 0.5, 1.0, 3.0), strict=True))
A, B, C, D, E, F = GENES


def make(*, special=False, max_length=100, match_official=False, aliases=None, medians=MEDIANS):
    names = ["<pad>", "<mask>", *(["<cls>", "<eos>"] if special else []), *medians]
    return RankValueTokenizer.from_tables(
        {name: i for i, name in enumerate(names)}, medians, aliases,
        max_length=max_length, special_tokens=special, match_official=match_official,
    )  # fmt: skip


def named(tokenizer, counts, genes=GENES, **options):
    """Tokens of each cell by name, padding left out."""
    batch = tokenizer(counts, genes, **options)
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [tokenizer.convert_ids_to_tokens(ids[mask == 1].tolist()) for ids, mask in rows]


def csr(*rows, dtype=np.float32):
    return sp.csr_matrix(np.array(rows, dtype=dtype))


# --- order and layout -----------------------------------------------------------------------------------


def test_genes_stand_by_count_over_median_largest_first():
    assert named(make(), csr([1, 8, 4, 1, 0, 6])) == [[B, D, F, A, C]]


def test_ties_go_by_token_id_and_with_match_official_by_column():
    assert named(make(), csr([3, 6, 12, 0, 3, 0])) == [[A, B, C, E]]
    assert named(make(), csr([3, 12, 3]), [E, C, A]) == [[A, C, E]]
    assert named(make(match_official=True), csr([3, 12, 3]), [E, C, A]) == [[E, C, A]]


def test_batch_is_padded_right_with_its_mask_and_lengths():
    batch = make()(csr([1, 0, 0, 0, 0, 0], [1, 8, 0, 1, 0, 0]), GENES)
    assert batch["input_ids"].tolist() == [[2, 0, 0], [3, 5, 2]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["length"].tolist() == [1, 3]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == np.int64


def test_padding_to_the_longest_sequence_allowed_or_none_at_all():
    cells = csr([1, 0, 0, 0, 0, 0], [1, 8, 0, 1, 0, 0])
    assert make(max_length=8)(cells, GENES, padding="max_length")["input_ids"].shape == (2, 8)
    assert [row.tolist() for row in make()(cells, GENES, padding=False)["input_ids"]] == [[2], [3, 5, 2]]


def test_torch_tensors_when_asked():
    import torch

    batch = make()(csr([1, 2, 0, 0, 0, 0]), GENES, return_tensors="pt")
    assert {batch[key].dtype for key in ("input_ids", "attention_mask", "length")} == {torch.int64}


def test_crop_counts_the_special_tokens():
    cells = csr([1, 8, 4, 1, 0, 6])
    assert named(make(max_length=3), cells) == [[B, D, F]]
    assert named(make(max_length=4, special=True), cells) == [["<cls>", B, D, "<eos>"]]


def test_ragged_ranks_with_values_and_without_crop():
    tokenizer = make(max_length=4, special=True)
    cells = csr([1, 8, 4, 1, 0, 6], [0, 0, 0, 0, 5, 0])
    ranked = tokenizer.rank(cells, GENES, values="scaled")
    assert ranked.offsets.tolist() == [0, 4, 7] and ranked.ids.dtype == np.int32
    np.testing.assert_allclose(ranked.values, [0, 2000, 1000, 0, 0, 10_000, 0], rtol=1e-6)
    whole = tokenizer.rank(cells, GENES, values="per_10k", crop=False)
    assert whole.lengths.tolist() == [5, 1]
    np.testing.assert_allclose(whole.values, [4000, 500, 3000, 500, 2000, 10_000], rtol=1e-6)


def test_ids_in_a_smaller_type_are_the_same_or_refused():
    cells = csr([1, 8, 4, 1, 0, 6])
    assert make().rank(cells, GENES, dtype=np.int16).ids.dtype == np.int16
    many = {f"ENSG{i:011d}": 1.0 for i in range(200)}
    with pytest.raises(ValueError, match="201 to fit"):
        make(medians=many).rank(cells, GENES, dtype=np.int8)


def test_first_factors_are_of_the_type_numpy_gives_to_counts_and_totals():
    counts, totals = np.array([[7, 11, 13, 17, 19, 23]]), np.array([97])
    for data, total in [("f4", "f4"), ("f4", "f8"), ("f8", "f4"), ("i8", "i8"), ("u2", "f4"), ("i2", "i4")]:
        x, n = counts.astype(data), totals.astype(total)
        expected = sp.csr_matrix(x) / n[:, None] * 10_000 / np.array(list(MEDIANS.values()))[None, :]
        values = np.sort(sp.csr_matrix(expected).data)[::-1]
        found = make().rank(sp.csr_matrix(x), GENES, n_counts=n, values="scaled").values
        assert np.array_equal(found, values), (data, total)


@pytest.mark.parametrize("form", [np.asarray, sp.csc_matrix, sp.coo_array, sp.csr_array, sp.lil_matrix])
def test_every_form_of_a_matrix_gives_the_same_tokens(form):
    rng = np.random.default_rng(0)
    block = rng.poisson(1, (20, 6)).astype(np.float32) + np.float32([1, 0, 0, 0, 0, 0])
    assert np.array_equal(make()(form(block), GENES)["input_ids"], make()(sp.csr_matrix(block), GENES)["input_ids"])


def test_rows_with_columns_out_of_order_or_twice_are_put_right():
    messy = sp.csr_matrix((np.float32([1, 2, 5, 3]), np.array([3, 0, 1, 3]), np.array([0, 4])), shape=(1, 6), copy=True)
    assert named(make(), messy) == [[D, B, A]]
    assert messy.indices.tolist() == [3, 0, 1, 3], "the matrix of the caller is not touched"


def test_gene_list_is_matched_again_when_it_changes_in_place():
    tokenizer, genes = make(), list(GENES)
    assert named(tokenizer, csr([9, 0, 0, 0, 0, 0]), genes) == [[A]]
    genes[0], genes[1] = genes[1], genes[0]
    assert named(tokenizer, csr([9, 0, 0, 0, 0, 0]), genes) == [[B]]


# --- quirks -------------------------------------------------------------------------------------------


ALIASES = {"ENSG99999999999": A, "TSPAN6": B, **{gene: gene for gene in GENES}}


@pytest.mark.parametrize(
    ("genes", "counts", "official", "corrected"),
    [
        pytest.param([A, A, F], [1, 3, 6], [A, F, A], [A, F], id="same id twice"),
        pytest.param([A, A.lower(), F], [1, 3, 6], [A, F, A], [A, F], id="lower-case copy"),
        pytest.param([f"{A}.15", F], [9, 6], [F], [A, F], id="version suffix"),
        pytest.param([f"{A}.1", f"{A}.2_PAR_Y", F], [1, 2, 6], [F], [F, A], id="two versions"),
        pytest.param(["ENSG99999999999", A, F], [1, 3, 6], [F, A], [F, A], id="retired beside current"),
        pytest.param(["ENSG99999999999", F], [9, 6], [A, F], [A, F], id="retired alone"),
        pytest.param(["TSPAN6", F], [9, 6], [B, F], [B, F], id="symbol"),
    ],
)
def test_quirks_of_gene_ids_are_kept_when_match_official_and_corrected_by_default(genes, counts, official, corrected):
    cells = csr(counts)
    for match_official, expected in ((True, official), (False, corrected)):
        ids = make(match_official=match_official, aliases=ALIASES).rank(cells, genes).ids
        tokens = make(aliases=ALIASES).convert_ids_to_tokens(ids.tolist())
        assert sorted(tokens) == sorted(expected), match_official
    merged = make(aliases=ALIASES).rank(cells, genes, values="per_10k")
    assert np.isclose(merged.values.sum(), 10_000), "no count is lost"


def test_stored_zeros_are_tokens_only_when_match_official():
    cells = csr([1, 1, 1, 0, 0, 0])
    cells.data[1] = 0
    assert named(make(), cells) == [[A, C]]
    assert named(make(match_official=True), cells) == [[A, C, B]]


def test_dense_cell_without_total_becomes_all_genes_only_when_match_official():
    block, totals = np.float32([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]), np.float32([0, 1])
    assert named(make(match_official=True), block, n_counts=totals) == [GENES, [A]]
    with pytest.raises(ValueError, match="no counts in any known gene"):
        make()(block, GENES, n_counts=totals)


def test_dense_division_differs_from_sparse_reciprocals_only_when_match_official():
    rng = np.random.default_rng(1)
    block = rng.integers(1, 100, (200, 6)).astype(np.float32)

    def values(tokenizer, cells):
        return tokenizer.rank(cells, GENES, values="scaled").values

    assert not np.array_equal(*[values(make(match_official=True), cells) for cells in (block, sp.csr_matrix(block))])
    assert np.array_equal(*[values(make(), cells) for cells in (block, sp.csr_matrix(block))])


# --- bad input ----------------------------------------------------------------------------------------


def four_parts(error):
    return [line.partition(":")[0] for line in str(error.value).splitlines()] == ["found", "wanted", "where", "do"]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [2, 6])
@pytest.mark.parametrize("given", [None, np.float32([9, 9])])
def test_a_bad_count_is_one_error_that_names_its_place_in_any_column(value, column, given):
    cells = csr([1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 1])
    cells[1, column] = value
    with pytest.raises(ValueError, match=f"row 1, column {column}") as error:
        make()(cells, [*GENES, "NOT_A_GENE"], n_counts=given)
    assert four_parts(error)


def test_a_negative_zero_is_zero():
    cells = csr([1, 1, 0, 0, 0, 0])
    cells.data[0] = -0.0
    assert named(make(), cells) == [[B]]


@pytest.mark.parametrize(
    ("counts", "genes", "options", "says"),
    [
        (csr([1, 1]), ["X", "Y"], {}, "none of 2 gene ids"),
        (csr([1, 1]), GENES, {}, r"shape \(1, 2\)"),
        (np.ones(6), GENES, {}, r"shape \(6,\)"),
        (np.array([["a"] * 6]), GENES, {}, "type <U1"),
        (csr([0] * 6), GENES, {}, "1 cell"),
        (csr([1] * 6), GENES, {"n_counts": [1, 2]}, r"n_counts of shape \(2,\)"),
        (csr([1] * 6), GENES, {"n_counts": [-1.0]}, "n_counts -1"),
        (csr([1] * 6), GENES, {"n_counts": [np.nan]}, "n_counts nan"),
        (csr([1] * 6), GENES, {"n_counts": [0]}, "n_counts 0"),
        (csr([1] * 6), GENES, {"empty": "drop"}, "empty='drop'"),
    ],
)
def test_bad_input_is_one_clear_error(counts, genes, options, says):
    with pytest.raises(ValueError, match=says) as error:
        make()(counts, genes, **options)
    assert four_parts(error)


def test_an_empty_cell_can_be_kept_as_a_row_without_genes():
    cells = csr([0] * 6, [1, 0, 0, 0, 0, 0])
    assert named(make(special=True), cells, empty="keep") == [["<cls>", "<eos>"], ["<cls>", A, "<eos>"]]
    assert make()(csr([0] * 6), GENES, empty="keep")["input_ids"].shape == (1, 0)


def test_no_cells_are_no_rows():
    assert make()(sp.csr_matrix((0, 6), dtype=np.float32), GENES)["input_ids"].shape == (0, 0)


@pytest.mark.parametrize(
    ("token_ids", "medians", "options", "says"),
    [
        ({"<pad>": 0, A: 1}, MEDIANS, {}, "no <mask>"),
        ({"<pad>": 0, "<mask>": 1, A: 2}, MEDIANS, {"special_tokens": True}, "no <cls>, <eos>"),
        ({"<pad>": 0, "<mask>": 1, A: 1}, MEDIANS, {}, "1 ids given twice"),
        ({"<pad>": 0, "<mask>": 1, A: 2}, {B: 1.0}, {}, "no positive finite median"),
        ({"<pad>": 0, "<mask>": 1, A: 2}, {A: 0.0}, {}, "no positive finite median"),
        ({"<pad>": 0, "<mask>": 1, A: 2}, MEDIANS, {"max_length": 0}, "max_length 0"),
    ],
)
def test_tables_that_do_not_fit_are_refused(token_ids, medians, options, says):
    with pytest.raises(ValueError, match=says) as error:
        RankValueTokenizer.from_tables(token_ids, medians, **{"max_length": 9, "special_tokens": False, **options})
    assert four_parts(error)


# --- fit ----------------------------------------------------------------------------------------------


def test_fit_takes_expressed_genes_in_sorted_order_and_exact_medians():
    cells = csr([8, 0, 2, 0], [1, 1, 2, 0], [3, 0, 1, 0])
    tokenizer = RankValueTokenizer.fit(
        cells, ["ENSG02.1", "ENSG09", "ENSG01", "ENSG03"], min_cells=2, max_length=5, special_tokens=True
    )
    assert list(tokenizer.get_vocab()) == ["<pad>", "<mask>", "<cls>", "<eos>", "ENSG01", "ENSG02"]
    assert tokenizer.medians == {"ENSG01": 0.25 * 10_000, "ENSG02": 0.75 * 10_000}


def test_fit_sums_duplicates_and_does_not_see_the_order_of_cells():
    rng = np.random.default_rng(0)
    cells = sp.csr_matrix(rng.poisson(0.7, (101, 6)).astype(np.int64))
    genes = [A, A.lower(), f"{A}.3", B, C, D]
    fitted = [
        RankValueTokenizer.fit(block, genes, min_cells=1, max_length=9, special_tokens=False).medians
        for block in (cells, cells[rng.permutation(101)], cells.astype(np.float32), cells.toarray())
    ]
    dense = cells.toarray().astype(float)
    merged = dense[:, :3].sum(axis=1) / dense.sum(axis=1) * 10_000
    assert fitted[0] == fitted[1] == fitted[2] == fitted[3]
    assert fitted[0][A] == np.median(merged[merged > 0])


def test_fit_without_any_gene_or_with_bad_counts_is_an_error():
    with pytest.raises(ValueError, match="no gene is expressed in 3"):
        RankValueTokenizer.fit(csr([1, 0]), GENES[:2], min_cells=3, max_length=9, special_tokens=False)
    with pytest.raises(ValueError, match="a count of -1"):
        RankValueTokenizer.fit(csr([1, -1]), GENES[:2], min_cells=1, max_length=9, special_tokens=False)


# --- transformers -------------------------------------------------------------------------------------


def test_special_tokens_and_vocabulary_as_transformers_knows_them():
    one, two = make(), make(special=True)
    assert (one.pad_token_id, one.mask_token_id, one.cls_token_id, one.eos_token_id) == (0, 1, None, None)
    assert (two.pad_token_id, two.mask_token_id, two.cls_token_id, two.eos_token_id) == (0, 1, 2, 3)
    assert len(one) == one.vocab_size == 8 and len(two) == 10
    assert two.convert_tokens_to_ids([A, "<mask>"]) == [4, 1] and two.convert_ids_to_tokens([4, 1]) == [A, "<mask>"]
    with pytest.raises(ValueError, match="counts and genes"):
        one.tokenize("text")


def test_saved_and_loaded_it_is_the_same_to_the_last_bit(tmp_path):
    medians = {gene: value / 3 for gene, value in MEDIANS.items()}
    ours = make(special=True, match_official=True, aliases=ALIASES, max_length=17, medians=medians)
    ours.save_pretrained(tmp_path)
    again = RankValueTokenizer.from_pretrained(tmp_path)
    assert again.medians == medians and again.get_vocab() == ours.get_vocab()
    assert (again.max_length, again.special_tokens, again.match_official, again.model_max_length) == (
        17,
        True,
        True,
        17,
    )
    assert json.loads((tmp_path / "gene_aliases.json").read_text()) == {"ENSG99999999999": A, "TSPAN6": B}
    assert named(again, csr([9, 1]), ["TSPAN6", F]) == [["<cls>", B, F, "<eos>"]]


def test_a_folder_without_medians_is_one_clear_error(tmp_path):
    make().save_pretrained(tmp_path)
    (tmp_path / "gene_medians.json").unlink()
    with pytest.raises(ValueError, match=r"no gene_medians\.json"):
        RankValueTokenizer.from_pretrained(tmp_path)


def test_registered_for_a_configuration_it_loads_by_name_without_trust(tmp_path):
    class RankedConfig(PretrainedConfig):
        model_type = "test_of_rank_value"

    AutoTokenizer.register(RankedConfig, tokenizer_class=RankValueTokenizer, exist_ok=True)
    make().save_pretrained(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is RankValueTokenizer


@pytest.mark.nightly
def test_it_loads_where_scmf_is_not_installed_from_a_saved_copy_of_its_copy_too(tmp_path):
    rng = np.random.default_rng(0)
    cells = sp.csr_matrix(rng.poisson(1, (9, 6)).astype(np.float32) + np.float32([1, 0, 0, 0, 0, 0]))
    ours = make(special=True)
    ours.save_pretrained(tmp_path / "one")
    sp.save_npz(tmp_path / "cells.npz", cells)
    program = (
        "import sys; sys.modules['scmf'] = None\n"
        "import scipy.sparse as sp\n"
        "from transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        f"print(tokenizer(sp.load_npz('cells.npz'), {GENES!r})['input_ids'].tolist())\n"
        "tokenizer.save_pretrained(sys.argv[2])\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    # The second run of a copy finds the compiled kernel in the cache.
    for source, target in (("one", "two"), ("two", "three"), ("two", "four")):
        run = subprocess.run(
            [sys.executable, "-c", program, source, target],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout.splitlines()[-1]) == ours(cells, GENES)["input_ids"].tolist()
