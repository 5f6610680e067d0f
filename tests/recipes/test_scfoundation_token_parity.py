"""The parity walk of scFoundation's tokens: it passes on official outputs and fails on anything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from types import ModuleType

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.core.errors import SourceError
from scmf.core.paths import data_dir, reference_dir, shipped
from scmf.data.cards import sources
from scmf.data.cards.downloads import UnavailableError
from tests.fixtures.official import some_of

pytest.importorskip("torch")


def load(path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_scfoundation_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parity = load(shipped("recipes") / "scfoundation" / "parity_tokens.py")
official = load(shipped("recipes").parent / "benchmarks" / "official_scfoundation_path.py")

ORACLE = reference_dir() / "scfoundation" if reference_dir() else None
needs_oracle = pytest.mark.skipif(
    ORACLE is None or not ORACLE.is_dir() or data_dir() is None or not (data_dir() / "scfoundation_vocab").is_dir(),
    reason="no outputs of the official code (SCMF_REFERENCE_DIR) or no gene list (SCMF_DATA_DIR)",
)

GENES = [f"GENE{i}" for i in range(300)]
KNOWN = {name: i for i, name in enumerate([*GENES, "<T>", "<S>", "<pad>"])}


def outcome(folder, **options):
    return {case.name.removeprefix("tokens/"): case for case in parity.cases(folder, **options)}


def failed(found):
    return {name for name, case in found.items() if not case.passed}


# --- the official outputs --------------------------------------------------------------------------------


FEW = ("real60_cell_all_f1_F", "real4_gene_expression_t4_F")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The official outputs with few runs, and all of odd cells."""
    folder = some_of(
        ORACLE, tmp_path_factory.mktemp("few"),
        keep=lambda name: name.split("/")[0] in ("input", "meta_adversarial.json")
        or name.startswith("out/adv_") or name in {f"out/{run}.npz" for run in FEW},
    )  # fmt: skip
    runs = json.loads((ORACLE / "meta_runs.json").read_text())["runs"]
    (folder / "meta_runs.json").write_text(json.dumps({"runs": {name: runs[name] for name in FEW}}))
    return folder


@pytest.fixture(scope="module")
def fewest(few, tmp_path_factory):
    """The same without odd cells, for each of which a tokenizer is made."""
    return some_of(few, tmp_path_factory.mktemp("fewest"), keep=lambda name: "adv" not in name)


@needs_oracle
def test_runs_of_few_and_of_odd_cells_are_the_same(few):
    found = outcome(few, data_dir=data_dir())
    assert found and not failed(found)
    assert len(found) >= len(list((few / "out").glob("*.npz")))
    assert sum("died" in case.detail for case in found.values()) == sum(
        facts["error"] is not None for facts in json.loads((ORACLE / "meta_adversarial.json").read_text()).values()
    )


# `scmf reproduce scfoundation` walks over the same cases.
@pytest.mark.nightly
@needs_oracle
def test_every_recorded_case_is_the_same():
    found = outcome(ORACLE.parent, data_dir=data_dir())
    assert len(found) >= len(list((ORACLE / "out").glob("*.npz")))
    assert not failed(found)
    assert {case.tolerance for case in found.values()} == {parity.VALUES}
    assert sum("died" in case.detail for case in found.values()) == sum(
        facts["error"] is not None for facts in json.loads((ORACLE / "meta_adversarial.json").read_text()).values()
    )


@needs_oracle
@pytest.mark.parametrize(
    "changed", [{"target_sum": 10_001.0}, {"target_depth": "t4.001"}, {"order": "value"}, {"max_length": 1500}]
)
def test_one_changed_constant_is_seen(fewest, changed):
    found = outcome(fewest, data_dir=data_dir(), **changed)
    assert "real4_gene_expression_t4_F" in failed(found)


@needs_oracle
def test_faults_of_the_script_are_not_in_the_default(few):
    found = outcome(few, data_dir=data_dir(), match_official=False)
    differ = {name.split(".")[0].removeprefix("adversarial/") for name in failed(found)}
    faults = {
        "duplicate_symbol", "exact19264_permuted_columns", "19564_columns", "negative_values", "nan_values",
        "fractional", "total_below_1", "one_gene_count1", "all_zero",
    }  # fmt: skip
    assert faults <= differ
    assert not {*FEW, "adversarial/5000_genes"} & failed(found)


