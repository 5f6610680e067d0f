"""One canonical CSR for every kernel: badly written files give the same answers, damaged ones one error."""

import logging

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import CountsError, DataError, ScmfError
from scmf.data.convert.convert import convert
from scmf.data.preprocess.hvg import highly_variable_genes
from scmf.data.preprocess.moments import Selection, sums
from scmf.data.preprocess.quality import cell_quality, filter_cells
from scmf.data.preprocess.statistics_pass import corpus_statistics
from scmf.data.stores.canonical import Damage, canonical_rows
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.h5ad_store import H5adStore
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells

G = 7


def dense_of(indptr, indices, data, n_genes=G):
    """The matrix that the three arrays mean, in Python; None where they mean none."""
    out = np.zeros((len(indptr) - 1, n_genes))
    for row in range(len(out)):
        for at in range(indptr[row], indptr[row + 1]):
            value = float(data[at])
            if not (0 <= indices[at] < n_genes) or not np.isfinite(value):
                return None
            near = np.rint(value)
            if near < 0 or near >= 2**24 or abs(value - near) > min(1e-4 * max(1, abs(value)), 0.05):
                return None
            out[row, indices[at]] += near
    return None if (out >= 2**24).any() else out


VALUES = st.one_of(
    st.integers(0, 9).map(float),
    st.sampled_from([np.nan, np.inf, -np.inf, -3.0, 0.5, 2.0**24, 2.0**24 - 1, 1e30, 3.00001, 1e-6, -1e-6, 2.01]),
)


@settings(max_examples=400)
@given(st.data(), st.sampled_from([np.int32, np.int64, np.uint16, np.uint32, np.uint64, np.int8]))
def test_any_arrays_give_the_matrix_they_mean_or_one_error(draw, kind):
    lengths = draw.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    info = np.iinfo(kind)
    columns = st.one_of(st.integers(0, G - 1), st.sampled_from([info.min, -1 if info.min else 0, G, info.max]))
    n = int(indptr[-1])
    odd = draw.draw(st.booleans())
    indices = np.array(draw.draw(st.lists(columns if odd else st.integers(0, G - 1), min_size=n, max_size=n)), kind)
    values = draw.draw(st.lists(VALUES if odd else st.integers(0, 9), min_size=n, max_size=n))
    data = np.array(values, np.float32)
    wanted = dense_of(indptr, indices.astype(object), data)
    if wanted is None:
        with pytest.raises(Damage):
            canonical_rows(indptr, indices, data, G)
        return
    a, b, c, _ = canonical_rows(indptr, indices, data, G)
    assert (c > 0).all() and all((np.diff(b[i:j].astype(int)) > 0).all() for i, j in zip(a[:-1], a[1:], strict=True))
    found = sp.csr_matrix((c, b.astype(np.int64), a), shape=wanted.shape)
    assert (found.toarray() == wanted).all()


# --- files ----------------------------------------------------------------------------------------


def rewrite(path, data, indices, indptr):
    with h5py.File(path, "a") as file:
        for name, values in (("data", data), ("indices", indices), ("indptr", indptr)):
            del file["X"][name]
            file["X"][name] = values


def twice(x):
    """The same matrix, larger counts in two entries, in no order, with stored zeros."""
    rng = np.random.default_rng(3)
    indptr, indices, data = [0], [], []
    for row in range(x.shape[0]):
        i, d = x.indices[x.indptr[row] : x.indptr[row + 1]], x.data[x.indptr[row] : x.indptr[row + 1]]
        big = d > 1
        zeros = rng.integers(x.shape[1], size=3)
        i = np.concatenate([i, i[big], zeros])
        d = np.concatenate([np.where(big, d - 1, d), np.ones(big.sum()), np.zeros(3)])
        order = rng.permutation(len(i))
        indices.append(i[order]), data.append(d[order]), indptr.append(indptr[-1] + len(i))
    return np.concatenate(data), np.concatenate(indices), np.array(indptr)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    path = tmp_path_factory.mktemp("once") / "once.h5ad"
    synthetic_cells().write_h5ad(path)
    return path


