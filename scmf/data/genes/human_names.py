"""Every name of a human gene, by how far it is to be trusted, and the names of the genes of a symbol vocabulary.

Lives here: `HumanNames` (GENCODE and HGNC read together), what a vocabulary of symbols (scGPT, scFoundation) gains
from them. Lives elsewhere: the card of the annotation and its files (vocabulary), mapping with a table (genes).

Legend: a *level* is a kind of name; levels stand in the order of trust.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import ChainMap, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from scmf.data.genes.ids import GeneMap, folded, is_ensembl

_WITH_ID = re.compile(r"_(ENSG\d{11})$")
"""The end of a symbol that CELLxGENE made unique: ``SIGLEC5_ENSG00000268500``."""


@dataclass(frozen=True)
class SymbolNames:
    """Other names of the genes of a vocabulary of symbols.

    Parameters
    ----------
    aliases
        Ensembl id, previous symbol or alias -> the gene as the vocabulary writes it.
    ambiguous
        Names, in upper case, that could be several genes of the vocabulary; they are in no alias.
    ids
        Gene as the vocabulary writes it -> its Ensembl id, where that is certain.
    """

    aliases: dict[str, str]
    ambiguous: frozenset[str]
    ids: dict[str, str]


@dataclass(frozen=True)
class HumanNames:
    """Names of human genes.

    Parameters
    ----------
    genes
        Ensembl ids of GENCODE, in its order.
    levels
        Tables name in upper case -> genes, in the order of trust: approved symbol of HGNC, symbol of GENCODE, approved
        symbol of a gene that GENCODE does not have (no genes), previous symbol, alias.
    written
        Symbols and previous symbols that are not in upper case (``C10orf105``), by their upper case.
    spelled
        The same of aliases (``hsa-mir-8072``).
    """

    genes: tuple[str, ...]
    levels: tuple[Mapping[str, set[str]], ...]
    written: Mapping[str, str]
    spelled: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, gencode: pd.DataFrame, hgnc: Path) -> HumanNames:
        """Put the two annotations together.

        Parameters
        ----------
        gencode
            As `scmf.data.genes.vocabulary.annotation` returns it.
        hgnc
            The complete set of HGNC, ``.tsv.gz``.
        """
        known: list[str] = gencode["gene"].tolist()
        written: dict[str, str] = {}
        spelled: dict[str, str] = {}
        symbols: dict[str, set[str]] = defaultdict(set)
        for gene, symbol in zip(known, gencode["symbol"], strict=True):
            symbols[_note(symbol, written)].add(gene)
        current = set(known)

        approved: dict[str, set[str]] = defaultdict(set)
        elsewhere: dict[str, set[str]] = {}
        previous: dict[str, set[str]] = defaultdict(set)
        aliases: dict[str, set[str]] = defaultdict(set)
        with gzip.open(hgnc, "rt", encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE):
                if (gene := row["ensembl_gene_id"]) not in current:
                    elsewhere[folded(row["symbol"])] = set()
                    continue
                approved[_note(row["symbol"], written)].add(gene)
                for name in filter(None, row["prev_symbol"].split("|")):
                    previous[_note(name, written)].add(gene)
                for name in filter(None, row["alias_symbol"].split("|")):
                    aliases[_note(name, spelled)].add(gene)
        return cls(tuple(known), (approved, symbols, elsewhere, previous, aliases), written, spelled)

    def decided(self) -> tuple[dict[str, tuple[int, str]], set[str]]:
        """Name -> number of the level that decides it and its gene; and the names of several genes at that level."""
        names: dict[str, tuple[int, str]] = {}
        ambiguous: set[str] = set()
        seen: set[str] = set()
        for number, level in enumerate(self.levels):
            for name, genes in level.items():
                if name in seen:
                    continue
                if len(genes) == 1:
                    names[name] = number, next(iter(genes))
                elif genes:
                    ambiguous.add(name)
            seen |= level.keys()
        return names, ambiguous

    def gene_map(self) -> GeneMap:
        """Any name -> Ensembl id."""
        names, ambiguous = self.decided()
        upper = {name: gene for name, (_, gene) in names.items()}
        mixed = ChainMap(dict(self.written), dict(self.spelled))
        written = {mixed[name]: gene for name, gene in upper.items() if name in mixed}
        also = {mixed[name] for name in ambiguous if name in mixed}
        return GeneMap(self.genes, upper, written, ambiguous=ambiguous | also)

    def of_symbols(self, symbols: Iterable[str]) -> SymbolNames:
        """What other names lead to the genes of a vocabulary of symbols.

        A gene of the vocabulary is found by the most trusted level that knows its symbol; one that carries its Ensembl
        id in its name (``SIGLEC5_ENSG00000268500``) by that. Where two genes of the vocabulary are one Ensembl gene,
        other names lead to the one of the more trusted level, and to none where the level is the same. A name of the
        vocabulary itself is never the other name of another gene.

        Parameters
        ----------
        symbols
            Genes as the vocabulary writes them.
        """
        symbols = list(symbols)
        exact, own = set(symbols), {folded(symbol) for symbol in symbols}
        names, ambiguous = self.decided()
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for symbol in symbols:
            name = folded(symbol)
            if is_ensembl(symbol):
                found[name].append((-2 if name == symbol else -1, symbol))
            elif with_id := _WITH_ID.search(symbol):
                found[with_id.group(1)].append((-1, symbol))
            elif name in names:
                level, gene = names[name]
                found[gene].append((level, symbol))
        chosen: dict[str, str] = {}
        unclear: set[str] = set()
        for gene, candidates in found.items():
            candidates.sort()
            if len(candidates) > 1 and candidates[0][0] == candidates[1][0]:
                unclear.add(gene)
            else:
                chosen[gene] = candidates[0][1]
        aliases = {symbol.upper(): symbol for symbol in symbols if symbol != symbol.upper()}
        aliases |= {gene: symbol for gene, symbol in chosen.items() if gene not in exact}
        left_out = {gene for gene in unclear if gene not in own}
        for name, (_, gene) in names.items():
            if name in own:
                continue
            if gene in unclear:
                left_out.add(name)
            elif gene in chosen:
                aliases[name] = chosen[gene]
                if name in self.written:
                    aliases[self.written[name]] = chosen[gene]
        reachable = chosen.keys() | unclear
        for name in ambiguous - own:
            genes = next(level[name] for level in self.levels if name in level)
            if genes & reachable:
                left_out.add(name)
        return SymbolNames(aliases, frozenset(left_out), {symbol: gene for gene, symbol in chosen.items()})


def _note(name: str, written: dict[str, str]) -> str:
    """The name in upper case; how it is written is kept where that differs."""
    upper = folded(name)
    if upper != name:
        written.setdefault(upper, name)
    return upper
