"""Cells of another species than a vocabulary: through the orthologs that the model was trained with, or refused.

Lives here: both, for cells in memory and on disk, and the orthologs that a new tokenizer keeps. Lives elsewhere:
telling the species (scmf.data.genes.species), the table that travels with a tokenizer (gene_orthologs), genes in their
places (scmf.data.preprocess.gene_aligner).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.errors import GeneError
from scmf.data.genes.names import OtherNames
from scmf.data.genes.orthologs import SavedOrthologs
from scmf.data.genes.species import HUMAN, MOUSE, species_read
from scmf.data.loading.facts import LoadedCells
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.memory import MemoryStore

log = logging.getLogger(__name__)


def genes_of(tokenizer: Any) -> list[str]:
    """Genes of a tokenizer in the order of their ids."""
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.get_vocab()
    return [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if vocabulary[token] not in special]


def refuse_species(tokenizer: Any, species: str, *, where: object) -> None:
    """Raise `GeneError` when the genes of some cells are of a species that the vocabulary does not read.

    Parameters
    ----------
    tokenizer
        Any tokenizer.
    species
        Of the cells; ``""``, where that cannot be told, passes.
    where
        How to call the cells.
    """
    if not species:
        return
    read = species_read(genes_of(tokenizer), getattr(tokenizer, "_aliases", ()))
    if not read or species in read:
        return
    fix = f"give cells of {', '.join(sorted(read))}, or a model of this species"
    if (species, HUMAN in read) == (MOUSE, True):
        fix = (
            "train with orthologs, which the model then keeps (data.gene_set: human_protein_coding, data.orthologs: "
            "one2one); or give human cells; or, where var holds human genes beside mouse ids, remove the column of ids"
        )
    raise GeneError(
        f"genes of {species}", wanted=f"genes of {', '.join(sorted(read))}, as in the vocabulary", where=where, fix=fix
    )


def ortholog_aligner(tokenizer: Any, species: str) -> GeneAligner | None:
    """What takes the cells of a species to the genes of a tokenizer; None unless it was saved with orthologs for it."""
    table = getattr(tokenizer, "gene_orthologs", {})
    if species != MOUSE or not table:
        return None
    genes = genes_of(tokenizer)
    if MOUSE in species_read(genes):
        return None
    return GeneAligner(genes, orthologs=SavedOrthologs(table), species=HUMAN)


def through_orthologs(tokenizer: Any, cells: LoadedCells) -> LoadedCells:
    """The cells on the genes of the tokenizer where they are of the mouse and it keeps orthologs; else as they are."""
    aligner = ortholog_aligner(tokenizer, cells.facts.species)
    if aligner is None:
        return cells
    store = MemoryStore(cells.adata, counts="X", gene_ids="var_names", rounding="accept")
    columns = aligner.columns(store.genes, species=MOUSE, where=cells.facts.dataset)
    present = np.unique(columns.target[columns.target >= 0])
    if not len(present):
        raise GeneError(
            f"none of {len(store.genes):,} mouse genes has an ortholog in the vocabulary", wanted="genes of the mouse",
            where=cells.facts.dataset, fix="check the gene ids (data.gene_ids, --gene-ids)",
        )  # fmt: skip
    found = aligner.align(store.read(np.array([[0, store.n_cells]])), columns)
    log.info(f"{cells.facts.dataset}: mouse genes are read as their human orthologs, {len(present):,} genes")
    var = pd.DataFrame(index=pd.Index([aligner.genes[i] for i in present]))
    adata = AnnData(found.counts.csr()[:, present], obs=cells.obs.copy(), var=var)
    totals = found.n_counts_B.astype(np.float32) if cells.total_counts is None else cells.total_counts
    return replace(cells, adata=adata, facts=replace(cells.facts, species=HUMAN), total_counts=totals)


def keep_orthologs(tokenizer: Any, names: OtherNames | None) -> None:
    """Let a tokenizer keep the orthologs with which its training cells were read."""
    if names is not None and names.orthologs:
        genes = set(genes_of(tokenizer))
        known = {name: _named(tokenizer, gene, genes) for name, gene in names.orthologs.items()}
        tokenizer.gene_orthologs = {name: gene for name, gene in known.items() if gene is not None}


def _named(tokenizer: Any, gene: str, genes: set[str]) -> str | None:
    """The gene as the vocabulary calls it."""
    found = gene if gene in genes else getattr(tokenizer, "_aliases", {}).get(gene)
    return found if found in genes else None
