"""Mouse genes in a human vocabulary: which mouse gene stands for which human gene.

Lives here: the table of orthologs (card ``human-mouse-orthologs``), `OrthologMap`, the check of that table against a
second one. Lives elsewhere: names of mouse genes (vocabulary), putting counts together (preprocess.gene_aligner).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from scmf.core import registry
from scmf.core.errors import ConfigError
from scmf.data.cards.card import Card, file_of, load_card
from scmf.data.cards.sources import fetch_file
from scmf.data.genes.ids import GeneMap, canonical, collisions, folded
from scmf.data.genes.vocabulary import mouse_genes

Many = Literal["one2one", "sum"]
_CARD = "human-mouse-orthologs"
_COLUMNS = {
    "Gene stable ID": "human",
    "Mouse gene stable ID": "mouse",
    "Mouse homology type": "type",
    "Mouse orthology confidence [0 low, 1 high]": "confidence",
}


@dataclass(frozen=True)
class OrthologReport:
    """How mouse genes were mapped to human ones; the counts add up to ``n``.

    Parameters
    ----------
    n
        Ids given.
    one2one
        Have one human ortholog, which has no other mouse ortholog.
    summed
        Have one human ortholog, which has other mouse orthologs too (only with ``many="sum"``).
    human
        Were human Ensembl ids already.
    many
        Have orthologs that the policy leaves out.
    no_ortholog
        Are mouse genes without a human ortholog in the table.
    ambiguous
        Are symbols of several mouse genes.
    unknown
        Are no mouse genes that we know.
    collisions
        Human gene -> the given ids that stand for it, where there are several.
    """

    n: int
    one2one: int = 0
    summed: int = 0
    human: int = 0
    many: int = 0
    no_ortholog: int = 0
    ambiguous: int = 0
    unknown: int = 0
    collisions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def mapped(self) -> int:
        """Ids that have a human gene."""
        return self.one2one + self.summed + self.human

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "mapped": self.mapped}


class Orthologs(Protocol):
    """What takes a mouse gene to another gene."""

    def lookup(self, gene: str) -> tuple[str, str]:
        """The gene that stands for a mouse gene (``""`` for none), and the field of `OrthologReport` that counts it."""


class SavedOrthologs:
    """The table that a tokenizer was saved with.

    Parameters
    ----------
    table
        Mouse Ensembl id, or symbol in upper case -> gene of the vocabulary.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        self._table = {folded(name): canonical(gene) for name, gene in table.items()}

    @property
    def pairs(self) -> dict[str, str]:
        """The table, names as they are looked up."""
        return dict(self._table)

    def lookup(self, gene: str) -> tuple[str, str]:
        """See `Orthologs`."""
        found = self._table.get(folded(gene), "")
        return found, "one2one" if found else "unknown"


class OrthologMap:
    """Mouse gene -> human gene.

    Parameters
    ----------
    table
        Columns ``human``, ``mouse`` (Ensembl ids), ``type`` (homology type of Ensembl Compara) and ``confidence``
        (0 or 1); one row a pair.
    names
        Names of mouse genes, so that symbols are known too; None knows Ensembl ids only.
    many
        ``one2one``: only pairs of the type ``ortholog_one2one``, both genes have no other ortholog in the other
        species. ``sum``: also mouse genes that were duplicated in the mouse alone, i.e. of the type
        ``ortholog_one2many`` with one human gene; the counts of all mouse genes of a human gene are added up. Mouse
        genes with several human orthologs are always left out: which one they would count for is not known.
    high_confidence
        Leave out pairs that Compara calls of low confidence (gene order and whole-genome alignment do not bear
        them out).
    """

    def __init__(
        self,
        table: pd.DataFrame,
        names: GeneMap | None = None,
        *,
        many: Many = "one2one",
        high_confidence: bool = False,
    ) -> None:
        if many not in ("one2one", "sum"):
            fix = registry.did_you_mean(many, ["one2one", "sum"])
            raise ConfigError(f"{many!r}", wanted="one2one or sum", where="policy of orthologs", fix=fix)
        self.many: Many = many
        """What becomes of genes with several orthologs."""
        self.names = names
        known, ambiguous = (names.known, names.ambiguous) if names else ((), ())
        symbols = {folded(name): gene for name, gene in names.aliases.items()} if names else {}
        self._symbols = {**symbols, **{folded(gene): gene for gene in known}}
        self._ambiguous = {folded(name) for name in ambiguous} - self._symbols.keys()
        humans_of = table.groupby("mouse")["human"].transform("nunique")
        single = table["type"].eq("ortholog_one2one")
        duplicated = table["type"].eq("ortholog_one2many") & humans_of.eq(1)
        sure = table["confidence"].eq(1) | (not high_confidence)
        self._single = self._pairs(table[single & sure])
        self._duplicated = self._pairs(table[duplicated & sure]) if many == "sum" else {}
        self._in_table = frozenset(folded(gene) for gene in table["mouse"])

    @staticmethod
    def _pairs(table: pd.DataFrame) -> dict[str, str]:
        return {folded(m): folded(h) for m, h in zip(table["mouse"], table["human"], strict=True)}

    @property
    def pairs(self) -> dict[str, str]:
        """Mouse gene -> human gene, Ensembl ids, for every mouse gene that is kept."""
        return {**self._single, **self._duplicated}

    def table(self) -> dict[str, str]:
        """Every name of a mouse gene that is kept, Ensembl id or symbol in upper case -> human Ensembl id."""
        pairs = self.pairs
        return {**{name: pairs[gene] for name, gene in self._symbols.items() if gene in pairs}, **pairs}

    def to_human(self, ids: Sequence[str] | np.ndarray) -> tuple[np.ndarray, OrthologReport]:
        """Map mouse genes to human ones.

        Parameters
        ----------
        ids
            Mouse Ensembl ids, with or without version, or symbols. Human Ensembl ids stay.

        Returns
        -------
        tuple
            Human Ensembl ids (object array of the same length, ``""`` where there is none) and the report.
        """
        found = [self.lookup(gene) for gene in ids]
        mapped = [human for human, _ in found]
        how = Counter(kind for _, kind in found)
        return np.array(mapped, dtype=object), OrthologReport(len(mapped), **how, collisions=collisions(ids, mapped))

    def lookup(self, gene: str) -> tuple[str, str]:
        """Human Ensembl id of one gene (``""`` for none), and the field of `OrthologReport` that counts it.

        Only of genes that are known to be of the mouse: symbols are compared in upper case.
        """
        name = folded(gene)
        if name.startswith("ENSG"):
            return name, "human"
        mouse = name
        if name not in self._in_table and self.names is not None:
            if name in self._ambiguous:
                return "", "ambiguous"
            mouse = self._symbols.get(name, "")
        if mouse in self._single:
            return self._single[mouse], "one2one"
        if mouse in self._duplicated:
            return self._duplicated[mouse], "summed"
        if mouse in self._in_table:
            return "", "many"
        known = self.names is not None and mouse in self.names.known
        return "", "no_ortholog" if known else "unknown"


