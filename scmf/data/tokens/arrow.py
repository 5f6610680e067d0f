"""Tokens of many cells on disk: a folder that ``datasets.load_from_disk`` opens.

Lives here: writing ragged tokens as Arrow in the layout of Hugging Face datasets, straight from the buffers,
without a Python object for each cell. The columns ``input_ids`` and ``length`` are those the official Geneformer
trains on. Lives elsewhere: making the tokens (tokenizers), reading batches (training).

Layout of the folder::

    data-00000-of-00002.arrow   Arrow stream, 1,000 cells a record batch
    data-00001-of-00002.arrow
    dataset_info.json           types of the columns
    state.json                  the list of the data files
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.errors import DataError, MissingExtraError
from scmf.core.files import peek_object, write_json
from scmf.core.owned import new_folder

_TOKENS_PER_FILE = 1 << 27
"""At most this many tokens a file (512 MiB); offsets within a file then fit 32 bits."""

_CELLS_PER_BATCH = 1000
_SAMPLE = 61  # one token in so many goes into the fingerprint


class TokenDatasetWriter:
    """Writes a token dataset block by block, so that a corpus of any size fits; use it in a ``with`` statement.

    The folder takes its name when the block ends without an error; a stopped run leaves nothing under that name.

    Parameters
    ----------
    path
        The folder to make.
    dtype
        Integer type of the ids on disk; default: that of the first ids. ``numpy.int16`` holds the published
        vocabularies in half the space (the official V1 corpora are stored so).
    overwrite
        Replace a folder of that name.

    Raises
    ------
    DataError
        A folder that is there already.
    MissingExtraError
        pyarrow is not installed.
    """

    def __init__(self, path: Path | str, *, dtype: Any = None, overwrite: bool = False) -> None:
        self._pa = _pyarrow()
        self.path, self._dtype = Path(path), None if dtype is None else np.dtype(dtype)
        if self.path.exists() and not overwrite:
            raise DataError(
                "a file or folder is there already", where=self.path, fix="choose another name, or overwrite=True"
            )
        self._schema: Any = None
        self._features: dict[str, Any] = {}
        self._digest = hashlib.sha256()
        self._stack = ExitStack()
        self._stream: Any = None
        self._n_files = self._n_tokens = 0

    def __enter__(self) -> TokenDatasetWriter:
        self._folder = self._stack.enter_context(
            new_folder(self.path, ours=_files_of_tokens, what="writing tokens", error=DataError)
        )
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._stack:  # gives the folder its name, or removes it
            if self._stream is not None:
                self._stream.close()
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            if self._schema is None:
                self.add(np.empty(0, np.int32), np.zeros(1, np.int64))
                self._stream.close()
            self._finish()

    def add(self, ids: np.ndarray, offsets: np.ndarray, columns: Mapping[str, Any] | None = None) -> None:
        """Add cells; parameters as in `write_token_dataset`, of the same types and columns in every call."""
        pa = self._pa
        ids, offsets = np.ascontiguousarray(ids), np.asarray(offsets, dtype=np.int64)
        _check_offsets(ids, offsets)
        ids = self._narrow(ids)
        n_cells = offsets.size - 1
        more = {"length": np.diff(offsets), **{name: _column(name, v) for name, v in (columns or {}).items()}}
        arrays = {name: pa.array(values) for name, values in more.items()}
        for name, array in arrays.items():
            if name == "input_ids" or len(array) != n_cells:
                raise DataError(
                    f"column {name!r} with {len(array):,} values",
                    wanted=f"another name than 'input_ids' and {n_cells:,} values, one a cell",
                    where="columns",
                    fix="give one value for each cell",
                )
        kind = pa.from_numpy_dtype(ids.dtype)
        fields = [("input_ids", pa.list_(kind)), *((name, array.type) for name, array in arrays.items())]
        if self._schema is None:
            self._describe(kind, fields)
        elif not self._schema.equals(pa.schema(fields)):
            raise DataError(
                f"columns {pa.schema(fields).to_string()!r}",
                wanted=f"those of the first block, {self._schema.to_string(show_schema_metadata=False)!r}",
                where="TokenDatasetWriter.add",
                fix="give every block the same columns and types",
            )
        for start, stop in itertools.pairwise(_edges(offsets)):
            first, last = int(offsets[start]), int(offsets[stop])
            if self._stream is None or self._n_tokens + last - first > _TOKENS_PER_FILE:
                self._next_file()
            inner = pa.array((offsets[start : stop + 1] - first).astype(np.int32))
            lists = pa.ListArray.from_arrays(inner, pa.array(ids[first:last]))
            table = pa.Table.from_arrays([lists, *(a[start:stop] for a in arrays.values())], schema=self._schema)
            self._stream.write_table(table, max_chunksize=_CELLS_PER_BATCH)
            self._n_tokens += last - first
            self._digest.update(more["length"][start:stop].tobytes())
            self._digest.update(ids[first:last:_SAMPLE].tobytes())

    def _narrow(self, ids: np.ndarray) -> np.ndarray:
        dtype = ids.dtype if self._dtype is None else self._dtype
        self._dtype = dtype
        if (
            not np.can_cast(ids.dtype, dtype)
            and ids.size
            and (ids.max() > np.iinfo(dtype).max or ids.min() < np.iinfo(dtype).min)
        ):
            raise DataError(
                f"an id of {ids.max():,}", wanted=f"ids that fit {dtype}", where="tokens", fix="store them as int32"
            )
        return ids.astype(dtype, copy=False)

    def _describe(self, kind: Any, fields: list[tuple[str, Any]]) -> None:
        self._features = {"input_ids": {"feature": _feature(kind), "length": -1, "_type": "Sequence"}}
        self._features |= {name: _feature(of) for name, of in fields[1:]}
        described = json.dumps({"info": {"features": self._features}})
        self._schema = self._pa.schema(fields, metadata={"huggingface": described})
        self._digest.update(described.encode())

    def _next_file(self) -> None:
        if self._stream is not None:
            self._stream.close()
        sink = self._stack.enter_context(self._pa.OSFile(str(self._folder / f"{self._n_files}.arrow"), "wb"))
        self._stream = self._pa.ipc.new_stream(sink, self._schema)
        self._n_files, self._n_tokens = self._n_files + 1, 0

    def _finish(self) -> None:
        names = [f"data-{i:05d}-of-{self._n_files:05d}.arrow" for i in range(self._n_files)]
        for i, name in enumerate(names):
            (self._folder / f"{i}.arrow").rename(self._folder / name)
        info = {"citation": "", "description": "", "features": self._features, "homepage": "", "license": ""}
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in names],
            # Names the results of ``map`` cached in this folder, which is only ever replaced as a whole; so it is
            # taken of the columns, all lengths and a sample of the tokens.
            "_fingerprint": self._digest.hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        write_json(self._folder / "dataset_info.json", info)
        write_json(self._folder / "state.json", state)


def write_token_dataset(
    path: Path | str,
    ids: np.ndarray,
    offsets: np.ndarray,
    columns: Mapping[str, Any] | None = None,
    *,
    dtype: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write ragged tokens as a folder for ``datasets.load_from_disk``.

    Parameters
    ----------
    path
        The folder to make; it takes its name when all of it is written.
    ids
        Token ids of all cells in one row (N,), any integer type.
    offsets
        Cell b is ``ids[offsets[b]:offsets[b + 1]]`` (B+1,).
    columns
        Further columns, one value a cell: arrays of numbers, strings or a pandas column.
    dtype, overwrite
        See `TokenDatasetWriter`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DataError
        Offsets or columns that do not fit, or a folder that is there already.
    MissingExtraError
        pyarrow is not installed.
    """
    with TokenDatasetWriter(path, dtype=dtype, overwrite=overwrite) as writer:
        writer.add(ids, offsets, columns)
    return Path(path)


