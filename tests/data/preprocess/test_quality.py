"""Quality of cells against scanpy, filters, mitochondrial genes against the annotation."""

import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from scmf.core.errors import ConfigError, CountsError, GeneError
from scmf.core.paths import data_dir
from scmf.data.preprocess.quality import MITOCHONDRIAL_IDS, cell_quality, filter_cells, is_mitochondrial
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells

MITO = ["ENSG00000198888", "ENSG00000198727", "ENSG00000210196"]


@pytest.fixture
def cells():
    found = synthetic_cells(600, seed=4)
    found.var_names = [*MITO, *found.var_names[3:]]
    dense = found.X.toarray()
    dense[11] = 0
    dense[12, 3:] = 0
    found.X = type(found.X)(dense)
    return found


def corpus_of(*parts):
    return Corpus([MemoryStore(part, name=f"part {i}") for i, part in enumerate(parts)])


def scanpys(cells):
    cells = cells.copy()
    cells.var["mito"] = cells.var_names.isin(MITO)
    return sc.pp.calculate_qc_metrics(cells, qc_vars=["mito"], percent_top=None, log1p=False)[0]


def test_numbers_are_those_of_scanpy(cells):
    found = cell_quality(corpus_of(cells[:250], cells[250:]))
    theirs = scanpys(cells)
    np.testing.assert_array_equal(found.n_genes, theirs["n_genes_by_counts"])
    np.testing.assert_allclose(found.n_counts, theirs["total_counts"], rtol=1e-6)
    np.testing.assert_allclose(found.pct_mito, theirs["pct_counts_mito"], rtol=1e-6)
    assert list(found.table().columns) == ["n_counts", "n_genes", "pct_mito"]
    assert np.isnan(found.pct_mito[11])


@pytest.mark.parametrize("bounds", [{"min_genes": 45}, {"max_genes": 55}, {"min_counts": 90}, {"max_counts": 150}])
def test_single_filters_are_those_of_scanpy(cells, bounds):
    expected, _ = sc.pp.filter_cells(cells, **bounds, inplace=False)
    found = filter_cells(corpus_of(cells), **bounds)
    np.testing.assert_array_equal(found.keep, expected)
    assert 0 < found.keep.sum() < 600


def test_what_each_filter_removes_is_counted(cells):
    found = filter_cells(corpus_of(cells), min_genes=45, min_counts=90, max_counts=400, max_pct_mito=5)
    theirs = scanpys(cells)
    fails = [
        theirs["n_genes_by_counts"] < 45, theirs["total_counts"] < 90, theirs["total_counts"] > 400,
        ~(theirs["pct_counts_mito"] <= 5),
    ]  # fmt: skip
    assert list(found.failed.values()) == [fail.sum() for fail in fails]
    np.testing.assert_array_equal(found.keep, ~np.logical_or.reduce(fails))
    assert sum(found.removed.values()) == (~found.keep).sum()
    assert found.removed["min_genes 45"] == fails[0].sum()
    assert "min_genes 45" in str(found) and "cells stay" in str(found)
    assert not found.keep[11] and not found.keep[12]


def test_no_bound_keeps_all(cells):
    assert filter_cells(corpus_of(cells)).keep.all()


def test_genes_alone_need_no_counts_where_no_zero_is_stored(cells, monkeypatch):
    corpus = corpus_of(cells)
    expected = filter_cells(corpus, min_genes=45)
    monkeypatch.setattr(Corpus, "scan", lambda *args, **kwargs: pytest.fail("counts were read"))
    np.testing.assert_array_equal(filter_cells(corpus, min_genes=45, stored_zeros=False).keep, expected.keep)


def test_stored_zeros_do_not_count_as_genes_and_are_found(cells):
    corpus = corpus_of(cells)
    matrix = corpus.stores[0]._matrix
    matrix.data[matrix.indptr[20] : matrix.indptr[21]] = 0
    assert cell_quality(corpus).n_genes[20] == 0
    with pytest.raises(CountsError, match="stored zeros"):
        filter_cells(corpus, min_genes=1, stored_zeros=False)


@pytest.mark.parametrize("names", ["versions", "symbols", "lower case", "symbol column"])
def test_mitochondrial_genes_are_found_however_they_are_named(cells, names):
    symbols = ["MT-ND1", "MT-CYB", "MT-TP", *(f"GENE{i}" for i in range(3, cells.n_vars))]
    if names == "versions":
        cells.var_names = [f"{gene}.4" for gene in cells.var_names]
    elif names == "symbols":
        cells.var_names = symbols
    elif names == "lower case":
        cells.var_names = [symbol.replace("MT-", "mt-") for symbol in symbols]
    else:
        cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
        cells.var["feature_name"] = symbols
    assert np.flatnonzero(is_mitochondrial(MemoryStore(cells))).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("species", "prefix"), [("homo_sapiens", "MT-"), ("mus_musculus", "mt-")])
def test_the_ids_are_all_of_the_annotation(species, prefix):
    path = data_dir() and data_dir() / "gene_annotation" / f"genes_{species}.csv.gz"
    if not path or not path.is_file():
        pytest.skip("SCMF_DATA_DIR is not set or has no gene_annotation/")
    table = pd.read_csv(path)
    ids = set(table.loc[table.iloc[:, 1].astype(str).str.startswith(prefix)].iloc[:, 0])
    start = "ENSMUSG" if prefix == "mt-" else "ENSG"
    assert len(ids) == 37
    assert {gene for gene in MITOCHONDRIAL_IDS if gene.startswith(start)} == ids


def test_a_store_without_mitochondrial_genes_is_said(cells):
    part = cells[:, 3:].copy()
    with pytest.raises(GeneError, match="mito='none'"):
        filter_cells(corpus_of(cells, part), max_pct_mito=5)
    assert filter_cells(corpus_of(cells, part), min_counts=1).keep.sum() > 0
    own = filter_cells(corpus_of(part), max_pct_mito=1, mito=[part.var_names[0]])
    assert 0 < own.keep.sum() < 600
    with pytest.raises(ConfigError, match="mito"):
        _ = cell_quality(corpus_of(part), mito="none").pct_mito


def test_cells_left_out_are_not_measured(cells):
    keep = np.arange(600) % 2 == 0
    found = cell_quality(corpus_of(cells), keep=keep)
    assert not found.n_counts[~keep].any() and found.n_counts[keep].any()


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_no_count_is_named(cells, bad):
    corpus = corpus_of(cells)
    matrix = corpus.stores[0]._matrix
    matrix.data[matrix.indptr[77]] = bad
    with pytest.raises(CountsError, match="cell number 77"):
        cell_quality(corpus)
