"""Cells in memory cut down as the section ``data`` asks: quality filters, gene vocabulary.

Lives here: the two steps on an AnnData. Lives elsewhere: the same on disk (open_corpus), filters (preprocess.quality),
gene sets (gene_set), putting columns in their places (aligner).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from scmf.core.config.data import DataConfig, FilterConfig
from scmf.core.errors import DataError, GeneError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore

if TYPE_CHECKING:
    from scmf.data.preprocess.gene_aligner import GeneAligner
    from scmf.data.preprocess.quality import CellFilter

DEPTH = "n_counts"
"""Column of ``obs`` with the counts of a cell over all genes, where some genes are left out."""


def restrict(
    adata: AnnData,
    config: DataConfig,
) -> AnnData:
    """The cells that pass ``data.filter`` on the genes of ``data.gene_set``; the same object when neither is set.

    Parameters
    ----------
    adata
        As `scmf.data.loading.load.load_cells` has put it together.
    config
        The section ``data``.

    Returns
    -------
    AnnData
        With a gene vocabulary the columns are its genes that the cells have, under its names and in its order;
        ``obs["n_counts"]`` keeps the depth over all genes. ``uns["scmf"]`` gains ``removed`` and ``gene_set``.

    Raises
    ------
    DataError
        No cell passes.
    GeneError
        No gene is known, or the species differ.
    """
    if config.filter.active:
        adata = _filtered(adata, config)
    return adata if config.gene_set is None else _on_genes(adata, config)


def panel_of(config: DataConfig) -> GeneAligner:
    """The aligner that ``gene_set`` and ``orthologs`` ask for."""
    from scmf.data.genes.gene_sets import load_gene_set
    from scmf.data.genes.orthologs import load_orthologs
    from scmf.data.preprocess.gene_aligner import GeneAligner

    assert config.gene_set is not None
    orthologs = load_orthologs(config.orthologs) if config.orthologs else None
    return GeneAligner.of(load_gene_set(config.gene_set), orthologs=orthologs)


def passing(corpus: Corpus, limits: FilterConfig) -> CellFilter:
    """Which cells of a corpus, on disk or in memory, pass ``data.filter``."""
    from scmf.data.preprocess.quality import filter_cells

    return filter_cells(
        corpus,
        min_genes=limits.min_genes or None,
        min_counts=limits.min_counts or None,
        max_counts=limits.max_counts,
        max_pct_mito=limits.max_mito_percent,
    )


def _filtered(adata: AnnData, config: DataConfig) -> AnnData:
    kept = passing(
        Corpus([MemoryStore(adata, counts="X", gene_ids="var_names", rounding=config.counts_rounding)]), config.filter
    )
    if not kept.keep.any():
        raise DataError(str(kept), wanted="at least one cell", where="data.filter", fix="widen the filters")
    adata = adata[kept.keep].copy()
    adata.uns["scmf"]["removed"] = dict(kept.removed)
    return adata


def _on_genes(
    adata: AnnData,
    config: DataConfig,
) -> AnnData:
    store = MemoryStore(adata, counts="X", gene_ids="var_names", rounding=config.counts_rounding)
    name, aligner = config.gene_set, panel_of(config)
    columns = aligner.columns(store.genes, where=adata.uns["scmf"]["dataset"])
    present = np.unique(columns.target[columns.target >= 0])
    if not len(present):
        raise GeneError(
            f"none of {len(store.genes):,} genes is in {name!r}", wanted="genes of it", where="data.gene_set",
            fix="`scmf data genes FILE --vocabulary NAME` says what the file has",
        )  # fmt: skip
    aligned = aligner.align(store.read(np.array([[0, store.n_cells]])), columns)
    var = adata.var.iloc[:0].reindex([aligner.genes[i] for i in present])
    if "symbol" in adata.var:
        first = {int(target): symbol for target, symbol in zip(columns.target, adata.var["symbol"], strict=True)}
        var["symbol"] = [first[int(i)] for i in present]
    result = AnnData(aligned.counts.csr()[:, present], obs=adata.obs.copy(), var=var, uns=dict(adata.uns))
    result.obs[DEPTH] = aligned.n_counts_B.astype(np.float32)
    result.uns["scmf"] = {**adata.uns["scmf"], "gene_set": name}
    return result
