"""Cells of an AnnData in a zarr group, v2 or v3, sharded or not, as anndata and annbatch write them.

Lives here: opening the group. Lives elsewhere: its arrays (zarr_layout), counts, genes and obs (anndata_store).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import zarr
from numcodecs.registry import codec_registry
from zarr.errors import GroupNotFoundError

from scmf.core.errors import DataError
from scmf.core.files import sha256_json
from scmf.data.stores.anndata_store import AnnDataStore
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.chunks.chunked_array import ChunkedArray
from scmf.data.stores.chunks.zarr_layout import open_flat
from scmf.data.stores.files.byte_ranges import ByteSource, LocalFiles
from scmf.data.stores.files.zarr_files import ZarrFiles
from scmf.data.stores.store import FlatArray


def open_group(source: ByteSource) -> zarr.Group:
    """The zarr group whose files are ``source``, to be read only; `DataError` where there is none.

    The codec ``pickle`` of numcodecs, which runs what a file says, is not known to this process from then on.
    """
    codec_registry.pop("pickle", None)
    try:
        return zarr.open_group(ZarrFiles(source), mode="r")
    except (GroupNotFoundError, FileNotFoundError, ValueError, KeyError) as error:
        raise DataError(
            f"no readable zarr group ({type(error).__name__}: {error})",
            wanted="an AnnData written by write_zarr, or a collection of them",
            where=source.root,
            fix="check the path; copy or convert the store again if it should be one",
        ) from error


class ZarrStore(AnnDataStore):
    """Cells of an AnnData in a zarr group, read shard by shard without an event loop.

    Codecs blosc, zstd, lz4, gzip, zlib, shuffle, crc32c, and none; every other codec is read with zarr-python.

    Parameters
    ----------
    source
        The files of the group, or the path of its folder.
    counts, gene_ids, rounding
        See `AnnDataStore`.

    Examples
    --------
    >>> store = ZarrStore("cells.zarr")  # doctest: +SKIP
    >>> store.read(np.array([[0, 64], [640, 704]])).csr().shape  # doctest: +SKIP
    (128, 20000)
    """

    def __init__(
        self,
        source: ByteSource | Path | str,
        *,
        counts: str = "auto",
        gene_ids: str = "auto",
        rounding: Rounding = "error",
    ) -> None:
        source = source if isinstance(source, ByteSource) else LocalFiles(source)
        self._group = open_group(source)
        if "obs" not in self._group or "var" not in self._group:
            raise DataError(
                f"a zarr group of {', '.join(sorted(self._group.keys())) or 'nothing'}",
                wanted="an AnnData: obs, var and a matrix",
                where=source.root,
                fix="give the group that anndata wrote",
            )
        super().__init__(source, counts=counts, gene_ids=gene_ids, rounding=rounding)

    def _tree(self) -> AbstractContextManager[Any]:
        return nullcontext(self._group)

    def _flat(self, tree: Any, path: str) -> FlatArray:
        return open_flat(self._source, path, group=tree)

    def _dense(self, tree: Any, path: str) -> Any:
        return tree[path]

    def _metadata(self) -> list[str]:
        parts = [f"{self._path}{part}" for part in ("", "/data", "/indices", "/indptr")]
        names = [f"{part}/{name}" for part in parts for name in ("zarr.json", ".zarray")]
        return [name for name in names if self._source.exists(name)]

    def _version_of_files(self) -> str:
        """Of the metadata, and on this machine of every file of the two large arrays."""
        names = self._metadata()
        if self._source.is_local and not self._is_dense:
            for array in (self._data, self._indices):
                names += array.files if isinstance(array, ChunkedArray) else []
        return sha256_json([self._source.version(name) for name in names])

    def _content_of_files(self) -> str:
        """Of all files on this machine; elsewhere of the metadata."""
        return self._source.content(None if self._source.is_local else self._metadata())
