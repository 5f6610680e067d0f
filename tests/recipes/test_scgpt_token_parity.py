"""The parity walks of scGPT's tokens: they pass on official outputs and fail on anything else."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.errors import SourceError
from scmf.core.paths import data_dir, reference_dir, shipped
from scmf.data.cards import sources
from scmf.data.cards.downloads import UnavailableError
from scmf.tokenizers.binned import BinnedTokenizer
from tests.fixtures.official import some_of

torch = pytest.importorskip("torch")


def load(path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_scgpt_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


RECIPE = shipped("recipes") / "scgpt"
tokens, binning = load(RECIPE / "parity_tokens.py"), load(RECIPE / "parity_binning.py")
official = load(shipped("recipes").parent / "benchmarks" / "official_scgpt_path.py")

ORACLE = reference_dir() / "scgpt" if reference_dir() else None
needs_oracle = pytest.mark.skipif(
    ORACLE is None or not ORACLE.is_dir() or data_dir() is None or not (data_dir() / "scgpt_vocab").is_dir(),
    reason="no outputs of the official code (SCMF_REFERENCE_DIR) or no vocabulary (SCMF_DATA_DIR)",
)


def failed(found):
    return {case.name: case.detail for case in found if not case.passed}


def with_other(**change):
    """The product with other options than the walk asks for: one wrong constant."""

    class Other(BinnedTokenizer):
        @classmethod
        def from_tables(cls, token_ids, medians=None, aliases=None, **options):
            asked = {key: of(options.get(key)) if callable(of) else of for key, of in change.items()}
            return BinnedTokenizer.from_tables(token_ids, medians, aliases, **{**options, **asked})

    return Other


# --- the official outputs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The official outputs but the layers of all genes."""
    large = ("raw_counts", "tutorial_all_genes")
    return some_of(ORACLE, tmp_path_factory.mktemp("few"), keep=lambda name: not any(one in name for one in large))


@needs_oracle
@pytest.mark.parametrize("walk", [tokens, binning], ids=["tokens", "binning"])
def test_cases_of_few_genes_are_token_for_token_the_same(few, walk):
    found = list(walk.cases(few, data_dir()))
    assert len(found) >= 10 and failed(found) == {}


# `scmf reproduce scgpt` walks over the same cases.
@pytest.mark.nightly
@needs_oracle
def test_every_recorded_case_is_token_for_token_the_same():
    for walk, at_least in ((tokens, 20), (binning, 20)):
        found = list(walk.cases(ORACLE.parent, data_dir()))
        assert len(found) >= at_least and failed(found) == {}
        assert {case.tolerance for case in found} == {0.0}
        assert len({case.name for case in found}) == len(found)
    compared = {case.name for walk in (tokens, binning) for case in walk.cases(ORACLE, data_dir())}
    for path in [*ORACLE.glob("tok/*.npz"), *ORACLE.glob("embed_data/*.safetensors")]:
        name = path.relative_to(ORACLE).with_suffix("").as_posix()
        assert path.stem == "collator_inputs" or any(case.startswith(name) for case in compared)


@needs_oracle
@pytest.mark.parametrize(
    "change", [{"n_bins": lambda n: (n or 51) - 1}, {"n_bins": lambda n: (n or 51) + 1}], ids=["one edge less", "more"]
)
def test_one_edge_more_or_less_is_seen_in_every_binned_case(few, change):
    wrong = failed(binning.cases(few, data_dir(), tokenizer=with_other(**change)))
    layers = [path for path in few.glob("tok/*.npz") if "binned_data" in np.load(path).files]
    assert layers and all(f"tok/{path.stem}" in wrong for path in layers)
    assert any(name.startswith("tok/adversarial_binning") for name in wrong)
    wrong = failed(tokens.cases(few, tokenizer=with_other(**change)))
    assert all(f"tok/{path.stem}" in wrong for path in few.glob("tok/*.tokenize.*.npz"))


