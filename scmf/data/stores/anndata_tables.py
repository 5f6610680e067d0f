"""Tables of an AnnData on disk, one column at a time.

Lives here: columns of ``obs`` and ``var`` of every encoding since AnnData 0.6, from HDF5 and zarr alike. Lives
elsewhere: the cells (anndata_store).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem

from scmf.core.errors import DataError, reading


def text_of(value: Any) -> str:
    """An attribute as text, whether stored as text or bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def frame_names(frame: Any) -> tuple[str, list[str]]:
    """Names of the index and of the columns of a table on disk (a node of h5py or zarr)."""
    if hasattr(frame, "dtype"):  # before AnnData 0.7: one array of records, its first field the index
        first, *others = frame.dtype.names
        return first, list(others)
    return text_of(frame.attrs["_index"]), [text_of(name) for name in frame.attrs["column-order"]]


def read_frame(tree: Any, path: str) -> pd.DataFrame:
    """A whole table, its index as text; see `read_column`."""
    index, columns = frame_names(tree[path])
    names = pd.Index(read_column(tree, path, index))
    return pd.DataFrame({column: read_column(tree, path, column) for column in columns}, index=names.astype(str))


def read_column(tree: Any, path: str, column: str) -> Any:
    """One column of the table ``path``, of any encoding since AnnData 0.6.

    Parameters
    ----------
    tree
        An h5py.File or zarr.Group that holds an AnnData.
    path
        ``obs``, ``var`` or ``raw/var``.
    column
        Name of the column, or of the index.

    Raises
    ------
    DataError
        It is damaged, or of a type that nobody reads (a pickle).
    """
    with reading(DataError, what=f"column {column!r} of {path}", where=str(getattr(tree, "filename", tree))):
        return _column(tree, path, column)


def _column(tree: Any, path: str, column: str) -> Any:
    frame = tree[path]
    if hasattr(frame, "dtype"):
        values = frame[column] if not hasattr(frame, "fields") else frame.fields(column)[()]
        if values.dtype.kind in "SO":
            values = np.array([text_of(value) for value in values], dtype=object)
        categories = f"uns/{column}_categories"
        if categories in tree and values.dtype.kind in "iu":
            return pd.Categorical.from_codes(values, _read(tree[categories]))
        return values
    stored = frame[column]
    if "categories" in stored.attrs and hasattr(stored, "dtype"):  # AnnData 0.7: codes that point at their names
        pointer = stored.attrs["categories"]
        named = frame[pointer] if not isinstance(pointer, bytes) else frame[pointer.decode()]
        return pd.Categorical.from_codes(_read(stored), _read(named), ordered=bool(named.attrs.get("ordered", False)))
    return _read(stored)


def _read(node: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old encodings are read as well as new ones
        return read_elem(node)
