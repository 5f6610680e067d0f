"""Size factors by blocks against scranpy on all cells at once."""

import sys

import numpy as np
import pytest
import scranpy

from scmf.core.errors import ConfigError, DataError, MissingExtraError
from scmf.data.preprocess.normalize import Pipeline
from scmf.data.preprocess.size_factors import SizeFactors, raw_factors, size_factors
from scmf.data.preprocess.steps import divide_rows
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells

CELLS = synthetic_cells(5_000, seed=6)
CELLS.X[:, 11] = 0
CELLS.X[4_321, 11] = 3  # a gene of one block only
CELLS.X[:, 12] = 0
CELLS.X.eliminate_zeros()


def corpus_of(cells):
    return Corpus([MemoryStore(cells)])


def theirs(method, cells):
    if method == "clrm1":
        return scranpy.compute_clrm1_factors(cells.X.T.tocsc())
    return np.asarray(cells.X.sum(axis=1), float).ravel()


@pytest.mark.parametrize("method", ["library", "clrm1"])
@pytest.mark.parametrize("batch_key", [None, "donor_id"])
def test_factors_by_blocks_are_those_of_one_call(method, batch_key):
    raw = theirs(method, CELLS)
    block = None if batch_key is None else CELLS.obs[batch_key].tolist()
    expected = scranpy.center_size_factors(raw, block=block, mode="lowest")
    found = size_factors(corpus_of(CELLS), keep=None, method=method, batch_key=batch_key)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("method", ["library", "clrm1"])
def test_the_centre_comes_from_the_training_cells(method):
    keep = (CELLS.obs["donor_id"] != "d1").to_numpy()
    found = size_factors(corpus_of(CELLS), keep=keep, method=method)
    expected = scranpy.center_size_factors(theirs(method, CELLS[keep].copy()))
    np.testing.assert_allclose(found[keep], expected, rtol=1e-10)
    assert found[keep].mean() == pytest.approx(1)


def test_cells_are_divided_by_their_factor_and_empty_ones_left():
    cells = CELLS[:300].copy()
    cells.X[5] = 0
    pipeline = Pipeline([SizeFactors("library")]).fit(corpus_of(cells), keep=None)
    totals = np.asarray(pipeline.apply_anndata(cells).X.sum(axis=1)).ravel()
    assert totals[5] == 0
    np.testing.assert_allclose(np.delete(totals, 5), np.delete(totals, 5)[0], rtol=1e-5)


def test_indices_of_two_bytes_as_stores_have_them_are_read():
    block = next(corpus_of(CELLS).scan()).counts
    small = block._replace(indices=block.indices.astype(np.uint16))
    np.testing.assert_array_equal(raw_factors(small, "clrm1", 100), raw_factors(block, "clrm1", 100))


def test_counts_that_come_from_a_step_before_or_a_file_are_read():
    block = next(corpus_of(CELLS).scan()).counts
    unlike = block._replace(data=divide_rows(block.indptr, block.data, np.ones(block.n_cells, np.float32)))
    np.testing.assert_array_equal(raw_factors(unlike, "clrm1", 100), raw_factors(block, "clrm1", 100))


def test_deconvolution_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="computeSumFactors"):
        SizeFactors("deconvolution")


def test_no_counts_is_an_error():
    cells = CELLS[:3].copy()
    corpus = corpus_of(cells)
    corpus.stores[0]._matrix.data[:] = 0
    with pytest.raises(DataError, match="no cell with counts"):
        size_factors(corpus, keep=None)


def test_without_scranpy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scranpy", None)
    with pytest.raises(MissingExtraError, match="preprocess"):
        size_factors(corpus_of(CELLS), keep=None, method="clrm1")