@needs_oracle
@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"cls_value": "pad"}, "tok/real_pbmc400.tokenize.incl_zero"),
        ({"cls_value": "zero"}, "embed_data/embed.maxlen1200"),
        ({"long_cells": "first"}, "tok/real_pbmc400.tokenize.nonzero_maxlen150_sampled"),
        ({"pad_value": -3}, "tok/real_pbmc400.tokenize.nonzero_maxlen1201"),
        ({"mask_value": -5}, "tok/real_pbmc400.tokenize.incl_zero.masked_0.4"),
        ({"include_zero_genes": False}, "tok/real_pbmc400.tokenize.incl_zero"),
    ],
)
def test_any_wrong_option_is_seen(few, change, seen):
    assert seen in failed(tokens.cases(few, tokenizer=with_other(**change)))


def no_network(*arguments, **options):
    raise UnavailableError("no network in this test")


def test_without_the_vocabulary_it_is_an_error_and_no_skip(tmp_path, monkeypatch):
    monkeypatch.delenv("SCMF_DATA_DIR", raising=False)
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "download", no_network)
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "summary.json").write_text("{}")
    with pytest.raises(SourceError):
        list(binning.cases(tmp_path))


def test_a_folder_of_another_model_has_no_cases(tmp_path):
    assert list(tokens.cases(tmp_path)) == [] and list(binning.cases(tmp_path)) == []


def test_what_is_left_out_has_a_reason(tmp_path):
    for walk in (tokens, binning):
        assert walk.notes(tmp_path) and all(": " in line for line in walk.notes(tmp_path))


# --- recordings of our own, by the restated official path ------------------------------------------------------

N_GENES, PAD, CLS = 90, 400, 401
GENES = [f"G{i}" for i in range(N_GENES)]
IDS = (np.arange(N_GENES) * 7) % 400
TABLE = {**dict(zip(GENES, IDS.tolist(), strict=True)), "<pad>": PAD, "<cls>": CLS}


