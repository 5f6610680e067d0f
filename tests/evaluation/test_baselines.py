"""The baselines: done by hand with scanpy and sklearn, and blind to the test cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA

from scmf.evaluation import baselines
from scmf.evaluation.baselines import PCA_COMPONENTS, baseline_representations, log_normalized
from scmf.evaluation.score import HVG_GENES

N, G, CHOSEN = 90, 300, 60
TRAIN = np.flatnonzero(np.arange(N) % 3 > 0)
TEST = np.flatnonzero(np.arange(N) % 3 == 0)


@pytest.fixture(autouse=True)
def fewer_genes(monkeypatch):
    """60 highly variable genes instead of 2,000, so that there is a choice among 300."""
    monkeypatch.setattr(baselines, "HVG_GENES", CHOSEN)


def make_cells(seed=0):
    rng = np.random.default_rng(seed)
    mean_G = rng.gamma(1.0, 2.0, G)
    types = rng.lognormal(sigma=1.0, size=(3, G))
    counts = rng.poisson(mean_G * types[rng.integers(0, 3, N)])
    obs = pd.DataFrame({"n": np.arange(N)}, index=[f"cell{i}" for i in range(N)])
    return ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(G)])
    )


def by_hand(cells):
    counts_NG = cells.X.toarray().astype(np.float64)
    log_NG = np.log1p(counts_NG / counts_NG.sum(axis=1, keepdims=True) * 1e4)
    reference = ad.AnnData(log_NG[TRAIN].astype(np.float32), var=cells.var.copy())
    table = sc.pp.highly_variable_genes(reference, n_top_genes=CHOSEN, flavor="seurat", inplace=False)
    chosen = table["highly_variable"].to_numpy()
    hvg_NG = log_NG[:, chosen]
    deviation = hvg_NG[TRAIN].std(axis=0)
    z_NG = np.clip((hvg_NG - hvg_NG[TRAIN].mean(axis=0)) / np.where(deviation, deviation, 1), -10, 10)
    _, _, axes = np.linalg.svd(z_NG[TRAIN] - z_NG[TRAIN].mean(axis=0), full_matrices=False)
    return hvg_NG, (z_NG - z_NG[TRAIN].mean(axis=0)) @ axes[:PCA_COMPONENTS].T


def test_the_baselines_are_those_of_the_field():
    assert (HVG_GENES, PCA_COMPONENTS) == (2000, 50)


def test_log_normalised_is_the_formula_and_leaves_the_counts():
    cells = make_cells()
    before = cells.X.copy()
    found = log_normalized(cells)
    counts_NG = before.toarray().astype(np.float64)
    wanted_NG = np.log1p(counts_NG / counts_NG.sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(found.X.toarray(), wanted_NG, rtol=1e-5)
    assert sp.issparse(found.X) and found.X.format == "csr" and found.X.dtype == np.float32
    assert (before != cells.X).nnz == 0
    assert "log1p" not in cells.uns


def test_hvg_and_pca_equal_the_description_done_by_hand():
    cells = make_cells()
    found = baseline_representations(cells, TRAIN)
    hvg_NG, pca_NC = by_hand(cells)
    np.testing.assert_allclose(found["hvg"], hvg_NG, rtol=1e-5)
    # The sign of a component is free; the last ones of 60 cells may turn within a near-equal pair.
    scale = np.abs(pca_NC).max()
    np.testing.assert_allclose(np.abs(found["pca"]), np.abs(pca_NC), atol=1e-3 * scale)


def test_pca_equals_sklearn_on_standardised_clipped_genes():
    cells = make_cells()
    hvg_NG, _ = by_hand(cells)
    mean, deviation = hvg_NG[TRAIN].mean(axis=0), hvg_NG[TRAIN].std(axis=0)
    z_NG = np.clip((hvg_NG - mean) / np.where(deviation, deviation, 1), -10, 10)
    wanted = PCA(PCA_COMPONENTS, svd_solver="full").fit(z_NG[TRAIN])
    found = baseline_representations(cells, TRAIN)["pca"]
    np.testing.assert_allclose(found.var(axis=0), wanted.transform(z_NG).var(axis=0), rtol=1e-3)


def test_shapes_rows_and_types():
    found = baseline_representations(make_cells(), TRAIN)
    assert list(found) == ["hvg", "pca"]
    assert found["hvg"].shape == (N, CHOSEN)
    assert found["pca"].shape == (N, PCA_COMPONENTS)
    assert all(matrix.dtype == np.float32 and np.isfinite(matrix).all() for matrix in found.values())


def test_test_cells_choose_neither_genes_nor_components():
    cells, other = make_cells(), make_cells()
    wild = other.X.toarray()
    # Test cells become wild in genes that are rarely expressed: chosen over all cells, these would win.
    rng = np.random.default_rng(5)
    wild[np.ix_(TEST, rng.choice(G, 100, replace=False))] = rng.integers(0, 2000, (len(TEST), 100))
    other.X = sp.csr_matrix(wild)
    one, two = baseline_representations(cells, TRAIN), baseline_representations(other, TRAIN)
    for name in ("hvg", "pca"):
        np.testing.assert_array_equal(one[name][TRAIN], two[name][TRAIN])
        assert (one[name][TEST] != two[name][TEST]).any()


def test_the_choice_does_follow_the_training_cells():
    cells = make_cells()
    chosen = baseline_representations(cells, TRAIN)["hvg"]
    assert not np.array_equal(chosen, baseline_representations(cells, TEST)["hvg"])


def test_the_order_of_cells_changes_nothing():
    cells = make_cells()
    order = np.random.default_rng(1).permutation(N)
    train = np.flatnonzero(np.isin(order, TRAIN))
    found, moved = baseline_representations(cells, TRAIN), baseline_representations(cells[order].copy(), train)
    np.testing.assert_array_equal(moved["hvg"], found["hvg"][order])
    scale = np.abs(found["pca"]).max()
    np.testing.assert_allclose(np.abs(moved["pca"]), np.abs(found["pca"][order]), atol=1e-3 * scale)


def test_few_training_cells_give_fewer_components():
    found = baseline_representations(make_cells(), TRAIN[:8])
    assert found["pca"].shape == (N, 7)


def test_a_missing_scanpy_names_the_extra(monkeypatch):
    import sys

    from scmf.core.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(MissingExtraError, match=r"scmodelforge\[eval\]"):
        baseline_representations(make_cells(), TRAIN)
