"""Conversion to sharded zarr: content, order, bounded memory, resuming, and what happens when the disk is full."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.core.errors import CountsError, DataError, GeneError
from scmf.data.convert import plan as convert_plan
from scmf.data.convert.convert import convert
from scmf.data.genes.ids import GeneMap
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells

SMALL = 100_000
"""Bytes of memory that make several runs, buckets and blocks of a few hundred cells."""


def two_inputs():
    """240 and 300 cells; the second has other genes, in reversed order, and shares two of three with the first."""
    one, two = synthetic_cells(240), synthetic_cells(300, seed=1)[:, ::-1].copy()
    two.var_names = [gene if i % 3 else gene.replace("ENSG0", "ENSG1") for i, gene in enumerate(two.var_names)]
    return one, two


def corpus(*inputs):
    return Corpus([MemoryStore(cells, name=f"{'abcd'[i]}.h5ad") for i, cells in enumerate(inputs or two_inputs())])


def read(out):
    report = json.loads((out / "zarr.json").read_text())["attributes"]["scmf"]
    return [ad.read_zarr(out / dataset["name"]) for dataset in report["datasets"]]


def content(out):
    """Everything that a reader sees, comparable with ==."""
    return [
        (part.obs.to_dict("list"), part.obs_names.tolist(), part.var.to_dict("list"), part.X.toarray().tolist())
        for part in read(out)
    ]


def assert_same_cells(out, *inputs):
    """Every output row is the input row its `source` and `source_row` name; each input row is there once."""
    every = ad.concat(read(out))
    assert not every.obs.duplicated(["source", "source_row"]).any()
    assert every.n_obs == sum(cells.n_obs for cells in inputs)
    for i, cells in enumerate(inputs):
        part = every[(every.obs["source"] == f"{'abcd'[i]}.h5ad").to_numpy()]
        part = part[np.argsort(part.obs["source_row"].to_numpy())]
        wanted = pd.DataFrame(cells.X.toarray(), columns=cells.var_names)
        found = pd.DataFrame(part.X.toarray(), columns=part.var_names)
        shared = [gene for gene in found if gene in wanted]
        np.testing.assert_array_equal(found[shared], wanted[shared])
        assert found.drop(columns=shared).to_numpy().sum() == 0
        for column in ("cell_type", "study", "donor_id"):
            assert part.obs[column].tolist() == cells.obs[column].tolist()


# --- content --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("memory", [1 << 30, SMALL])
def test_every_cell_is_there_once_with_its_counts_and_columns(tmp_path, shuffle, memory):
    inputs = two_inputs()
    report = convert(corpus(*inputs), tmp_path / "o", shuffle=shuffle, cells_per_dataset=200, memory=memory)
    assert_same_cells(tmp_path / "o", *inputs)
    assert [part.n_obs for part in read(tmp_path / "o")] == [180] * 3
    assert report.cells == 540 and report.datasets == 3
    assert report.counts == sum(int(cells.X.sum()) for cells in inputs)
    assert report.nnz == sum(int((cells.X.data != 0).sum()) for cells in inputs)
    assert [one["cells"] for one in report.inputs] == [240, 300]
    assert not (tmp_path / "o" / ".convert").exists()
    json.dumps(report.to_json())


def test_without_shuffling_the_order_is_that_of_the_inputs(tmp_path):
    convert(corpus(), tmp_path / "o", shuffle=False, cells_per_dataset=200, memory=SMALL)
    obs = pd.concat([part.obs for part in read(tmp_path / "o")])
    assert obs["source"].tolist() == ["a.h5ad"] * 240 + ["b.h5ad"] * 300
    assert obs["source_row"].tolist() == [*range(240), *range(300)]


def test_the_order_depends_on_the_seed_alone(tmp_path):
    convert(corpus(), tmp_path / "one", seed=1, cells_per_dataset=300)
    convert(corpus(), tmp_path / "two", seed=1, cells_per_dataset=300, memory=SMALL, threads=4)
    convert(corpus(), tmp_path / "three", seed=2, cells_per_dataset=300)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert content(tmp_path / "one") != content(tmp_path / "three")


def test_the_shuffle_is_uniform():
    # Each cell is equally often in each tenth: chi square over 400 orders, 99.99 % quantile of 9 * 50 degrees.
    tenths = np.zeros((50, 10))
    for seed in range(400):
        places = convert_plan.places(50, seed=seed, shuffle=True)
        tenths[np.arange(50), places * 10 // 50] += 1
    assert ((tenths - 40) ** 2 / 40).sum() < 570


def test_a_store_that_stands_twice_gives_its_cells_twice(tmp_path):
    store = MemoryStore(synthetic_cells(60), name="a.h5ad")
    report = convert(Corpus([store, store]), tmp_path / "o")
    (cells,) = read(tmp_path / "o")
    assert report.cells == cells.n_obs == 120 and cells.obs_names.is_unique
    assert set(cells.obs["source"]) == {"a.h5ad-0", "a.h5ad-1"}


def test_cells_can_be_left_out(tmp_path):
    keep = np.zeros(540, np.bool_)
    keep[100:130] = keep[200:420:3] = True
    for shuffle in (True, False):
        out = tmp_path / str(shuffle)
        convert(corpus(), out, keep=keep, shuffle=shuffle, memory=SMALL, cells_per_dataset=60)
        obs = pd.concat([part.obs for part in read(out)])
        number = obs["source_row"] + np.where(obs["source"] == "b.h5ad", 240, 0)
        assert sorted(number) == np.flatnonzero(keep).tolist()


def test_cells_without_any_count_stay(tmp_path):
    one, _ = two_inputs()
    empty = [gene for gene, total in zip(one.var_names, one.X.sum(axis=0).A1, strict=True) if total == 0]
    counts = one.X.toarray()
    counts[:, 3] = 0
    one.X = sp.csr_matrix(counts)
    for shuffle in (True, False):
        report = convert(corpus(one), tmp_path / str(shuffle), genes=[*empty, one.var_names[3]], shuffle=shuffle)
        assert (report.cells, report.nnz) == (240, 0)
        assert read(tmp_path / str(shuffle))[0].X.nnz == 0


def test_progress_goes_to_stderr_as_a_bar(tmp_path, capfd):
    convert(corpus(), tmp_path / "o")
    captured = capfd.readouterr()
    assert captured.out == "" and "writing cells" in captured.err


# --- genes and columns ----------------------------------------------------------------------------


def test_union_intersection_and_a_list_of_genes(tmp_path):
    one, two = two_inputs()
    shared = [gene for gene in one.var_names if gene in set(two.var_names)]
    wanted = {
        "union": [*one.var_names, *(gene for gene in two.var_names if gene not in set(one.var_names))],
        "intersection": shared,
        "list": [shared[3], "ENSG99999999999", shared[1]],
    }
    for name, genes in wanted.items():
        convert(corpus(), tmp_path / name, genes=genes if name == "list" else name)
        var = read(tmp_path / name)[0].var
        assert var.index.tolist() == genes
        measured = [(gene in set(one.var_names)) + (gene in set(two.var_names)) for gene in genes]
        assert var["n_stores"].tolist() == measured
        assert_same_cells(tmp_path / name, one, two)


def test_a_version_suffix_makes_no_second_gene(tmp_path):
    one, two = synthetic_cells(50), synthetic_cells(50, seed=1)
    two.var_names = [f"{gene}.7" for gene in two.var_names]
    two.var["symbol"] = [f"G{i}" for i in range(two.n_vars)]
    convert(corpus(one, two), tmp_path / "o")
    (cells,) = read(tmp_path / "o")
    assert cells.var_names.tolist() == one.var_names.tolist()
    assert cells.var["symbol"].tolist() == two.var["symbol"].tolist()
    assert cells.X.sum() == one.X.sum() + two.X.sum()


def test_symbols_that_lead_to_no_id_are_not_mixed_with_ids(tmp_path, monkeypatch):
    monkeypatch.setattr("scmf.data.genes.joining.human_genes", lambda: GeneMap(["ENSG00000000001"]))
    one, two = synthetic_cells(50), synthetic_cells(50, seed=1)
    two.var_names = [f"GENE{i}" for i in range(two.n_vars)]
    with pytest.raises(GeneError, match="one kind of gene ids"):
        convert(corpus(one, two), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_columns_that_an_input_lacks_are_kept_missing_and_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("scmf.data.convert.obs.MOST_CATEGORIES", 40)
    one, two = two_inputs()
    one.obs["only"], one.obs["share"], one.obs["yes"] = 1, 0.5, True
    one.obs["word"], one.obs["name"] = pd.Categorical(["a"] * one.n_obs), [f"n{i}" for i in range(one.n_obs)]
    two.obs["other"] = "b"
    with caplog.at_level("WARNING"):
        report = convert(corpus(one, two), tmp_path / "o")
    mine = ["only", "share", "yes", "word", "name"]
    assert report.filled_columns == {**{name: ["b.h5ad"] for name in mine}, "other": ["a.h5ad"]}
    assert "obs column 'only' is missing in 1 of 2 inputs, the first is b.h5ad" in caplog.text
    found = pd.concat([cells.obs for cells in read(tmp_path / "o")])
    lacking = (found["source"] == "b.h5ad").to_numpy()
    for name in mine[:-1]:
        assert found[name].isna().to_numpy().tolist() == lacking.tolist(), name
    assert (found["name"] == "").to_numpy().tolist() == lacking.tolist()
    assert found["other"].isna().to_numpy().tolist() == (~lacking).tolist()
    assert found.loc[~lacking, "only"].tolist() == [1] * one.n_obs
    assert found.loc[~lacking, "share"].tolist() == [0.5] * one.n_obs
    assert set(found.loc[~lacking, "yes"]) == {True} and set(found.loc[~lacking, "word"]) == {"a"}
    with pytest.raises(DataError, match="no column 'only'"):
        convert(corpus(one, two), tmp_path / "p", obs_columns=["only"])


def test_columns_keep_their_type_where_the_inputs_agree(tmp_path, monkeypatch):
    monkeypatch.setattr("scmf.data.convert.obs.MOST_CATEGORIES", 250)
    one, two = two_inputs()
    for cells in (one, two):
        n = cells.n_obs
        cells.obs["whole"] = np.arange(n, dtype=np.int32)
        cells.obs["part"] = np.linspace(0, 1, n)
        cells.obs["yes"] = np.arange(n) % 2 == 0
        cells.obs["holes"] = pd.array([None, *range(1, n)], dtype="Int64")
        cells.obs["cluster"] = pd.Categorical(np.arange(n) % 3)
        cells.obs["stage"] = pd.Categorical(["late"] * n, categories=["early", "late"], ordered=True)
        cells.obs["barcode"] = [f"é-{i}" for i in range(n)]
        cells.obs["gap"] = pd.Categorical([None, "x"] * (n // 2))
    two.obs["whole"] = two.obs["whole"].astype(np.int64)
    two.obs["mixed"], one.obs["mixed"] = np.arange(300), "text"
    for shuffle in (True, False):
        out = tmp_path / str(shuffle)
        convert(corpus(one, two), out, shuffle=shuffle, memory=SMALL, cells_per_dataset=200)
        every = pd.concat([part.obs for part in read(out)])
        for name, cells in (("a.h5ad", one), ("b.h5ad", two)):
            part = every[every["source"] == name].sort_values("source_row")
            for column in ("whole", "part", "yes", "holes", "cluster", "stage", "barcode", "gap", "mixed"):
                found, wanted = part[column].astype(object), cells.obs[column].astype(object)
                if column == "mixed":
                    wanted = wanted.astype(str)
                pd.testing.assert_series_equal(found, wanted, check_index=False, check_names=False)
        first = read(out)[0].obs
        assert first["whole"].dtype == np.int64 and first["yes"].dtype == np.bool_
        assert str(first["holes"].dtype) == "Int64"
        assert first["stage"].cat.ordered and first["stage"].cat.categories.tolist() == ["early", "late"]
        assert first["cluster"].cat.categories.tolist() == [0, 1, 2]
        assert first["barcode"].dtype == object or str(first["barcode"].dtype) in ("string", "category", "str")


def test_cell_ids_get_the_name_of_their_input_only_where_needed(tmp_path):
    one, two = synthetic_cells(30), synthetic_cells(30, seed=1)
    convert(corpus(one, two), tmp_path / "same")
    assert all(name.startswith(("a:cell", "b:cell")) for name in read(tmp_path / "same")[0].obs_names)
    two.obs_names = [f"other{i}" for i in range(30)]
    convert(corpus(one, two), tmp_path / "apart")
    assert set(read(tmp_path / "apart")[0].obs_names) == {*one.obs_names, *two.obs_names}


def test_unsorted_rows_duplicates_and_stored_zeros_become_canonical(tmp_path):
    class Rough(MemoryStore):
        def read(self, spans):
            block = super().read(spans)
            for a, b in zip(block.indptr[:-1], block.indptr[1:], strict=True):  # first value twice, first a zero
                block.indices[a:b] = block.indices[a:b][::-1]
                block.data[a:b] = block.data[a:b][::-1]
                if b - a > 1:
                    block.indices[a + 1], block.data[a + 1] = block.indices[a], 0
            return block

    cells = synthetic_cells(50)
    convert(Corpus([Rough(cells, name="a.h5ad")]), tmp_path / "o", shuffle=False)
    (found,) = read(tmp_path / "o")
    wanted = Rough(cells).read(np.array([[0, 50]])).csr()
    np.testing.assert_array_equal(found.X.toarray(), sp.csr_matrix(wanted).toarray())
    assert found.X.has_sorted_indices and (found.X.data != 0).all()


@pytest.mark.parametrize("value", [0.5, -1, np.nan, np.inf, 2.0**24])
def test_what_is_no_count_is_refused_with_cell_and_gene(tmp_path, value):
    store = MemoryStore(synthetic_cells(50), name="a.h5ad")
    store._matrix.data[store._matrix.indptr[17] + 2] = value
    gene = store.genes[store._matrix.indices[store._matrix.indptr[17] + 2]]
    with pytest.raises(CountsError, match=f"cell 17, gene '{gene}'"):
        convert(Corpus([store]), tmp_path / "o")
    assert not list((tmp_path / "o").glob("dataset_*"))


def test_a_cell_id_twice_in_one_input_is_refused(tmp_path):
    cells = synthetic_cells(30)
    cells.obs_names = ["same", "same", *cells.obs_names[2:]]
    with pytest.raises(DataError, match="unique obs_names"):
        convert(corpus(cells), tmp_path / "o")