def no_network(*arguments, **options):
    raise UnavailableError("no network in this test")


def test_without_the_gene_list_it_is_an_error_and_no_skip(tmp_path, monkeypatch):
    monkeypatch.delenv("SCMF_DATA_DIR", raising=False)
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "download", no_network)
    (tmp_path / "meta_runs.json").write_text(json.dumps({"runs": {}}))
    with pytest.raises(SourceError):
        list(parity.cases(tmp_path))


def test_a_folder_of_another_model_has_no_cases(tmp_path):
    assert outcome(tmp_path) == {} and parity.notes(tmp_path) == []


# --- recordings of our own, by the restated official path --------------------------------------------------


def some_cells(genes, *, n_cells=7, seed=0, dtype="f4", lognorm=False):
    rng = np.random.default_rng(seed)
    counts = (rng.geometric(0.3, (n_cells, len(genes))) * (rng.random((n_cells, len(genes))) < 0.3)).astype(dtype)
    if lognorm:
        counts = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(dtype)
    return pd.DataFrame(counts, index=[f"c{i}" for i in range(n_cells)], columns=list(genes))


def record(root, name, table, *, suffix="h5ad", sparse=False, **args):
    """Write an input and what the restated script makes of it."""
    for part in ("input", "out"):
        (root / part).mkdir(parents=True, exist_ok=True)
    path = root / "input" / f"{name}.{suffix}"
    if suffix == "npy":
        np.save(path, table.to_numpy())
    elif suffix == "csv":
        table.to_csv(path)
    else:
        cells = anndata.AnnData(sp.csr_matrix(table.to_numpy()) if sparse else table.to_numpy())
        cells.obs_names, cells.var["gene_name"] = table.index, table.columns
        cells.write_h5ad(path)
    given = {"input_type": "singlecell", "pre_normalized": "F", "tgthighres": "t4"} | args
    theirs = official.sequences(
        table, GENES, input_type=given["input_type"], normalized=given["pre_normalized"], depth=given["tgthighres"]
    )
    np.savez(
        root / "out" / f"{name}.npz",
        enc_values=np.concatenate(theirs.values), enc_positions=np.concatenate(theirs.ids),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in theirs.ids])]), T_S=theirs.depth_B2,
    )  # fmt: skip
    meta = root / "meta_runs.json"
    runs = json.loads(meta.read_text())["runs"] if meta.is_file() else {}
    facts = {"args": given | {"data_path": f"x/{path.name}", "save_path": "y", "version": "ce"}, "error": None}
    meta.write_text(json.dumps({"runs": runs | {name: facts}}))


SHUFFLED = np.random.default_rng(5).permutation(GENES).tolist()


COLUMNS = {
    "columns missing": GENES[:250],
    "another order, unknown ones": [*SHUFFLED[:200], "X", "Y"],
    "symbols twice": [*GENES[:100], GENES[40], *GENES[200:250], GENES[40], GENES[220]],
    "all columns": GENES,
    "all columns, permuted": SHUFFLED,
    "columns behind the last id": [*GENES, *GENES[:20], "X"],
}
ARGUMENTS = [
    ({}, False),
    ({"tgthighres": "f1"}, False),
    ({"tgthighres": "f2.5"}, False),
    ({"tgthighres": "a5"}, False),
    ({"pre_normalized": "T"}, True),
    ({"pre_normalized": "T", "tgthighres": "f1"}, True),
    ({"input_type": "bulk"}, False),
    ({"input_type": "bulk", "pre_normalized": "T"}, True),
]


@pytest.mark.parametrize(
    ("genes", "args", "lognorm", "dtype"),
    [  # half of them have every pair of two
        pytest.param(genes, *arguments, dtype, id=f"{dtype}-{arguments[0]}-{name}",
                     marks=[pytest.mark.nightly] if (i + j + k) % 2 else [])
        for i, (name, genes) in enumerate(COLUMNS.items())
        for j, arguments in enumerate(ARGUMENTS)
        for k, dtype in enumerate(["f4", "f8"])
    ],
)  # fmt: skip
def test_every_argument_agrees_with_the_restated_script(tmp_path, genes, args, lognorm, dtype):
    table = some_cells(genes, dtype=dtype, lognorm=lognorm)
    record(tmp_path, "made", table, **args)
    record(tmp_path, "sparse", table, sparse=True, **args)
    found = outcome(tmp_path, token_ids=KNOWN)
    assert len(found) == 2 and not failed(found), found


