"""Vectors and predictions added to an AnnData file, or to a copy of it.

Lives here: `add_vectors` and `add_predictions`, which copy the file and add to the copy, so that what is foreign to
this anndata stays as it was. Lives elsewhere: reading a file (adata_files).
"""

from __future__ import annotations

import json
import logging
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem, write_elem

from scmf.core.errors import ConfigError, DataError
from scmf.core.files import atomic_path, folder_beside

log = logging.getLogger(__name__)

RECORDS = "scmf"
"""Key of ``uns`` below which everything that is added has a record of what made it."""

_ROWS = 4096
"""Rows of a chunk of vectors in a zarr group."""


def check_obsm_key(key: str, *, where: str) -> None:
    """Refuse a key that a file cannot have; `ConfigError`."""
    if not key.strip() or "/" in key or "\0" in key or key in (".", "..") or not key.isprintable():
        raise ConfigError(
            f"the key {key!r}", wanted="a name without /, not empty", where=where, fix="for example --key X_model"
        )


@dataclass(frozen=True)
class Vectors:
    """Vectors that need not lie in memory.

    Parameters
    ----------
    shape
        Cells and dimensions.
    parts
        Gives them in their order, float32 (some cells, D) each.
    """

    shape: tuple[int, int]
    parts: Callable[[], Iterable[np.ndarray]]


def add_vectors(
    source: Path | str, target: Path | str, key: str, vectors: Vectors, *, record: Mapping[str, Any] | None = None
) -> bool:
    """Copy an AnnData file and add vectors to ``obsm`` of the copy; nothing else in it is touched.

    Parameters
    ----------
    source
        The file or zarr group; it is not changed unless it is the target.
    target
        The copy. A file is replaced, also ``source`` itself (by a copy that is whole); a zarr group must be new or
        ``source``.
    key
        Key in ``obsm``; vectors that the file has under it are replaced.
    vectors
        One row a cell of the file.
    record
        What made them: ``uns["scmf"][key]``.

    Returns
    -------
    bool
        Whether vectors of the file were replaced.
    """
    source, target = Path(source), Path(target)
    if source == target and source.is_dir():
        return _put_in_zarr(source, key, vectors, record)

    def change(tree: Any) -> bool:
        _check_cells(tree, vectors)
        _put_record(tree, key, record)
        return _put(tree, key, vectors)

    return _changed_copy(source, target, change)


def write_vectors(
    target: Path, cell_ids: np.ndarray, key: str, vectors: Vectors, *, record: Mapping[str, Any] | None = None
) -> None:
    """Write an .h5ad file with cell ids and vectors alone, and the record of what made them."""
    with atomic_path(target) as temporary:
        AnnData(obs=pd.DataFrame(index=pd.Index(cell_ids).astype(str))).write_h5ad(temporary)
        with h5py.File(temporary, "r+") as tree:
            _put_record(tree, key, record)
            _put(tree, key, vectors)


def add_predictions(
    source: Path | str, target: Path | str, key: str, *, columns: Mapping[str, Any], x_NC: np.ndarray, facts: Any,
    record: Mapping[str, Any] | None = None,
) -> bool:  # fmt: skip
    """Copy an AnnData file and add columns to ``obs``, an array to ``obsm`` and facts to ``uns`` of the copy.

    Parameters
    ----------
    source, target
        As in `add_vectors`.
    key
        Key in ``obsm`` and in ``uns``.
    columns
        Columns of ``obs`` by name, one value a cell; those that are there are replaced.
    x_NC
        The array, one row a cell.
    facts
        A mapping of texts and arrays.
    record
        What made them: ``uns["scmf"][key]``.

    Returns
    -------
    bool
        Whether anything of the file was replaced.
    """

    def change(tree: Any) -> bool:
        replaced = _put_columns(tree, columns)
        if "uns" not in tree:
            write_elem(tree, "uns", {})
        if key in tree["uns"]:
            del tree["uns"][key]
        write_elem(tree["uns"], key, facts)
        _put_record(tree, key, record)
        return _put(tree, key, Vectors(x_NC.shape, lambda: [x_NC])) or replaced

    return _changed_copy(Path(source), Path(target), change)


def _changed_copy(source: Path, target: Path, change: Callable[[Any], bool]) -> bool:
    if source.is_dir():
        return _changed_zarr(source, target, change)
    mode = stat.S_IMODE(source.stat().st_mode) if source == target else None
    with atomic_path(target, mode=mode) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as tree:
            return change(tree)


def _changed_zarr(source: Path, target: Path, change: Callable[[Any], bool]) -> bool:
    if target.exists():
        raise DataError("a folder that exists", wanted="a new folder", where=target, fix="choose another name")
    with folder_beside(target) as folder:
        copy = folder / target.name
        shutil.copytree(source, copy, copy_function=shutil.copyfile)
        replaced = change(zarr.open_group(copy, mode="r+", use_consolidated=False))
        _consolidate(copy)
        copy.rename(target)
    return replaced


