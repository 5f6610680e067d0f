"""An AnnData file as an AnnData, and what is in it.

Lives here: `read_adata`, which leaves out what it cannot read and nobody needs; names of what a file holds. Lives
elsewhere: adding to a file (adata_added), counts block by block (h5ad_store, zarr_store), one column at a time
(anndata_tables), files that are no AnnData (formats).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from scmf.core.errors import DataError, ScmfError
from scmf.core.hdf5 import open_hdf5
from scmf.data.stores.anndata_tables import frame_names, read_column
from scmf.data.stores.chunks.h5ad_layout import RemoteFile
from scmf.data.stores.files.byte_ranges import ByteSource, LocalFiles
from scmf.data.stores.formats import foreign
from scmf.data.stores.zarr_store import open_group

log = logging.getLogger(__name__)

_COUNTS = ("X", "layers/counts", "raw/X", "raw.X")
"""Matrices in which counts are looked for: they are read, or the file is refused."""

_HDF5 = (".h5ad", ".h5", ".hdf5")
"""Endings of addresses of HDF5 files."""


def read_adata(source: Path | str | ByteSource) -> AnnData:
    """Read an .h5ad file or a zarr group.

    Elements of ``obs``, ``obsm``, ``uns`` and layers that this anndata does not know, or that are damaged, are left out
    with a warning that names them; counts, cell ids and gene ids are read, or the file is refused.

    Parameters
    ----------
    source
        A path, or the bytes of one store (`scmf.data.stores.open.sources_of`).

    Raises
    ------
    DataError
        The file is missing, truncated or something else.
    """
    files = source if isinstance(source, ByteSource) else LocalFiles(source)
    where = Path(files.root) if files.is_local else files.root
    if isinstance(where, Path) and not where.exists():
        raise DataError("no such file", wanted="an .h5ad file or a zarr group", where=where, fix="check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old file versions and repeated names: said by us where it matters
            if isinstance(where, Path) and where.is_file() and (whole := _as_anndata_does(where)) is not None:
                return whole
            with _open(files) as tree:
                return _by_parts(tree, str(where))
    except ScmfError:
        raise
    except Exception as error:  # whatever h5py, zarr and anndata raise for damaged files
        raise _unreadable(error, where) from error


def _as_anndata_does(path: Path) -> AnnData | None:
    """The whole file; None where something in it cannot be read."""
    if (known := foreign(path)) is not None:
        raise known
    try:
        return anndata.io.read_h5ad(path)
    except Exception:  # noqa: BLE001  (of any library; the parts are tried next)
        return None


@contextmanager
def _open(source: ByteSource) -> Iterator[Any]:
    """The root: an h5py.File or a zarr.Group."""
    if source.is_local and (known := foreign(source.root)) is not None:
        raise known
    is_hdf5 = Path(source.root).is_file() if source.is_local else source.root.partition("?")[0].endswith(_HDF5)
    if not is_hdf5:
        yield open_group(source)
        return
    with open_hdf5(source.root if source.is_local else RemoteFile(source), where=source.root) as tree:
        yield tree


def _unreadable(error: BaseException, where: Path | str) -> DataError:
    lines = str(error).strip().splitlines() or [""]
    kind = "zarr group" if Path(where).is_dir() else ".h5ad file"
    return DataError(
        f"not a readable {kind} ({type(error).__name__}: {lines[0]})",
        wanted="a complete AnnData file",
        where=where,
        fix="copy or download it again, its end may be missing",
    )


def _by_parts(tree: Any, where: str) -> AnnData:
    """What is needed of a file, element by element."""
    if "obs" not in tree or "var" not in tree:
        names = ", ".join(sorted(tree.keys())) or "nothing"
        raise DataError(
            f"a group of {names}", wanted="an AnnData: obs, var and a matrix", where=where,
            fix="give the file or group that anndata wrote",
        )  # fmt: skip
    lost: list[str] = []
    obs, var = (_frame(tree, name, lost) for name in ("obs", "var"))
    adata = AnnData(_matrix(tree, "X", where), obs=obs, var=var)
    if (place := next((path for path in ("raw/X", "raw.X") if path in tree), None)) is not None:
        raw_var = _frame(tree, "raw/var" if place == "raw/X" else "raw.var", lost)
        adata.raw = AnnData(_matrix(tree, place, where), obs=obs[[]], var=raw_var)
    for name in _names(tree, "layers"):
        if f"layers/{name}" in _COUNTS:
            adata.layers[name] = _matrix(tree, f"layers/{name}", where)
        else:
            _take(adata.layers.__setitem__, tree, f"layers/{name}", lost)
    for name in _names(tree, "obsm"):
        _take(adata.obsm.__setitem__, tree, f"obsm/{name}", lost)
    if lost:
        log.warning(f"{where}: left out, as this anndata ({anndata.__version__}) cannot read it: {', '.join(lost)}")
    return adata


def _names(tree: Any, group: str) -> list[str]:
    return sorted(tree[group].keys()) if group in tree and hasattr(tree[group], "keys") else []


def _take(keep: Callable[[str, Any], None], tree: Any, path: str, lost: list[str]) -> None:
    try:
        keep(path.partition("/")[2], read_elem(tree[path]))
    except Exception as error:  # noqa: BLE001  (of any library)
        lost.append(f"{path} ({' '.join(str(error).split())[:80]})")


def _matrix(tree: Any, path: str, where: str) -> Any:
    if path not in tree:
        return None
    try:
        return read_elem(tree[path])
    except Exception as error:
        raise _unreadable(error, f"{where}: {path}") from error


def _frame(tree: Any, path: str, lost: list[str]) -> pd.DataFrame:
    index, columns = frame_names(tree[path])
    names = pd.Index(read_column(tree, path, index)).astype(str)
    table = {}
    for column in columns:
        try:
            values = read_column(tree, path, column)
            if len(values) != len(names):
                raise ValueError(f"{len(values)} values for {len(names)} rows")
            table[column] = values
        except Exception as error:  # noqa: BLE001  (of any library)
            lost.append(f"{path}/{column} ({' '.join(str(error).split())[:80]})")
    return pd.DataFrame(table, index=names)


# --- what a file holds ------------------------------------------------------------------------------


def obsm_keys(path: Path | str) -> list[str]:
    """Keys of ``obsm`` in a file or group of this machine."""
    try:
        with _open(LocalFiles(str(path))) as tree:
            held = tree.get("obsm", {})
            return sorted(held.dtype.names or () if hasattr(held, "dtype") else held.keys())
    except ScmfError:
        raise
    except Exception as error:  # whatever h5py and zarr raise for damaged files
        raise _unreadable(error, path) from error


def places_of(path: Path | str) -> tuple[set[str], dict[str, pd.DataFrame]]:
    """Where a file or group of this machine has matrices (``X``, ``raw.X``, ``layers/<name>``); its tables of genes."""
    try:
        with _open(LocalFiles(str(path))) as tree:
            found = {name for name, where in (("X", "X"), ("raw.X", "raw/X")) if where in tree}
            found |= {f"layers/{name}" for name in tree.get("layers", {})}
            return found, {table: _frame(tree, table, []) for table in ("var", "raw/var") if table in tree}
    except ScmfError:
        raise
    except Exception as error:  # whatever h5py and zarr raise for damaged files
        raise _unreadable(error, path) from error


def stored_bytes(path: Path | str) -> int:
    """Bytes of a file, or of all files of a folder."""
    path = Path(path)
    if not path.is_dir():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
