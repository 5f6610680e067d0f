"""What a vocabulary holds of a file, in genes and in counts."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.core.errors import GeneError
from scmf.data.genes.gene_sets import GeneSet
from scmf.data.genes.ids import GeneMap
from scmf.data.genes.names import KINDS
from scmf.data.preprocess.coverage import CoverageReport, coverage, coverage_of_files
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests.conftest import N_GENES, synthetic_cells

GENES = [f"ENSG{i:011d}" for i in range(1, N_GENES + 1)]
TP53, APP = "ENSG00000141510", "ENSG00000142192"


def half(adata):
    return GeneAligner.of(adata.var_names[::2])


def test_the_share_of_counts_is_that_of_the_genes_kept():
    adata = synthetic_cells()
    report = coverage(MemoryStore(adata, name="a"), half(adata), name="half", cells=None)
    (store,) = report.stores
    truth = adata.X[:, ::2].sum() / adata.X.sum()
    assert store.count_share == pytest.approx(truth) == report.count_share
    assert (store.matched, store.found, store.n_genes, store.cells_read) == (60, 60, 120, 240)
    by_gene = pd.Series(np.asarray(adata.X.sum(axis=0)).ravel(), adata.var_names)[1::2] / adata.X.sum()
    largest = by_gene.sort_values(ascending=False, kind="stable").head(10)
    assert [gene for gene, _, _ in store.missing] == largest.index.tolist()
    assert [share for _, _, share in store.missing] == pytest.approx(largest.tolist())


@pytest.mark.parametrize(("cells", "read"), [(64, 64), (100, 128), (1, 1), (5000, 240), (None, 240)])
def test_a_sample_is_spread_over_an_ordered_file(cells, read):
    adata = synthetic_cells()
    adata.X = sp.csr_matrix(np.repeat(np.eye(2, N_GENES), [120, 120], axis=0).astype(np.float32))  # two halves
    (store,) = coverage(MemoryStore(adata), half(adata), cells=cells).stores
    assert store.cells_read == read
    if read > 64:
        assert store.count_share == pytest.approx(0.5)


def test_cells_are_never_counted_twice():
    adata = synthetic_cells(100)
    (store,) = coverage(MemoryStore(adata), half(adata), cells=99).stores
    assert store.cells_read == 100
    assert store.count_share == pytest.approx(adata.X[:, ::2].sum() / adata.X.sum())


def test_a_corpus_is_weighted_by_its_cells():
    one, two = synthetic_cells(200), synthetic_cells(50, seed=1)
    two = two[:, 40:].copy()
    aligner = GeneAligner.of(GENES[:80])
    report = coverage(Corpus([MemoryStore(one), MemoryStore(two)]), aligner, cells=None)
    kept = one.X[:, :80].sum() + two[:, :40].X.sum()
    assert report.count_share == pytest.approx(kept / (one.X.sum() + two.X.sum()))
    assert (report.found_in_any, report.found_in_all) == (80, 40)
    assert [store.found for store in report.stores] == [80, 40]


def test_every_way_to_find_a_gene_is_counted():
    names = GeneMap([TP53, APP, GENES[0]], {"TP53": TP53}, ambiguous=["AMB"])
    aligner = GeneAligner.of([TP53, APP], mapping=names)
    report = coverage([TP53, f"{APP}.2", "TP53", GENES[0], "AMB", "nobody"], aligner, name="two")
    (store,) = report.stores
    assert store.kinds == {
        "exact": 1, "normalized": 1, "alias": 1, "ortholog": 0, "outside": 1, "ambiguous": 1, "no_ortholog": 0,
        "unknown": 1,
    }  # fmt: skip
    assert (store.found, store.collisions, store.count_share, report.count_share) == (2, 1, None, None)
    assert store.missing == ((GENES[0], None, None), ("AMB", None, None), ("nobody", None, None))
    assert report.vocabulary == "two"


def test_the_report_is_a_table_and_json():
    adata = synthetic_cells()
    report = coverage(MemoryStore(adata, name="a.h5ad"), half(adata), name="half")
    (row,) = report.rows()
    assert len(row) == len(CoverageReport.HEADER)
    table = dict(zip(CoverageReport.HEADER, row, strict=True))
    assert (table["store"], table["genes"], table["in vocabulary"], table["of the vocabulary"]) == (
        "a.h5ad", "120", "60", "100.0%",
    )  # fmt: skip
    assert table["missing"] == "60"
    value = json.loads(json.dumps(report.to_json()))
    assert value["stores"][0]["matched"] == 60
    assert list(value["stores"][0]["kinds"]) == list(KINDS)


def test_missing_genes_are_told_by_symbol_where_the_file_has_one():
    adata = synthetic_cells()
    adata.var["gene_name"] = [f"NAME{i}" for i in range(N_GENES)]
    report = coverage(MemoryStore(adata), half(adata))
    gene, symbol, share = report.stores[0].missing[0]
    assert symbol == f"NAME{GENES.index(gene)}"
    assert report.rows()[0][-1].startswith(f"{symbol} {share:.1%}, ")


def test_a_gene_set_or_a_file_is_a_vocabulary_too(tmp_path, monkeypatch):
    monkeypatch.setattr(GeneSet, "gene_map", lambda self, **_: GeneMap(self.genes))
    genes = GeneSet("mine", tuple(GENES[:30]), "Homo sapiens", "test")
    store = MemoryStore(synthetic_cells())
    report = coverage(store, genes)
    assert (report.vocabulary, report.n_genes, report.stores[0].found) == ("mine", 30, 30)
    assert coverage(store, genes.write(tmp_path / "mine.txt")) == report


def test_mouse_cells_and_a_human_vocabulary_are_an_error_that_names_the_file():
    adata = synthetic_cells()
    adata.var_names = [f"ENSMUSG{i:011d}" for i in range(N_GENES)]
    with pytest.raises(GeneError, match=r"(?s)Mus musculus.*liver\.h5ad.*load_orthologs"):
        coverage(MemoryStore(adata, name="liver.h5ad"), GeneAligner.of(GENES))


def test_files_are_opened_and_held_against_a_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(GeneSet, "gene_map", lambda self, **_: GeneMap(self.genes))
    adata = synthetic_cells()
    adata.write_h5ad(tmp_path / "a.h5ad")
    ad.AnnData(adata.X, adata.obs, adata.var).write_zarr(tmp_path / "b.zarr")
    genes = GeneSet("mine", tuple(GENES[::3]), "Homo sapiens", "test").write(tmp_path / "mine.txt")
    report = coverage_of_files([tmp_path / "a.h5ad", tmp_path / "b.zarr"], vocabulary=genes, cells=None)
    one, two = report.stores
    assert one.count_share == two.count_share == pytest.approx(adata.X[:, ::3].sum() / adata.X.sum())
    assert one.name.endswith("a.h5ad") and two.name.endswith("b.zarr")
