"""Which matrix holds raw counts: every way not to be counts is told, with its cell and gene."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scmf.core.errors import CountsError, DataError
from scmf.data.stores.counts import candidates, canonical, choose, examine, from_log1p_cp10k, matrix_of

CELLS, GENES = pd.Index(["c0", "c1", "c2"]), pd.Index(["g0", "g1", "g2", "g3"])
COUNTS = np.array([[1, 0, 2, 0], [0, 3, 0, 0], [5, 0, 0, 7]], dtype=np.float32)
FORMATS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "coo": sparse.coo_matrix}


def look(matrix):
    return examine(matrix, where="X", cells=CELLS, genes=GENES)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint16", "int64"])
def test_integers_are_counts_in_every_format(form, dtype):
    verdict = look(FORMATS[form](COUNTS.astype(dtype)))
    assert verdict.ok and verdict.max == 7


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("value", "kind"), [(np.nan, "nan"), (np.inf, "infinite"), (-np.inf, "infinite"), (-2, "negative")]
)
def test_a_bad_value_is_named_with_its_cell_and_gene(form, value, kind):
    matrix = COUNTS.copy()
    matrix[1, 1] = value
    verdict = look(FORMATS[form](matrix))
    assert verdict.kind == kind
    assert "cell 'c1', gene 'g1'" in verdict.found


@pytest.mark.parametrize("form", FORMATS)
def test_log_normalised_values_are_told_with_share_and_maximum(form):
    verdict = look(FORMATS[form](np.log1p(COUNTS)))
    assert verdict.kind == "not integers"
    assert "100.0% of the 5 non-zero values" in verdict.found
    assert "max 2.079" in verdict.found and "log-normalized" in verdict.found


def test_only_zeros_are_no_counts():
    assert look(COUNTS * 0).kind == "empty"


def test_a_count_that_float32_cannot_hold_is_refused():
    assert look((COUNTS.astype(np.int64)) * 2**24).kind == "too large"


def make(x, *, raw=None, **layers):
    adata = ad.AnnData(x, obs=pd.DataFrame(index=CELLS), var=pd.DataFrame({"only_var": 1}, index=GENES), layers=layers)
    if raw is not None:
        adata.raw = ad.AnnData(raw, obs=adata.obs, var=pd.DataFrame(index=GENES))
    return adata


LOGS = np.log1p(COUNTS)


@pytest.mark.parametrize(
    ("adata", "where"),
    [
        (make(COUNTS), "X"),
        (make(LOGS, raw=COUNTS), "raw.X"),
        (make(LOGS, counts=COUNTS), "layers/counts"),
        (make(COUNTS, raw=COUNTS, counts=COUNTS), "layers/counts"),
        (make(COUNTS, raw=COUNTS), "raw.X"),
        (make(COUNTS, raw=LOGS), "X"),
        (make(COUNTS, counts=LOGS), "X"),
    ],
    ids=["X", "raw", "layer", "layer first", "raw before X", "X when raw is logs", "X when the layer is logs"],
)
def test_auto_takes_the_first_that_holds_counts(adata, where):
    assert choose(adata, "auto", path="f") == where


def test_a_layer_of_another_name_is_proposed_and_never_taken_silently():
    with pytest.raises(CountsError) as caught:
        choose(make(LOGS, raw=LOGS, spliced=COUNTS), "auto", path="cells.h5ad")
    error = caught.value
    assert "raw.X holds" in error.found and "; X holds" in error.found
    assert "set data.counts: layers/spliced" in error.fix
    assert error.where == "cells.h5ad"


def test_a_place_that_was_asked_for_is_not_exchanged_for_another():
    with pytest.raises(CountsError, match="raw.X holds integers"):
        choose(make(LOGS, raw=COUNTS), "X", path="f")


def test_nan_is_refused_by_name_also_under_auto():
    matrix = COUNTS.copy()
    matrix[2, 3] = np.nan
    with pytest.raises(CountsError, match="(?s)NaN at cell 'c2', gene 'g3'.*correct or remove the cell"):
        choose(make(matrix), "auto", path="f")


def test_an_unknown_place_gets_a_did_you_mean():
    with pytest.raises(DataError, match="did you mean 'layers/counts'"):
        choose(make(LOGS, counts=COUNTS), "layers/count", path="f")


def test_raw_brings_its_own_genes_and_the_columns_of_var():
    matrix, var = matrix_of(make(LOGS, raw=COUNTS), "raw.X")
    assert matrix.shape == (3, 4) and var["only_var"].tolist() == [1] * 4
    assert candidates(make(LOGS, raw=COUNTS)) == ["raw.X", "X"]


def test_the_canonical_form_is_sorted_summed_and_without_stored_zeros():
    indices, indptr = np.array([2, 0, 2, 1]), np.array([0, 3, 4])
    messy = sparse.csr_matrix((np.array([1.0, 2.0, 3.0, 0.0]), indices, indptr), shape=(2, 3))
    x = canonical(messy)
    assert (x.data.tolist(), x.indices.tolist(), x.indptr.tolist()) == ([2, 4], [0, 2], [0, 2, 2])
    assert x.dtype == np.float32 and x.has_canonical_format and messy.nnz == 4


def recover(values, depth, decimals=3):
    return from_log1p_cp10k(sparse.csr_matrix(values), depth, decimals=decimals, where="f", cells=CELLS, genes=GENES)


@given(st.lists(st.integers(0, 300), min_size=12, max_size=12), st.integers(2000, 10_000))
def test_counts_come_back_from_rounded_logs(values, depth):
    counts = np.array(values, dtype=float).reshape(3, 4)
    depths = np.full(3, float(depth))
    rounded = np.round(np.log1p(counts / depths[:, None] * 1e4), 3).astype(np.float32)
    np.testing.assert_array_equal(recover(rounded, depths).toarray(), counts)


def test_a_value_that_is_no_count_is_named():
    depths = np.full(3, 3000.0)
    values = np.round(np.log1p(COUNTS / 3000 * 1e4), 3)
    values[2, 3] = np.round(np.log1p(2.5 / 3000 * 1e4), 3)
    with pytest.raises(CountsError, match=r"2\.50\d, no integer, at cell 'c2', gene 'g3'"):
        recover(values, depths)


def test_rounding_too_coarse_to_tell_an_integer_is_refused():
    depths = np.full(3, 3000.0)
    values = np.round(np.log1p(COUNTS * 100 / 3000 * 1e4), 2)
    with pytest.raises(CountsError, match=r"no better known than to \+-0\.25"):
        recover(values, depths, decimals=2)
