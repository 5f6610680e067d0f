"""A path or address becomes stores.

Lives here: telling what an address is: .h5ad, zarr, a collection of zarr groups, a folder or a pattern of these.
Lives elsewhere: the stores themselves (h5ad_store, zarr_store), bytes far away (remote), Census (soma).
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from scmf.core import registry
from scmf.core.errors import DataError
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.files.byte_ranges import ByteSource, LocalFiles
from scmf.data.stores.files.remote import is_remote, open_remote
from scmf.data.stores.formats import foreign
from scmf.data.stores.store import Store
from scmf.data.stores.zarr_store import open_group

_WANTED = "an .h5ad file, a zarr group of AnnData, a collection of them, or a folder of these"


def open_stores(
    uris: Sequence[str | Path],
    *,
    counts: str = "auto",
    gene_ids: str = "auto",
    rounding: Rounding = "error",
    storage_options: Mapping[str, Any] | None = None,
) -> list[Store]:
    """Open what the addresses name, in their order.

    Parameters
    ----------
    uris
        Each an ``.h5ad`` file; a zarr group of an AnnData; a zarr group whose children are AnnData (a collection of
        annbatch); a folder of ``*.h5ad`` and ``*.zarr``; a pattern such as ``cells/*.h5ad`` (this machine only); or
        an address (``s3://``, ``gs://``, ``az://``, ``http(s)://``, any protocol of fsspec) of one of these. What is
        in a folder comes in the order of the names, numbers in them by value.
    counts, gene_ids, rounding
        See `scmf.data.stores.anndata_store.AnnDataStore`.
    storage_options
        For addresses, see `scmf.data.stores.files.remote.open_remote`.

    Returns
    -------
    list of Store
        Close each after use.

    Raises
    ------
    DataError
        Nothing is there, or something that is none of these.
    CountsError, GeneError
        See `scmf.data.stores.anndata_store.AnnDataStore`.
    """
    opened: list[Store | ByteSource] = []
    stores: list[Store] = []
    try:
        for uri in uris:
            for source in sources_of(str(uri), storage_options):
                opened.append(source)
                kind = registry.resolve("readers", _reader(source.root))
                stores.append(kind(source, counts=counts, gene_ids=gene_ids, rounding=rounding))
                opened.append(stores[-1])
    except BaseException:
        for one in opened:
            one.close()
        raise
    return stores


def sources_of(uri: str, storage_options: Mapping[str, Any] | None) -> list[ByteSource]:
    """The bytes of each store that ``uri`` names."""
    if is_remote(uri):
        return _below(uri, lambda name: open_remote(name, storage_options))
    path = local_path(uri)
    if there(path):
        return _below(str(path), LocalFiles)
    matches = sorted(glob.glob(str(path)), key=_natural) if glob.has_magic(str(path)) else []  # noqa: PTH207
    if not matches:
        found = "that fits the pattern" if glob.has_magic(str(path)) else "(no such file or folder)"
        raise DataError(f"nothing there {found}", wanted=_WANTED, where=uri, fix="check the path or the pattern")
    return [source for match in matches for source in _below(match, LocalFiles)]


def local_path(uri: str) -> Path:
    """A path of this machine, of a name with ``~`` or of ``file://``; `DataError` for what can be none."""
    if not uri or "\0" in uri:
        raise DataError(f"the name {uri!r}", wanted=_WANTED, where="files", fix="name a file")
    try:
        return Path(uri.removeprefix("file://")).expanduser()
    except RuntimeError as error:
        raise DataError(f"no home folder for {uri!r}", wanted=_WANTED, where=uri, fix="write the path out") from error


def there(path: Path) -> bool:
    """Whether something is there; `DataError` where it cannot be looked at."""
    try:
        return path.exists()
    except OSError as error:
        raise DataError(f"a path that cannot be read: {error.strerror}", where=path, fix="check the path") from error


def _below(uri: str, open_source: Any) -> list[ByteSource]:
    """``uri`` itself where it is a store, otherwise the stores directly below it."""
    source: ByteSource = open_source(uri)
    ours = _reader(uri) in ("h5ad", "zarr")  # what a reader of others takes is for it to say
    if ours and source.is_local and Path(uri).is_file() and (known := foreign(uri)) is not None:
        raise known
    if _reader(uri) != "zarr":
        return [source]
    if source.is_local and Path(uri).is_file():
        raise DataError(
            "neither a store nor a folder of stores, but a file with another ending", wanted=_WANTED, where=uri,
            fix="if it is an AnnData in HDF5, rename it to end in .h5ad",
        )  # fmt: skip
    if source.exists("zarr.json") or source.exists(".zgroup"):
        group = open_group(source)
        if "obs" in group and "var" in group:
            return [source]
        children = sorted((name for name, child in group.groups() if "obs" in child and "var" in child), key=_natural)
        if not children and source.is_local and (known := foreign(uri)) is not None:
            raise known
        if not children:
            raise DataError(
                f"a zarr group of {', '.join(sorted(group.keys())) or 'nothing'}",
                wanted=_WANTED,
                where=uri,
                fix="give the group that anndata wrote, or a group of such groups",
            )
    else:
        try:
            names = [name for name in source.list() if not name.startswith(".")]  # copies that are being written
        except (FileNotFoundError, NotADirectoryError):
            names = []
        children = sorted(
            (name for name in names if _reader(name) != "zarr" or name.rstrip("/").endswith(".zarr")), key=_natural
        )
        if not children and source.is_local and (known := foreign(uri)) is not None:
            raise known
        if not children:
            raise DataError(
                "neither a store nor a folder of stores",
                wanted=_WANTED,
                where=uri,
                fix="names end in .h5ad or .zarr; check the path",
            )
    source.close()
    return [open_source(f"{uri.rstrip('/')}/{name.rstrip('/')}") for name in children]


def _reader(uri: str) -> str:
    """Name of the reader of an address: one called like the ending of the name, ``h5ad`` for HDF5, else ``zarr``."""
    ending = uri.split("?")[0].rstrip("/").rpartition(".")[2]
    if ending in ("h5", "hdf5"):
        return "h5ad"
    if ending in registry.names("readers"):
        return ending
    return "h5ad" if not is_remote(uri) and h5py.is_hdf5(uri) else "zarr"


def is_h5ad(uri: str) -> bool:
    """Whether an address names an HDF5 file."""
    return _reader(uri) == "h5ad"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key with numbers by value: ``dataset_2`` before ``dataset_10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def one_store(uri: str, *, verb: str) -> Path:
    """The one .h5ad file or zarr group of this machine that an address means.

    Parameters
    ----------
    uri
        As `open_stores` takes one.
    verb
        The command that takes no more than one, for errors.

    Raises
    ------
    DataError
        An address far away; several stores, or none.
    """
    if is_remote(uri):
        raise DataError(
            f"the address {uri.partition('?')[0]}", wanted="an .h5ad file or zarr group of this machine",
            where=f"scmf {verb}", fix="copy it here first",
        )  # fmt: skip
    sources = sources_of(uri, None)
    for source in sources:
        source.close()
    if len(sources) > 1:
        raise DataError(
            f"{len(sources)} stores, the first {sources[0].root}", wanted="one .h5ad file or zarr group", where=uri,
            fix=f"call `scmf {verb}` once for each of them",
        )  # fmt: skip
    return Path(sources[0].root)
