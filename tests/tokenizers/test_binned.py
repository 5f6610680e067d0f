"""Binned tokenizer: digits against np.quantile and np.digitize, the layout of sequences, odd input, saving."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from transformers import AutoTokenizer

from scmf.core.config.tokenizer import TokenizerConfig
from scmf.core.errors import ConfigError
from scmf.tokenizers.binned import BinnedTokenizer
from scmf.tokenizers.binned_draws import OfficialDraws, digit_bounds

GENES = ["ACTB", "CD3E", "GAPDH", "MS4A1", "NKG7", "LYZ"]
TABLE = {gene: i for i, gene in enumerate(GENES)}
IDS = np.arange(len(GENES))
PAD, CLS, EOC = 6, 7, 8


def make(**options):
    return BinnedTokenizer.from_tables(TABLE, **{"max_length": 20, **options})


def wide(n_genes, **options):
    return BinnedTokenizer.from_tables(
        {f"g{i}": i for i in range(n_genes)}, **{"max_length": n_genes + 1, **options}
    ), tuple(f"g{i}" for i in range(n_genes))  # fmt: skip


def official(x, n_bins, random):
    """Digits of the values above 0 as the official code computes them."""
    edges = np.quantile(x, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(x, edges), np.digitize(x, edges, right=True)
    return np.ceil(random.rand(len(x)) * (right - left) + left)


# --- bins: np.quantile and np.digitize are the truth -----------------------------------------------------

RNG = np.random.default_rng(5)
VALUES = {
    "one value": np.array([7.0]),
    "one value many times": np.full(333, 3.0),
    "ones and twos": RNG.integers(1, 3, 500),
    "small counts": RNG.poisson(1.5, 900) + 1,
    "counts across the border of what is counted": RNG.integers(240, 270, 700),
    "counts up to a million": np.exp(RNG.uniform(0, 14, 400)).astype(int),
    "halves": RNG.integers(1, 40, 300) / 2,
    "fractions among counts": np.where(RNG.random(300) < 0.5, RNG.integers(1, 300, 300), RNG.random(300) * 300),
    "log1p of counts": np.log1p(RNG.poisson(2, 800) + 1.0),
    "lognormal": RNG.lognormal(0, 3, 1000),
    "tiny": RNG.lognormal(-60, 3, 200),
    "fewer than bins": np.arange(1, 9),
    "as many as edges": np.arange(1, 51),
    "beyond 2**24": 2**24 + RNG.integers(0, 50, 200) * 2.0,
}


@pytest.mark.parametrize("n_bins", [2, 3, 5, 51, 101])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", VALUES)
def test_edges_and_bounds_are_those_of_numpy_to_the_bit(name, kind, n_bins):
    x = VALUES[name].astype(kind)
    found = digit_bounds(np.array([0, 0, x.size, x.size]), x, n_bins)
    edges = np.quantile(x, np.linspace(0, 1, n_bins - 1))
    assert np.array_equal(found.edges[1], edges)
    assert not found.edges[[0, 2]].any()
    assert np.array_equal(found.top, np.digitize(x, edges))
    assert np.array_equal(found.top - found.span, np.digitize(x, edges, right=True))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint16])
def test_match_official_digits_are_the_official_ones_under_the_seed(kind):
    rng = np.random.default_rng(0)
    cells = rng.poisson(0.8, (7, 300)).astype(kind)
    cells[3] = 0
    tokenizer, genes = wide(300, match_official=True, seed=42, include_zero_genes=True)
    random = np.random.RandomState(42)
    wanted = cells.astype(float)
    for row in wanted:
        row[row > 0] = official(row[row > 0], 51, random) if row.any() else 0
    for block in (cells, sp.csr_matrix(cells), sp.csc_matrix(cells)):
        assert np.array_equal(tokenizer(block, genes, empty="keep")["values"], wanted)


def test_default_digits_lie_within_the_bounds_and_use_all_of_them_evenly():
    n = 60_000
    tokenizer, genes = wide(n)
    cells = np.ones((1, n), np.float32)
    cells[0, : n // 2] = 2
    drawn = tokenizer(cells, genes)["values"][0]
    edges = np.quantile(cells[0], np.linspace(0, 1, 50))
    for value in (1, 2):
        low, high = np.digitize(value, edges, right=True) + 1, np.digitize(value, edges)
        times = np.bincount(drawn[cells[0] == value].astype(int), minlength=52)
        assert not times[:low].any() and not times[high + 1 :].any()
        wanted = n / 2 / (high - low + 1)
        chi2 = ((times[low : high + 1] - wanted) ** 2 / wanted).sum()
        assert chi2 < 2 * (high - low)  # 24 degrees of freedom: exceeded once in 300 seeds, and the seed is fixed


# --- layout ------------------------------------------------------------------------------------------------


def test_a_cell_is_cls_then_its_genes_by_id_then_padding():
    cells = np.array([[0, 5, 0, 1, 0, 9], [0, 0, 3, 0, 0, 0]])
    batch = make(special_tokens=True)(cells, GENES)
    assert batch["input_ids"].tolist() == [[CLS, 1, 3, 5], [CLS, 2, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["values"][:, 0].tolist() == [-2, -2] and batch["values"][1, 2:].tolist() == [-2, -2]
    assert batch["length"].tolist() == [4, 2]
    assert (batch["input_ids"].dtype, batch["values"].dtype) == (np.int64, np.float32)
    full = make(special_tokens=True, cls_value="zero", pad_value=-7)(cells, GENES, padding="max_length")
    assert full["input_ids"].shape == (2, 20)
    assert full["values"][:, 0].tolist() == [0, 0] and full["values"][1, -1] == -7
    lists = make()(cells, GENES, padding=False)
    assert [row.tolist() for row in lists["input_ids"]] == [[1, 3, 5], [2]]


def test_torch_tensors_on_request():
    batch = make()(np.eye(6), GENES, return_tensors="pt")
    assert batch["values"].shape == (6, 1) and str(batch["input_ids"].dtype) == "torch.int64"


def test_with_zero_genes_every_known_gene_stands_in_every_cell():
    cells = np.array([[0, 5, 0, 1, 4], [0, 0, 3, 0, 0]])
    genes = ["LYZ", "CD3E", "unknown", "ACTB", "CD3E"]
    batch = make(include_zero_genes=True, n_bins=0)(cells, genes, empty="keep")
    assert batch["input_ids"].tolist() == [[0, 1, 5]] * 2
    assert batch["values"].tolist() == [[1, 9, 0], [0, 0, 0]]
    binned = make(include_zero_genes=True)(cells, genes, empty="keep")
    assert (binned["values"] > 0).tolist() == [[True, True, False], [False] * 3]


def test_without_bins_values_are_as_they_are():
    cells = np.array([[0.5, 0, 700, 0, 0, 1.25]], np.float32)
    assert make(n_bins=0)(cells, GENES)["values"].tolist() == [[0.5, 700, 1.25]]
    assert make(n_bins=0, match_official=True)(cells, GENES)["values"].tolist() == [[0.5, 700, 1.25]]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("match_official", [False, True])
def test_a_long_cell_keeps_cls_and_a_sample_or_its_first_genes(zeros, match_official):
    rng = np.random.default_rng(1)
    cells = rng.integers(1, 200, (30, 100)).astype(np.float32)
    options = {"n_bins": 0, "special_tokens": True, "include_zero_genes": zeros, "match_official": match_official}
    tokenizer, genes = wide(100, **options, max_length=31)
    batch = tokenizer(cells, genes)
    assert batch["input_ids"].shape == (30, 31) and (batch["input_ids"][:, 0] == tokenizer.cls_token_id).all()
    kept = batch["input_ids"][:, 1:]
    assert all(np.unique(row).size == 30 for row in kept)
    assert np.array_equal(batch["values"][:, 1:], np.take_along_axis(cells, kept, 1)), "values go with their genes"
    assert len({tuple(row) for row in kept.tolist()}) == 30, "another sample in every cell"
    times = np.bincount(kept.ravel(), minlength=100)
    assert ((times - 9) ** 2 / (30 * 0.3 * 0.7)).sum() < 150, "each gene with the same chance"
    first, _ = wide(100, **options, max_length=31, long_cells="first")
    assert np.array_equal(first(cells, genes)["input_ids"][:, 1:], np.tile(np.arange(30), (30, 1)))


def test_by_default_a_sample_stands_by_id_and_its_digits_are_those_of_the_whole_cell():
    cells = np.random.default_rng(2).poisson(3, (20, 200)).astype(np.float32)
    (short, genes), (whole, _) = wide(200, max_length=50), wide(200)
    for row in range(20):
        part, all_of = short(cells[row : row + 1], genes), whole(cells[row : row + 1], genes)
        digit = dict(zip(all_of["input_ids"][0].tolist(), all_of["values"][0].tolist(), strict=True))
        ids = part["input_ids"][0].tolist()
        assert ids == sorted(ids) and [digit[i] for i in ids] == part["values"][0].tolist()


def test_draw_and_seed_change_digits_and_samples_and_nothing_else_does():
    cells = np.random.default_rng(3).poisson(1, (10, 300)).astype(np.float32)
    tokenizer, genes = wide(300, max_length=80)
    base = tokenizer(cells, genes)
    assert all(np.array_equal(base[key], tokenizer(cells, genes)[key]) for key in base)
    for other in (tokenizer(cells, genes, draw=1), wide(300, max_length=80, seed=1)[0](cells, genes)):
        assert not np.array_equal(base["input_ids"], other["input_ids"])
        same = [np.mean(a == b) for a, b in zip(base["values"], other["values"], strict=True)]
        assert max(same) < 0.5


def test_default_draws_are_pinned():
    """Tokens in a store are made once: another draw for the same seed would be another data set."""
    tokenizer, genes = wide(40, max_length=12, special_tokens=True)
    cells = np.arange(80).reshape(2, 40) % 4
    cells[1, :4] = 3
    batch = tokenizer(cells, genes)
    ids = [
        [41, 1, 3, 5, 9, 10, 13, 14, 25, 29, 33, 38],
        [41, 1, 2, 3, 5, 7, 14, 19, 31, 35, 37, 38],
    ]
    digits = [
        [-2, 1, 48, 6, 13, 29, 9, 25, 7, 14, 13, 24],
        [-2, 47, 41, 39, 13, 49, 28, 42, 35, 35, 11, 21],
    ]
    assert batch["input_ids"].tolist() == ids and batch["values"].tolist() == digits


# --- genes -------------------------------------------------------------------------------------------------


def test_special_tokens_are_appended_as_the_official_code_does_and_stand_in_front_when_fitted():
    tokenizer = make()
    assert (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id) == (PAD, CLS, EOC)
    assert tokenizer.vocab_size == 9 and tokenizer.mask_token_id is None
    cells = np.array([[1, 0, 2, 0, 0, 5], [1, 0, 2, 0, 0, 0]])
    fitted = BinnedTokenizer.fit(cells, GENES, min_cells=2, max_length=5, n_bins=7)
    assert list(fitted.get_vocab()) == ["<pad>", "<cls>", "<eoc>", "<mask>", "ACTB", "GAPDH"] and fitted.n_bins == 7
    assert fitted(cells, GENES)["input_ids"].tolist() == [[4, 5], [4, 5]]


def test_unknown_genes_are_left_out_and_when_match_official_become_padding_with_a_digit():
    cells = np.array([[3, 1, 2]])
    genes = ["ACTB", "unknown", "LYZ"]
    assert make()(cells, genes)["input_ids"].tolist() == [[0, 5]]
    batch = make(match_official=True)(cells, genes)
    assert batch["input_ids"].tolist() == [[0, PAD, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0, 1]]
    assert (batch["values"] > 0).all()


def test_other_names_and_columns_of_one_gene():
    aliases = {"ENSG00000075624": "ACTB", "T3E": "CD3E"}
    tokenizer = BinnedTokenizer.from_tables(TABLE, aliases=aliases, max_length=9, n_bins=0)
    cells = np.array([[1, 2, 4, 8]])
    genes = ["ENSG00000075624.17", "T3E", "CD3E", "actb"]
    batch = tokenizer(cells, genes)
    assert batch["input_ids"].tolist() == [[0, 1]] and batch["values"].tolist() == [[1, 6]]
    match_official = BinnedTokenizer.from_tables(TABLE, aliases=aliases, max_length=9, n_bins=0, match_official=True)
    assert match_official(cells, genes)["input_ids"].tolist() == [[PAD, 1, 1, PAD]]


# --- odd input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("match_official", [False, True])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_bad_counts_are_an_error_that_names_the_place(value, match_official):
    cells = np.ones((3, 6))
    cells[1, 4] = value
    for block in (cells, sp.csr_matrix(cells), sp.csc_matrix(cells)):
        with pytest.raises(ValueError, match=r"a count of .*[\s\S]*row 1, column 4"):
            make(match_official=match_official)(block, GENES)


@pytest.mark.parametrize("match_official", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_an_empty_cell_is_an_error_or_kept(match_official, zeros):
    cells = sp.csr_matrix(np.array([[1, 0, 2, 0, 0, 0], [0] * 6, [0] * 6]))
    tokenizer = make(match_official=match_official, include_zero_genes=zeros, special_tokens=True)
    with pytest.raises(ValueError, match=r"2 cell\(s\) of the block[\s\S]*rows 1, 2"):
        tokenizer(cells, GENES)
    kept = tokenizer(cells, GENES, empty="keep")
    assert kept["length"].tolist() == ([7, 7, 7] if zeros else [3, 1, 1])
    assert not (kept["values"][1:, 1:] > 0).any()
    none = tokenizer(cells[:0], GENES)
    assert none["input_ids"].shape == (0, 0)


def test_stored_zeros_duplicates_and_rows_out_of_order_are_the_clean_matrix():
    clean = np.array([[3.0, 0, 5, 0, 1, 0]])
    data, indices = np.array([1.0, 2, 0, 5, 3]), np.array([4, 2, 1, 2, 0])
    data[1], data[3] = 2, 3
    messy = sp.csr_matrix((data, indices, np.array([0, 5])), shape=(1, 6))
    for match_official in (False, True):
        for zeros in (False, True):
            tokenizer = make(match_official=match_official, include_zero_genes=zeros)
            one, two = tokenizer(clean, GENES), tokenizer(messy, GENES)
            assert all(np.array_equal(one[key], two[key]) for key in one)
    assert messy.indices.tolist() == [4, 2, 1, 2, 0]


def test_wrong_shapes_and_settings_are_errors():
    with pytest.raises(ValueError, match="one column for each gene id"):
        make()(np.ones((2, 5)), GENES)
    with pytest.raises(ValueError, match="none of 2 gene names"):
        make()(np.ones((2, 2)), ["x", "y"])
    with pytest.raises(ValueError, match="set match_official"):
        make()(np.ones((1, 6)), GENES, draws=OfficialDraws(0))
    with pytest.raises(ValueError, match="'error' or 'keep'"):
        make()(np.ones((1, 6)), GENES, empty="drop")
    with pytest.raises(ValueError, match="to fit"):
        BinnedTokenizer.from_tables({"a": 40_000}, max_length=2).encode_cells(np.ones((1, 1)), ["a"], dtype=np.int16)
    for option in ({"n_bins": 1}, {"cls_value": "one"}, {"long_cells": "last"}, {"max_length": 0}, {"seed": -1},
                   {"pad_value": np.nan}, {"mask_value": np.inf}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(option))):
            make(**option)
    with pytest.raises(ValueError, match="no <pad>"):
        BinnedTokenizer(token_ids=TABLE)
    with pytest.raises(ValueError, match="1 ids given twice"):
        BinnedTokenizer.from_tables({"a": 0, "b": 0}, max_length=3)
    with pytest.raises(ValueError, match="counts and genes"):
        make().tokenize("text")


def test_the_options_of_a_config_are_those_of_the_tokenizer():
    options = TokenizerConfig(strategy="binned", options={"n_bins": 0, "long_cells": "first"}).all_options
    assert make(**options).options == options
    assert TokenizerConfig(strategy="binned").all_options == make().options
    with pytest.raises((ConfigError, ValueError)):
        TokenizerConfig(strategy="binned", options={"n_bins": 1})


# --- transformers --------------------------------------------------------------------------------------------


def test_the_contract_of_a_tokenizer_is_kept():
    tokenizer = make(special_tokens=True)
    assert tokenizer.model_input_names == ["input_ids", "attention_mask", "values"]
    assert tokenizer.pad_values == {"input_ids": PAD, "values": -2.0}
    assert (
        tokenizer.is_stochastic
        and make(n_bins=0).is_stochastic
        and not make(n_bins=0, long_cells="first").is_stochastic
    )
    assert tokenizer.obs_columns == () and tokenizer.cell_tensors({"assay": ["10x"]}) == {}
    assert (tokenizer.mask_value, tokenizer.n_bins, tokenizer.max_length) == (-1.0, 51, 20)
    cells = tokenizer.encode_cells(np.eye(6), GENES, dtype=np.int16, n_counts=np.ones(6))
    assert cells.columns["input_ids"].dtype == np.int16 and cells.columns["values"].dtype == np.float32
    assert cells.offsets.tolist() == [0, 2, 4, 6, 8, 10, 12] and cells.lengths.tolist() == [2] * 6


def test_every_setting_changes_the_fingerprint_and_saving_does_not(tmp_path):
    base = make()
    others = [
        make(**{key: value})
        for key, value in (
            ("n_bins", 5), ("include_zero_genes", True), ("cls_value", "zero"), ("pad_value", -3), ("mask_value", 9),
            ("long_cells", "first"), ("seed", 1), ("match_official", True), ("special_tokens", True), ("max_length", 8),
            ("aliases", {"x": "LYZ"}),
        )
    ]  # fmt: skip
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 12
    for other in (base, *others):
        other.save_pretrained(tmp_path)
        again = BinnedTokenizer.from_pretrained(tmp_path)
        assert again.fingerprint == other.fingerprint and again.options == other.options
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.nightly
def test_it_loads_where_scmf_is_not_installed_from_a_saved_copy_of_its_copy_too(tmp_path):
    cells = sp.csr_matrix(np.random.default_rng(0).poisson(1, (9, 6)).astype(np.float32) + np.float32(1))
    ours = make(special_tokens=True, max_length=4, seed=3)
    ours.save_pretrained(tmp_path / "one")
    sp.save_npz(tmp_path / "cells.npz", cells)
    program = (
        "import sys; sys.modules['scmf'] = None\n"
        "import scipy.sparse as sp\n"
        "from transformers import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        f"batch = tokenizer(sp.load_npz('cells.npz'), {GENES!r})\n"
        "print(batch['input_ids'].tolist(), batch['values'].tolist())\n"
        "tokenizer.save_pretrained(sys.argv[2])\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    batch = ours(cells, GENES)
    for source, target in (("one", "two"), ("two", "three")):
        run = subprocess.run(
            [sys.executable, "-c", program, source, target],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == f"{batch['input_ids'].tolist()} {batch['values'].tolist()}"
    assert AutoTokenizer.from_pretrained(tmp_path / "three", trust_remote_code=True).n_bins == 51