def load_orthologs(many: Many = "one2one", *, high_confidence: bool = False) -> OrthologMap:
    """The orthologs of the card ``human-mouse-orthologs`` with the names of the card ``mouse-genes``.

    17,122 mouse genes have a human gene one to one, 16,085 with high confidence; ``many="sum"`` adds 1,984 mouse
    genes of 495 human genes.

    Parameters
    ----------
    many, high_confidence
        See `OrthologMap`.
    """
    table, names = read_orthologs(), mouse_genes()
    return OrthologMap(table, names, many=many, high_confidence=high_confidence)


def read_orthologs(card: Card | str | Path = _CARD) -> pd.DataFrame:
    """All pairs of orthologs of a card, whatever their type.

    Parameters
    ----------
    card
        A card with a file of the role ``orthologs`` (a table of BioMart), its name or its path.

    Returns
    -------
    DataFrame
        Columns ``human``, ``mouse``, ``type``, ``confidence`` (0 or 1); one row a pair.
    """
    card = card if isinstance(card, Card) else load_card(card)
    path = fetch_file(card, file_of(card, "orthologs"))
    table = pd.read_csv(path, usecols=list(_COLUMNS), dtype=str).rename(columns=_COLUMNS).dropna()
    table["confidence"] = table["confidence"].astype(float).astype(int)
    return table.reset_index(drop=True)


@dataclass(frozen=True)
class Agreement:
    """What two tables of orthologs have in common.

    Parameters
    ----------
    first, second
        Pairs in each, one-to-one.
    shared
        Human genes in both.
    same
        Human genes that have the same mouse gene in both.
    """

    first: int
    second: int
    shared: int
    same: int

    @property
    def share(self) -> float:
        """Share of the shared human genes that have the same mouse gene."""
        return self.same / max(self.shared, 1)

    def __str__(self) -> str:
        return (
            f"{self.first:,} and {self.second:,} one-to-one pairs; {self.same:,} of the {self.shared:,} human genes "
            f"in both ({self.share:.1%}) have the same mouse gene"
        )


def check_orthologs(card: Card | str | Path = _CARD) -> Agreement:
    """Compare the one-to-one pairs of the two tables of a card.

    Parameters
    ----------
    card
        A card with files of the roles ``orthologs`` and ``second_orthologs``, its name or its path.
    """
    card = card if isinstance(card, Card) else load_card(card)
    first = {human: mouse for mouse, human in OrthologMap(read_orthologs(card)).pairs.items()}
    path = fetch_file(card, file_of(card, "second_orthologs"))
    table = pd.read_csv(path, sep="\t", dtype=str)
    second = dict(zip(table["ensembl_gene_id"], table["mmusculus_homolog_ensembl_gene"], strict=True))
    shared = first.keys() & second.keys()
    same = sum(first[human] == second[human] for human in shared)
    return Agreement(len(first), len(second), len(shared), same)
