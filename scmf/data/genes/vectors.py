"""Gene vectors: tables with numbers for each gene, such as an embedding of its protein, from a file or a card.

Lives here: `GeneVectors`, `read_gene_vectors` (.npz, .h5, .parquet), `load_gene_vectors` (a card or a path), putting
tables side by side. Lives elsewhere: which gene of a vocabulary has which vector, and the report of those without one
(align_vectors), the tokenizer that carries the table (tokenizers.gene_embedding), cards (cards).

Legend: G genes of a table, D width of a vector.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from scmf.core.errors import DataError, GeneError, MissingExtraError
from scmf.core.files import atomic_path, sha256_file
from scmf.core.hdf5 import open_hdf5
from scmf.data.cards.card import file_of, load_card
from scmf.data.cards.sources import fetch

FORMATS = (".npz", ".h5", ".hdf5", ".parquet")
"""Endings of the files that are read."""
_PICKLES = (".pkl", ".pickle", ".p")
_GENES = ("genes", "keys", "names")
_VECTORS = ("vectors", "arrays", "embeddings")


@dataclass(frozen=True, eq=False)
class GeneVectors:
    """A vector for each of some genes.

    Parameters
    ----------
    genes
        Names as the source writes them, without duplicates.
    vectors
        float32 (G, D), finite.
    facts
        Where they come from: ``source``, ``sha256``, ``card``, ``zero_vectors`` (genes whose vector is all zero).
    """

    genes: tuple[str, ...]
    vectors: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", self.vectors.view())  # the array that was given stays as it is
        self.vectors.setflags(write=False)

    def __len__(self) -> int:
        return len(self.genes)

    @property
    def width(self) -> int:
        """Numbers of a vector, D."""
        return int(self.vectors.shape[1])

    @classmethod
    def of(
        cls,
        genes: Iterable[str],
        vectors: Any,
        *,
        where: object = "gene vectors",
        facts: Mapping[str, Any] | None = None,
    ) -> GeneVectors:
        """A checked table.

        Parameters
        ----------
        genes
            Names of the G genes.
        vectors
            (G, D), or G sequences of D numbers.
        where
            How to call the table in an error.
        facts
            What to remember about it.

        Raises
        ------
        GeneError
            A gene stands twice.
        DataError
            No genes; vectors of different lengths; NaN or infinite numbers; something else than numbers.
        """
        names = tuple(str(gene) for gene in genes)
        rows = list(vectors) if not isinstance(vectors, np.ndarray) or vectors.dtype == object else vectors
        if not names:
            raise DataError("no genes", wanted="a vector for at least one", where=where, fix="check the file")
        if len(rows) != len(names):
            raise DataError(
                f"{len(names):,} genes and {len(rows):,} vectors", wanted="one each", where=where, fix="write it again"
            )
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
            raise GeneError(
                f"{len(set(twice)):,} genes stand more than once, the first is {twice[0]!r}",
                wanted="each gene once",
                where=where,
                fix="keep one vector of each gene, or their mean",
            )
        matrix = _matrix(names, rows, where)
        if bad := np.flatnonzero(~np.isfinite(matrix).all(axis=1)).tolist():
            raise DataError(
                f"NaN or infinite numbers in the vectors of {len(bad):,} genes, the first is {names[bad[0]]!r}",
                wanted="finite numbers of at most 3.4e38",
                where=where,
                fix="leave these genes out of the table: they are then treated as genes without a vector",
            )
        zero = int((matrix == 0).all(axis=1).sum())
        return cls(names, matrix, {"source": str(where), **(facts or {}), "zero_vectors": zero})

    def save(self, path: Path | str) -> Path:
        """Write ``.npz`` with the arrays ``genes`` and ``vectors``; `read_gene_vectors` reads it back."""
        path = Path(path)
        if path.suffix != ".npz":
            raise DataError(
                f"{path.name}", wanted="a name that ends in .npz", where="GeneVectors.save", fix="rename it"
            )
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, genes=np.array(self.genes), vectors=self.vectors)
        return path


def _matrix(names: Sequence[str], rows: Any, where: object) -> np.ndarray:
    """float32 (G, D), or the one thing that is wrong with its shape or type."""
    if isinstance(rows, list):
        lengths = [np.size(row) if np.ndim(row) == 1 else -1 for row in rows]
        usual = max(set(lengths), key=lengths.count)
        odd = next((i for i, length in enumerate(lengths) if length != usual or length < 0), None)
        if odd is not None:
            what = f"{lengths[odd]} numbers" if lengths[odd] >= 0 else f"an array of {np.ndim(rows[odd])} dimensions"
            raise DataError(
                f"the vector of {names[odd]!r} is {what}, others have {usual}",
                wanted="vectors of one length",
                where=where,
                fix="leave such genes out, or read the table from its source again",
            )
        rows = np.stack([np.asarray(row) for row in rows])
    if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "fiu":
        raise DataError(
            f"an array of {rows.dtype} with the shape {rows.shape}",
            wanted="numbers (genes, width)",
            where=where,
            fix="write one row of numbers a gene",
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rows, dtype=np.float32)


# --- files ----------------------------------------------------------------------------------------


def read_gene_vectors(source: Path | str) -> GeneVectors:
    """Read a table of gene vectors.

    Parameters
    ----------
    source
        ``.npz``
            Arrays ``genes`` and ``vectors`` (or ``keys`` and ``arrays``), or one array a gene, named like it.
        ``.h5``
            As TranscriptFormer writes it (``keys``, and the group ``arrays`` with one dataset a gene; the order is
            that of ``keys``); or datasets ``genes`` and ``vectors``; or one dataset a gene.
        ``.parquet``
            Genes as the index or the first column that is no number; every other column is a number, or there is
            one column of lists.

    Raises
    ------
    DataError, GeneError
        See `GeneVectors.of`; a file that cannot be read; a pickle.
    """
    path = Path(source).expanduser()
    if path.suffix in _PICKLES:
        raise DataError(
            f"a pickle, {path.name}",
            wanted=f"{', '.join(FORMATS)}",
            where=path,
            fix="pickles run code when they are opened; where you trust this one, convert it once:\n"
            "  import pickle, numpy as np\n"
            f'  table = pickle.load(open("{path.name}", "rb"))\n'
            f'  np.savez("{path.stem}.npz", genes=list(table), vectors=np.array(list(table.values()), "float32"))',
        )
    if path.suffix not in FORMATS:
        raise DataError(
            f"a file that ends in {path.suffix or 'nothing'}", wanted=", ".join(FORMATS), where=path, fix="convert it"
        )
    if not path.is_file():
        raise DataError("no such file", wanted="a table of gene vectors", where=path, fix="check the path")
    read = {".npz": _from_npz, ".parquet": _from_parquet}.get(path.suffix, _from_h5)
    try:
        genes, vectors = read(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"not readable: {reason}",
            wanted=f"a table of gene vectors as {path.suffix}",
            where=path,
            fix="download or write the file again",
        ) from error
    facts = {"sha256": sha256_file(path), "format": path.suffix[1:]}
    return GeneVectors.of(genes, vectors, where=path, facts=facts)


def _pair(names: Iterable[str]) -> tuple[str, str] | None:
    """The entry with the genes and the entry with the vectors, where a file has both."""
    known = set(names)
    genes = next((name for name in _GENES if name in known), None)
    vectors = next((name for name in _VECTORS if name in known), None)
    return None if genes is None or vectors is None else (genes, vectors)


def _from_npz(path: Path) -> tuple[Iterable[str], Any]:
    with np.load(path, allow_pickle=False) as file:
        if pair := _pair(file.files):
            return _text(file[pair[0]]), file[pair[1]]
        return file.files, [file[name] for name in file.files]


def _from_h5(path: Path) -> tuple[Iterable[str], Any]:
    with open_hdf5(path) as file:
        if not (pair := _pair(file)):
            return list(file), [file[name][()] for name in file]
        genes, vectors = _text(file[pair[0]][()]), file[pair[1]]
        if isinstance(vectors, h5py.Dataset):
            return genes, vectors[()]
        if missing := [gene for gene in genes if gene not in vectors]:
            raise ValueError(f"{len(missing):,} of the keys have no array, the first is {missing[0]!r}")
        return genes, [vectors[gene][()] for gene in genes]


def _from_parquet(path: Path) -> tuple[Iterable[str], Any]:
    try:
        table = pd.read_parquet(path)
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", needed_for=f"reading {path.name}") from error
    if isinstance(table.index, pd.RangeIndex) or pd.api.types.is_numeric_dtype(table.index):
        column = next((name for name in table if isinstance(table[name].iloc[:1].squeeze(), str)), None)
        if column is None:
            raise ValueError("neither an index nor a column with names of genes")
        table = table.set_index(column)
    if table.shape[1] == 1 and not pd.api.types.is_numeric_dtype(table.iloc[:, 0]):
        return table.index, table.iloc[:, 0].tolist()
    return table.index, table.to_numpy()


def _text(values: np.ndarray) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in np.ravel(values).tolist()]


# --- by name --------------------------------------------------------------------------------------


def load_gene_vectors(source: Path | str) -> GeneVectors:
    """Read a table of gene vectors by the name of its card, or from a file.

    Parameters
    ----------
    source
        A path that ends like a table (see `read_gene_vectors`), or a card with a file of the role ``vectors``.

    Raises
    ------
    ConfigError
        No such card.
    DataError, GeneError
        See `read_gene_vectors`; the card holds no vectors.
    SourceError, ChecksumError
        See `scmf.data.cards.sources.fetch`; the card says where to get the file by hand.
    """
    text = str(source)
    if text.endswith((*FORMATS, *_PICKLES)):
        return read_gene_vectors(text)
    card = load_card(source)
    name = file_of(card, "vectors").name if card.files else ""  # a card without files says in `fetch` what to do
    table = read_gene_vectors(fetch(card)[name])
    return GeneVectors(table.genes, table.vectors, {**table.facts, "card": card.name})


def side_by_side(tables: Sequence[GeneVectors]) -> GeneVectors:
    """Several tables as one: the vectors of a gene behind each other, for the genes that all of them have.

    Parameters
    ----------
    tables
        Their genes must be written alike: bring them to one vocabulary before (`align_vectors`).

    Raises
    ------
    GeneError
        No gene is in all tables.
    """
    if not tables:
        raise DataError("no tables", wanted="at least one", where="side_by_side", fix="give the tables to combine")
    at = [{gene: i for i, gene in enumerate(table.genes)} for table in tables]
    genes = [gene for gene in tables[0].genes if all(gene in places for places in at)]
    if not genes:
        raise GeneError(
            f"{len(tables)} tables without a gene in common",
            wanted="genes written alike",
            where="side_by_side",
            fix="align them to one vocabulary first: align_vectors(table, genes, names=human_genes())",
        )
    parts = [table.vectors[[places[gene] for gene in genes]] for table, places in zip(tables, at, strict=True)]
    facts = {"parts": [table.facts for table in tables], "widths": [table.width for table in tables]}
    return GeneVectors.of(genes, np.concatenate(parts, axis=1), where="side_by_side", facts=facts)
