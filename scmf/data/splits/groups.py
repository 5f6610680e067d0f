"""Columns of ``obs`` as groups of cells that must stay together.

Lives here: which column a word such as ``donor`` stands for, values as small integers, groups that several columns
join. Lives elsewhere: making the split (make).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core import registry
from scmf.core.errors import DataError
from scmf.data.stores.cell_ids import unique_ids
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.missing import as_text, is_missing

COLUMNS = {
    "donor": ("donor_id", "donor", "individual", "patient", "subject"),
    "batch": ("batch", "batch_id", "sample", "sample_id", "library_id"),
    "study": ("study", "dataset_id", "dataset", "Dataset"),
    "perturbation": ("perturbation", "condition", "perturbation_name"),
    "cell_type": ("cell_type", "celltype", "cell_ontology_class"),
}
"""What the columns are usually called that hold one of the five things that a split is made by."""

_CHUNK = 1 << 22


class ObsColumns:
    """Columns of an AnnData or a corpus as small integers.

    Parameters
    ----------
    cells
        Only ``obs`` and the names of the cells are read.
    keys
        Key of `COLUMNS` -> the column that holds it, such as ``{"donor": "donor_id"}``.
    """

    def __init__(self, cells: AnnData | Corpus, *, keys: Mapping[str, str] | None = None) -> None:
        self._corpus = cells if isinstance(cells, Corpus) else None
        self._obs = pd.DataFrame() if isinstance(cells, Corpus) else cells.obs
        self._keys = dict(keys or {})
        self.n_cells: int = cells.n_cells if isinstance(cells, Corpus) else cells.n_obs
        self.name = cells.name if isinstance(cells, Corpus) else "AnnData in memory"
        stores = [] if self._corpus is None else self._corpus.stores
        known = [set(store.obs_columns) for store in stores] or [set(map(str, self._obs.columns))]
        self.columns = sorted(set.intersection(*known))

    def column(self, name: str) -> str:
        """The column that ``name`` stands for, see `resolve_column`."""
        return resolve_column(name, self.columns, keys=self._keys, where=self.name)

    def values(self, name: str) -> pd.Series:
        """The column that ``name`` stands for."""
        column = self.column(name)
        table = self._obs if self._corpus is None else self._corpus.obs([column])
        return table[column]

    def codes(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Value of each cell, integer (n_cells,), and the names of the values, see `column_codes`."""
        return column_codes(self.values(name), where=self.name)

    def known_codes(self, name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Which cells have a value, boolean (n_cells,); the value of each of these, and the names of the values."""
        values = self.values(name)
        known = ~is_missing(values)
        return known, *column_codes(values[known], where=self.name)

    def ids(self) -> Iterable[np.ndarray]:
        """Ids of the cells in their order, unique over stores."""
        if self._corpus is not None:
            return unique_ids(self._corpus)
        return [self._obs.index.astype(str).to_numpy(dtype=object)]


def resolve_column(name: str, columns: Sequence[str], *, keys: Mapping[str, str], where: str) -> str:
    """The column that ``name`` means: itself, what ``keys`` calls it, or the one usual name that is there.

    Parameters
    ----------
    name
        A column, or a key of `COLUMNS`.
    columns
        Columns that there are.
    keys
        Key of `COLUMNS` -> the column that holds it, as a card says.
    where
        For errors.

    Raises
    ------
    DataError
        There is no such column, or several would do.
    """
    if name in columns:
        return name
    if (said := keys.get(name)) in columns:
        return str(said)
    usual = [column for column in COLUMNS.get(name, ()) if column in columns]
    if len(usual) == 1:
        return usual[0]
    if usual:
        raise DataError(
            f"{len(usual)} columns could be the {name}: {', '.join(usual)}", wanted="one", where=where, fix="name it"
        )
    fix = registry.did_you_mean(name, list(columns)) if columns else "add the column to obs"
    raise DataError(f"no column {name!r} in obs", wanted="a column to split by", where=where, fix=fix)


def column_codes(values: pd.Series, *, where: str) -> tuple[np.ndarray, list[str]]:
    """Value of each cell as the number of its name, integer (n,), and the names in sorted order.

    Raises
    ------
    DataError
        A cell has no value: it would have to be guessed where it belongs.
    """
    if (missing := is_missing(values)).any():
        raise DataError(
            f"{int(missing.sum())} of {len(values)} cells have no {values.name!r}, the first is number "
            f"{int(np.argmax(missing)):,} (from 0)",
            wanted="a value for every cell",
            where=where,
            fix="fill it in, or leave these cells out",
        )
    categories = values.astype("category").cat
    names = np.array(as_text(categories.categories), dtype=object)
    # names that are equal as text (1 and "1") are one; those without a cell are dropped
    uniques, number = np.unique(names, return_inverse=True)
    used = np.zeros(len(uniques), bool)
    codes = categories.codes.to_numpy()
    used[number[np.flatnonzero(np.bincount(codes, minlength=len(names)))]] = True
    new = np.cumsum(used) - 1
    smallest = np.min_scalar_type(-max(len(uniques), 1))
    return new[number].astype(smallest)[codes], uniques[used].tolist()


def joined_groups(columns: Sequence[tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, dict[str, int]]:
    """Groups of cells such that no value of any column lies in two of them.

    Parameters
    ----------
    columns
        Codes and names of each column, see `column_codes`.

    Returns
    -------
    group of each cell, integer (n,), and value -> group over all columns; a name that stands in two columns joins
    nothing by itself and means the first.
    """
    codes, names = columns[0]
    if len(columns) == 1:
        return codes, {name: i for i, name in enumerate(names)}
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    offsets = np.cumsum([0, *(len(names) for _, names in columns)])
    ends: list[np.ndarray] = []
    for (other, _), offset in zip(columns[1:], offsets[1:-1], strict=True):
        for start in range(0, len(codes), _CHUNK):
            pairs = codes[start : start + _CHUNK].astype(np.int64) * offsets[-1]
            ends.append(np.unique(pairs + other[start : start + _CHUNK] + offset))
    edges = np.unique(np.concatenate(ends))
    size = int(offsets[-1])
    graph = coo_matrix((np.ones(len(edges), bool), np.divmod(edges, size)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    every = [name for _, names in columns for name in names]
    where: dict[str, int] = {}
    for name, group in zip(every, component.tolist(), strict=True):
        where.setdefault(name, group)
    return component[: len(names)][codes], where


def tabulate(rows: np.ndarray, n_rows: int, columns: np.ndarray | None = None, n_columns: int = 1) -> np.ndarray:
    """Cells of each pair of codes, int64 (n_rows, n_columns); one column without ``columns``."""
    width = 1 if columns is None else n_columns
    table = np.zeros(n_rows * width, np.int64)
    for start in range(0, len(rows), _CHUNK):
        at = rows[start : start + _CHUNK].astype(np.int64) * width
        if columns is not None:
            at += columns[start : start + _CHUNK]
        table += np.bincount(at, minlength=len(table))
    return table.reshape(n_rows, width)