def _check_offsets(ids: np.ndarray, offsets: np.ndarray) -> None:
    fits = ids.dtype.kind in "iu" and offsets.size > 0 and offsets[0] >= 0 and offsets[-1] <= ids.size
    if not fits or (np.diff(offsets) < 0).any():
        raise DataError(
            f"{ids.size:,} ids of type {ids.dtype} with {offsets.size:,} offsets",
            wanted="integers, and offsets that grow from 0 to at most their number",
            where="tokens",
            fix="give ids and offsets as RankValueTokenizer.rank returns them",
        )


def _edges(offsets: np.ndarray) -> list[int]:
    """First cell of each part that fits a file, and the number of cells."""
    edges, n_cells = [0], offsets.size - 1
    while edges[-1] < n_cells:
        reach = int(np.searchsorted(offsets, offsets[edges[-1]] + _TOKENS_PER_FILE, side="right")) - 1
        edges.append(min(n_cells, max(reach, edges[-1] + 1)))
    return edges if n_cells else [0, 0]


def _column(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biufUO":
        raise DataError(
            f"column {name!r} of shape {array.shape}, type {array.dtype}",
            wanted="one number or string a cell",
            where="columns",
            fix="give another column",
        )
    return array.astype(str).astype(object) if array.dtype.kind in "UO" else array


def _feature(kind: Any) -> dict[str, Any]:
    """An Arrow type as Hugging Face datasets calls it."""
    called = {"double": "float64", "float": "float32", "halffloat": "float16"}
    return {"dtype": called.get(str(kind), str(kind)), "_type": "Value"}


def _files_of_tokens(folder: Path) -> list[str] | None:
    """The files of a token dataset that was written here; None for any other folder."""
    info, state = (peek_object(folder / name) or {} for name in ("dataset_info.json", "state.json"))
    try:
        named = [str(file["filename"]) for file in state["_data_files"]]
        ours = {"input_ids", "length"} <= set(info["features"])
    except (KeyError, TypeError):
        return None
    return [*named, "dataset_info.json", "state.json"] if ours else None


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", needed_for="token datasets") from error
    return pa
