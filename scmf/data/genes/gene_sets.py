"""Named sets of genes: ``gene_set: human_protein_coding``.

Lives here: `load_gene_set` and the `GeneSet` it returns, whether from the annotation, a vocabulary card or a file.
Lives elsewhere: the tables (vocabulary), ways to write a gene (ids), bringing counts onto a set
(preprocess.gene_aligner), how much of a file a set covers (preprocess.coverage).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scmf.core import registry
from scmf.core.errors import ConfigError, DataError, GeneError
from scmf.core.files import write_text
from scmf.data.cards.card import list_cards, load_card
from scmf.data.genes.ids import ID_COLUMNS, SYMBOL_COLUMNS, GeneMap
from scmf.data.genes.species import species_of
from scmf.data.genes.vocabulary import annotation, human_genes, load_vocabulary, mouse_genes

_HUMAN, _MOUSE = "Homo sapiens", "Mus musculus"
_ANNOTATED = {
    "human_protein_coding": ("human-genes", _HUMAN, "protein_coding"),
    "human_all": ("human-genes", _HUMAN, None),
    "mouse_protein_coding": ("mouse-genes", _MOUSE, "protein_coding"),
    "mouse_all": ("mouse-genes", _MOUSE, None),
}
_FILES = (".txt", ".tsv", ".csv", ".json")


@dataclass(frozen=True)
class GeneSet:
    """Genes in a fixed order.

    Parameters
    ----------
    name
        What it is called in a configuration.
    genes
        Gene ids as the source writes them, without duplicates.
    species
        ``Homo sapiens``, ``Mus musculus``; empty when the ids do not tell.
    source
        Where the genes come from.
    card
        The card of the source; None for a file.
    """

    name: str
    genes: tuple[str, ...]
    species: str
    source: str
    card: str | None = None

    @property
    def sha256(self) -> str:
        """Digest of the genes in their order: the sha256 of a text file with one id a line, as `write` makes it."""
        return hashlib.sha256(_lines(self.genes).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.genes)

    def gene_map(self) -> GeneMap:
        """Other names of these genes, from the most fitting source.

        A vocabulary card brings its own table, as the published model uses it. Every other set takes the reference
        annotation of its species (`human_genes`, `mouse_genes`), or knows no other names when it has no species.

        """
        if self.card is not None and self.name not in _ANNOTATED:
            return load_vocabulary(self.card).gene_map()
        if self.species == _HUMAN:
            return human_genes()
        return mouse_genes() if self.species == _MOUSE else GeneMap(self.genes)

    def write(self, path: Path | str) -> Path:
        """Write one id a line; `load_gene_set` reads it back."""
        return write_text(path, _lines(self.genes))

    def to_json(self) -> dict[str, Any]:
        """All but the genes, as a JSON object."""
        facts = {"name": self.name, "n_genes": len(self.genes), "species": self.species}
        return {**facts, "source": self.source, "sha256": self.sha256}


def load_gene_set(name: str | Path) -> GeneSet:
    """A set of genes by name or from a file.

    Parameters
    ----------
    name
        One of

        ``human_protein_coding``
            The 20,120 genes whose ``gene_type`` is ``protein_coding`` in GENCODE v48, in the order of their
            Ensembl ids. The 13 mitochondrial ones are in; immunoglobulin and T-cell receptor segments, which have
            types of their own, are not. (HGNC calls 19,252 of the annotated genes "protein-coding gene", 19,213 of them
            the same; Geneformer V2 has 20,271 genes, 20,030 of them the same.)
        ``mouse_protein_coding``
            The same of GENCODE M37: 21,807 genes.
        ``human_all``, ``mouse_all``
            Every gene of these annotations: 78,894 and 78,317.
        a vocabulary card such as ``geneformer-v2``
            Its genes in the order of their token ids, without special tokens. By name or path (``.yaml``).
        a path
            ``.txt``: one id a line, ``#`` begins a comment. ``.tsv``, ``.csv``: the first column that is called like
            ids or symbols, else the first column. ``.json``: a list of ids, or an object id -> number (in the order
            of the numbers; names in ``<>`` are special tokens and left out).

    Raises
    ------
    ConfigError
        No such set.
    DataError
        The file cannot be read, or holds no genes.
    GeneError
        A gene is duplicated.
    SourceError, ChecksumError
        See `scmf.data.cards.sources.fetch`.
    """
    text = str(name)
    if text in _ANNOTATED:
        card, species, biotype = _ANNOTATED[text]
        table = annotation(card)
        chosen = table["gene"] if biotype is None else table["gene"][table["biotype"] == biotype]
        return GeneSet(text, tuple(sorted(chosen)), species, load_card(card).title, card)
    if text.endswith(_FILES):
        path = Path(name).expanduser()
        genes = _read(path)
        _refuse(genes, where=path)
        return GeneSet(path.stem, genes, species_of(genes), str(path))
    vocabularies = [card.name for card in list_cards(kind="vocabulary") if _has_tokens(card)]
    if text not in vocabularies and not text.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"gene set {text!r}",
            wanted="a named set, a vocabulary card, or a path to a .txt, .tsv, .csv or .json file",
            where="gene_set",
            fix=registry.did_you_mean(text, [*_ANNOTATED, *vocabularies]),
        )
    found = load_card(name)
    genes = tuple(load_vocabulary(found).genes)
    return GeneSet(found.name, genes, found.organism, found.title, str(found.path) if found.path else found.name)


def _has_tokens(card: Any) -> bool:
    return any(file.role == "tokens" for file in card.files)


def _lines(genes: Iterable[str]) -> str:
    return "".join(f"{gene}\n" for gene in genes)


def _refuse(genes: tuple[str, ...], *, where: Path) -> None:
    if not genes:
        raise DataError("no genes", wanted="at least one gene id", where=where, fix="check the file")
    twice = [gene for gene, count in Counter(genes).items() if count > 1]
    if twice:
        raise GeneError(
            f"{len(twice)} duplicated genes, the first is {twice[0]!r}",
            wanted="each gene once",
            where=where,
            fix="remove the repeated lines",
        )


def _read(path: Path) -> tuple[str, ...]:
    """Ids in a file, in its order."""
    try:
        if path.suffix == ".json":
            return _from_json(json.loads(path.read_text(encoding="utf-8")), where=path)
        if path.suffix == ".txt":
            lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
            return tuple(filter(None, lines))
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError("no such file", wanted="a file with gene ids", where=path, fix="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, not JSON, an empty or uneven table
        reason = str(error).splitlines()[0]
        raise DataError(f"not readable: {reason}", wanted="gene ids", where=path, fix="check the file") from error
    column = next((name for name in (*ID_COLUMNS, *SYMBOL_COLUMNS) if name in table), table.columns[0])
    return tuple(gene for gene in table[column].str.strip() if gene)


def _from_json(value: Any, *, where: Path) -> tuple[str, ...]:
    if isinstance(value, dict) and all(isinstance(number, int | float) for number in value.values()):
        value = sorted(value, key=value.__getitem__)
        value = [gene for gene in value if not (gene.startswith("<") and gene.endswith(">"))]
    if not isinstance(value, list) or not all(isinstance(gene, str) for gene in value):
        raise DataError(
            f"a JSON {type(value).__name__} of something else",
            wanted="a list of gene ids, or an object gene id -> number",
            where=where,
            fix="write the ids as a list",
        )
    return tuple(value)
