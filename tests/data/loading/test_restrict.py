"""Filters and a gene vocabulary in memory: the same cells, genes and tokens as from disk, and the whole depth."""

import numpy as np
import pytest

from scmf.core.config.run import RunConfig
from scmf.core.errors import DataError, GeneError
from scmf.data.loading.load import load_cells
from scmf.training.data import prepare
from scmf.training.stream_data import prepare_stream
from tests.conftest import synthetic_cells


@pytest.fixture
def adata(tmp_path, monkeypatch):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    adata = synthetic_cells(200)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    genes = list(adata.var_names[5:60][::-1]) + ["ENSG00000999999"]
    (tmp_path / "genes.txt").write_text("\n".join(genes))
    return adata


def config(tmp_path, **data):
    raw = {
        "data": {"files": [str(tmp_path / "cells.h5ad")], "gene_set": str(tmp_path / "genes.txt"), **data},
        "tokenizer": {"min_cells": 5, "max_length": 40},
    }
    return RunConfig.model_validate(raw)


def test_genes_outside_the_vocabulary_go_and_depth_stays(adata, tmp_path):
    cells = load_cells(config(tmp_path).data)
    assert list(cells.var_names) == list(adata.var_names[5:60][::-1])
    assert (cells.X.toarray() == adata.X[:, 5:60].toarray()[:, ::-1]).all()
    assert np.allclose(cells.total_counts, adata.X.sum(axis=1).A1)


def test_tokens_of_memory_and_disk_are_the_same(adata, tmp_path):
    held = prepare(config(tmp_path))
    streamed = prepare_stream(config(tmp_path, stream={}))
    assert streamed.tokenizer.get_vocab() == held.tokenizer.get_vocab()
    for gene, median in held.tokenizer.medians.items():
        assert streamed.tokenizer.medians[gene] == pytest.approx(median, rel=1e-6)
    store = streamed.opened.corpus.stores[0]
    encoded = streamed.encoder(store.read(np.array([[0, 200]])), store.genes)
    assert (encoded.columns["input_ids"] == held.tokens.columns["input_ids"]).all()


def test_filters_keep_the_same_cells_in_memory_and_on_disk(adata, tmp_path):
    n_genes, n_counts = (adata.X > 0).sum(axis=1).A1, adata.X.sum(axis=1).A1
    limits = {"min_genes": int(np.quantile(n_genes, 0.2)), "max_counts": float(np.quantile(n_counts, 0.9))}
    cells = load_cells(config(tmp_path, filter=limits).data)
    expected = (n_genes >= limits["min_genes"]) & (n_counts <= limits["max_counts"])
    assert 0 < expected.sum() < 200
    assert list(cells.obs_names) == list(adata.obs_names[expected])
    streamed = prepare_stream(config(tmp_path, filter=limits, stream={}))
    assert (streamed.opened.mask("train") == expected).all()
    assert sum(streamed.opened.facts.removed.values()) == (~expected).sum()


def test_filters_that_leave_nothing_and_foreign_genes_are_clear_errors(adata, tmp_path):
    with pytest.raises(DataError, match="removed: min_genes 1000 200"):
        load_cells(config(tmp_path, filter={"min_genes": 1000}).data)
    (tmp_path / "genes.txt").write_text("ENSG00000999999\nENSG00000999998\n")
    with pytest.raises(GeneError):
        load_cells(config(tmp_path).data)
