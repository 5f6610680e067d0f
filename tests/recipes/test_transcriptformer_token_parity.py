"""The parity walk of TranscriptFormer's tokens: it passes on official outputs and fails on anything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from types import ModuleType

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.paths import reference_dir, shipped
from tests.fixtures.official import some_of

torch = pytest.importorskip("torch")


def load(path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_transcriptformer_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parity = load(shipped("recipes") / "transcriptformer" / "parity_tokens.py")
official = load(shipped("recipes").parent / "benchmarks" / "official_transcriptformer_path.py")

ORACLE = reference_dir() / "transcriptformer" if reference_dir() else None
needs_oracle = pytest.mark.skipif(
    ORACLE is None or not ORACLE.is_dir(), reason="SCMF_REFERENCE_DIR is not set or has no transcriptformer/"
)

SPECIAL = ["unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]"]
GENES = [f"ENSG{i:011d}" for i in range(400)]
KNOWN = {name: i for i, name in enumerate([*SPECIAL, *GENES])}
ASSAYS = {"unknown": 0, "one": 1, "two": 2}


def outcome(folder, **options):
    return {case.name.removeprefix("tokens/"): case for case in parity.cases(folder, **options)}


def failed(found):
    return {name for name, case in found.items() if not case.passed}


# --- the official outputs --------------------------------------------------------------------------------


FEW = ("real400_len127", "mouse1000_default", "adv_default", "adv_dup_error", "adv_csc")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The official outputs with few runs: of each kind of input one."""
    inputs = {f"{stem}.h5ad" for stem in ("real400", "mouse_val", "adversarial", "adv_dup", "adv_csc", "adv_csr")}
    kept = inputs | {f"data_{name}.npz" for name in FEW}
    folder = some_of(
        ORACLE, tmp_path_factory.mktemp("few"),
        keep=lambda name: name.split("/")[-1] in kept or name.endswith("vocab.json"),
    )  # fmt: skip
    meta = json.loads((ORACLE / "meta_data.json").read_text())
    (folder / "meta_data.json").write_text(json.dumps({name: meta[name] for name in FEW}))
    return folder


@needs_oracle
def test_runs_of_each_kind_are_the_same(few):
    found = outcome(few)
    assert set(found) == set(FEW) and not failed(found)
    assert [name for name, case in found.items() if case.compared == "refused by both"] == ["adv_dup_error"]


# `scmf reproduce transcriptformer` walks over the same cases.
@pytest.mark.nightly
@needs_oracle
def test_every_recorded_case_is_the_same():
    found = outcome(ORACLE.parent)
    meta = json.loads((ORACLE / "meta_data.json").read_text())
    assert set(found) == set(meta) and not failed(found)
    refused = {name for name, facts in meta.items() if "error" in facts}
    assert {name for name, case in found.items() if case.compared == "refused by both"} == refused
    assert {case.tolerance for name, case in found.items() if "scale" not in name} == {0.0}


@needs_oracle
@pytest.mark.parametrize(
    "changed", [{"clip": 29.0}, {"order": "vocabulary"}, {"max_length": 2046}, {"target_sum": 9_999.0}]
)
def test_one_changed_constant_is_seen(few, changed):
    assert "mouse1000_default" in failed(outcome(few, **changed))


@needs_oracle
def test_faults_of_the_loader_are_not_in_the_default(few):
    found = outcome(few, match_official=False)
    assert {"adv_default", "adv_dup_error"} <= failed(found)
    for name in (
        "mouse1000_default",
        "adv_csc",
    ):  # genes in the order of their ids: the same genes with the same counts
        rest, settings = parity._settings(name)
        run = parity._Run(few, parity._input(few, rest), settings, {"match_official": False}, parity._read)
        with np.load(few / "out" / f"data_{name}.npz") as recorded:
            theirs = recorded["gene_token_indices"], recorded["gene_counts"]
        assert (np.diff(np.where(run.ids_BL == run.pad_id, 10**6, run.ids_BL), axis=1) >= 0).all()
        for ids, counts, official, official_counts in zip(run.ids_BL, run.values_BL, *theirs, strict=True):
            order = np.argsort(np.where(official == run.pad_id, 10**6, official), kind="stable")
            assert np.array_equal(official[order], ids) and np.array_equal(official_counts[order], counts)


def test_a_folder_of_another_model_has_no_cases(tmp_path):
    assert outcome(tmp_path) == {} and parity.notes(tmp_path) == []


