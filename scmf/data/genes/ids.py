"""Gene ids: what kind they are, their canonical form, and one mapping to Ensembl for all tokenizers.

Lives here: telling Ensembl ids, symbols and other species apart, version suffixes, finding the id column
of a gene table, `GeneMap` (symbol, alias, previous symbol or retired id -> current id).
Lives elsewhere: the tables themselves (vocabulary; cards ``human-genes``, ``geneformer-v2``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from scmf.core import registry
from scmf.core.errors import DataError, GeneError
from scmf.data.genes.feature_types import genes_by_type

_ENSEMBL = re.compile(r"^(ENS[A-Z]{0,6}G\d{11})(\.\d+)?(_PAR_Y)?$", re.IGNORECASE)
_OTHER_SPECIES = re.compile(r"^(FBgn\d{7}|WBGene\d{8}|AT[1-5CM]G\d{5}|Y[A-P][LR]\d{3}[CW])$", re.IGNORECASE)
_EXCEL_DATE = re.compile(r"^\d{1,2}-(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)$", re.IGNORECASE)
_SPECIES = {"": "Homo sapiens", "MUS": "Mus musculus", "RNO": "Rattus norvegicus", "DAR": "Danio rerio"}

ID_COLUMNS = (
    "ensembl_id", "gene_ids", "gene_id", "feature_id", "ensembl_gene_id", "ensembl", "ENSEMBL", "Ensembl",
)  # fmt: skip
"""Columns of ``var`` in which Ensembl ids are usually kept, in the order they are looked at."""
SYMBOL_COLUMNS = (
    "symbol", "feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "gene_short_name", "Symbol",
)  # fmt: skip
"""Columns of ``var`` in which symbols are usually kept."""


MISSING_TEXTS = frozenset({"", "nan", "NaN", "NAN", "<NA>", "None"})
"""What missing values become where a column was turned into text; spaces around do not count."""


def strip_version(gene: str) -> str:
    """``ENSG00000000003.15`` -> ``ENSG00000000003``; anything that is no Ensembl id stays as it is.

    The ids of the pseudoautosomal copies on Y (``ENSG00000182378.13_PAR_Y``) become those of X, as in
    every reference since Ensembl 110.
    """
    found = _ENSEMBL.match(gene)
    return found.group(1) if found else gene


def is_ensembl(gene: str) -> bool:
    """Whether a name is an Ensembl gene id of any vertebrate, with or without version."""
    return _ENSEMBL.match(gene) is not None


def canonical(gene: str) -> str:
    """The form in which names are compared: no spaces around; Ensembl ids without version, in upper case.

    Symbols keep their case: ``Gpi1`` of the mouse is not ``GPI1``, an alias of the human gene PIGQ. The one exception
    is ``C10orf105``, which many tables write ``C10ORF105``.
    """
    name = str(gene).strip()
    if _ENSEMBL.match(name):
        return strip_version(name).upper()
    upper = name.upper()
    return upper if name.replace("orf", "ORF") == upper else name


def folded(gene: str) -> str:
    """A name without version and in upper case, for tables of one species alone."""
    return strip_version(str(gene).strip()).upper()


@dataclass(frozen=True)
class IdKind:
    """What the gene ids of a matrix are.

    Parameters
    ----------
    kind
        What most of them are: ``ensembl``, ``symbol``, ``entrez``, ``other`` (another database or species)
        or ``mixed`` when nothing reaches nine of ten.
    species
        Species as far as Ensembl ids tell; empty when they do not. Symbols tell nothing here: see
        `scmf.data.genes.species.species_of`.
    share
        Share of the ids that are of this kind.
    n_versioned, n_not_upper, n_excel_dates
        Ids with a version suffix, Ensembl ids in lower case, symbols turned into dates by a spreadsheet.
    by_species
        Species of the Ensembl ids and their numbers, the largest first; a species with less than one in a hundred
        (a transgene, say) is left out.
    """

    kind: Literal["ensembl", "symbol", "entrez", "other", "mixed"]
    species: str
    share: float
    n_versioned: int
    n_not_upper: int
    n_excel_dates: int
    by_species: tuple[tuple[str, int], ...] = ()

    @property
    def is_mixture(self) -> bool:
        """Whether Ensembl ids of two species or more stand side by side."""
        return len(self.by_species) > 1

    def __str__(self) -> str:
        if self.is_mixture:
            return "Ensembl ids, " + ", ".join(f"{n:,} of {name}" for name, n in self.by_species)
        names = {"ensembl": "Ensembl ids", "symbol": "gene symbols", "entrez": "Entrez numbers"}
        return names.get(self.kind, f"{self.kind} ids") + (f" of {self.species}" if self.species else "")


def detect(genes: Iterable[str]) -> IdKind:
    """Tell what kind of ids ``genes`` are. Spike-ins (``ERCC-...``) count neither way."""
    ids = [str(gene).strip() for gene in genes if not str(gene).startswith(("ERCC-", "ercc-"))]
    kinds: Counter[str] = Counter()
    species: Counter[str] = Counter()
    versioned = not_upper = dates = 0
    for gene in ids:
        if found := _ENSEMBL.match(gene):
            kinds["ensembl"] += 1
            species[found.group(1)[3:-12].upper()] += 1
            versioned += found.group(2) is not None
            not_upper += gene != gene.upper()
        elif _OTHER_SPECIES.match(gene):
            kinds["other"] += 1
        elif gene.isdigit():
            kinds["entrez"] += 1
        else:
            kinds["symbol"] += 1
            dates += _EXCEL_DATE.match(gene) is not None
    if not ids:
        return IdKind("other", "", 0.0, 0, 0, 0)
    kind, count = kinds.most_common(1)[0]
    share = count / len(ids)
    if share < 0.9:
        kind = "mixed"
    name = ""
    if kind == "ensembl":
        prefix, _ = species.most_common(1)[0]
        name = _SPECIES.get(prefix, f"species ENS{prefix}")
    several = [(prefix, n) for prefix, n in species.most_common() if n >= 0.01 * len(ids)]
    told = tuple((_SPECIES.get(prefix, f"species ENS{prefix}"), n) for prefix, n in several)
    return IdKind(kind, name, share, versioned, not_upper, dates, told)  # type: ignore[arg-type]


def pick_ids(var: pd.DataFrame, where: str, *, path: object) -> tuple[np.ndarray, str]:
    """Gene ids of a matrix and where they were found.

    Parameters
    ----------
    var
        The gene table.
    where
        ``var_names``, a column of ``var``, or ``auto``: ``var_names`` when they are Ensembl ids, else the
        first column (`ID_COLUMNS`) that holds Ensembl ids, else the column ``ensembl_id`` whatever it holds
        (Geneformer files keep their ids there), else ``var_names``. Of columns that are no genes it does not matter
        what they are called.
    path
        How to call the file in an error.

    Returns
    -------
    tuple
        Ids as they are written (object array, one a gene), and ``var_names`` or the column.
    """
    if where == "auto":
        where, genes = "var_names", var[genes_by_type(var)[0]]
        if detect(genes.index).kind != "ensembl":
            holds = [column for column in ID_COLUMNS if column in var and detect(genes[column]).kind == "ensembl"]
            where = holds[0] if holds else ("ensembl_id" if "ensembl_id" in var else "var_names")
    return _column(var, where, path=path, key="data.gene_ids"), where


def pick_symbols(var: pd.DataFrame, where: str | None, *, ids_from: str, path: object) -> np.ndarray | None:
    """Gene symbols of a matrix, or None when the file has none.

    Parameters
    ----------
    var
        The gene table.
    where
        ``var_names`` or a column of ``var``; None looks at `SYMBOL_COLUMNS` and then at ``var_names``.
    ids_from
        Where the ids were found, see `pick_ids`.
    path
        How to call the file in an error.
    """
    if where is not None:
        return _column(var, where, path=path, key="gene_symbols")
    for column in SYMBOL_COLUMNS:
        if column in var and column != ids_from:
            return _column(var, column, path=path, key="gene_symbols")
    return _column(var, "var_names", path=path, key="gene_symbols") if detect(var.index).kind == "symbol" else None


def _column(var: pd.DataFrame, where: str, *, path: object, key: str) -> np.ndarray:
    if where == "var_names":
        return _texts(pd.Series(var.index.astype(object)))
    if where not in var:
        known = ["var_names", *map(str, var.columns)]
        raise DataError(f"no column {where!r} in var", wanted=key, where=path, fix=registry.did_you_mean(where, known))
    return _texts(var[where])


def _texts(values: pd.Series) -> np.ndarray:
    """Ids as text, empty where there is none: NaN, empty text, and the text that NaN becomes."""
    texts = values.astype(object).where(values.notna(), "").astype(str).to_numpy(dtype=object)
    texts[np.array([one.strip() in MISSING_TEXTS for one in texts], bool)] = ""
    return texts


# --- the mapping ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapReport:
    """How ids were mapped; the counts add up to ``n``.

    Parameters
    ----------
    n
        Ids given.
    exact
        Known as they are written.
    normalized
        Known after removing a version suffix, spaces or the lower case of an Ensembl id.
    alias
        Known by another name: symbol, alias, previous symbol or retired id.
    ambiguous
        A name of several genes; left unmapped.
    unknown
        Not known.
    collisions
        Canonical id -> the given ids that share it, where there are several.
    """

    n: int
    exact: int = 0
    normalized: int = 0
    alias: int = 0
    ambiguous: int = 0
    unknown: int = 0
    collisions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def mapped(self) -> int:
        """Ids that have a canonical id."""
        return self.exact + self.normalized + self.alias

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "mapped": self.mapped}


class GeneMap:
    """Any way to write a gene -> its current id.

    Parameters
    ----------
    known
        Current ids. They map to themselves and win over every alias.
    aliases
        Tables other name -> current id, the more trusted first. Names are compared as `canonical` writes them;
        values that are not ``known`` are left out.
    ambiguous
        Names that stand for several genes.
    """

    def __init__(self, known: Iterable[str], *aliases: Mapping[str, str], ambiguous: Iterable[str] = ()) -> None:
        self.known = frozenset(canonical(gene) for gene in known)
        self.aliases: dict[str, str] = {}
        for table in aliases:
            for name, gene in table.items():
                if (current := canonical(gene)) in self.known:
                    self.aliases.setdefault(canonical(name), current)
        self.ambiguous = frozenset(canonical(name) for name in ambiguous) - self.aliases.keys() - self.known

    def map(self, ids: Sequence[str] | np.ndarray) -> tuple[np.ndarray, MapReport]:
        """Map ``ids``.

        Returns
        -------
        tuple
            Canonical ids (object array of the same length, ``""`` where unknown or ambiguous) and the report.
        """
        mapped: list[str] = []
        how: Counter[str] = Counter()
        for gene in ids:
            name = canonical(gene)
            if name in self.known:
                how["exact" if name == gene else "normalized"] += 1
                mapped.append(name)
            elif name in self.aliases:
                how["alias"] += 1
                mapped.append(self.aliases[name])
            else:
                how["ambiguous" if name in self.ambiguous else "unknown"] += 1
                mapped.append("")
        return np.array(mapped, dtype=object), MapReport(len(mapped), **how, collisions=collisions(ids, mapped))


def collisions(ids: Sequence[str] | np.ndarray, mapped: Sequence[str] | np.ndarray) -> dict[str, tuple[str, ...]]:
    """Canonical id -> given ids, for those that several given ids share."""
    groups: dict[str, list[str]] = {}
    for gene, current in zip(ids, mapped, strict=True):
        if current:
            groups.setdefault(current, []).append(str(gene))
    return {current: tuple(given) for current, given in groups.items() if len(given) > 1}


def refuse_duplicates(ids: np.ndarray, *, path: object) -> None:
    """Raise `GeneError` when an id is duplicated exactly as written; genes without id are no copies of each other."""
    twice = [gene for gene, count in Counter(ids.tolist()).items() if count > 1 and gene]
    if twice:
        raise GeneError(
            f"{len(twice)} gene ids stand more than once, the first is {twice[0]!r}",
            wanted="one column a gene",
            where=path,
            fix="add up the columns of a gene, or give unique Ensembl ids with data.gene_ids; do not use "
            "var_names_make_unique(), which invents genes",
        )
