"""Highly variable genes against scanpy on the same training cells, for every flavour, with and without batches."""

import sys

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from scmf.core.config.run import DataConfig
from scmf.core.errors import ConfigError, DataError, GeneError, MissingExtraError, ScmfError
from scmf.data.loading.load import load_cells
from scmf.data.preprocess.hvg import Cutoffs, highly_variable_genes
from scmf.data.preprocess.normalize import Pipeline
from scmf.data.preprocess.steps import LibrarySize, Log1p
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Changing the sparsity structure"),
]


def corpus_of(*parts):
    return Corpus([MemoryStore(part, name=f"part {i}") for i, part in enumerate(parts)])


def synthetic():
    cells = synthetic_cells(700, seed=8)
    cells.X[:, 100:104] = 0
    cells.X[cells.obs["study"].to_numpy() == "one", 90:95] = 0
    cells.X.eliminate_zeros()
    return cells, (cells.obs["donor_id"] != "d2").to_numpy()


@pytest.fixture(scope="module", params=["synthetic", "pancreas"])
def case(request):
    """Cells, training cells, batch key."""
    if request.param == "synthetic":
        return *synthetic(), "study"
    try:
        cells = load_cells(DataConfig(dataset="pancreas")).adata
    except ScmfError as error:
        pytest.skip(f"the card pancreas cannot be had here: {error.found}")
    keep = (np.arange(cells.n_obs) % 4 > 0) & cells.obs["Dataset"].notna().to_numpy()
    expressed = np.asarray((cells[keep].X > 0).sum(axis=0)).ravel() >= 10
    third = np.flatnonzero(expressed)[::3]  # enough for every bin of means
    return cells[:, third].copy(), keep, "Dataset"


def ties_by_name(choose, cells, monkeypatch, **settings):
    """What scanpy chooses where equal genes go by name: its sort is not stable, and leaves them to the columns."""
    in_order = cells[:, sorted(cells.var_names)].copy()
    argsort = np.argsort
    with monkeypatch.context() as patched:
        patched.setattr(np, "argsort", lambda x, **kw: argsort(x, **{**kw, "kind": "stable"}))
        return choose(in_order, inplace=False, **settings).loc[cells.var_names]


def train_part(case, *, log, dtype=np.float32):
    cells, keep, _ = case
    train = cells[keep].copy()
    train.X = train.X.astype(dtype)
    if log:
        sc.pp.normalize_total(train, target_sum=1e4)
        sc.pp.log1p(train)
    return train