@pytest.fixture
def recorded(tmp_path):
    """A folder like the oracle's, of cells of our own."""
    rng = np.random.default_rng(8)
    counts = rng.poisson(0.9, (12, N_GENES)).astype(np.float32)
    counts[:, 0] = 1
    layer = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 10_000).astype(np.float32)
    (tmp_path / "tok").mkdir()
    np.random.seed(42)
    digits = official.binned_layer(layer)
    matrix, sparse = sp.csr_matrix(layer), sp.csr_matrix(digits)
    low, high, edges = [], [], np.zeros((12, 51))
    for row, x in enumerate(layer):
        edges[row, 1:] = np.quantile(x[x > 0], np.linspace(0, 1, 50))
        left = np.digitize(x[x > 0], edges[row, 1:])
        right = np.digitize(x[x > 0], edges[row, 1:], right=True)
        low.append(np.minimum(left, right + 1))
        high.append(left)
    shared = {
        "binned_data": sparse.data.astype(np.int8), "binned_indices": sparse.indices, "binned_indptr": sparse.indptr,
        "shape": np.array(layer.shape), "genes": np.array(GENES), "gene_ids": IDS, "bin_edges": edges,
        "cells": np.array([f"c{i}" for i in range(12)]),
        "digit_lo": np.concatenate(low), "digit_hi": np.concatenate(high),
    }  # fmt: skip
    np.savez(
        tmp_path / "tok" / "own.scaled.npz", **shared,
        log1p_data=matrix.data, log1p_indices=matrix.indices, log1p_indptr=matrix.indptr,
    )  # fmt: skip
    for row, x in enumerate(counts):
        edges[row, 1:] = np.quantile(x[x > 0], np.linspace(0, 1, 50))
    np.savez(tmp_path / "tok" / "own.raw.npz", **shared)  # no layer: the counts must be found
    given = {"cls_id": CLS, "pad_id": PAD}
    np.random.seed(7)
    sequences = official.tokenized(digits[:8], IDS, **given, longest=30, zeros=False)
    np.savez(
        tmp_path / "tok" / "own.tokenize.maxlen30.npz",
        genes=sequences["genes"].numpy(), values=sequences["values"].numpy(),
    )  # fmt: skip
    examples = [official.example(row, IDS, CLS) for row in counts]
    np.savez(
        tmp_path / "tok" / "collator_inputs.npz",
        genes=np.concatenate([cell["genes"] for cell in examples]).astype(np.int32),
        expressions=np.concatenate([cell["expressions"] for cell in examples]),
        lengths=np.array([len(cell["genes"]) for cell in examples]),
    )  # fmt: skip
    np.random.seed(3)
    torch.manual_seed(3)
    batch = official.collate(examples, pad_id=PAD, longest=40)
    np.savez(tmp_path / "tok" / "collator_own.npz", gene=batch["gene"].numpy(), expr=batch["expr"].numpy())
    collator = {"args": {
        "do_padding": "True", "pad_token_id": str(PAD), "pad_value": "-2", "mask_value": "-1", "do_binning": "True",
        "sampling": "True", "keep_first_n_tokens": "1", "do_mlm": "False", "max_length": "40",
    }, "np_seed": 3, "torch_seed": 3}  # fmt: skip
    summary = {
        "vocab": {"pad": PAD, "cls": CLS}, "own.scaled": {"seed": 42}, "own.raw": {"seed": 42},
        "own.tokenize.maxlen30": {"seed_tokenize": 7, "seed_mask": 9}, "collator_own": collator,
        "Preprocessor.negative": "raises ValueError",
    }  # fmt: skip
    (tmp_path / "tok" / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def outcome(folder):
    return [*tokens.cases(folder), *binning.cases(folder, tokens=TABLE)]


def test_what_the_restated_path_made_passes(recorded):
    found = outcome(recorded)
    assert failed(found) == {}
    assert {case.name for case in found} == {
        "tok/own.tokenize.maxlen30", "tok/collator_own", "tok/summary.vocab", "tok/summary.Preprocessor.negative",
        *(f"tok/own.{layer}{part}" for layer in ("scaled", "raw") for part in ("", ".bounds", ".default_draws")),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "array"),
    [
        ("own.scaled", "binned_data"), ("own.scaled", "bin_edges"), ("own.scaled", "digit_hi"),
        ("own.scaled", "gene_ids"), ("own.raw", "binned_data"), ("own.tokenize.maxlen30", "genes"),
        ("own.tokenize.maxlen30", "values"), ("collator_own", "expr"),
    ],
)  # fmt: skip
def test_one_changed_number_is_seen(recorded, file, array):
    path = recorded / "tok" / f"{file}.npz"
    arrays = dict(np.load(path))
    arrays[array].flat[5] += 1
    np.savez(path, **arrays)
    assert any(name.startswith(f"tok/{file}") for name in failed(outcome(recorded)))


def test_files_arrays_and_settings_that_are_not_understood_are_failed_cases(recorded):
    tok = recorded / "tok"
    (tok / "notes.txt").write_text("what is this")
    (tok / "cut.npz").write_bytes((tok / "own.scaled.npz").read_bytes()[:500])
    np.savez(tok / "strange.npz", something=np.ones(3))
    np.savez(tok / "own.unnamed.npz", **dict(np.load(tok / "own.scaled.npz")))
    np.savez(tok / "own.more.npz", **dict(np.load(tok / "own.scaled.npz")), extra=np.ones(2))
    np.savez(tok / "own.tokenize.lost.npz", **dict(np.load(tok / "own.tokenize.maxlen30.npz")))
    summary = json.loads((tok / "summary.json").read_text())
    summary["collator_own"]["args"]["reverse"] = "True"
    (tok / "summary.json").write_text(json.dumps(summary))
    wrong = failed(outcome(recorded))
    assert set(wrong) == {
        "tok/notes", "tok/cut", "tok/strange", "tok/own.unnamed", "tok/own.more", "tok/own.tokenize.lost",
        "tok/collator_own",
    }  # fmt: skip


def test_counts_that_are_not_refused_are_seen(recorded):
    class Lenient(BinnedTokenizer):
        def __call__(self, *arguments, **options):
            return {}

    wrong = failed(binning.cases(recorded, tokens=TABLE, tokenizer=Lenient))
    assert "tok/summary.Preprocessor.negative" in wrong
