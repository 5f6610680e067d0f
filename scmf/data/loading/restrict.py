"""Cells in memory cut down as the section ``data`` asks: quality filters, gene set.

Lives here: the two steps on `LoadedCells`. Lives elsewhere: which filter and which genes (resolve), the same on disk
(open_corpus), filters (preprocess.quality), gene sets (genes.gene_sets), columns in their places (gene_aligner).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anndata import AnnData

from scmf.core.errors import DataError, GeneError
from scmf.data.loading.facts import LoadedCells
from scmf.data.loading.resolve import ResolvedData
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore


def restrict(cells: LoadedCells, resolved: ResolvedData) -> LoadedCells:
    """The cells that pass ``data.filter`` on the genes of ``data.gene_set``; the same object when neither is set.

    Parameters
    ----------
    cells
        All cells of the files.
    resolved
        The section ``data``.

    Returns
    -------
    LoadedCells
        With a gene set the columns are its genes that the cells have, under its names and in its order;
        ``total_counts`` keeps the counts over all genes.

    Raises
    ------
    DataError
        No cell passes.
    GeneError
        No gene is known, or the species differ.
    """
    if resolved.filter.active:
        cells = _filtered(cells, resolved)
    aligner = resolved.aligner
    return cells if aligner is None else _on_genes(cells, aligner, resolved)


def _filtered(cells: LoadedCells, resolved: ResolvedData) -> LoadedCells:
    store = MemoryStore(cells.adata, counts="X", gene_ids="var_names", rounding=resolved.config.counts_rounding)
    kept = resolved.passing(Corpus([store]))
    if not kept.keep.any():
        raise DataError(str(kept), wanted="at least one cell", where="data.filter", fix="widen the filters")
    return replace(cells[kept.keep].copy(), facts=replace(cells.facts, removed=dict(kept.removed)))


def _on_genes(cells: LoadedCells, aligner: GeneAligner, resolved: ResolvedData) -> LoadedCells:
    adata, name = cells.adata, resolved.gene_set
    store = MemoryStore(adata, counts="X", gene_ids="var_names", rounding=resolved.config.counts_rounding)
    if species := cells.facts.species:
        aligner.tell_species(store.genes, species, where=cells.facts.dataset)
    columns = aligner.columns(store.genes, where=cells.facts.dataset)
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
    species = aligner.species or cells.facts.species
    facts = replace(cells.facts, gene_set=name, orthologs=resolved.config.orthologs, species=species)
    names, totals = aligner.other_names([store.genes]), aligned.n_counts_B.astype(np.float32)
    return replace(cells, adata=result, facts=facts, total_counts=totals, names=names)
