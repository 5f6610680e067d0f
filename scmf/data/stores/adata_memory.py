"""An AnnData of a caller: taken as a file is, never changed unless asked for, written where a run has to find it again.

Lives here: what is accepted, the AnnData that results are put into, the cells of a run as a file. Lives elsewhere: the
same for files (adata_files, adata_added), which matrix holds counts (counts), the AnnData as a store (memory).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scmf.core.errors import ConfigError, DataError
from scmf.core.files import atomic_path, sha256_file, sha256_json
from scmf.data.stores.adata_added import RECORDS

log = logging.getLogger(__name__)

IN_MEMORY = "AnnData in memory"
"""How messages and records call cells that no file holds."""


def in_memory(adata: Any) -> AnnData:
    """The AnnData of a caller, with its matrices in memory; the same object where they are already.

    Parameters
    ----------
    adata
        An AnnData: in memory, a view, or backed by a file.

    Raises
    ------
    ConfigError
        It is something else.
    DataError
        It has no cells, or a matrix that is neither an array nor a sparse matrix.
    """
    if not isinstance(adata, AnnData):
        raise ConfigError(
            f"an object of the type {type(adata).__name__}", wanted="an AnnData", where=IN_MEMORY,
            fix="anndata.read_h5ad(FILE); for files there are scmf.embed_to_file and the command line",
        )  # fmt: skip
    if adata.n_obs == 0:
        raise DataError("no cells", wanted="at least one cell", where=IN_MEMORY, fix="look at the filter before it")
    if adata.isbacked or not all(_is_plain(matrix) for matrix in _matrices(adata).values()):
        adata = adata.to_memory()
    for name, matrix in _matrices(adata).items():
        if not _is_plain(matrix):
            raise DataError(
                f"{name} of the type {type(matrix).__module__}.{type(matrix).__name__}",
                wanted="a numpy array or a scipy sparse matrix", where=IN_MEMORY,
                fix="bring it into memory first, such as anndata.AnnData(x.get()) or x.filled(0)",
            )  # fmt: skip
    return adata


def _matrices(adata: AnnData) -> dict[str, Any]:
    """Matrices in which counts may be, by name."""
    raw = {} if adata.raw is None else {"raw.X": adata.raw.X}
    return {"X": adata.X, **raw, **{f"layers/{name}": adata.layers[name] for name in adata.layers}}


def _is_plain(matrix: Any) -> bool:
    """Whether every value is what it seems, in the memory of this machine."""
    plain = isinstance(matrix, np.ndarray) and not isinstance(matrix, np.ma.MaskedArray)
    return matrix is None or plain or sp.issparse(matrix)


def places_in(adata: AnnData) -> tuple[set[str], dict[str, pd.DataFrame]]:
    """What `scmf.data.stores.adata_files.places_of` says of a file: names of matrices, and the tables of genes."""
    places = {name for name, matrix in _matrices(adata).items() if matrix is not None}
    return places, {"var": adata.var, **({} if adata.raw is None else {"raw/var": adata.raw.var})}


def digest_of(adata: AnnData, obsm: str | None) -> str:
    """Checksum of the vectors under a key of ``obsm``, or of ``X``, with the ids of cells (and genes)."""
    digest = hashlib.sha256()
    matrix = adata.X if obsm is None else adata.obsm.get(obsm)
    if sp.issparse(matrix):
        for array in (matrix.indptr, matrix.indices, matrix.data):
            digest.update(np.ascontiguousarray(array).data)
    elif matrix is not None:
        digest.update(np.ascontiguousarray(matrix).data)
    genes = adata.var_names.tolist() if obsm is None else []
    return sha256_json([digest.hexdigest(), adata.obs_names.tolist(), genes])


def check_target(adata: AnnData, *, inplace: bool, columns: Iterable[str] = ()) -> None:
    """Refuse, before the work, an AnnData that results cannot be put into; `ConfigError`.

    Parameters
    ----------
    adata
        As the caller gave it.
    inplace
        Whether they are put into this one.
    columns
        New columns of ``obs``.
    """
    if inplace and adata.isbacked and adata.is_view:
        raise ConfigError(
            "a view of an AnnData that is backed by a file", wanted="one that can be written to", where="inplace=True",
            fix="leave inplace out, which returns a copy in memory; or adata = adata.to_memory() first",
        )  # fmt: skip
    for name in columns:
        if name in ("_index", adata.obs.index.name):
            raise ConfigError(
                f"{name!r}, the column of obs with the cell ids", wanted="another name for a new column", where="obs",
                fix="choose another --key",
            )  # fmt: skip


def target_of(adata: AnnData, held: AnnData, *, inplace: bool) -> AnnData:
    """The AnnData that results are put into: that of the caller, or a copy in memory.

    Parameters
    ----------
    adata
        As the caller gave it.
    held
        What `in_memory` made of it.
    inplace
        The caller's own.
    """
    if inplace:
        return adata
    return held.copy() if held is adata else held


def put(
    adata: AnnData, key: str, x_ND: np.ndarray, *, record: Mapping[str, Any], columns: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> bool:  # fmt: skip
    """Add what `scmf.data.stores.adata_added` adds to a copy of a file.

    Parameters
    ----------
    adata
        It is changed.
    key
        Key in ``obsm``.
    x_ND
        The array, one row a cell.
    record
        What made it: ``uns["scmf"][key]``.
    columns
        Columns of ``obs``.
    facts
        ``uns[key]``; None: there is none.

    Returns
    -------
    bool
        Whether anything was replaced.
    """
    columns = columns or {}
    replaced = key in adata.obsm or any(name in adata.obs for name in columns)
    adata.obsm[key] = x_ND
    for name, values in columns.items():
        adata.obs[name] = values
    if facts is not None:
        adata.uns[key] = dict(facts)
    held = adata.uns.get(RECORDS, {})
    if isinstance(held, Mapping):
        adata.uns[RECORDS] = {**held, key: dict(record)}
    else:
        log.warning(f"uns[{RECORDS!r}] is something else: what made {key!r} is not recorded")
    return replaced


def write_cells(adata: AnnData, path: Path) -> None:
    """Write the cells of a caller where a run finds them again; a file that is there is never replaced.

    Counts, layers, ``raw``, ``obs`` and ``var`` are written, the same bytes for the same cells; nothing else of it is.

    Parameters
    ----------
    adata
        As `in_memory` returns it; it is not changed.
    path
        The .h5ad file.

    Raises
    ------
    ConfigError
        Other cells lie there.
    DataError
        A column of ``obs`` or ``var`` cannot be written.
    """
    cells = AnnData(adata.X, obs=adata.obs.copy(), var=adata.var.copy(), layers=dict(adata.layers))
    if adata.raw is not None:
        cells.raw = AnnData(adata.raw.X, obs=adata.obs[[]], var=adata.raw.var.copy())
    with atomic_path(path) as temporary:
        try:
            cells.write_h5ad(temporary)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of any kind: which types can be written is anndata's business
            raise DataError(
                f"cells that cannot be written ({' '.join(str(error).split())[:200]})",
                wanted="columns of obs and var that are numbers, texts or categories", where=IN_MEMORY,
                fix="remove or convert that column",
            ) from error  # fmt: skip
        if path.exists() and sha256_file(path) != sha256_file(temporary):
            raise ConfigError(
                f"other cells in {path}", wanted="a folder without, or the run of these cells, which then resumes",
                where="out", fix="choose another folder",
            )  # fmt: skip
