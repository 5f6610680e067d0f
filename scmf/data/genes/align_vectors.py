"""Gene vectors for the genes of a vocabulary, and what happens to genes that have none.

Lives here: `align_vectors`, `vectors_for` (a card or file for the genes of some cells) and their report.
Lives elsewhere: reading tables (vectors), other names of genes (ids, vocabulary), the same inside a tokenizer,
which travels alone and matches by its own aliases (tokenizers.gene_vector_table).

Legend: G genes of the vocabulary, K of them kept, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from scmf.core import registry
from scmf.core.errors import ConfigError, DataError, GeneError
from scmf.data.genes.ids import GeneMap, canonical, is_ensembl
from scmf.data.genes.species import species_of
from scmf.data.genes.vectors import GeneVectors, load_gene_vectors
from scmf.data.genes.vocabulary import human_genes

Missing = Literal["drop", "mean", "error"]
"""Genes without a vector: left out, given the mean of the vectors that were found, or an error."""


@dataclass(frozen=True)
class VectorReport:
    """Which genes of a vocabulary have a vector; the four kinds add up to ``n_genes``.

    Parameters
    ----------
    n_genes
        Genes of the vocabulary.
    exact
        Found as they are written.
    other_name
        Found by an Ensembl id without version, a symbol, an alias or a previous symbol.
    missing
        Genes without a vector, those with the most counts first where counts are known, else in the order given.
    ambiguous
        Genes that several vectors of the table could be of, none of them written alike; treated as missing.
    policy
        What was done with the last two.
    missing_share
        Share of the counts that fall on genes without a vector; None without counts.
    """

    n_genes: int
    exact: int
    other_name: int
    missing: tuple[str, ...]
    ambiguous: tuple[str, ...]
    policy: str
    missing_share: float | None

    @property
    def n_without(self) -> int:
        """Genes without a vector of their own."""
        return len(self.missing) + len(self.ambiguous)

    def __str__(self) -> str:
        done = {"drop": "left out", "mean": "given the mean vector", "error": "an error"}[self.policy]
        share = "" if self.missing_share is None else f", {self.missing_share:.2%} of the counts"
        text = f"{self.n_genes - self.n_without:,} of {self.n_genes:,} genes have a vector"
        if not self.n_without:
            return text
        first = ", ".join((*self.missing, *self.ambiguous)[:5])
        return f"{text}; {self.n_without:,} without{share} are {done} ({first}{', ...' if self.n_without > 5 else ''})"

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)


def align_vectors(
    table: GeneVectors,
    genes: Sequence[str],
    *,
    names: GeneMap | None = None,
    missing: Missing = "drop",
    counts: np.ndarray | None = None,
) -> tuple[GeneVectors, VectorReport]:
    """Vectors in the order and under the names of a vocabulary.

    A gene is looked for as it is written, then as an Ensembl id without version, then by way of ``names``: the gene and
    the names of the table are brought to the same id, so either may be a symbol or an Ensembl id.

    Parameters
    ----------
    table
        The vectors.
    genes
        Genes of the vocabulary, none twice.
    names
        Other names: of the vocabulary (``load_vocabulary(...).gene_map()``) or of the species (``human_genes()``).
    missing
        What to do with genes without a vector.
    counts
        Counts of each gene (G,) over some cells, for the share of counts without a vector.

    Returns
    -------
    tuple
        The vectors of the K genes that are kept, in the order of ``genes``, and the report.

    Raises
    ------
    ConfigError
        No such policy.
    GeneError
        No gene has a vector; some have none and ``missing`` is ``error``.
    DataError
        ``counts`` does not fit the genes.
    """
    if missing not in get_args(Missing):
        known = list(get_args(Missing))
        raise ConfigError(
            f"missing={missing!r}",
            wanted=", ".join(known),
            where="align_vectors",
            fix=registry.did_you_mean(missing, known),
        )
    genes = [str(gene) for gene in genes]
    if counts is not None and np.shape(counts) != (len(genes),):
        raise DataError(
            f"counts of the shape {np.shape(counts)}",
            wanted=f"({len(genes)},)",
            where="align_vectors",
            fix="one a gene",
        )
    row_G, ambiguous = _rows(table.genes, genes, names)
    found = row_G >= 0
    if not found.any():
        raise GeneError(
            f"none of {len(genes):,} genes has a vector (first: {', '.join(map(repr, genes[:3]))})",
            wanted=f"names such as {table.genes[0]!r}",
            where=table.facts.get("source", "gene vectors"),
            fix="give other names: names=human_genes() leads from symbols to Ensembl ids and back",
        )
    without = np.flatnonzero(~found)
    share = None
    if counts is not None:
        without = without[np.argsort(-np.asarray(counts)[without], kind="stable")]
        share = float(np.asarray(counts, np.float64)[without].sum() / max(float(np.sum(counts)), 1e-300))
    report = VectorReport(
        n_genes=len(genes),
        exact=sum(table.genes[row] == gene for row, gene in zip(row_G.tolist(), genes, strict=True) if row >= 0),
        other_name=sum(table.genes[row] != gene for row, gene in zip(row_G.tolist(), genes, strict=True) if row >= 0),
        missing=tuple(genes[i] for i in without.tolist() if genes[i] not in ambiguous),
        ambiguous=tuple(genes[i] for i in without.tolist() if genes[i] in ambiguous),
        policy=missing,
        missing_share=share,
    )
    if missing == "error" and report.n_without:
        raise GeneError(
            str(report),
            wanted="a vector for every gene",
            where=table.facts.get("source", "gene vectors"),
            fix="missing='drop' leaves these genes out, missing='mean' gives them the mean vector",
        )
    facts = {**table.facts, "alignment": report.to_json()}
    if missing == "mean":
        vectors = np.empty((len(genes), table.width), np.float32)
        vectors[found] = table.vectors[row_G[found]]
        vectors[~found] = vectors[found].mean(axis=0, dtype=np.float64)
        return GeneVectors(tuple(genes), vectors, facts), report
    kept = tuple(gene for gene, is_there in zip(genes, found.tolist(), strict=True) if is_there)
    return GeneVectors(kept, table.vectors[row_G[found]], facts), report


def vectors_for(
    source: Path | str, genes: Sequence[str], *, missing: Missing = "drop", counts: np.ndarray | None = None
) -> tuple[GeneVectors, VectorReport]:
    """Gene vectors of a card or a file, under the names that some cells give their genes.

    Human genes are found by all their names (card ``human-genes``) where the table writes them otherwise; genes of
    other species as they are written, or by Ensembl id.

    Parameters
    ----------
    source
        See `load_gene_vectors`.
    genes, missing, counts
        See `align_vectors`.
    """
    table = load_gene_vectors(source)
    known, species = set(table.genes), {species_of(genes), species_of(table.genes)} - {""}
    human = species == {"Homo sapiens"} and not all(gene in known for gene in genes)
    names = human_genes() if human else None
    return align_vectors(table, genes, names=names, missing=missing, counts=counts)


def _rows(table: Sequence[str], genes: Sequence[str], names: GeneMap | None) -> tuple[np.ndarray, set[str]]:
    """Row of each gene in the table, -1 for none; and the genes that several rows could be."""
    exact = {name: row for row, name in enumerate(table)}
    by_id: dict[str, list[int]] = {}
    for row, gene in enumerate(_ids(table, names)):
        if gene:
            by_id.setdefault(gene, []).append(row)
    row_G, ambiguous = np.full(len(genes), -1, np.int64), set()
    for at, (gene, id_) in enumerate(zip(genes, _ids(genes, names), strict=True)):
        rows = [exact[gene]] if gene in exact else by_id.get(id_, [])
        if len(rows) == 1:
            row_G[at] = rows[0]
        elif rows:
            ambiguous.add(gene)
    return row_G, ambiguous


def _ids(genes: Sequence[str], names: GeneMap | None) -> list[str]:
    """What a name stands for: by ``names`` where they know it, an Ensembl id without version, else nothing."""
    bare = [canonical(gene) if is_ensembl(gene) else "" for gene in genes]
    if names is None:
        return bare
    return [known or own for known, own in zip(names.map(list(genes))[0].tolist(), bare, strict=True)]
