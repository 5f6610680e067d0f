"""Cells of an AnnData in an .h5ad file.

Lives here: opening the file. Lives elsewhere: its datasets (h5ad_layout), counts, genes and obs (anndata_store).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from scmf.core.errors import DataError
from scmf.core.hdf5 import open_hdf5
from scmf.data.stores.anndata_store import AnnDataStore
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.chunks.h5ad_layout import RemoteFile, open_flat
from scmf.data.stores.files.byte_ranges import ByteSource, LocalFiles
from scmf.data.stores.store import FlatArray


class H5adStore(AnnDataStore):
    """Cells of an .h5ad file, its counts read without the lock of HDF5.

    Uncompressed files are the fastest; gzip, the default of many archives, costs several times as much as
    everything else a stream does (`scmf data convert` helps). Filters other than gzip and shuffle go through h5py.

    Parameters
    ----------
    source
        The file under the name ``""``, or its path.
    counts, gene_ids, rounding
        See `AnnDataStore`.
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
        try:
            before = source.version("")
            self._file = open_hdf5(source.root if source.is_local else RemoteFile(source), where=source.root)
        except FileNotFoundError as error:
            raise DataError("no such file", wanted="an .h5ad file", where=source.root, fix="check the path") from error
        except OSError as error:
            raise DataError(
                f"not a readable .h5ad file ({str(error).splitlines()[0]})",
                wanted="a complete AnnData file",
                where=source.root,
                fix="copy or download it again, its end may be missing",
            ) from error
        try:
            if "obs" not in self._file or "var" not in self._file:
                raise DataError(
                    f"an HDF5 file of {', '.join(sorted(self._file)) or 'nothing'}",
                    wanted="an AnnData: obs, var and a matrix",
                    where=source.root,
                    fix="give a file that anndata wrote",
                )
            super().__init__(source, counts=counts, gene_ids=gene_ids, rounding=rounding)
            self._version = before  # of the file whose places of chunks were read
            self._refuse_change()
        except BaseException:
            self._file.close()
            raise

    def _tree(self) -> AbstractContextManager[Any]:
        return nullcontext(self._file)

    def _flat(self, tree: Any, path: str) -> FlatArray:
        return open_flat(self._source, tree[path])

    def _dense(self, tree: Any, path: str) -> Any:
        return tree[path]

    def _version_of_files(self) -> str:
        return self._source.version("")

    def _content_of_files(self) -> str:
        return self._source.content()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