def answers(corpus):
    quality, stats = cell_quality(corpus, mito="none"), corpus_statistics(corpus, exact=True)
    hvg = highly_variable_genes(corpus, keep=None, n_top_genes=20)
    selection = Selection.of(corpus, keep=None, genes=None, batch_key=None, threads=1)
    keep = filter_cells(corpus, min_genes=60).keep
    blocks = sp.vstack([piece.counts.csr() for piece in corpus.scan()]).toarray()
    parts = [quality.n_counts, quality.n_genes, stats.medians_G, stats.n_cells_G, *sums(selection, None), keep, blocks]
    return [np.asarray(one, np.float64) for one in parts], hvg.selected


@pytest.fixture(scope="module")
def answers_once(once):
    return answers(Corpus([H5adStore(once)]))


@pytest.mark.parametrize(
    ("values", "columns"),
    [  # either is read without a look at the other
        pytest.param(values, columns, marks=[] if values == "f4" or columns == "i4" else [pytest.mark.nightly])
        for values in ("f2", "f4", "f8", "i1", "i4", "i8", "u2", "u8", ">f4")
        for columns in ("i4", "i8", "u2", ">i4")
    ],
)
def test_how_a_matrix_is_written_changes_no_answer(once, answers_once, tmp_path, values, columns):
    x = ad.read_h5ad(once).X.tocsr()
    path = tmp_path / "twice.h5ad"
    path.write_bytes(once.read_bytes())
    data, indices, indptr = twice(x)
    rewrite(path, data.astype(values), indices.astype(columns), indptr.astype("i8" if columns == "i8" else "i4"))
    wanted, genes = answers_once
    found, same = answers(Corpus([H5adStore(path)]))
    assert same == genes
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_badly_written_matrix_converts_and_lies_in_memory_as_it_streams(once, answers_once, tmp_path):
    x = ad.read_h5ad(once).X.tocsr()
    path = tmp_path / "twice.h5ad"
    path.write_bytes(once.read_bytes())
    rewrite(path, *twice(x))
    with pytest.raises(CountsError, match="there twice"):
        filter_cells(Corpus([H5adStore(path)]), min_genes=60, stored_zeros=False)
    a = convert(Corpus([H5adStore(once)]), tmp_path / "a", shuffle=False)
    b = convert(Corpus([H5adStore(path)]), tmp_path / "b", shuffle=False)
    assert (a.nnz, a.counts, a.digest) == (b.nnz, b.counts, b.digest)
    wanted, _ = answers_once
    found, _ = answers(Corpus([MemoryStore(ad.read_h5ad(path))]))
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("value", "word"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-500.0, "negative"), (0.5, "no integer"), (2.0**24, "more than float32")],
)
@pytest.mark.parametrize("dense", [False, True])
def test_one_bad_value_outside_the_sample_names_its_cell(tmp_path, value, word, dense):
    cells = synthetic_cells(6000)
    x = cells.X.toarray()
    x[3288, 5] = value
    cells.X = x if dense else sp.csr_matrix(x)
    cells.write_h5ad(tmp_path / "bad.h5ad")
    corpus = Corpus([H5adStore(tmp_path / "bad.h5ad")])
    for verb in (
        lambda: highly_variable_genes(corpus, keep=None, n_top_genes=20),
        lambda: highly_variable_genes(corpus, keep=None, flavor="pearson_residuals", n_top_genes=20),
        lambda: corpus_statistics(corpus),
        lambda: filter_cells(corpus, min_genes=3),
        lambda: convert(corpus, tmp_path / "out"),
    ):
        with pytest.raises(CountsError, match="cell3288") as caught:
            verb()
        assert word in caught.value.found
    if word in ("no integer", "more than float32"):
        with pytest.raises(CountsError):
            MemoryStore(cells)
    else:
        with pytest.raises(CountsError, match="cell3288"):
            MemoryStore(cells)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_flipped_bits_of_a_file_end_in_an_answer_or_one_error(once, tmp_path_factory, draw):
    path = tmp_path_factory.mktemp("flip") / "flip.h5ad"
    path.write_bytes(once.read_bytes())
    array = draw.draw(st.sampled_from(["data", "indices", "indptr"]))
    with h5py.File(path, "a") as file:
        values = file["X"][array][()]
        raw = values.view(np.uint8)
        for _ in range(draw.draw(st.integers(1, 3))):
            raw[draw.draw(st.integers(0, len(raw) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
        del file["X"][array]
        file["X"][array] = values
    for make in (lambda: H5adStore(path), lambda: MemoryStore(ad.read_h5ad(path))):
        try:
            corpus = Corpus([make()])
            answers(corpus)
        except (ScmfError, ValueError) as error:  # anndata itself refuses some offsets
            assert isinstance(error, ScmfError) or make.__code__.co_names[0] == "MemoryStore"


def test_a_damaged_matrix_in_memory_is_refused_with_its_cell():
    cells = synthetic_cells(50)
    cells.X.indices[cells.X.indptr[7]] = 5000
    with pytest.raises(DataError, match="column 5000 in the row of cell 'cell7'"):
        MemoryStore(cells)


# --- nearly counts --------------------------------------------------------------------------------


def noisy(scale, seed=1):
    cells = synthetic_cells()
    x = cells.X.astype(np.float64)
    x.data *= 1 + np.random.default_rng(seed).uniform(-scale, scale, x.nnz)
    cells.X = x
    return cells


def corrected():
    """As SoupX leaves counts: some values lowered, the others as they were."""
    cells, rng = synthetic_cells(), np.random.default_rng(1)
    some = rng.random(cells.X.nnz) < 0.3
    cells.X.data[some] *= rng.uniform(0.7, 1, some.sum()).astype(np.float32)
    return cells


@pytest.mark.parametrize("scale", [1e-7, 1e-5, 9e-5])
def test_float_noise_is_rounded_with_a_word(tmp_path, caplog, scale):
    cells = noisy(scale)
    cells.write_h5ad(tmp_path / "noise.h5ad")
    wanted = synthetic_cells().X.toarray()
    with caplog.at_level(logging.WARNING, "scmf.data.stores"):
        for store in (H5adStore(tmp_path / "noise.h5ad"), MemoryStore(cells)):
            assert (store.read(np.array([[0, 240]])).csr().toarray() == wanted).all()
    assert scale < 1e-6 or sum("rounded" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize("kind", ["corrected", "em", "log", "cp10k"])
def test_corrected_counts_are_told_apart_from_normalized_values(tmp_path, kind):
    cells = corrected()
    if kind == "em":
        cells = synthetic_cells()
        cells.X.data += np.random.default_rng(0).choice([0, 0.25, 1 / 3], cells.X.nnz).astype(np.float32)
    if kind in ("log", "cp10k"):
        cells = synthetic_cells()
        x = sp.csr_matrix(sp.diags(1e4 / np.asarray(cells.X.sum(axis=1)).ravel()) @ cells.X)[:, :60]
        cells = cells[:, :60].copy()
        cells.X = sp.csr_matrix(np.log1p(x) if kind == "log" else x, dtype=np.float32)
    cells.write_h5ad(tmp_path / "x.h5ad")
    for make in (lambda **more: H5adStore(tmp_path / "x.h5ad", **more), lambda **more: MemoryStore(cells, **more)):
        with pytest.raises(CountsError) as caught:
            make()
        if kind in ("log", "cp10k"):
            assert "normalized values cannot be used" in caught.value.fix
            for rounding in ("round", "accept"):
                with pytest.raises(CountsError):
                    make(rounding=rounding)
            continue
        assert "as corrected counts look" in caught.value.found and "data.counts_rounding" in caught.value.fix
        spans, x = np.array([[0, 240]]), cells.X.toarray()
        assert (make(rounding="round").read(spans).csr().toarray() == np.rint(x)).all()
        assert (make(rounding="accept").read(spans).csr().toarray() == x).all()