def test_files_of_every_kind_and_totals_behind_agree_too(tmp_path):
    table = some_cells(GENES, dtype="i8")
    record(tmp_path, "text", table, suffix="csv", tgthighres="a5")
    record(tmp_path, "few", table.iloc[:, :200], suffix="csv")
    behind = some_cells(GENES, lognorm=True)
    behind["total"] = np.array([5000, 1200, 999, 1e5, 20, 3, 1], "f4")
    record(tmp_path, "gears", behind, suffix="npy", pre_normalized="A", tgthighres="f1")
    found = outcome(tmp_path, token_ids=KNOWN)
    assert len(found) == 3 and not failed(found), found


def test_odd_values_agree_too(tmp_path):
    table = some_cells(GENES[:250], seed=3)
    table.iloc[0, 3:9], table.iloc[1, 5:7] = -2, np.nan
    table.iloc[2, :], table.iloc[3] = 0, table.iloc[3] / 7
    table.iloc[4, :] = 0
    table.iloc[4, 10] = 1
    table.iloc[5, :] *= 1e7
    for depth in ("t4", "f1", "a-1"):
        record(tmp_path, f"odd_{depth}", table, tgthighres=depth)
    found = outcome(tmp_path, token_ids=KNOWN)
    assert len(found) == 3 and not failed(found), found


# --- what is not understood or not the same fails --------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    record(tmp_path, "made", some_cells(GENES[:250]))
    record(tmp_path, "other", some_cells(GENES[:250], seed=1))
    return tmp_path


def damage(path, change):
    with np.load(path) as arrays:
        recorded = {name: arrays[name].copy() for name in arrays.files}
    change(recorded)
    np.savez(path, **recorded)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a["enc_positions"].__setitem__(3, 299), id="another id"),
        pytest.param(lambda a: a["enc_values"].__setitem__(3, a["enc_values"][3] * 1.00001), id="another value"),
        pytest.param(lambda a: a["offsets"].__setitem__(1, a["offsets"][1] + 1), id="another length"),
        pytest.param(lambda a: a["T_S"].__setitem__((0, 1), 3.3), id="another depth"),
        pytest.param(lambda a: a.update(T_S=a["T_S"][1:]), id="a cell less"),
        pytest.param(lambda a: a.update(news=np.zeros(3)), id="an unknown array"),
    ],
)
def test_a_recording_that_differs_is_a_failed_case(made, change):
    assert not failed(outcome(made, token_ids=KNOWN))
    damage(made / "out" / "made.npz", change)
    found = outcome(made, token_ids=KNOWN)
    assert failed(found) == {"made"} and found["made"].detail


def test_what_is_not_understood_is_a_failed_case(made):
    content = json.loads((made / "meta_runs.json").read_text())
    args = content["runs"]["made"]["args"]
    for name, change in {
        "new_argument": {"novelty": "1"}, "new_type": {"input_type": "spatial"}, "new_depth": {"tgthighres": "q7"},
        "no_input": {"data_path": "x/absent.h5ad"}, "new_pool": {"pool_type": "median"},
    }.items():  # fmt: skip
        shutil.copy(made / "out" / "made.npz", made / "out" / f"{name}.npz")
        content["runs"][name] = {"args": args | change, "error": None}
    content["runs"]["taken"] = {"args": args, "error": "ValueError: no"}
    content["runs"]["odd_facts"] = {"args": args, "error": "E", "color": "red"}
    content["runs"]["nothing"] = {"args": args, "error": None}
    (made / "meta_runs.json").write_text(json.dumps(content))
    (made / "out" / "notes.txt").write_text("?")
    (made / "out" / "other.npz").write_bytes(b"no archive")
    found = outcome(made, token_ids=KNOWN)
    assert set(found) - failed(found) == {"made"}
    assert failed(found) == {
        "new_argument", "new_type", "new_depth", "no_input", "new_pool", "taken", "odd_facts", "out/notes.txt", "other",
    }  # fmt: skip
    assert "nothing" in parity.notes(made)[1]
