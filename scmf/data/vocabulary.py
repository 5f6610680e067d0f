"""Gene tables of a vocabulary card: token ids, medians, other names of a gene.

Lives here: reading the published dictionaries, which are pickles, without letting them run code; the
tables of GENCODE and HGNC (cards ``human-genes``, ``mouse-genes``). Lives elsewhere: getting the files (sources),
mapping with them (genes), named sets of genes (gene_vocab), turning cells into tokens (tokenizers).
"""

from __future__ import annotations

import csv
import gzip
import io
import pickle  # noqa: TID251  (the one place that reads pickles, and only through _Plain)
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.data.cards import Card, file_of, load_card
from scmf.data.genes import GeneMap, canonical
from scmf.data.sources import fetch_file
from scmf.errors import DataError

_ALLOWED = frozenset(
    [
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
    ]
)
"""What a dictionary of numbers needs besides the built-in types: the two pieces of a numpy scalar."""


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
    aliases
        Any known name of a gene, in upper case -> its Ensembl id. Values need not be tokens.
    """

    token_ids: dict[str, int]
    medians: dict[str, float]
    aliases: dict[str, str]

    @property
    def genes(self) -> list[str]:
        """Genes with a token, in the order of their ids; special tokens (``<pad>``) left out."""
        return [name for name in sorted(self.token_ids, key=self.token_ids.__getitem__) if not name.startswith("<")]

    def gene_map(self) -> GeneMap:
        """The mapping of any gene name to a gene with a token."""
        return GeneMap(self.genes, self.aliases)


def load_vocabulary(card: Card | str | Path, *, progress: bool = True) -> GeneTables:
    """Read the tables of a vocabulary card such as ``geneformer-v2``.

    Parameters
    ----------
    card
        A card, its name or its path.
    progress
        Show progress while files are fetched.

    Returns
    -------
    GeneTables
        Plain Python numbers and strings, exactly those of the published files.

    Raises
    ------
    DataError
        The card has no token table, or a file holds something else than a dictionary of numbers or names.
    ChecksumError, SourceError
        See `scmf.data.sources.fetch`.
    """
    card = card if isinstance(card, Card) else load_card(card)
    tables = {}
    for role, kind in (("tokens", int), ("medians", float), ("aliases", str)):
        file = file_of(card, role)
        path = fetch_file(card, file, progress=progress)
        tables[role] = _typed(read_pickle(path), kind, where=path)
    return GeneTables(token_ids=tables["tokens"], medians=tables["medians"], aliases=tables["aliases"])


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


def annotation(card: Card | str | Path, *, progress: bool = True) -> pd.DataFrame:
    """The GENCODE genes of a card, ``human-genes`` or ``mouse-genes``.

    Parameters
    ----------
    card
        A card with a file of the role ``gencode``, its name or its path.
    progress
        Show progress while the file is fetched.

    Returns
    -------
    DataFrame
        One row a gene in the order of the annotation, text columns ``gene`` (Ensembl id without version),
        ``symbol`` and ``biotype`` (the ``gene_type`` of GENCODE, for example ``protein_coding``).
    """
    card = card if isinstance(card, Card) else load_card(card)
    path = fetch_file(card, file_of(card, "gencode"), progress=progress)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        rows = [(gene, symbol, biotype) for gene, symbol, _version, _length, biotype in csv.reader(handle)]
    return pd.DataFrame(rows, columns=["gene", "symbol", "biotype"])


def mouse_genes(*, progress: bool = True) -> GeneMap:
    """GENCODE genes of the mouse with their symbols (card ``mouse-genes``).

    A symbol of several genes is ambiguous and maps to nothing. The card knows no previous symbols and aliases.

    Parameters
    ----------
    progress
        Show progress while the file is fetched.
    """
    table = annotation("mouse-genes", progress=progress)
    names = table["symbol"].map(canonical)
    twice = names.duplicated(keep=False)
    unique = dict(zip(names[~twice], table["gene"][~twice], strict=True))
    return GeneMap(table["gene"], unique, ambiguous=names[twice])


def human_genes(*, progress: bool = True) -> GeneMap:
    """GENCODE genes with symbols, aliases and previous symbols of GENCODE and HGNC (card ``human-genes``).

    Trust goes: approved symbol and Ensembl id of HGNC, then symbols that GENCODE gives to one gene only,
    then previous symbols, then aliases. A name that stands for several genes at its level is ambiguous
    and maps to nothing. So does the approved symbol of a gene that GENCODE does not have (``TRB``, a locus),
    even where it is an alias of another (``THRB``).

    Parameters
    ----------
    progress
        Show progress while files are fetched.
    """
    card = load_card("human-genes")
    hgnc = fetch_file(card, file_of(card, "hgnc"), progress=progress)
    gencode = annotation(card, progress=progress)

    known: list[str] = gencode["gene"].tolist()
    symbols: dict[str, set[str]] = defaultdict(set)
    for gene, symbol in zip(known, gencode["symbol"], strict=True):
        symbols[canonical(symbol)].add(gene)
    current = set(known)

    approved: dict[str, set[str]] = defaultdict(set)
    elsewhere: dict[str, set[str]] = {}
    previous: dict[str, set[str]] = defaultdict(set)
    aliases: dict[str, set[str]] = defaultdict(set)
    with gzip.open(hgnc, "rt", encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE):
            if (gene := row["ensembl_gene_id"]) not in current:
                elsewhere[canonical(row["symbol"])] = set()
                continue
            approved[canonical(row["symbol"])].add(gene)
            for table, key in ((previous, "prev_symbol"), (aliases, "alias_symbol")):
                for name in filter(None, row[key].split("|")):
                    table[canonical(name)].add(gene)

    levels = (approved, symbols, elsewhere, previous, aliases)
    unique: list[dict[str, str]] = []
    decided: set[str] = set()
    ambiguous: set[str] = set()
    for level in levels:
        unique.append(
            {name: next(iter(genes)) for name, genes in level.items() if len(genes) == 1 and name not in decided}
        )
        ambiguous |= {name for name, genes in level.items() if len(genes) > 1 and name not in decided}
        decided |= level.keys()
    return GeneMap(known, *unique, ambiguous=ambiguous)