# --- recordings of our own, by the restated official path --------------------------------------------------


def some_counts(n_genes=350, *, n_cells=9, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.geometric(0.15, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < 0.4)
    counts[:, 0] += 1
    return counts.astype("f4")


def record(root, name, stem, counts, genes, *, facts_only=False, seed=None, **settings):
    """Write an input and what the restated loader makes of it."""
    for part in ("input", "out"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "gene_vocab.json").write_text(json.dumps(KNOWN))
    (root / "assay_vocab.json").write_text(json.dumps(ASSAYS))
    cells = anndata.AnnData(counts)
    cells.var["ensembl_id"] = genes
    cells.obs["assay"] = np.array(["one", "two", "three"])[np.arange(len(cells)) % 3]
    cells.write_h5ad(root / "input" / f"{stem}.h5ad")
    if seed is not None:
        torch.manual_seed(seed)
    theirs = official.tensors(counts, genes, cells.obs[["assay"]], KNOWN, ASSAYS, **settings)
    arrays = {key: value.numpy() for key, value in theirs.items()}
    if not facts_only:
        np.savez(root / "out" / f"data_{name}.npz", **arrays)
    meta = root / "meta_data.json"
    known = json.loads(meta.read_text()) if meta.is_file() else {}
    ids, found = arrays["gene_token_indices"], arrays["gene_counts"]
    known[name] = {
        "shape": list(ids.shape), "n_nonpad": (ids != KNOWN["[PAD]"]).sum(axis=1)[:5].tolist(),
        "max_count": float(found.max()) if not np.isnan(found).any() else float("nan"),
    }  # fmt: skip
    meta.write_text(json.dumps(known))


SETTINGS = {
    "default": {},
    "oom_clip12": {"clip": 12.0},
    "sort": {"sort": True},
    "sort_len40": {"sort": True, "longest": 40},
    "sort_nopadzeros": {"sort": True, "pad_zeros": False},
    "random_seed3": {"shuffle": True, "seed": 3},
    "random_seed3_len50_nopadzeros": {"shuffle": True, "seed": 3, "longest": 50, "pad_zeros": False},
    "random_seed4_len30_scale1e4": {"shuffle": True, "seed": 4, "longest": 30, "scale": 1e4},
    "scale1e4_clip500": {"scale": 1e4, "clip": 500.0},
    "scale1e3_len20": {"scale": 1e3, "longest": 20},
    "nofilter": {"filter_genes": False},
    "nofilter_nopadzeros_len127": {"filter_genes": False, "pad_zeros": False, "longest": 127},
    "len1": {"longest": 1},
}


COLUMNS = {
    "known": GENES[:350],
    "unknown ones": [*GENES[200:400][::-1], *(f"X{i}" for i in range(150))],
    "versions": [*(f"{gene}.{i % 9}" for i, gene in enumerate(GENES[:349])), "AL627309.1"],
}


@pytest.mark.parametrize(
    ("name", "genes", "odd"),
    [  # half of them have every pair of two
        pytest.param(name, genes, bool(k), id=f"{name}-{of}-{('counts', 'odd values')[k]}",
                     marks=[pytest.mark.nightly] if (i + j + k) % 2 else [])
        for i, name in enumerate(SETTINGS)
        for j, (of, genes) in enumerate(COLUMNS.items())
        for k in range(2)
    ],
)  # fmt: skip
def test_every_setting_agrees_with_the_restated_loader(tmp_path, name, genes, odd):
    counts = some_counts()
    if odd:
        counts[1], counts[2, 4:30], counts[3, 3:8], counts[4] = 0, -3, np.nan, counts[4] / 3
        counts[5] = np.maximum(1, counts[5])
        counts[6, 9] = 1e9
    record(tmp_path, f"made_{name}", "made", sp.csr_matrix(counts), genes, **SETTINGS[name])
    record(tmp_path, f"dense_{name}", "dense", counts, genes, **SETTINGS[name])
    record(tmp_path, f"facts_{name}", "facts", counts, genes, facts_only=True, **SETTINGS[name])
    found = outcome(tmp_path)
    assert len(found) == 3 and not failed(found), found
    assert not any("another random" in case.detail for case in found.values())


def test_another_state_of_the_generator_is_told(tmp_path):
    record(tmp_path, "made_random_seed3_len50", "made", some_counts(), GENES[:350], shuffle=True, longest=50, seed=8)
    found = outcome(tmp_path)["made_random_seed3_len50"]
    assert found.passed and "9 cells in another random order" in found.detail


def test_an_assay_that_only_the_run_knew_has_an_id_of_its_own(tmp_path):
    record(tmp_path, "made_default", "made", some_counts(), GENES[:350])
    path = tmp_path / "out" / "data_made_default.npz"
    for ids, fine in (
        ([1, 2, 3] * 3, True),
        ([1, 2, 2] * 3, False),
        ([1, 0, 0] * 3, False),
        ([1, 2, 3, 1, 2, 4] * 2, False),
    ):
        with np.load(path) as arrays:
            recorded = {name: arrays[name] for name in arrays.files}
        np.savez(path, **(recorded | {"aux_token_indices": np.resize(ids, (9, 1))}))
        assert outcome(tmp_path)["made_default"].passed is fine, ids


# --- what is not understood or not the same fails --------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    record(tmp_path, "made_default", "made", some_counts(), GENES[:350])
    record(tmp_path, "made_sort_len60", "made", some_counts(), GENES[:350], sort=True, longest=60)
    return tmp_path


def damage(path, change):
    with np.load(path) as arrays:
        recorded = {name: arrays[name].copy() for name in arrays.files}
    change(recorded)
    np.savez(path, **recorded)


def swap(row, i, j):
    row[i], row[j] = row[j], row[i]


@pytest.mark.parametrize("name", ["made_default", "made_sort_len60"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: swap(a["gene_token_indices"][0], 0, 59), id="two ids swapped"),
        pytest.param(lambda a: a["gene_token_indices"].__setitem__((0, 3), 406), id="another id"),
        pytest.param(lambda a: a["gene_token_indices"].__setitem__((0, 3), 1), id="an id less"),
        pytest.param(lambda a: a["gene_counts"].__setitem__((0, 3), 29.5), id="another count"),
        pytest.param(lambda a: a["gene_counts"].__setitem__((0, 3), np.nan), id="a count missing"),
        pytest.param(lambda a: a["aux_token_indices"].__setitem__((0, 0), 2), id="another assay"),
        pytest.param(lambda a: a.pop("aux_token_indices"), id="no assays"),
        pytest.param(lambda a: a.update({k: v[1:] for k, v in a.items()}), id="a cell less"),
        pytest.param(lambda a: a.update(news=np.zeros(3)), id="an unknown array"),
    ],
)
def test_a_recording_that_differs_is_a_failed_case(made, name, change):
    assert not failed(outcome(made))
    damage(made / "out" / f"data_{name}.npz", change)
    found = outcome(made)
    assert failed(found) == {name} and found[name].detail


