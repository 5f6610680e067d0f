"""Files whose genes are named differently brought together: symbols in one, Ensembl ids in another, both in a third.

Lives here: when that is needed, and the names that do it: what the files say of each other first (a file with ids and
symbols names the symbols of the others), the annotation of their species where that is not enough. Lives elsewhere:
putting counts together (scmf.data.loading, scmf.data.convert), mapping with the names (ids).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import GeneError, SourceError
from scmf.data.genes.ids import GeneMap, canonical, detect, is_ensembl
from scmf.data.genes.species import MOUSE, refuse_other_species
from scmf.data.genes.vocabulary import human_genes, mouse_genes

log = logging.getLogger(__name__)

_ENOUGH = 0.9
"""Share of the symbols of a file that the other files must know, so that no annotation is asked."""

_LEAST = 0.2
"""Share of its symbols that must be known for a file to be joined."""


@dataclass(frozen=True)
class NamedGenes:
    """The genes of one file.

    Parameters
    ----------
    name
        Of the file, for messages.
    ids
        Gene ids as they are written.
    symbols
        Symbols of the same genes, where the file has them beside other ids.
    species
        Of the file, ``""`` where that cannot be told.
    """

    name: str
    ids: Sequence[str]
    symbols: Sequence[str] | np.ndarray | None = None
    species: str = ""


def joining_names(files: Sequence[NamedGenes], *, where: str, one_species: bool) -> GeneMap | None:
    """Names that bring the genes of several files to one id each; None where they are written alike.

    Parameters
    ----------
    files
        The files.
    where
        How to call them together.
    one_species
        Refuse files of several species also where their genes are written alike.

    Raises
    ------
    GeneError
        The files are of several species, or hold ids that are neither symbols nor of Ensembl beside others.
    SourceError
        The annotation is needed and cannot be had.
    """
    if one_species:
        _one_species(files, where=where)
    kinds = [detect(file.ids) for file in files]
    if len({kind.kind for kind in kinds}) > 1 and any(kind.kind in ("entrez", "other") for kind in kinds):
        raise GeneError(
            "; ".join(f"{file.name}: {kind}" for file, kind in zip(files, kinds, strict=True)),
            wanted="one kind of gene ids, or Ensembl ids and symbols", where=where,
            fix="name the column of var that holds Ensembl ids or symbols (data.gene_ids, --gene-ids)",
        )  # fmt: skip
    lists = {tuple(file.ids) for file in files}
    ids = {canonical(gene) for genes in lists for gene in genes if is_ensembl(gene)}
    symbols = [{gene for gene in genes if not is_ensembl(gene)} for genes in lists]
    alike = len({kind.kind for kind in kinds}) == 1 and kinds[0].kind != "mixed"  # a few ids among symbols stay
    if alike or len(lists) == 1 or not ids or not any(symbols) or all(one == symbols[0] for one in symbols):
        return None
    species, own = _one_species(files, where=where), _told_by_files(files)
    known = [len(one & own.keys()) / len(one) for one in symbols if one]
    if min(known) >= _ENOUGH:
        return GeneMap(ids, own)
    try:
        annotated = mouse_genes() if species == MOUSE else human_genes()
    except SourceError:
        if len({kind.kind for kind in kinds}) > 1:
            raise
        log.warning(f"{where}: symbols and Ensembl ids are joined as they are written: no annotation of genes is here")
        return GeneMap(ids, own)
    log.info(f"{where}: symbols and Ensembl ids are brought together")
    found = GeneMap({*ids, *annotated.known}, own, annotated.aliases, ambiguous=annotated.ambiguous)
    for file, kind in zip(files, kinds, strict=True):
        mapped = found.map(file.ids)[1].mapped
        if kind.kind == "symbol" and mapped < _LEAST * len(file.ids):
            raise GeneError(
                f"{file.name}: {len(file.ids):,} symbols, of which {mapped:,} are known", where=where,
                wanted="one kind of gene ids, or symbols of the species that the other files are of",
                fix="name the column of var that holds Ensembl ids (data.gene_ids, --gene-ids)",
            )  # fmt: skip
    return found


_ONE_SPECIES = (
    "give files of one species, or take mouse genes to human ones: data.orthologs: one2one with data.gene_set and "
    "data.stream"
)


def _one_species(files: Sequence[NamedGenes], *, where: str) -> str:
    """The species of the files, ``""`` where none tells; `GeneError` where they are of several."""
    species = ""
    for file in files:
        refuse_other_species(file.species, species, where=f"{where}: {file.name}", fix=_ONE_SPECIES)
        species = species or file.species
    return species


def _told_by_files(files: Sequence[NamedGenes]) -> dict[str, str]:
    """Symbol -> Ensembl id, where a file has both; symbols of several genes are left out."""
    told: dict[str, set[str]] = {}
    for file in files:
        if file.symbols is None:
            continue
        for gene, symbol in zip(file.ids, file.symbols, strict=True):
            if is_ensembl(gene) and symbol and not is_ensembl(symbol):
                told.setdefault(str(symbol), set()).add(canonical(gene))
    return {symbol: next(iter(genes)) for symbol, genes in told.items() if len(genes) == 1}
