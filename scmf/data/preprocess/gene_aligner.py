"""One gene aligner for stores with different genes.

Lives here: `GeneAligner` (union, intersection, or a given vocabulary) and where the columns of a store go in it. Lives
elsewhere: what a name means (genes.names), named vocabularies (genes.gene_sets), counts on an aligner
(aligner_columns), how much of a store an aligner holds (coverage).

Rule: when several columns of a store are one gene of the aligner (two versions of an id, an old and a new symbol, mouse
genes of one human gene), their counts are added up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from scmf.core.errors import DataError, GeneError
from scmf.core.files import sha256_json
from scmf.data.genes.gene_sets import GeneSet
from scmf.data.genes.ids import GeneMap
from scmf.data.genes.names import (
    EXACT,
    MATCHED,
    NORMALISED,
    ORTHOLOG,
    OUTSIDE,
    OtherNames,
    Resolved,
    resolve,
)
from scmf.data.genes.orthologs import OrthologMap, Orthologs, SavedOrthologs
from scmf.data.genes.species import refuse_other_species, species_of
from scmf.data.preprocess.aligner_columns import AlignedBlock, Columns, align
from scmf.data.stores.store import CountBlock, Store, is_store

_REMEMBERED = 4096
"""Lists of genes that are recognized as the same object."""

_READING_FRAME = re.compile(r"(?<=\d)ORF(?=\d)")
"""``C10ORF105``, which files write ``C10orf105``."""


class GeneAligner:
    """An ordered list of genes, and how the genes of any store are found in it.

    Made by `GeneAligner.of`, `GeneAligner.union` or `GeneAligner.intersection`. Safe to use from several threads.

    Parameters
    ----------
    genes
        Genes as the aligner writes them, without duplicates.
    mapping
        Other names of genes (symbols, HGNC aliases and previous symbols, retired ids); None compares ids only, without
        version suffix and in upper case.
    orthologs
        Takes mouse genes into a human aligner.
    species
        Species of the aligner; None asks the ids.

    Attributes
    ----------
    collisions : dict
        Gene of the aligner -> other genes of the aligner that ``mapping`` holds for the same. A store that writes one
        of these names finds it as it is written; any other name of the gene leads to the first.
    """

    def __init__(
        self,
        genes: Iterable[str],
        *,
        mapping: GeneMap | None = None,
        orthologs: Orthologs | None = None,
        species: str | None = None,
    ) -> None:
        self.genes: tuple[str, ...] = tuple(genes)
        self.mapping, self.orthologs = mapping, orthologs
        self.species = species_of(self.genes) if species is None else species
        if not self.genes:
            raise GeneError("no genes", wanted="at least one", where="gene aligner", fix="check species and ids")
        if len(set(self.genes)) < len(self.genes):
            raise GeneError("a gene stands twice", wanted="each once", where="gene aligner", fix="remove the copies")
        own = resolve(self.genes, mapping=mapping, species=self.species)
        self._written: dict[str, int] = {}
        self._by_id: dict[str, int] = {}
        same: dict[int, list[str]] = {}
        for at, (name, gene) in enumerate(zip(own.names, own.ids, strict=True)):
            self._written.setdefault(name, at)
            if gene and (first := self._by_id.setdefault(gene, at)) != at:
                same.setdefault(first, []).append(self.genes[at])
        self.collisions = {self.genes[first]: tuple(others) for first, others in same.items()}
        self._seen: dict[tuple[tuple[str, ...], str | None], Columns] = {}
        self._same: dict[tuple[int, str | None], tuple[tuple[str, ...], Columns]] = {}  # keeps the tuples, so ids stay

    @classmethod
    def of(
        cls,
        genes: GeneSet | Iterable[str],
        *,
        mapping: GeneMap | None = None,
        orthologs: Orthologs | None = None,
        species: str | None = None,
    ) -> GeneAligner:
        """A given vocabulary, in its order.

        Parameters
        ----------
        genes
            A gene set (`load_gene_set`), which brings its species and, where ``mapping`` is None, its own table of
            other names; or any ids.
        mapping, orthologs, species
            See `GeneAligner`.
        """
        if isinstance(genes, GeneSet):
            mapping = genes.gene_map() if mapping is None else mapping
            species = genes.species if species is None else species
            genes = genes.genes
        return cls(genes, mapping=mapping, orthologs=orthologs, species=species)

    @classmethod
    def union(
        cls,
        stores: Sequence[Store | Sequence[str]],
        *,
        mapping: GeneMap | None = None,
        orthologs: Orthologs | None = None,
        species: str | None = None,
    ) -> GeneAligner:
        """Every gene of any store, sorted, so that the order of the stores does not matter.

        Stores that all have the same genes in the same order keep it. This is ``anndata.concat(join="outer")``.

        Parameters
        ----------
        stores
            Stores, or their gene names.
        mapping
            See `GeneAligner`. Ambiguous names are left out; a name that is not known stays, in canonical form.
        orthologs
            See `GeneAligner`. Mouse genes without a human gene are left out.
        species
            Species of all stores; None asks the ids of each.
        """
        found = _resolved(stores, mapping=mapping, orthologs=orthologs, species=species)
        lists = {store.ids for store in found}
        genes = list(dict.fromkeys(gene for ids in lists for gene in ids if gene))
        genes = genes if len(lists) == 1 else sorted(genes)
        return cls(genes, mapping=mapping, orthologs=orthologs, species=_common(found, orthologs))

    @classmethod
    def intersection(
        cls,
        stores: Sequence[Store | Sequence[str]],
        *,
        mapping: GeneMap | None = None,
        orthologs: Orthologs | None = None,
        species: str | None = None,
    ) -> GeneAligner:
        """The genes that every store has, in the order of the first (as ``anndata.concat(join="inner")``).

        Parameters
        ----------
        stores, mapping, orthologs, species
            As in `union`.
        """
        found = _resolved(stores, mapping=mapping, orthologs=orthologs, species=species)
        shared = set.intersection(*(set(store.ids) for store in found)) if found else set()
        genes = dict.fromkeys(gene for gene in (found[0].ids if found else ()) if gene in shared and gene)
        return cls(genes, mapping=mapping, orthologs=orthologs, species=_common(found, orthologs))

    def __len__(self) -> int:
        return len(self.genes)

    @property
    def fingerprint(self) -> str:
        """Digest of the genes in their order, and of the orthologs that lead to them."""
        if isinstance(self.orthologs, OrthologMap | SavedOrthologs):
            return sha256_json([list(self.genes), sorted(self.orthologs.pairs.items())])
        return sha256_json(list(self.genes))

    def tell_species(self, genes: Sequence[str], species: str, *, where: object) -> None:
        """Let a store be of this species from now on, where its names alone do not tell: see `columns`."""
        self._seen[tuple(genes), None] = self._match(tuple(genes), species or None, where)

    def other_names(self, lists: Iterable[Sequence[str]]) -> OtherNames:
        """The names that lead to the genes of the aligner, those of these files among them as they are written."""
        names: dict[str, str] = {gene: self.genes[at] for gene, at in self._by_id.items() if gene != self.genes[at]}
        for name, gene in (self.mapping.aliases if self.mapping is not None else {}).items():
            if (at := self._by_id.get(gene)) is not None and name not in self._written:
                names[name] = names[_READING_FRAME.sub("orf", name)] = self.genes[at]
        for genes in lists:
            found = self.columns(genes)
            for name, at, kind in zip(genes, found.target.tolist(), found.kinds.tolist(), strict=True):
                if at >= 0 and kind != ORTHOLOG and name != self.genes[at]:
                    names[name] = self.genes[at]
        orthologs: dict[str, str] = {}
        if isinstance(self.orthologs, OrthologMap):
            pairs = self.orthologs.table().items()
            orthologs = {name: self.genes[self._by_id[gene]] for name, gene in pairs if gene in self._by_id}
        return OtherNames(names, orthologs)

    def columns(self, genes: Sequence[str], *, species: str | None = None, where: object = "a store") -> Columns:
        """Where the genes of a store go; remembered, since many stores have the same genes.

        A name that the aligner writes the same way (but for version and case) is taken first; then what it stands for.

        Parameters
        ----------
        genes
            Gene names of the store as written (``store.genes``).
        species
            Species of the store; None asks the names.
        where
            How to call the store in an error.

        Raises
        ------
        GeneError
            The genes are of another species than the aligner and no orthologs lead to it.
        """
        last = self._same.get((id(genes), species))
        if last is not None and last[0] is genes:  # asked for each block: not even hashed again
            return last[1]
        key = (tuple(genes), species)
        if (known := self._seen.get(key)) is None:
            known = self._seen[key] = self._match(key[0], species, where)
        if isinstance(genes, tuple):
            if len(self._same) >= _REMEMBERED:
                self._same.clear()
            self._same[id(genes), species] = (genes, known)
        return known

    def _match(self, genes: tuple[str, ...], species: str | None, where: object) -> Columns:
        found = resolve(genes, mapping=self.mapping, orthologs=self.orthologs, species=species)
        if self.orthologs is None or (found.species, self.species) != ("Mus musculus", "Homo sapiens"):
            refuse_other_species(found.species, self.species, where=where)
        target = np.full(len(genes), -1, np.int32)
        kinds = found.kinds.copy()
        crossed = bool(found.species and self.species) and found.species != self.species
        groups: dict[int, list[str]] = {}
        for i, (name, gene) in enumerate(zip(found.names, found.ids, strict=True)):
            at = None if crossed else self._written.get(name)
            if at is not None:
                kinds[i] = EXACT if genes[i] == self.genes[at] else NORMALISED
            elif gene:
                at = self._by_id.get(gene)
            if at is not None:
                target[i] = at
                groups.setdefault(at, []).append(genes[i])
            elif kinds[i] <= ORTHOLOG:
                kinds[i] = OUTSIDE
        several = {self.genes[at]: tuple(names) for at, names in groups.items() if len(names) > 1}
        matched = kinds < MATCHED
        assert bool((matched == (target >= 0)).all())
        return Columns(target, len(self.genes), kinds, several)

    def align(self, block: CountBlock, columns: Columns, *, in_place: bool = False) -> AlignedBlock:
        """Bring counts onto the aligner, see `scmf.data.preprocess.aligner_columns.align`."""
        if columns.n_panel != len(self.genes):
            raise DataError(
                f"columns in an aligner of {columns.n_panel:,} genes",
                wanted=f"columns in this one, of {len(self.genes):,}",
                where="GeneAligner.align",
                fix="ask columns() of this aligner",
            )
        return align(block, columns, in_place=in_place)


@dataclass(frozen=True)
class AlignedGenes:
    """A step of a pipeline (scmf.data.preprocess.steps): the counts of a block on the genes of an aligner."""

    kind: ClassVar[str] = "aligned_genes"
    aligner: GeneAligner
    is_fitted: ClassVar[bool] = True

    def fit(self, blocks: Any) -> AlignedGenes:
        """Nothing to find."""
        return self

    def apply(self, block: CountBlock, genes: Sequence[str]) -> tuple[CountBlock, Sequence[str]]:
        """The block over the genes of the aligner."""
        return self.aligner.align(block, self.aligner.columns(genes)).counts, self.aligner.genes


def _genes_of(store: Store | Sequence[str]) -> tuple[str, ...]:
    return store.genes if is_store(store) else tuple(cast(Sequence[str], store))


def _resolved(
    stores: Sequence[Store | Sequence[str]],
    *,
    mapping: GeneMap | None,
    orthologs: Orthologs | None,
    species: str | None,
) -> list[Resolved]:
    """Each different list of genes once."""
    lists = dict.fromkeys(_genes_of(store) for store in stores)
    return [resolve(genes, mapping=mapping, orthologs=orthologs, species=species) for genes in lists]


def _common(found: list[Resolved], orthologs: Orthologs | None) -> str:
    """The species of an aligner made of ``found``; `GeneError` when they are of several and nothing unites them."""
    kinds = list(dict.fromkeys(store.species for store in found if store.species))
    if orthologs is not None and set(kinds) <= {"Homo sapiens", "Mus musculus"}:
        return "Homo sapiens" if kinds else ""
    for other in kinds[1:]:
        refuse_other_species(*sorted((kinds[0], other), reverse=True), where="gene aligner of several stores")
    return kinds[0] if kinds else ""
