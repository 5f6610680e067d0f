"""From the names a file gives its genes to canonical ids, whatever the species and the kind of name.

Lives here: `resolve`, the one place where other names and orthologs come together, and what is kept of them
(`OtherNames`).
Lives elsewhere: other names (ids), orthologs (orthologs), the species of a file (species), where a gene goes in an
aligner (preprocess.gene_aligner).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from scmf.data.genes.ids import GeneMap, canonical
from scmf.data.genes.orthologs import Orthologs
from scmf.data.genes.species import MOUSE, species_of

KINDS = ("exact", "normalized", "alias", "ortholog", "outside", "ambiguous", "no_ortholog", "unknown")
"""What can become of a gene of a file.

``exact``: known as written. ``normalized``: known without version suffix, spaces or the lower case of an id.
``alias``: known by another name. ``ortholog``: a mouse gene that stands for a human one. ``outside``: known, but not in
the vocabulary. ``ambiguous``: a name of several genes. ``no_ortholog``: a mouse gene without a human gene under the
policy. ``unknown``: not known.
"""
EXACT, NORMALISED, ALIAS, ORTHOLOG, OUTSIDE, AMBIGUOUS, NO_ORTHOLOG, UNKNOWN = range(len(KINDS))
MATCHED = ORTHOLOG + 1
"""Kinds below this one are in the vocabulary."""


@dataclass(frozen=True)
class Resolved:
    """Genes of a file and what they are.

    Parameters
    ----------
    names
        Canonical form of each name as written (G,).
    ids
        Canonical id of each gene (G,): ``""`` for an ambiguous name and a gene without ortholog. A name that is not
        known keeps its canonical form, so that it can still meet itself in another file.
    kinds
        Number in `KINDS` of each gene, uint8 (G,).
    species
        Species of the ids; that of the file, ``""`` where it cannot be told.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...]
    kinds: np.ndarray
    species: str


@dataclass(frozen=True)
class OtherNames:
    """Other names of the genes of a vocabulary, which a tokenizer is saved with.

    Parameters
    ----------
    aliases
        Other name as files write it -> gene.
    orthologs
        Mouse Ensembl id, or symbol in upper case -> gene; for files of the mouse alone.
    """

    aliases: Mapping[str, str]
    orthologs: Mapping[str, str]


def resolve(
    genes: Iterable[str],
    *,
    mapping: GeneMap | None = None,
    orthologs: Orthologs | None = None,
    species: str | None = None,
) -> Resolved:
    """Canonical ids of ``genes``.

    Parameters
    ----------
    genes
        Names as written.
    mapping
        Other names of the genes of the vocabulary; None compares ids only.
    orthologs
        Takes mouse genes to human ones. Mouse symbols are looked up among mouse genes and never among human ones,
        even where they differ in case only. Ids of the other species in a file (a transgene, a xenograft, two species
        aligned together) are left out: adding them to the genes of the same cell would mix what was kept apart.
    species
        Species of the file, where its ids do not tell (or tell wrong).
    """
    genes = [str(gene) for gene in genes]
    names = tuple(canonical(gene) for gene in genes)
    species = species_of(genes) if species is None else species
    ids, kinds = [], np.empty(len(genes), np.uint8)
    for i, (gene, name) in enumerate(zip(genes, names, strict=True)):
        if orthologs is not None and species == MOUSE and name.startswith("ENSG"):
            ids.append("")
            kinds[i] = OUTSIDE
        elif orthologs is not None and _is_mouse(name, species):
            human, said = orthologs.lookup(name)
            ids.append(human)
            kinds[i] = ORTHOLOG if human else {"ambiguous": AMBIGUOUS, "unknown": UNKNOWN}.get(said, NO_ORTHOLOG)
        elif mapping is None or name in mapping.known:
            ids.append(name)
            kinds[i] = EXACT if name == gene else NORMALISED
        elif name in mapping.aliases:
            ids.append(mapping.aliases[name])
            kinds[i] = ALIAS
        else:
            ambiguous = name in mapping.ambiguous
            ids.append("" if ambiguous else name)
            kinds[i] = AMBIGUOUS if ambiguous else UNKNOWN
    return Resolved(names, tuple(ids), kinds, species)


def _is_mouse(name: str, species: str) -> bool:
    """Whether a canonical name is looked up among mouse genes."""
    return species == MOUSE or not species and name.startswith("ENSMUSG")