def test_what_is_not_understood_is_a_failed_case(made):
    out, meta = made / "out", json.loads((made / "meta_data.json").read_text())
    for name in ("made_upside_down", "absent_default", "made_len", "made_default_oom"):
        shutil.copy(out / "data_made_default.npz", out / f"data_{name}.npz")
        meta[name] = meta["made_default"]
    shutil.copy(out / "data_made_default.npz", out / "data_made_oom.npz")
    meta["made_error"] = {"error": "ValueError: no"}
    meta["made_sort_len60"]["color"] = "red"
    meta["made_clip30"] = meta["made_default"] | {"max_count": 29.0}
    (made / "meta_data.json").write_text(json.dumps(meta))
    (out / "data_made_default.npz").write_bytes(b"no archive")
    found = outcome(made)
    assert set(found) - failed(found) == {"made_default_oom"}
    assert "made_clip30" in parity.notes(made)[1]


def test_an_input_is_found_by_its_name_in_full_shortened_or_in_more_words(tmp_path):
    (tmp_path / "input").mkdir()
    for stem in ("adversarial", "adv_csr", "adv_nocol", "adv_dup", "mouse_val", "real400", "real16"):
        (tmp_path / "input" / f"{stem}.h5ad").write_bytes(b"")
    names = {
        "adv_default": "adversarial", "adv_csr_oom": "adv_csr", "adv_no_gene_col": "adv_nocol",
        "mouse9_sort": "mouse_val",
        "adv_dup_removed": "adv_dup", "adv_dup_error": "adv_dup", "real400_random_seed0": "real400",
        "real16_use_raw_None_min3genes_outlier1.5sd": "real16",
    }  # fmt: skip
    for name, stem in names.items():
        assert parity._input(tmp_path, parity._settings(name)[0]).stem == stem, name
    with pytest.raises(ValueError, match="neither an input nor a setting"):
        parity._input(tmp_path, "elephant")
