"""Baselines: representations without a foundation model, which are rows of every table.

``hvg``: log1p of counts per 10,000 of the 2,000 most variable genes. ``pca``: its first 50 principal
components. Genes, means and components are chosen on training cells alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scmf.core.errors import MissingExtraError
from scmf.evaluation.score import HVG_GENES

PCA_COMPONENTS = 50


def _scanpy() -> Any:
    try:
        import scanpy
    except ImportError as error:
        raise MissingExtraError("scanpy", "eval", needed_for="the HVG and PCA baselines") from error
    return scanpy


def log_normalized(cells: Any) -> Any:
    """A copy of ``cells`` whose X is log1p(count / total count of the cell * 10,000), CSR float32 (N, G)."""
    import anndata as ad

    sc = _scanpy()
    # A fresh AnnData: scanpy would otherwise copy every layer and obsm along.
    copy = ad.AnnData(cells.X.copy(), obs=cells.obs[[]].copy(), var=cells.var[[]].copy())
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    return copy


def baseline_representations(cells: Any, train: np.ndarray) -> dict[str, np.ndarray]:
    """``hvg`` (N, 2000) and ``pca`` (N, 50), fitted on the rows ``train``.

    Highly variable genes: scanpy.pp.highly_variable_genes, flavor "seurat", on log-normalized
    training cells. PCA: sklearn, full SVD, on columns standardized and clipped at 10.

    Parameters
    ----------
    cells
        AnnData with raw counts in X (N, G).
    train
        Indices of the training cells.
    """
    sc = _scanpy()
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    normalized = log_normalized(cells)
    reference = normalized[train].copy()
    sc.pp.highly_variable_genes(reference, n_top_genes=min(HVG_GENES, reference.n_vars), flavor="seurat")
    chosen = reference.var["highly_variable"].to_numpy()
    hvg_NG = normalized.X[:, chosen].toarray()

    scaled_NG = np.clip(StandardScaler().fit(hvg_NG[train]).transform(hvg_NG), -10, 10)
    components = min(PCA_COMPONENTS, len(train) - 1, scaled_NG.shape[1])
    pca = PCA(components, svd_solver="full").fit(scaled_NG[train])
    return {"hvg": hvg_NG, "pca": pca.transform(scaled_NG).astype(np.float32)}
