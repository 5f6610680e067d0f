"""HDF5 files that hold their own content: what a file takes from other files is refused before anything is read.

An external link, a dataset with external raw storage and a virtual dataset make HDF5 read any file that the user can
read, and its bytes would end in an output that is passed on. Lives here: the look at the whole tree. Lives elsewhere:
reading AnnData (data.stores, data.loading).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from scmf.core.errors import DataError


def open_hdf5(source: Any, *, where: Path | str | None = None) -> h5py.File:
    """Open an HDF5 file to read it, a path or a file object, and refuse it if it takes content from other files.

    Raises
    ------
    DataError
        It does.
    OSError
        It cannot be opened.
    """
    file = h5py.File(source, "r")
    try:
        refuse_outside(file, where=where or source)
    except BaseException:
        file.close()
        raise
    return file


def refuse_outside(file: h5py.File, *, where: Path | str) -> None:
    """Raise `DataError` when a link or dataset of an open file points into another file."""
    strange: list[str] = []

    def link(name: bytes, info: Any) -> None:
        if info.type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
            strange.append(f"{name.decode(errors='replace')} is a link to another file")

    def node(name: bytes) -> None:
        found = h5py.h5o.open(file.id, name)
        if isinstance(found, h5py.h5d.DatasetID):
            plist = found.get_create_plist()
            if plist.get_external_count():
                strange.append(f"the values of {name.decode(errors='replace')} lie in another file")
            elif plist.get_layout() == h5py.h5d.VIRTUAL:
                strange.append(f"{name.decode(errors='replace')} is put together from other files")

    try:
        file.id.links.visit(link, info=True)
        h5py.h5o.visit(file.id, node)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise DataError(
            f"an HDF5 file whose parts cannot be listed ({str(error).splitlines()[0]})",
            wanted="a complete file",
            where=where,
            fix="copy or download it again",
        ) from error
    if strange:
        more = f", and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise DataError(
            f"an HDF5 file that takes content from elsewhere: {strange[0]}{more}",
            wanted="a file that holds all of its content",
            where=where,
            fix="where you trust it, write it whole: anndata.read_h5ad(FILE).write_h5ad(NEW), or h5repack",
        )
