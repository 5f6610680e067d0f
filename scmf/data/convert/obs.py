"""The columns of ``obs`` and the cell ids of all inputs, on disk in the order of the corpus, read by slices.

Lives here: which columns are common, one type for a column over all inputs, writing them once, reading them as
records, making a table of records again. Lives elsewhere: the order of the cells (convert).

Memory holds one column of one input at a time. A column is one of

* ``number``: bool, integers or floats; with a mask where an input has pandas' nullable type;
* ``category``: text or categories, as codes over the categories of all inputs in the order in which they appear;
* ``text``: text with more than `MOST_CATEGORIES` values (ids of cells, say), as it is; missing becomes empty.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.errors import DataError
from scmf.core.files import write_json
from scmf.data.convert.plan import read_note
from scmf.data.stores.cell_ids import marks_of
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.missing import as_text
from scmf.data.stores.store import Store

MOST_CATEGORIES = 100_000
"""A text column with more values is kept as text: its categories would stand in every dataset."""
OURS = ("source", "source_row")
"""Columns that a conversion adds."""
_IDS = "obs_names"
_CELLS = 1 << 16


@dataclass
class Column:
    """One column over all inputs.

    Parameters
    ----------
    name
        As in ``obs``.
    kind
        ``number``, ``category`` or ``text``.
    dtype
        Of the values (``number``) or of the codes.
    nullable
        Whether a mask goes with it.
    stored
        Type in which the values of each input lie on disk, where that differs from input to input.
    categories
        As text, with the Python type all of them had in `category_type`.
    ordered
        Whether the categories are in order: only where every input says so, with the same categories.
    """

    name: str
    kind: str = "number"
    dtype: str = "int32"
    nullable: bool = False
    stored: dict[str, str] = field(default_factory=dict)
    categories: list[str] = field(default_factory=list)
    category_type: str = "str"
    ordered: bool = False


def columns_of(stores: Sequence[Store], wanted: Sequence[str] | None) -> tuple[list[str], dict[str, list[str]]]:
    """Columns of all stores, in the order in which they first appear; and which stores lack each of them, if any do.

    Raises
    ------
    DataError
        A column that was asked for is missing from a store.
    """
    have = [set(store.obs_columns) for store in stores]
    if wanted is not None:
        for column in wanted:
            for store, columns in zip(stores, have, strict=True):
                if column not in columns:
                    raise DataError(
                        f"no column {column!r} in obs",
                        wanted="the columns of obs_columns in every input",
                        where=store.uri,
                        fix="leave it out of obs_columns, or leave this input out",
                    )
        return list(wanted), {}
    every = dict.fromkeys(column for store in stores for column in store.obs_columns if column not in OURS)
    lacking = {
        column: [store.uri for store, columns in zip(stores, have, strict=True) if column not in columns]
        for column in every
    }
    return list(every), {column: uris for column, uris in lacking.items() if uris}


class ObsSpool:
    """Columns and cell ids of a corpus in a folder of flat files.

    Parameters
    ----------
    folder
        Where they lie. With a ``columns.json`` it is complete and is used as it is; else it is written anew.
    corpus
        The cells.
    names
        Columns to keep.
    sources
        Name of each store in `source`.
    """

    def __init__(self, folder: Path, corpus: Corpus, names: Sequence[str], *, sources: Sequence[str]) -> None:
        self.folder, self.corpus, self.sources = folder, corpus, list(sources)
        self.marks = marks_of([str(store.uri) for store in corpus.stores])
        first = {id(store): number for number, store in reversed(list(enumerate(corpus.stores)))}
        self._file_of = [first[id(store)] for store in corpus.stores]
        done = folder / "columns.json"
        if done.is_file():
            kept = read_note(done, "columns", "prefixed")
            self.columns = [Column(**one) for one in kept["columns"]]
            self.prefixed: bool = kept["prefixed"]
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.columns = [self._write(number, name) for number, name in enumerate(names)]
            self.prefixed = self._write_ids()
            write_json(done, {"columns": [asdict(one) for one in self.columns], "prefixed": self.prefixed})
        self.texts = [number for number, one in enumerate(self.columns) if one.kind == "text"] + [-1]
        """Numbers of the text columns; -1 stands for the cell ids."""
        fields: list[tuple[str, str]] = [("source", "<u4"), ("source_row", "<i8")]
        for number, one in enumerate(self.columns):
            if one.kind != "text":
                fields.append((f"c{number}", one.dtype))
            if one.nullable:
                fields.append((f"m{number}", "|b1"))
        self.dtype = np.dtype(fields)
        """Of the records: where a cell comes from, then ``c<number>`` and ``m<number>`` (mask) for each column."""

    def _path(self, column: int, store: int, what: str) -> Path:
        return self.folder / f"{'ids' if column < 0 else column}.{self._file_of[store]}.{what}"

    def _distinct(self) -> list[int]:
        return sorted(set(self._file_of))

    # --- writing ----------------------------------------------------------------------------------

    def _write(self, number: int, name: str) -> Column:
        column = Column(name)
        types: list[np.dtype] = []
        having, lacking = self._having(name)
        for store in having:
            values = self.corpus.stores[store].obs([name])[name]
            if values.dtype.kind not in "biuf":  # the kind of a categorical is O
                return self._write_categories(number, column)
            column.nullable |= pd.api.types.is_extension_array_dtype(values.dtype)
            numbers: Any = getattr(values.dtype, "numpy_dtype", None) or values.dtype
            plain = values.to_numpy(numbers, na_value=0) if column.nullable else values.to_numpy()
            types.append(plain.dtype)
            column.stored[str(store)] = plain.dtype.str
            plain.tofile(self._path(number, store, "values"))
            values.isna().to_numpy().tofile(self._path(number, store, "mask"))
        if len({one.kind == "b" for one in types}) > 1:
            return self._write_categories(number, column)
        column.dtype = np.result_type(*types).str
        column.nullable |= bool(lacking) and np.dtype(column.dtype).kind != "f"
        for store in lacking:
            column.stored[str(store)] = column.dtype
            n_cells = self.corpus.stores[store].n_cells
            np.full(n_cells, 0 if column.nullable else np.nan, column.dtype).tofile(self._path(number, store, "values"))
            np.ones(n_cells, bool).tofile(self._path(number, store, "mask"))
        return column

    def _having(self, name: str) -> tuple[list[int], list[int]]:
        """The stores that have a column of ``obs``, and those that lack it: their cells have no value in it."""
        found: tuple[list[int], list[int]] = [], []
        for store in self._distinct():
            found[name not in self.corpus.stores[store].obs_columns].append(store)
        return found

    def _write_categories(self, number: int, column: Column) -> Column:
        known: dict[str, int] = {}
        types, orders = set(), set()
        having, lacking = self._having(column.name)
        for store in having:
            values = self.corpus.stores[store].obs([column.name])[column.name]
            if not isinstance(values.dtype, pd.CategoricalDtype):
                values = values.astype("category")
            categories = as_text(values.cat.categories)
            types |= {type(one).__name__.removesuffix("_") for one in values.cat.categories.tolist()}
            orders.add((bool(values.cat.ordered), tuple(categories) if values.cat.ordered else ()))
            codes = np.array([known.setdefault(one, len(known)) for one in categories] + [-1], np.int32)
            if len(known) > MOST_CATEGORIES:
                for each in lacking:
                    self._write_text(number, each, np.full(self.corpus.stores[each].n_cells, "", object))
                for each in having:
                    texts = self.corpus.stores[each].obs([column.name])[column.name].astype(object)
                    self._write_text(number, each, texts.where(texts.notna(), "").to_numpy())
                return Column(column.name, kind="text")
            codes[values.cat.codes.to_numpy()].tofile(self._path(number, store, "values"))
        for store in lacking:
            np.full(self.corpus.stores[store].n_cells, -1, np.int32).tofile(self._path(number, store, "values"))
        one_type = types.pop() if len(types) == 1 else "str"
        return Column(
            column.name,
            kind="category",
            dtype="<i4",
            categories=list(known),
            category_type=one_type if one_type in ("int", "float", "bool") else "str",
            ordered=len(orders) == 1 and orders.pop()[0],
        )

    def _write_text(self, number: int, store: int, values: np.ndarray) -> None:
        at = 0
        with (
            self._path(number, store, "text").open("wb") as text,
            self._path(number, store, "at").open("wb") as offsets,
        ):
            np.zeros(1, np.int64).tofile(offsets)
            for start in range(0, len(values), _CELLS):
                parts = [str(value).encode() for value in values[start : start + _CELLS]]
                ends = at + np.cumsum([len(part) for part in parts], dtype=np.int64)
                ends.tofile(offsets)
                text.write(b"".join(parts))
                at = int(ends[-1]) if len(ends) else at

    def _write_ids(self) -> bool:
        """Write the cell ids; whether one stands in several stores."""
        for store in self._distinct():
            ids = self.corpus.stores[store].cell_ids()
            index = pd.Index(ids)
            if not index.is_unique:
                twice = index[index.duplicated()]
                raise DataError(
                    f"{len(twice):,} duplicated cell ids, the first is {twice[0]!r}",
                    wanted="unique obs_names within an input",
                    where=self.corpus.stores[store].uri,
                    fix="adata.obs_names_make_unique(), or remove the copies: a cell in two parts is a leak",
                )
            self._write_text(-1, store, ids)
            pd.util.hash_array(ids.astype(object), categorize=False).tofile(self._path(-1, store, "hash"))
        if len(self._distinct()) < len(self._file_of):
            return True
        parts = max(1, self.corpus.n_cells // (1 << 24))  # of 128 MiB of hashes each
        for part in range(parts):
            found = []
            for store in self._distinct():
                hashes = np.fromfile(self._path(-1, store, "hash"), np.uint64)
                found.append(hashes[hashes % np.uint64(parts) == part])
            together = np.concatenate(found)
            together.sort()
            if (together[1:] == together[:-1]).any():
                return True
        return False

    # --- reading ----------------------------------------------------------------------------------

    def records(self, store: int, rows: np.ndarray) -> np.ndarray:
        """Records (`dtype`) of rising ``rows`` of a store."""
        out = np.zeros(len(rows), self.dtype)
        if not len(rows):
            return out
        first, n = int(rows[0]), int(rows[-1] - rows[0]) + 1
        inside = rows - first
        out["source"], out["source_row"] = store, rows
        for number, one in enumerate(self.columns):
            if one.kind == "text":
                continue
            dtype = np.dtype(one.stored.get(str(self._file_of[store]), one.dtype))
            path = self._path(number, store, "values")
            out[f"c{number}"] = np.fromfile(path, dtype, n, offset=first * dtype.itemsize)[inside]
            if one.nullable:
                out[f"m{number}"] = np.fromfile(self._path(number, store, "mask"), np.bool_, n, offset=first)[inside]
        return out

    def text(self, number: int, store: int, rows: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Values of rising ``rows`` of a text column: number of bytes of each (uint32), and the bytes."""
        if not len(rows):
            return np.empty(0, np.uint32), b""
        first, n = int(rows[0]), int(rows[-1] - rows[0]) + 1
        ends = np.fromfile(self._path(number, store, "at"), np.int64, n + 1, offset=first * 8)
        with self._path(number, store, "text").open("rb") as file:
            file.seek(int(ends[0]))
            blob = file.read(int(ends[-1] - ends[0]))
        lengths = np.diff(ends)[rows - first].astype(np.uint32)
        if n > len(rows):
            ends = ends - ends[0]
            blob = b"".join(blob[ends[row] : ends[row + 1]] for row in rows - first)
        return lengths, blob

    def table(self, records: np.ndarray, texts: dict[int, list[str]]) -> pd.DataFrame:
        """The ``obs`` of records and text columns (by number, -1 the cell ids) in the same order."""
        columns: dict[str, Any] = {}
        for number, one in enumerate(self.columns):
            if one.kind == "text":
                columns[one.name] = np.array(texts[number], dtype=object)
            elif one.kind == "category":
                columns[one.name] = pd.Categorical.from_codes(
                    records[f"c{number}"], categories=_categories(one), ordered=one.ordered
                )
            elif one.nullable:
                columns[one.name] = _nullable(records[f"c{number}"].copy(), records[f"m{number}"].copy())
            else:
                columns[one.name] = records[f"c{number}"].copy()
        columns["source"] = pd.Categorical.from_codes(
            records["source"].astype(np.int32), categories=pd.Index(self.sources)
        )
        columns["source_row"] = records["source_row"].copy()
        ids = texts[-1]
        if self.prefixed:
            ids = [f"{self.marks[s]}:{one}" for s, one in zip(records["source"].tolist(), ids, strict=True)]
        return pd.DataFrame(columns, index=pd.Index(np.array(ids, dtype=object)))


def _categories(column: Column) -> pd.Index:
    if column.category_type == "str":
        return pd.Index(column.categories, dtype=object)
    kinds: dict[str, Any] = {"int": int, "float": float, "bool": lambda text: text == "True"}
    return pd.Index([kinds[column.category_type](one) for one in column.categories])


def _nullable(values: np.ndarray, mask: np.ndarray) -> Any:
    if values.dtype.kind == "b":
        return pd.arrays.BooleanArray(values, mask)
    return pd.arrays.FloatingArray(values, mask) if values.dtype.kind == "f" else pd.arrays.IntegerArray(values, mask)