def halves(cells):
    return corpus_of(cells[: cells.n_obs // 3], cells[cells.n_obs // 3 :])


def assert_same(ours, theirs, *, rtol):
    theirs = theirs.copy()
    assert ours.selected == tuple(theirs.index[theirs["highly_variable"].to_numpy(bool)])
    for column in theirs.columns.intersection(ours.table.columns):
        if column == "mean_bin":
            continue
        a, b = ours.table[column].to_numpy(float), theirs[column].to_numpy(float)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12, err_msg=column)
    assert set(theirs.columns) - {"gene_name"} <= set(ours.table.columns)


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger"])
@pytest.mark.parametrize("n_top_genes", [None, 40])
@pytest.mark.parametrize("batched", [False, True])
def test_dispersion_flavours_choose_scanpys_genes(case, flavor, n_top_genes, batched):
    cells, keep, key = case
    settings = {"flavor": flavor, "n_top_genes": n_top_genes, "batch_key": key if batched else None}
    theirs = sc.pp.highly_variable_genes(train_part(case, log=True), inplace=False, **settings)
    theirs = theirs.loc[cells.var_names]  # with batches and cutoffs scanpy returns them sorted by name
    assert_same(highly_variable_genes(halves(cells), keep=keep, **settings), theirs, rtol=1e-6)


@pytest.mark.parametrize("flavor", ["seurat_v3", "seurat_v3_paper"])
@pytest.mark.parametrize("batched", [False, True])
def test_seurat_v3_chooses_scanpys_genes_and_ranks(case, flavor, batched, monkeypatch):
    pytest.importorskip("skmisc")
    cells, keep, key = case
    settings = {
        "flavor": flavor,
        "n_top_genes": 50 if cells.n_vars < 1_000 else 2_000,
        "batch_key": key if batched else None,
    }
    theirs = ties_by_name(sc.pp.highly_variable_genes, train_part(case, log=False), monkeypatch, **settings)
    assert_same(highly_variable_genes(halves(cells), keep=keep, **settings), theirs, rtol=1e-9)


@pytest.mark.parametrize("batched", [False, True])
def test_pearson_residuals_choose_scanpys_genes_and_ranks(case, batched, monkeypatch):
    cells, keep, key = case
    settings = {
        "flavor": "pearson_residuals",
        "n_top_genes": 60 if cells.n_vars < 1_000 else 1_000,
        "batch_key": key if batched else None,
    }
    train = train_part(case, log=False, dtype=np.float64)
    theirs = ties_by_name(sc.experimental.pp.highly_variable_genes, train, monkeypatch, **settings)
    theirs["variances"] = theirs["variances"].astype(np.float32)  # we square float32 counts in float32
    assert_same(highly_variable_genes(halves(cells), keep=keep, **settings), theirs, rtol=1e-6)


def test_test_cells_change_nothing(case):
    cells, keep, key = case
    other = cells.copy()
    rows = np.flatnonzero(~keep)
    other.X.data[np.isin(np.repeat(np.arange(other.n_obs), np.diff(other.X.indptr)), rows)] = 7
    a, b = (highly_variable_genes(corpus_of(one), keep=keep, n_top_genes=30, batch_key=key) for one in (cells, other))
    pd.testing.assert_frame_equal(a.table, b.table)
    assert a.fitted_on["cells"] == keep.sum()


def test_the_result_does_not_depend_on_threads():
    cells, keep = synthetic()
    one = highly_variable_genes(corpus_of(cells), keep=keep, threads=1)
    four = highly_variable_genes(halves(cells), keep=keep, threads=4)
    pd.testing.assert_frame_equal(one.table, four.table, check_exact=True)


def test_own_steps_are_fitted_on_the_training_cells_and_cutoffs_count():
    cells, keep = synthetic()
    train = cells[keep].copy()
    sc.pp.normalize_total(train)
    sc.pp.log1p(train)
    theirs = sc.pp.highly_variable_genes(train, inplace=False, min_mean=0.1, max_mean=2, min_disp=0.2)
    ours = highly_variable_genes(
        corpus_of(cells), keep=keep, normalize=Pipeline([LibrarySize(None), Log1p()]),
        cutoffs=Cutoffs(0.1, 2, 0.2),
    )  # fmt: skip
    assert ours.selected == tuple(theirs.index[theirs["highly_variable"]])
    assert ours.step().genes == ours.selected


def test_stores_with_other_genes_need_a_panel():
    cells, _ = synthetic()
    corpus = corpus_of(cells[:300, :110].copy(), cells[300:].copy())
    with pytest.raises(GeneError, match="genes="):
        highly_variable_genes(corpus, keep=None)
    ours = highly_variable_genes(corpus, keep=None, genes=cells.var_names, n_top_genes=20)
    filled = cells.copy()
    filled.X[:300, 110:] = 0
    filled.X.eliminate_zeros()
    # the sum of a cell is over the genes of its store either way
    assert ours.selected == highly_variable_genes(corpus_of(filled), keep=None, n_top_genes=20).selected


def test_what_cannot_be_is_said():
    cells, keep = synthetic()
    corpus = corpus_of(cells)
    with pytest.raises(ConfigError, match="cell_ranger"):
        highly_variable_genes(corpus, keep=keep, flavor="cellranger")
    with pytest.raises(ConfigError, match="log1p"):
        highly_variable_genes(corpus, keep=keep, normalize=Pipeline([LibrarySize()]))
    with pytest.raises(DataError, match="no cell"):
        highly_variable_genes(corpus, keep=np.zeros(700, bool))
    with pytest.raises(DataError, match="no training cell"):
        few = cells.copy()
        few.X[:, 20:] = 0
        highly_variable_genes(corpus_of(few), keep=None, flavor="cell_ranger")
    with pytest.raises(ConfigError, match="theta"):
        highly_variable_genes(corpus, keep=None, flavor="pearson_residuals", theta=0)
    cells.obs["study"] = cells.obs["study"].astype(object).where(np.arange(700) != 9, None)
    with pytest.raises(DataError, match="cell number 9"):
        highly_variable_genes(corpus_of(cells), keep=None, batch_key="study")


def test_seurat_v3_without_scikit_misc_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "skmisc", None)
    monkeypatch.setitem(sys.modules, "skmisc.loess", None)
    with pytest.raises(MissingExtraError, match="scikit-misc"):
        highly_variable_genes(corpus_of(synthetic()[0]), keep=None, flavor="seurat_v3")


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper", "pearson_residuals"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("batched", [True, False])
def test_small_batches_give_genes_or_one_error_that_names_them(flavor, size, batched):
    if flavor.startswith("seurat_v3"):
        pytest.importorskip("skmisc")
    cells = synthetic_cells()
    cells.obs["batch"] = np.where(np.arange(240) < size, "small", "big")
    corpus = Corpus([MemoryStore(cells if batched else cells[:size].copy())])
    more = {"keep": None, "flavor": flavor, "n_top_genes": 10, "batch_key": "batch" if batched else None}
    try:
        assert len(highly_variable_genes(corpus, **more).selected) >= 10
    except DataError as error:
        assert size < 12 and f"{size} cell" in error.found and error.fix
        assert not batched or "'small'" in error.found
    else:
        assert size > 1
    if batched:  # without the batch all is well
        keep = (cells.obs["batch"] == "big").to_numpy()
        assert highly_variable_genes(corpus, **more | {"keep": keep}).selected


