"""Normalization against scanpy on the same cells; fitted on training cells alone; travels as JSON."""

import json

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, DataError, GeneError
from scmf.data.preprocess.normalize import Pipeline
from scmf.data.preprocess.size_factors import SizeFactors
from scmf.data.preprocess.steps import LibrarySize, Log1p, SelectGenes
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells

CELLS = synthetic_cells(500, seed=5)
CELLS.X[:, 3] *= 40
CELLS.X[17] = 0
CELLS.X.eliminate_zeros()


def corpus_of(*parts):
    return Corpus([MemoryStore(part, name=f"part {i}") for i, part in enumerate(parts)])


def by_blocks(pipeline, corpus, **settings):
    blocks = [pipeline.apply(piece.counts, corpus.stores[piece.store].genes)[0] for piece in corpus.scan(**settings)]
    return np.concatenate([block.csr().toarray() for block in blocks])


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
@pytest.mark.parametrize("target_sum", [1e4, 1e6, None])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("base", [None, 2.0])
def test_every_value_is_that_of_scanpy(target_sum, exclude, base):
    theirs = CELLS.copy()
    sc.pp.normalize_total(theirs, target_sum=target_sum, exclude_highly_expressed=exclude, max_fraction=0.3)
    sc.pp.log1p(theirs, base=base)
    corpus = corpus_of(CELLS[:200], CELLS[200:])
    pipeline = Pipeline([LibrarySize(target_sum, exclude, 0.3), Log1p(base)]).fit(corpus, keep=None)
    ours = by_blocks(pipeline, corpus, cells_per_block=64)
    np.testing.assert_array_equal(ours, theirs.X.toarray())
    np.testing.assert_array_equal(pipeline.apply_anndata(CELLS).X.toarray(), theirs.X.toarray())
    assert bool(pipeline.steps[0].excluded) == exclude


@given(st.integers(0, 2**31), st.floats(1, 1e7))
@settings(max_examples=20, deadline=None)
def test_values_are_scanpys_for_any_counts_and_target(seed, target):
    rng = np.random.default_rng(seed)
    cells = synthetic_cells(12, seed=seed)
    cells.X.data = np.ceil(cells.X.data * rng.lognormal(0, 3, cells.X.nnz)).astype(np.float32)
    ours = Pipeline([LibrarySize(target), Log1p()]).apply_anndata(cells)
    sc.pp.normalize_total(cells, target_sum=target)
    sc.pp.log1p(cells)
    np.testing.assert_allclose(ours.X.toarray(), cells.X.toarray(), rtol=1e-6)


def test_only_training_cells_are_fitted_on():
    keep = np.arange(500) % 3 == 0
    steps = [LibrarySize(None, exclude_highly_expressed=True, max_fraction=0.2)]
    fitted = Pipeline(steps).fit(corpus_of(CELLS), keep=keep)
    alone = Pipeline(steps).fit(corpus_of(CELLS[keep].copy()), keep=None)
    assert fitted.steps == alone.steps
    assert fitted.steps != Pipeline(steps).fit(corpus_of(CELLS), keep=None).steps
    assert fitted.fitted_on["cells"] == keep.sum()


def test_a_pipeline_travels_as_json():
    steps = [LibrarySize(None, True), SizeFactors("clrm1"), Log1p(2), SelectGenes(tuple(CELLS.var_names[[5, 2]]))]
    fitted = Pipeline(steps).fit(corpus_of(CELLS), keep=None)
    again = Pipeline.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again.steps == fitted.steps
    assert again.to_json() == fitted.to_json()
    a, b = fitted.apply_anndata(CELLS), again.apply_anndata(CELLS)
    np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    with pytest.raises(ConfigError, match="log1p"):
        Pipeline.from_json({"steps": [{"step": "log1"}]})


def test_genes_are_selected_in_the_order_asked_for_and_missing_ones_are_empty():
    wanted = (CELLS.var_names[7], "missing", CELLS.var_names[1])
    block, genes = Pipeline([SelectGenes(wanted)]).apply(next(corpus_of(CELLS).scan()).counts, tuple(CELLS.var_names))
    assert genes == wanted
    dense = block.csr().toarray()
    np.testing.assert_array_equal(dense[:, [0, 2]], CELLS.X.toarray()[:, [7, 1]])
    assert not dense[:, 1].any()
    with pytest.raises(GeneError):
        Pipeline([SelectGenes(("missing",))]).apply_anndata(CELLS)


def test_indices_of_two_bytes_as_stores_have_them_are_read():
    pipeline = Pipeline([LibrarySize(), Log1p(), SelectGenes(tuple(CELLS.var_names[[9, 4]]))])
    block = next(corpus_of(CELLS).scan()).counts
    small = block._replace(indices=block.indices.astype(np.uint16))
    for a, b in zip(*(pipeline.apply(one, tuple(CELLS.var_names))[0] for one in (small, block)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_block_is_left_as_it_was():
    block = next(corpus_of(CELLS).scan()).counts
    before = block.data.copy()
    Pipeline([LibrarySize(), Log1p()]).apply(block, tuple(CELLS.var_names))
    np.testing.assert_array_equal(block.data, before)


def test_what_is_not_fitted_is_not_applied():
    with pytest.raises(DataError, match="keep="):
        Pipeline([LibrarySize(None)]).apply_anndata(CELLS)


def test_entries_that_are_there_twice_are_added_up_and_damage_is_refused():
    cells = synthetic_cells(30)
    x = cells.X.tocsr()
    data, indices = np.repeat(x.data / 2, 2), np.repeat(x.indices, 2)
    twice = sp.csr_matrix((data, indices, x.indptr * 2), shape=x.shape)
    steps = Pipeline([LibrarySize(), Log1p()])
    wanted = steps.apply_anndata(cells).X.toarray()
    found = steps.apply_anndata(ad.AnnData(twice, obs=cells.obs, var=cells.var)).X.toarray()
    np.testing.assert_array_equal(found, wanted)
    cells.X.indices[cells.X.indptr[4]] = 70_000
    with pytest.raises(DataError, match="column 70000 in the row of cell 'cell4'"):
        steps.apply_anndata(cells)