def _put_in_zarr(folder: Path, key: str, vectors: Vectors, record: Mapping[str, Any] | None) -> bool:
    """Vectors into a zarr group itself: they are written beside it and take their place when they are whole."""
    group = zarr.open_group(folder, mode="r+", use_consolidated=False)
    _check_cells(group, vectors)
    held = group.get("obsm")
    with folder_beside(folder) as place:
        new, old = place / "new", place / "old"
        tree = zarr.open_group(new, mode="w", zarr_format=group.metadata.zarr_format)
        if isinstance(held, zarr.Array):  # of a file from before AnnData 0.7
            shutil.copytree(folder / "obsm", new / "obsm")
        replaced = _put(tree, key, vectors)
        path = f"obsm/{key}" if isinstance(held, zarr.Group) else "obsm"
        if (folder / path).exists():
            replaced = replaced or isinstance(held, zarr.Group)
            (folder / path).rename(old)
        try:
            (new / path).rename(folder / path)
        except OSError:
            if old.exists():
                old.rename(folder / path)
            raise
    _put_record(group, key, record)
    _consolidate(folder)
    return replaced


def _consolidate(group: Path) -> None:
    """Bring the list of all that is in a group up to date, where it has one."""
    if _is_consolidated(group):
        zarr.consolidate_metadata(group)


def _is_consolidated(group: Path) -> bool:
    """Whether a list of all that is in a group lies in it."""
    if (group / ".zmetadata").is_file():
        return True
    head = group / "zarr.json"
    return head.is_file() and json.loads(head.read_text(encoding="utf-8")).get("consolidated_metadata") is not None


def _check_cells(tree: Any, vectors: Vectors) -> None:
    """Refuse vectors of other cells than the file has now."""
    obs = tree["obs"]
    index = obs if hasattr(obs, "dtype") else obs[str(obs.attrs["_index"])]
    if hasattr(index, "shape") and index.shape[0] != vectors.shape[0]:
        raise DataError(
            f"{index.shape[0]:,} cells, where {vectors.shape[0]:,} were embedded", where="the input",
            wanted="a file that nobody changes while it is read", fix="embed it again",
        )  # fmt: skip


def _put_record(tree: Any, key: str, record: Mapping[str, Any] | None) -> None:
    """``uns["scmf"][key]``; left out where something else has that name."""
    if record is None:
        return
    if "uns" not in tree:
        write_elem(tree, "uns", {})
    if RECORDS not in tree["uns"]:
        write_elem(tree["uns"], RECORDS, {})
    records = tree["uns"][RECORDS]
    if hasattr(records, "dtype"):
        log.warning(f"uns[{RECORDS!r}] is something else: what made {key!r} is not recorded")
        return
    if key in records:
        del records[key]
    write_elem(records, key, dict(record))


def _put(tree: Any, key: str, vectors: Vectors) -> bool:
    """``obsm[key]``, also of a file from before AnnData 0.7, whose obsm is one array of records."""
    if "obsm" in tree and hasattr(tree["obsm"], "dtype"):
        records = tree["obsm"][()]
        del tree["obsm"]
        write_elem(tree, "obsm", {name: np.asarray(records[name]) for name in records.dtype.names})
    elif "obsm" not in tree:
        write_elem(tree, "obsm", {})
    group, replaced = tree["obsm"], key in tree["obsm"]
    if replaced:
        del group[key]
    if isinstance(group, h5py.Group):
        array = group.create_dataset(key, vectors.shape, np.float32)
    else:
        array = group.create_array(
            key, shape=vectors.shape, dtype=np.float32, chunks=(min(vectors.shape[0], _ROWS), vectors.shape[1])
        )
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    at = 0
    for part in vectors.parts():
        array[at : at + len(part)] = part
        at += len(part)
    return replaced


def _put_columns(tree: Any, columns: Mapping[str, Any]) -> bool:
    """Columns of ``obs``, also of a file from before AnnData 0.7, whose obs is one array of records."""
    if hasattr(tree["obs"], "dtype"):
        frame = read_elem(tree["obs"])
        del tree["obs"]
        write_elem(tree, "obs", frame)
    obs = tree["obs"]
    order = [str(name) for name in obs.attrs["column-order"]]
    if (index := str(obs.attrs["_index"])) in columns:
        raise ConfigError(
            f"{index!r}, the column of obs with the cell ids", wanted="another name for a new column", where="obs",
            fix="choose another --key",
        )  # fmt: skip
    replaced = False
    for name, values in columns.items():
        if name in obs:
            replaced = True
            del obs[name]
        write_elem(obs, name, values)
    order += [name for name in columns if name not in order]
    obs.attrs["column-order"] = np.array(order, dtype=object) if isinstance(tree, h5py.File) else order
    return replaced
