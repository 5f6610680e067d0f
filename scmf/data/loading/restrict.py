"""Cells in memory cut down as the section ``data`` asks: quality filters, gene vocabulary.

Lives here: the two steps on an AnnData. Lives elsewhere: the same on disk (open_corpus), filters (preprocess.quality),
gene sets (gene_vocab), putting columns in their places (panel).
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
    from scmf.data.preprocess.panel import Panel
    from scmf.data.preprocess.quality import CellFilter

DEPTH = "n_counts"
"""Column of ``obs`` with the counts of a cell over all genes, where some genes are left out."""


def restrict(adata: AnnData, config: DataConfig, *, progress: bool = True) -> AnnData:
    """The cells that pass ``data.filter`` on the genes of ``data.gene_vocab``; the same object when neither is set.

    Parameters
    ----------
    adata
        As `scmf.data.loading.load.load_cells` has put it together.
    config
        The section ``data``.
    progress
        Show progress while gene tables are fetched.

    Returns
    -------
    AnnData
        With a gene vocabulary the columns are its genes that the cells have, under its names and in its order;
        ``obs["n_counts"]`` keeps the depth over all genes. ``uns["scmf"]`` gains ``removed`` and ``gene_vocab``.

    Raises
    ------
    DataError
        No cell passes.
    GeneError
        No gene is known, or the species differ.
    """
    if config.filter.active:
        adata = _filtered(adata, config)
    return adata if config.gene_vocab is None else _on_genes(adata, config, progress=progress)


def panel_of(config: DataConfig, *, progress: bool = True) -> Panel:
    """The panel that ``gene_vocab`` and ``orthologs`` ask for."""
    from scmf.data.genes.gene_sets import load_gene_set
    from scmf.data.genes.orthologs import load_orthologs
    from scmf.data.preprocess.panel import Panel

    assert config.gene_vocab is not None
    orthologs = load_orthologs(config.orthologs, progress=progress) if config.orthologs else None
    return Panel.of(load_gene_set(config.gene_vocab, progress=progress), orthologs=orthologs)


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
    kept = passing(Corpus([MemoryStore(adata, counts="X", gene_ids="var_names")]), config.filter)
    if not kept.keep.any():
        raise DataError(str(kept), wanted="at least one cell", where="data.filter", fix="widen the filters")
    adata = adata[kept.keep].copy()
    adata.uns["scmf"]["removed"] = dict(kept.removed)
    return adata


def _on_genes(adata: AnnData, config: DataConfig, *, progress: bool) -> AnnData:
    store = MemoryStore(adata, counts="X", gene_ids="var_names")
    name, panel = config.gene_vocab, panel_of(config, progress=progress)
    columns = panel.columns(store.genes, where=adata.uns["scmf"]["dataset"])
    present = np.unique(columns.target[columns.target >= 0])
    if not len(present):
        raise GeneError(
            f"none of {len(store.genes):,} genes is in {name!r}", wanted="genes of it", where="data.gene_vocab",
            fix="`scmf data genes FILE --vocabulary NAME` says what the file has",
        )  # fmt: skip
    aligned = panel.align(store.read(np.array([[0, store.n_cells]])), columns)
    var = adata.var.iloc[:0].reindex([panel.genes[i] for i in present])
    if "symbol" in adata.var:
        first = {int(target): symbol for target, symbol in zip(columns.target, adata.var["symbol"], strict=True)}
        var["symbol"] = [first[int(i)] for i in present]
    result = AnnData(aligned.counts.csr()[:, present], obs=adata.obs.copy(), var=var, uns=dict(adata.uns))
    result.obs[DEPTH] = aligned.n_counts_B.astype(np.float32)
    result.uns["scmf"] = {**adata.uns["scmf"], "gene_vocab": name}
    return result
