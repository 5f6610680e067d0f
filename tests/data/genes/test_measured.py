"""Only genes are genes: antibodies, peaks, guides and columns without id are left out everywhere."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.core.errors import GeneError
from scmf.data.checks.file import check_file
from scmf.data.convert.convert import convert
from scmf.data.genes.ids import detect
from scmf.data.genes.measured import measured_genes
from scmf.data.preprocess.hvg import highly_variable_genes
from scmf.data.preprocess.statistics_pass import corpus_statistics
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.h5ad_store import H5adStore
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells


def with_others(kind="Antibody Capture", *, dense=False, genes="Gene Expression"):
    """Cells with ten columns that are no genes, in between; and the cells without them."""
    cells = synthetic_cells()
    n = cells.n_vars
    more = np.random.default_rng(3).poisson(60, size=(240, 10)).astype(np.float32)
    order = np.random.default_rng(4).permutation(n + 10)
    x = np.hstack([cells.X.toarray(), more])[:, order]
    var = pd.DataFrame(
        {"feature_types": [genes] * n + [kind] * 10}, index=[*cells.var_names, *(f"CD{i}_TotalC" for i in range(10))]
    ).iloc[order]
    alone = cells[:, [name for name in var.index if name in cells.var_names]].copy()
    return ad.AnnData(x if dense else sp.csr_matrix(x), obs=cells.obs, var=var), alone


@pytest.mark.parametrize(
    ("kind", "dense"),
    [("Antibody Capture", False), ("Peaks", True), ("CRISPR Guide Capture", False), ("Custom", True)],
)
def test_what_is_no_gene_counts_nowhere(tmp_path, caplog, kind, dense):
    both, alone = with_others(kind, dense=dense)
    both.write_h5ad(tmp_path / "both.h5ad")
    wanted = Corpus([MemoryStore(alone)])
    with caplog.at_level(logging.WARNING, "scmf"):
        stores = [H5adStore(tmp_path / "both.h5ad"), MemoryStore(both)]
    assert sum(f"10 columns of the type {kind!r}" in record.message for record in caplog.records) == 2
    for number, store in enumerate(stores):
        corpus = Corpus([store])
        assert store.genes == wanted.stores[0].genes == tuple(store.var.index)
        block = store.read(np.array([[3, 50], [60, 70]])).csr().toarray()
        assert (block == wanted.stores[0].read(np.array([[3, 50], [60, 70]])).csr().toarray()).all()
        a, b = corpus_statistics(corpus, exact=True), corpus_statistics(wanted, exact=True)
        pd.testing.assert_frame_equal(a.table, b.table)
        hvg = [highly_variable_genes(one, keep=None, n_top_genes=20).selected for one in (corpus, wanted)]
        assert hvg[0] == hvg[1]
        report = convert(corpus, tmp_path / f"out{number}")
        assert report.genes == len(store.genes) and report.counts == alone.X.sum()
    said = [finding for finding in check_file(tmp_path / "both.h5ad").findings if finding.what == "feature types"]
    assert len(said) == 1 and f"10 {kind!r}" in said[0].found and "10 of 130" in said[0].found


def test_types_that_say_nothing_are_genes_and_only_others_are_refused():
    ids = np.array(["ENSG1", "ENSG2"], object)
    assert measured_genes(pd.DataFrame({"feature_types": ["protein_coding", "lncRNA"]}), ids, path="x").all()
    assert measured_genes(pd.DataFrame({"feature_types": ["GEX", np.nan]}), ids, path="x").all()
    assert measured_genes(pd.DataFrame({"feature_types": ["GEX", "ADT"]}), ids, path="x").tolist() == [True, False]
    with pytest.raises(GeneError, match="2 columns of the type 'Peaks'"):
        measured_genes(pd.DataFrame({"feature_types": ["Peaks", "Peaks"]}), ids, path="x")


@pytest.mark.parametrize("hole", [np.nan, "", "nan"])
def test_a_gene_without_id_is_no_gene(tmp_path, caplog, hole):
    cells = synthetic_cells()
    cells.var["gene_ids"] = pd.Series([hole if i in (3, 8) else name for i, name in enumerate(cells.var_names)]).values
    cells.var_names = [f"SYM{i}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "holes.h5ad")
    with caplog.at_level(logging.WARNING, "scmf"):
        for store in (H5adStore(tmp_path / "holes.h5ad"), MemoryStore(cells)):
            assert len(store.genes) == cells.n_vars - 2 and not {"", "nan"} & set(store.genes)
            assert not {"", "nan"} & set(corpus_statistics(Corpus([store])).genes)
    assert sum("2 genes without id" in record.message for record in caplog.records) == 2


def test_two_species_are_told_with_both_numbers(tmp_path, caplog):
    cells = synthetic_cells()
    cells.var_names = [g.replace("ENSG", "ENSMUSG") if i % 3 == 0 else g for i, g in enumerate(cells.var_names)]
    assert detect(cells.var_names).by_species == (("Homo sapiens", 80), ("Mus musculus", 40))
    cells.write_h5ad(tmp_path / "two.h5ad")
    said = [finding for finding in check_file(tmp_path / "two.h5ad").findings if finding.what == "species"]
    assert said[0].level == "warning" and "80 of Homo sapiens, 40 of Mus musculus" in said[0].found
    with caplog.at_level(logging.WARNING, "scmf"):
        H5adStore(tmp_path / "two.h5ad")
    assert any("80 of Homo sapiens, 40 of Mus musculus" in record.message for record in caplog.records)
