"""Gene tables of a vocabulary card: token ids, medians, other names of a gene.

Lives here: reading the published dictionaries (pickles, without letting them run code; JSON; TSV); the tables of
GENCODE and HGNC (cards ``human-genes``, ``mouse-genes``). Lives elsewhere: getting the files (sources), all names of a
human gene (human_names), mapping with them (genes), named sets of genes (gene_set), turning cells into tokens
(tokenizers).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle  # noqa: TID251  (the one place that reads pickles, and only through _Plain)
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.errors import DataError
from scmf.core.files import read_object
from scmf.data.cards.card import Card, file_of, load_card
from scmf.data.cards.sources import fetch_file
from scmf.data.genes.human_names import HumanNames
from scmf.data.genes.ids import GeneMap, folded

_ALLOWED = frozenset(
    [
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
    ]
)
"""What a dictionary of numbers needs besides the built-in types: the two pieces of a numpy scalar."""
SCGPT_TOKENS = ("<pad>", "<cls>", "<eoc>")
"""What scGPT appends to a vocabulary in JSON that has them not yet, in this order."""
SCFOUNDATION_TOKENS = ("<T>", "<S>", "<pad>")
"""What scFoundation counts on behind its list of genes: depth to reach, depth of the cell, padding."""
TRANSCRIPTFORMER_TOKENS = ("unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]")
"""Special tokens of TranscriptFormer, in the order of its released models."""


@dataclass(frozen=True)
class GeneTables:
    """What a vocabulary says about genes.

    Parameters
    ----------
    token_ids
        Gene or special token -> token id.
    medians
        Gene -> non-zero median of its expression (per 10,000 counts) in the corpus. May hold genes
        that are no tokens.
        Empty where the model knows no medians.
    aliases
        Any known name of a gene, in upper case (symbols also as they are written) -> the gene of the vocabulary.
        Values need not be tokens.
    ambiguous
        Names of several genes of the vocabulary, in upper case; they map to nothing.
    """

    token_ids: dict[str, int]
    medians: dict[str, float]
    aliases: dict[str, str]
    ambiguous: frozenset[str] = frozenset()

    @property
    def genes(self) -> list[str]:
        """Genes with a token, in the order of their ids; special tokens (``<pad>``, ``[PAD]``) left out."""
        ordered = sorted(self.token_ids, key=self.token_ids.__getitem__)
        return [name for name in ordered if not name.startswith("<") and name not in TRANSCRIPTFORMER_TOKENS]

    def gene_map(self) -> GeneMap:
        """The mapping of any gene name to a gene with a token."""
        return GeneMap(self.genes, self.aliases, ambiguous=self.ambiguous)


def load_vocabulary(card: Card | str | Path) -> GeneTables:
    """Read the tables of a vocabulary card such as ``geneformer-v2``, ``scgpt-human`` or ``scfoundation``.

    A token table is a pickled dictionary (Geneformer), a JSON object gene -> id (scGPT; its three special tokens are
    appended where they are missing, as the official code does) or a TSV with the columns ``gene_name`` and ``index``
    (scFoundation; `SCFOUNDATION_TOKENS` are appended, ids 19264 to 19266). Where the card brings no table of other
    names, a human vocabulary gets those of the card ``human-genes``, see
    `scmf.data.genes.human_names.HumanNames.of_symbols`.

    Parameters
    ----------
    card
        A card, its name or its path; or the folder of a saved tokenizer.

    Returns
    -------
    GeneTables
        Plain Python numbers and strings, exactly those of the published files.

    Raises
    ------
    DataError
        The card has no token table, or a file holds something else than a dictionary of numbers or names.
    ChecksumError, SourceError
        See `scmf.data.cards.sources.fetch`.
    """
    if not isinstance(card, Card) and (Path(card) / "tokenizer_config.json").is_file():
        return _saved(Path(card))
    card = card if isinstance(card, Card) else load_card(card)
    tokens = read_tokens(fetch_file(card, file_of(card, "tokens")))
    tables: dict[str, dict[str, Any]] = {}
    for role, kind in (("medians", float), ("aliases", str)):
        if any(file.role == role for file in card.files):
            path = fetch_file(card, file_of(card, role))
            tables[role] = _typed(read_pickle(path), kind, where=path)
    found = GeneTables(tokens, tables.get("medians", {}), tables.get("aliases", {}))
    if "aliases" in tables or card.organism != "Homo sapiens":
        return found
    names = human_names().of_symbols(found.genes)
    return GeneTables(tokens, found.medians, names.aliases, names.ambiguous)


def _saved(folder: Path) -> GeneTables:
    """The tables that a tokenizer of ours was saved with."""
    paths = [folder / name for name in ("vocab.json", "gene_medians.json", "gene_aliases.json")]
    tables = [
        read_object(path, kind=DataError, wanted="a JSON object", fix="save it again") if path.is_file() else {}
        for path in paths
    ]
    if not tables[0]:
        raise DataError(
            "no vocab.json with tokens", wanted="a saved tokenizer", where=folder, fix="name a card or another folder"
        )
    return GeneTables(tables[0], tables[1], tables[2])


def read_tokens(path: Path) -> dict[str, int]:
    """Token -> id of a pickled, ``.json`` or ``.tsv`` table; special tokens appended as in `load_vocabulary`.

    Raises
    ------
    DataError
        Not such a table, a token or an id twice.
    """
    if path.suffix == ".json":
        tokens = _typed(_read_json(path), int, where=path)
        special = () if "[PAD]" in tokens else SCGPT_TOKENS
    elif path.suffix == ".tsv":
        tokens, special = _read_tsv(path), SCFOUNDATION_TOKENS
    else:
        tokens, special = _typed(read_pickle(path), int, where=path), ()
    if not tokens or len(set(tokens.values())) < len(tokens) or min(tokens.values()) < 0:
        twice = len(tokens) - len(set(tokens.values()))
        raise DataError(
            f"{len(tokens):,} tokens, {twice} ids given twice, lowest id {min(tokens.values(), default=None)}",
            wanted="at least one token, one id each, ids from 0",
            where=path,
            fix="fetch the file of the card again",
        )
    for token in special:
        tokens.setdefault(token, max(tokens.values()) + 1)
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"a name stands twice: {next(name for name in names if names.count(name) > 1)!r}")
        return table

    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except ValueError as error:
        raise DataError(
            f"not readable: {error}", wanted="a JSON object gene -> id", where=path, fix="fetch the file again"
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"a JSON {type(value).__name__}", wanted="an object gene -> id", where=path, fix="correct the card's role"
        )
    return value


def _read_tsv(path: Path) -> dict[str, int]:
    columns = ["gene_name", "index"]
    with path.open(encoding="utf-8", newline="") as handle:
        lines = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = [row for row in lines if row]
    bad = next((number for number, row in enumerate(rows[1:], 2) if len(row) != 2 or not row[1].isdecimal()), None)
    if rows[:1] != [columns] or bad is not None:
        raise DataError(
            f"line {bad}: {rows[bad - 1]}" if bad else f"header {rows[0] if rows else []}",
            wanted="the columns gene_name and index, a name and a number a line",
            where=path,
            fix="fetch the file of the card again",
        )
    tokens = {name: int(index) for name, index in rows[1:]}
    if len(tokens) < len(rows) - 1:
        raise DataError("a gene stands twice", wanted="each once", where=path, fix="fetch the file of the card again")
    return tokens


class _Plain(pickle.Unpickler):
    """Unpickles dict, list, str, int, float and numpy scalars; refuses every other class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        if name == "scalar":
            return _scalar
        return super().find_class(module, name)