@pytest.mark.parametrize("hole", [np.nan, None, "", "nan"])
def test_a_cell_without_a_batch_is_refused_and_no_batch_is_called_nan(hole):
    cells = synthetic_cells()
    values = np.array(["a", "b"], dtype=object)[np.arange(240) % 2]
    values[[5, 9]] = hole
    cells.obs["batch"] = values
    with pytest.raises(DataError, match="no value of 'batch' for cell number 5 \\(2 such cells\\)"):
        highly_variable_genes(corpus_of(cells), keep=None, batch_key="batch", n_top_genes=10)
    cells.obs["batch"] = [1.0 if i % 2 else 2.0 for i in range(240)]
    cells.obs.iloc[7, cells.obs.columns.get_loc("batch")] = np.nan
    with pytest.raises(DataError, match="for cell number 7"):
        highly_variable_genes(corpus_of(cells), keep=None, batch_key="batch", n_top_genes=10)


@pytest.mark.parametrize("flavor", ["seurat", "cell_ranger", "seurat_v3", "pearson_residuals"])
def test_the_order_of_columns_decides_nothing_among_equal_genes(flavor):
    rng = np.random.default_rng(0)
    counts = np.repeat(rng.poisson(rng.gamma(1, 2, 40), (60, 40)), 3, axis=1).astype(
        np.float32
    )  # each gene three times
    genes, order = np.array([f"gene{i:03d}" for i in range(120)]), rng.permutation(120)
    first, second = (
        highly_variable_genes(
            Corpus([MemoryStore(AnnData(sp.csr_matrix(counts[:, at]), var=pd.DataFrame(index=genes[at])), counts="X")]),
            keep=None, flavor=flavor, n_top_genes=10,
        )
        for at in (np.arange(120), order)
    )  # fmt: skip
    pd.testing.assert_frame_equal(first.table.loc[sorted(genes)], second.table.loc[sorted(genes)], check_exact=True)
