"""Which species the genes of a file are of: told by their ids, never by the case of their symbols.

Ensembl ids say it. Symbols say it where the annotations of both species are on this machine and know them as they are
written: ``Trp53`` is a gene of the mouse, ``TP53`` one of man, ``gene_1`` of neither. Lives here: telling, and the
refusal of genes that a vocabulary cannot read. Lives elsewhere: kinds of ids (ids), the annotations (vocabulary), what
takes mouse genes to human ones (orthologs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from scmf.core.errors import GeneError
from scmf.data.cards.card import file_of, load_card
from scmf.data.cards.sources import is_here
from scmf.data.genes.ids import ID_COLUMNS, IdKind, detect, is_ensembl
from scmf.data.genes.vocabulary import annotation

HUMAN, MOUSE = "Homo sapiens", "Mus musculus"

_CARDS = {HUMAN: "human-genes", MOUSE: "mouse-genes"}
_KNOWN = 0.2
"""Share of symbols that the annotation of a species must know."""
_CLEAR = 5
"""How many times more symbols than of the other species."""
_MOST = 2
"""How many times more Ensembl ids than of the other species: two genomes in one file are about as long."""
_FEW = 0.01
"""Share of Ensembl ids among symbols below which they say nothing: a transgene, say."""


def species_of(genes: Iterable[str]) -> str:
    """Species of gene names, ``""`` where they do not tell.

    Ensembl ids among symbols (genes without a symbol of their own) and the symbols are asked apart; where they
    disagree, there is no answer.
    """
    parts: tuple[list[str], list[str]] = [], []
    for gene in genes:
        if name := str(gene).strip():
            parts[is_ensembl(name)].append(name)
    symbols, ids = parts
    said = {_of_ids(detect(ids))} if len(ids) >= _FEW * (len(ids) + len(symbols)) else set()
    said = (said | {_of_symbols(symbols)}) - {""}
    return said.pop() if len(said) == 1 else ""


def _of_ids(kind: IdKind) -> str:
    """The species of most ids; ``""`` where no species has most, as for mixed cells mapped to two genomes."""
    if len(kind.by_species) > 1 and kind.by_species[0][1] < _MOST * kind.by_species[1][1]:
        return ""
    return kind.species


def species_of_table(var: pd.DataFrame, ids: Sequence[str] | np.ndarray) -> str:
    """Species of the genes of a file: what their ids say, or else another column of Ensembl ids.

    Parameters
    ----------
    var
        The gene table.
    ids
        The ids that are read, one a row: where these are symbols, Ensembl ids in another column tell the species
        (symbols of the mouse may have been written in upper case).
    """
    if detect(ids).kind != "ensembl":
        for column in ID_COLUMNS:
            if column in var and (kind := detect(var[column].dropna())).kind == "ensembl":
                return _of_ids(kind)
        if (kind := detect(var.index)).kind == "ensembl":
            return _of_ids(kind)
    return species_of(ids)


def species_read(genes: Iterable[str], other_names: Iterable[str] = ()) -> set[str]:
    """Species whose genes a vocabulary reads; empty where that cannot be told.

    Parameters
    ----------
    genes
        Its genes.
    other_names
        Their other names, asked where the genes are symbols.
    """
    genes = list(genes)
    ids = [gene for gene in genes if is_ensembl(gene)]
    if not ids:
        ids = [name for name in other_names if is_ensembl(name)]
    if ids:
        return {name for name, _ in detect(ids).by_species} or {detect(ids).species}
    return {species_of(genes)} - {""}


def _symbols() -> dict[str, frozenset[str]]:
    """Species -> symbols of its annotation as they are written; empty unless all are on this machine."""
    cards = [load_card(name) for name in _CARDS.values()]
    if not all(is_here(card, file_of(card, "gencode")) for card in cards):
        return {}
    return {species: _annotated(card) for species, card in _CARDS.items()}


@lru_cache(maxsize=len(_CARDS))
def _annotated(card: str) -> frozenset[str]:
    return frozenset(annotation(card)["symbol"])


def _of_symbols(names: Sequence[str]) -> str:
    """The species whose annotation knows clearly more of these symbols than any other."""
    different = set(names)
    counted = sorted((len(different & known), species) for species, known in _symbols().items())
    if not counted or not different:
        return ""
    (second, _), (most, species) = counted[-2:]
    return species if most >= _KNOWN * len(different) and most >= _CLEAR * second else ""


def refuse_other_species(found: str, wanted: str, *, where: object, fix: str | None = None) -> None:
    """Raise `GeneError` when genes of a species are asked for in a vocabulary of another; ``""`` fits everything."""
    if not found or not wanted or found == wanted:
        return
    if fix is None and (found, wanted) == (MOUSE, HUMAN):
        fix = (
            "give the orthologs, which take mouse genes to human ones (orthologs=load_orthologs(); --orthologs one2one "
            "on the command line; data.orthologs: one2one with data.gene_set), or use mouse_protein_coding; "
            "where the species was told wrong, name it with species="
        )
    elif fix is None:
        fix = "use a vocabulary of this species (orthologs lead from mouse to human only), or name it with species="
    raise GeneError(f"genes of {found}", wanted=f"genes of {wanted}, as in the vocabulary", where=where, fix=fix)