def _scalar(dtype: Any, data: object) -> Any:
    """The value of a pickled numpy scalar as a Python number; takes numbers only, never objects."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "iuf" or not isinstance(data, bytes):
        raise pickle.UnpicklingError("holds a numpy scalar that is no number")
    return np.frombuffer(data, dtype=dtype, count=1)[0].item()


def read_pickle(path: Path) -> dict[str, Any]:
    """A pickled dictionary of names and numbers. No code of the file is run.

    Call it only with a file whose checksum was compared with a card.
    """
    try:
        value = _Plain(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"a pickle that {error}" if str(error).startswith(("asks", "holds")) else f"not a pickle: {error}",
            wanted="a dictionary of names and numbers",
            where=path,
            fix="do not open it with anything else; fetch the file of the card again",
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"a {type(value).__name__}", wanted="a dictionary", where=path, fix="correct the card's role")
    return value


def _typed(table: dict[Any, Any], kind: type, *, where: Path) -> dict[str, Any]:
    for name, value in table.items():
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not isinstance(name, str) or not fits or isinstance(value, bool):
            raise DataError(
                f"entry {name!r}: {value!r}",
                wanted=f"a name and a {kind.__name__}",
                where=where,
                fix="correct the role of the file in its card",
            )
    return {name: kind(value) for name, value in table.items()}


# --- the reference annotation ---------------------------------------------------------------------


def annotation(card: Card | str | Path) -> pd.DataFrame:
    """The GENCODE genes of a card, ``human-genes`` or ``mouse-genes``.

    Parameters
    ----------
    card
        A card with a file of the role ``gencode``, its name or its path.

    Returns
    -------
    DataFrame
        One row a gene in the order of the annotation, text columns ``gene`` (Ensembl id without version),
        ``symbol`` and ``biotype`` (the ``gene_type`` of GENCODE, for example ``protein_coding``).
    """
    card = card if isinstance(card, Card) else load_card(card)
    return _gencode(*_checked(card, "gencode")).copy()


def _checked(card: Card, role: str) -> tuple[Path, str]:
    """A file of a card and its digest, under which what was read of it is kept."""
    file = file_of(card, role)
    return fetch_file(card, file), file.sha256


@lru_cache(maxsize=4)
def _gencode(path: Path, sha256: str) -> pd.DataFrame:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        rows = [(gene, symbol, biotype) for gene, symbol, _version, _length, biotype in csv.reader(handle)]
    return pd.DataFrame(rows, columns=["gene", "symbol", "biotype"])


def mouse_genes() -> GeneMap:
    """GENCODE genes of the mouse with their symbols (card ``mouse-genes``).

    A symbol of several genes is ambiguous and maps to nothing. The card knows no previous symbols and aliases.

    """
    return _mouse_map(*_checked(load_card("mouse-genes"), "gencode"))


@lru_cache(maxsize=2)
def _mouse_map(gencode: Path, sha256: str) -> GeneMap:
    table = _gencode(gencode, sha256)
    twice = table["symbol"].map(folded).duplicated(keep=False)
    unique = dict(zip(table["symbol"][~twice], table["gene"][~twice], strict=True))
    return GeneMap(table["gene"], unique, ambiguous=table["symbol"][twice])


def human_names() -> HumanNames:
    """All names of human genes (card ``human-genes``), by how far they are to be trusted."""
    card = load_card("human-genes")
    return _human_names(*_checked(card, "gencode"), *_checked(card, "hgnc"))


@lru_cache(maxsize=2)
def _human_names(gencode: Path, sha256: str, hgnc: Path, hgnc_sha256: str) -> HumanNames:
    return HumanNames.read(_gencode(gencode, sha256), hgnc)


@lru_cache(maxsize=2)
def _human_map(gencode: Path, sha256: str, hgnc: Path, hgnc_sha256: str) -> GeneMap:
    return _human_names(gencode, sha256, hgnc, hgnc_sha256).gene_map()


def human_genes() -> GeneMap:
    """GENCODE genes with symbols, aliases and previous symbols of GENCODE and HGNC (card ``human-genes``).

    Trust goes: approved symbol and Ensembl id of HGNC, then symbols that GENCODE gives to one gene only,
    then previous symbols, then aliases. A name that stands for several genes at its level is ambiguous
    and maps to nothing. So does the approved symbol of a gene that GENCODE does not have (``TRB``, a locus),
    even where it is an alias of another (``THRB``).

    """
    card = load_card("human-genes")
    return _human_map(*_checked(card, "gencode"), *_checked(card, "hgnc"))
