"""The parity walk of Geneformer's tokens: it passes on official outputs and fails on anything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from types import ModuleType

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.errors import SourceError
from scmf.core.paths import data_dir, shipped
from scmf.data.cards import sources
from scmf.data.cards.downloads import UnavailableError
from scmf.data.genes.vocabulary import GeneTables
from tests.fixtures.official import some_of

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


def load(path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parity = load(shipped("recipes") / "geneformer" / "parity_tokens.py")
official_path = load(shipped("recipes").parent / "benchmarks" / "official_path.py")

needs_dictionaries = pytest.mark.skipif(
    data_dir() is None or not (data_dir() / "geneformer_vocab").is_dir(),
    reason="SCMF_DATA_DIR holds no official dictionaries",
)


def outcome(folder, **options):
    return {case.name: case for case in parity.cases(folder, **options)}


# --- the official outputs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official_tables():
    return {version: parity._official(name, data_dir()) for version, (name, _, _) in parity.VERSIONS.items()}


@pytest.fixture(scope="module")
def few(oracle, tmp_path_factory):
    """The official outputs but those of the one large input."""
    return some_of(oracle, tmp_path_factory.mktemp("few"), keep=lambda name: "real_pbmc400" not in name)


# `scmf reproduce geneformer` walks over the same cases.
@pytest.mark.nightly
@needs_dictionaries
def test_every_recorded_case_is_token_for_token_the_same(oracle):
    found = outcome(oracle.parent, data_dir=data_dir())
    recorded = list(oracle.glob("tok*/*.parquet"))
    assert recorded and len(found) == len(recorded)
    assert not [case for case in found.values() if not case.passed]
    assert {case.tolerance for case in found.values()} == {0.0}


@needs_dictionaries
def test_small_inputs_are_the_same_and_one_changed_median_is_seen(few, official_tables):
    found = list(parity.cases(few, tables=official_tables))
    assert len(found) == len(list(few.glob("tok*/*.parquet"))) > 10 and all(case.passed for case in found)
    rps23, v2 = "ENSG00000186468", official_tables["V2"]
    tables = official_tables | {"V2": replace(v2, medians=v2.medians | {rps23: v2.medians[rps23] * 1.5})}
    failed = [case.name for case in parity.cases(few, tables=tables) if not case.passed]
    assert "tok/adv_plain.V2" in failed and not any(".V1" in name for name in failed)


def no_network(*arguments, **options):
    raise UnavailableError("no network in this test")


def test_without_dictionaries_it_is_an_error_and_no_skip(tmp_path, monkeypatch):
    monkeypatch.delenv("SCMF_DATA_DIR", raising=False)
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "download", no_network)
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "some.V1.parquet").write_bytes(b"")
    with pytest.raises(SourceError):
        list(parity.cases(tmp_path))


def test_a_folder_of_another_model_has_no_cases(tmp_path):
    assert outcome(tmp_path) == {}


# --- recordings of our own, by the restated official path --------------------------------------------------

GENES = [f"ENSG{i:011d}" for i in range(1, 301)]
RETIRED = {f"ENSG{i:011d}": GENES[i - 900] for i in range(900, 950)}


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(3)
    medians = dict(zip(GENES, rng.choice([0.5, 1.0, 2.0, *rng.lognormal(0, 1, 60)], len(GENES)), strict=True))
    identity = {gene: gene for gene in GENES}

    def of(special):
        return {name: i for i, name in enumerate([*special, *GENES])}

    return {
        "V1": GeneTables(of(["<pad>", "<mask>"]), medians, identity),
        "V2": GeneTables(of(["<pad>", "<mask>", "<cls>", "<eos>"]), medians, identity | RETIRED | {"TSPAN6": GENES[7]}),
    }


def record(root, stem, counts, genes, n_counts, tables, *, filter_pass=None):
    """Write an input and what the restated official path makes of it, for both versions."""
    for part in ("inputs", "tok"):
        (root / part).mkdir(parents=True, exist_ok=True)
    names = [f"c{i}" for i in range(counts.shape[0])]
    cells = anndata.AnnData(counts)
    cells.obs_names, cells.obs["n_counts"], cells.var["ensembl_id"] = names, n_counts, genes
    kept = np.arange(len(names))
    if filter_pass is not None:
        cells.obs["filter_pass"] = filter_pass
        kept = np.flatnonzero(np.asarray(filter_pass) == 1)
    cells.write_h5ad(root / "inputs" / f"{stem}.h5ad")
    for version, (_, longest, special) in parity.VERSIONS.items():
        of = tables[version]
        official = official_path.Dictionaries(of.token_ids, of.medians, of.aliases)
        ranked, rows = official_path.rank(counts[kept], genes, n_counts[kept], official)
        edge = ([2], [3]) if special else ([], [])
        ids = [[*edge[0], *row[: longest - 2 * special].tolist(), *edge[1]] for row in ranked]
        write(root / "tok" / f"{stem}.{version}.parquet", [names[kept[row]] for row in rows], ids, ranked)


def write(path, names, ids, ranked):
    columns = {
        "cell_name": names,
        "input_ids": ids,
        "length": [len(row) for row in ids],
        "n_tokens_before_crop": [len(row) for row in ranked],
        "uncropped_ids": [row.tolist() for row in ranked],
    }
    pq.write_table(pa.table(columns), path)


def some_counts(n_genes, dtype="f4", seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.8, (14, n_genes))
    counts[3] = 0
    return sp.csr_matrix(counts.astype(dtype))


@pytest.mark.parametrize(
    ("counts_type", "totals_type"), [("f4", "f4"), ("f4", "f8"), ("f8", "f8"), ("i8", "i8"), ("i8", "f4")]
)
@pytest.mark.parametrize(
    "genes",
    [
        pytest.param(GENES, id="plain"),
        pytest.param([*GENES[:250], *GENES[:50]], id="exact duplicates"),
        pytest.param([*GENES[:250], *(gene.lower() for gene in GENES[:50])], id="lower-case copies"),
        pytest.param([*GENES[:200], *GENES[:50], *RETIRED], id="retired and current"),
        pytest.param([*GENES[:200], *RETIRED, *["X"] * 50], id="retired, unknown"),
        pytest.param(["TSPAN6", *(f"{gene}.4" for gene in GENES[:99]), *GENES[100:300]], id="symbol and versions"),
    ],
)  # fmt: skip
def test_every_quirk_and_type_agrees_with_the_restated_official_path(tmp_path, tables, genes, counts_type, totals_type):
    counts = some_counts(len(genes), counts_type)
    totals = np.maximum(1, np.asarray(counts.sum(axis=1)).ravel()).astype(totals_type)
    record(tmp_path, "made", counts, genes, totals, tables)
    found = outcome(tmp_path, tables=tables)
    assert len(found) == 2 and not [case for case in found.values() if not case.passed]


def test_filter_odd_totals_stored_zeros_and_dense_cells_agree_too(tmp_path, tables):
    counts = some_counts(300)
    counts.data[::7] = 0
    totals = np.asarray(counts.sum(axis=1)).ravel().astype("f8")
    totals[5], totals[6] = 0, np.nan
    record(tmp_path, "odd", counts, GENES, totals, tables, filter_pass=np.arange(14) % 3)
    record(tmp_path, "all", counts, GENES, totals, tables)
    record(tmp_path, "dense", some_counts(300, seed=1).toarray(), GENES, totals, tables)
    found = outcome(tmp_path, tables=tables)
    assert len(found) == 6 and not [case for case in found.values() if not case.passed]


# --- what is not understood or not the same fails --------------------------------------------------------


@pytest.fixture
def made(tmp_path, tables):
    counts = some_counts(300)
    record(tmp_path, "made", counts, GENES, np.maximum(1, np.asarray(counts.sum(axis=1)).ravel()), tables)
    return tmp_path


def damage(path, change):
    columns = pq.read_table(path).to_pydict()
    change(columns)
    pq.write_table(pa.table(columns), path)


def swap(row, i, j):
    row[i], row[j] = row[j], row[i]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: swap(c["input_ids"][0], 1, 60), id="two tokens swapped"),
        pytest.param(lambda c: swap(c["uncropped_ids"][0], 1, 60), id="two uncropped tokens swapped"),
        pytest.param(lambda c: c["input_ids"][0].__setitem__(1, 299), id="another token"),
        pytest.param(lambda c: c["input_ids"][0].__setitem__(0, 3), id="another special token"),
        pytest.param(lambda c: c["input_ids"][0].pop(), id="a token less"),
        pytest.param(lambda c: c["length"].__setitem__(0, 1), id="another length"),
        pytest.param(lambda c: c["cell_name"].__setitem__(0, "x"), id="another cell"),
        pytest.param(lambda c: [column.pop() for column in c.values()], id="a cell less"),
        pytest.param(lambda c: c.update(sorted_values=[[1.0] for _ in c["length"]]), id="other values"),
        pytest.param(lambda c: c.update(news=c["length"]), id="an unknown column"),
    ],
)
def test_a_recording_that_differs_is_a_failed_case(made, tables, change):
    assert all(case.passed for case in outcome(made, tables=tables).values())
    damage(made / "tok" / "made.V2.parquet", change)
    found = outcome(made, tables=tables)
    assert not found["tok/made.V2"].passed and found["tok/made.V2"].detail
    assert found["tok/made.V1"].passed


def test_what_is_not_understood_is_a_failed_case(made, tables):
    tok = made / "tok"
    shutil.copy(tok / "made.V2.parquet", tok / "absent.V2.parquet")
    shutil.copy(tok / "made.V2.parquet", tok / "made.V3.parquet")
    shutil.copy(tok / "made.V2.parquet", tok / "made.upside_down.V2.parquet")
    shutil.copy(tok / "made.V2.parquet", tok / "made.no_attrs.V2.parquet")
    (tok / "made.V1.avx2.parquet").write_bytes(b"no parquet")
    (tok / "notes.txt").write_text("?")
    (tok / "summary.json").write_text(json.dumps({"runs": {"made.V1": {"kwargs": {"model_input_size": "9"}}}}))
    shutil.copy(made / "inputs" / "made.h5ad", made / "inputs" / "cut.h5ad")
    shutil.copy(tok / "made.V2.parquet", tok / "cut.V2.parquet")
    (made / "inputs" / "cut.h5ad").write_bytes((made / "inputs" / "cut.h5ad").read_bytes()[:3000])
    found = outcome(made, tables=tables)
    assert {name for name, case in found.items() if case.passed} == {"tok/made.V2", "tok/made.no_attrs.V2"}
    assert {name for name, case in found.items() if not case.passed} == {
        "tok/absent.V2", "tok/made.V3", "tok/made.upside_down.V2", "tok/made.V1.avx2", "tok/notes.txt", "tok/made.V1",
        "tok/cut.V2",
    }  # fmt: skip


def test_a_crop_inside_a_run_of_ties_may_keep_any_of_them_but_nothing_else():
    ids, run = np.array([7, 1, 2, 3, 4, 9]), np.array([0, 1, 1, 1, 1, 2])
    same = parity._same_by_run
    assert same(np.array([7, 4, 2]), ids, run) and same(np.array([7, 3, 1, 2, 4]), ids, run)
    assert not same(np.array([7, 4, 9]), ids, run), "a token from behind the run"
    assert not same(np.array([7, 4, 4]), ids, run), "one token of the run twice"
    assert not same(np.array([4, 7, 2]), ids, run), "a tied token before the run"
    assert same(np.array([], int), ids, run) and not same(np.array([*ids, 9]), ids, run)
