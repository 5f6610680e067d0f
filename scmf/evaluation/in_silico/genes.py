"""Genes as a user names them, as tokens of a model.

Lives here: `named_genes`. A name is looked for in the vocabulary and its aliases, among the symbols of the file, among
the orthologs of a model that reads mouse cells, and among the names of human genes. Lives elsewhere: the tables
(scmf.data.genes), what is done to the genes (edits).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from scmf.core.errors import DataError, GeneError, ScmfError
from scmf.data.genes.ids import canonical
from scmf.data.genes.species import HUMAN, species_read
from scmf.data.genes.vocabulary import human_genes
from scmf.data.loading.facts import LoadedCells
from scmf.tokenizers.coverage import gene_tokens
from scmf.tokenizers.species import genes_of


class Gene(NamedTuple):
    """A gene of a vocabulary: its token, its name there, and its symbol where that is known."""

    token: int
    name: str
    symbol: str = ""


def every_gene(tokenizer: Any, cells: LoadedCells) -> list[Gene]:
    """All genes of a vocabulary, in the order of their tokens."""
    vocabulary, symbols = tokenizer.get_vocab(), _symbols(tokenizer, cells)
    return [Gene(vocabulary[name], name, symbols.get(vocabulary[name], "")) for name in genes_of(tokenizer)]


def named_genes(words: Sequence[str], tokenizer: Any, cells: LoadedCells) -> list[Gene]:
    """The genes that a user names, in that order, each once.

    Parameters
    ----------
    words
        Symbols or Ensembl ids.
    tokenizer
        Of the model.
    cells
        As they were loaded, with the names of the file.

    Raises
    ------
    GeneError
        Names that the vocabulary does not have, each with the nearest that it has.
    """
    called = {number: token for token, number in tokenizer.get_vocab().items()}
    symbols = _symbols(tokenizer, cells)
    tokens = {word: _found(word, tokenizer, cells, symbols, called) for word in words}
    if unknown := [word for word, token in tokens.items() if token < 0]:
        ids = zip(unknown, _human(unknown, tokenizer), strict=True)
        tokens |= {word: _token(tokenizer, [gene]) for word, gene in ids if gene}
    if unknown := [word for word, token in tokens.items() if token < 0]:
        known = genes_of(tokenizer)
        nearest = [(word, _nearest(word, [*known, *symbols.values()])) for word in unknown[:8]]
        said = ", ".join(f"{word!r}" + (f" (nearest: {near})" if near else "") for word, near in nearest)
        raise GeneError(
            f"{len(unknown)} of {len(words)} genes that the model does not know: {said}",
            wanted=f"symbols or Ensembl ids of its {len(known):,} genes, such as {known[0]}", where="--genes",
            fix="correct the names, or leave these genes out",
        )  # fmt: skip
    found: dict[int, Gene] = {}
    for word, token in tokens.items():
        name = called[token]
        found.setdefault(token, Gene(token, name, symbols.get(token, "" if canonical(word) == name else word)))
    return list(found.values())


def _found(word: str, tokenizer: Any, cells: LoadedCells, symbols: Mapping[int, str], called: Mapping[int, str]) -> int:
    """The token of a gene by the names of the vocabulary, of the file and of orthologs; -1 for none."""
    if (token := _token(tokenizer, [word, canonical(word)])) >= 0:
        return token
    held = [token for token, symbol in symbols.items() if symbol == word]
    if len(held) > 1:
        raise GeneError(
            f"the symbol {word!r} of {', '.join(sorted(called[token] for token in held))}", wanted="one gene",
            where="--genes", fix="give the id of the gene that is meant",
        )  # fmt: skip
    if held:
        return held[0]
    other = [str(cells.var.loc[word, "symbol"])] if "symbol" in cells.var and word in cells.var_names else []
    orthologs = getattr(tokenizer, "gene_orthologs", {})
    other += [orthologs[name] for name in (canonical(word), word.upper()) if name in orthologs]
    return _token(tokenizer, other)


def _token(tokenizer: Any, names: Iterable[str]) -> int:
    """The token of the first name that has one, -1 for none."""
    for name in names:
        with suppress(DataError):  # no name is known
            return int(gene_tokens(tokenizer, [name], where="--genes").token_G[0])
    return -1


def _human(words: Sequence[str], tokenizer: Any) -> list[str]:
    """Ensembl ids of human genes by any of their names, for a vocabulary of such ids.

    Empty where there is none, or no table of human genes can be had.
    """
    if HUMAN not in species_read(genes_of(tokenizer)):
        return [""] * len(words)
    try:
        return [str(name) for name in human_genes().map(words)[0]]
    except ScmfError:
        return [""] * len(words)


def _symbols(tokenizer: Any, cells: LoadedCells) -> dict[int, str]:
    """Token -> symbol that the file gives its gene."""
    if "symbol" not in cells.var:
        return {}
    table = getattr(tokenizer, "gene_orthologs", {})
    names = [table.get(canonical(name), name) for name in cells.var_names.tolist()]
    try:
        token_G = gene_tokens(tokenizer, names, where=cells.facts.dataset).token_G
    except DataError:  # no name is known
        return {}
    known = np.flatnonzero(token_G >= 0)
    symbols = cells.var["symbol"].astype(str).to_numpy()
    return {int(token_G[column]): symbols[column] for column in known[::-1] if symbols[column]}


def _nearest(word: str, known: Sequence[str]) -> str:
    """The known name that is written most alike, whatever its case; empty where none is."""
    upper = {name.upper(): name for name in known}
    close = difflib.get_close_matches(word.strip().upper(), list(upper), n=1, cutoff=0.5)
    return upper[close[0]] if close else ""
