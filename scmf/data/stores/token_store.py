"""A folder of ready tokens as a store: the Arrow layout of Hugging Face datasets, read without Arrow on the hot path.

Folders that `scmf.data.tokens.arrow` writes and those of the official Geneformer (``input_ids``, ``length``) are
alike here.
Arrow says once where the values of each record batch lie in the files; after that rows are plain byte ranges.

Lives here: `TokenStore`, `ReadyTokens`. Lives elsewhere: writing such folders (data.tokens), batches (stream).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core import registry
from scmf.core.errors import DataError, MissingExtraError
from scmf.core.files import read_object
from scmf.data.stores.files.byte_ranges import LocalFiles, as_bytes
from scmf.data.stores.ragged import Ragged
from scmf.data.stores.store import CountBlock, CsrStore, FlatArray, RowIndex, merge_ranges


class ReadyTokens:
    """The encoder of a stream over `TokenStore`: rows are tokens already.

    Parameters
    ----------
    pad_token_id
        Id that fills short rows.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_values: Mapping[str, float] = {"input_ids": pad_token_id}

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Ragged:
        """See `scmf.data.stores.ragged.Encoder`."""
        return Ragged(counts.indptr, {"input_ids": counts.indices}, {}, self.pad_values)


class TokenStore(CsrStore):
    """Tokenized cells on disk. A block that is read holds token ids as ``indices``, in rank order, and no ``data``.

    Parameters
    ----------
    path
        The folder that ``datasets.load_from_disk`` opens (one split, no ``DatasetDict``).

    Raises
    ------
    DataError
        It is no such folder, has no column ``input_ids`` of integers, or a file is cut short.
    MissingExtraError
        pyarrow is not installed.
    """

    def __init__(self, path: Path | str) -> None:
        self.uri, self.counts, self.genes = str(path), "input_ids", ()
        self._folder = Path(path)
        self._files = LocalFiles(path)
        self._names = _data_files(self._folder)
        batches: list[_Batch] = []
        lengths: list[np.ndarray] = []
        for name in self._names:
            for batch, length in _batches(self._folder / name, name):
                batches.append(batch)
                lengths.append(length)
        kinds = {batch.dtype for batch in batches}
        if len(kinds) > 1:
            raise DataError(f"ids of types {', '.join(map(str, sorted(kinds, key=str)))}", wanted="one", where=path)
        dtype = kinds.pop() if kinds else np.dtype(np.int32)
        self._indices = _ArrowValues(self._files, batches, dtype)
        self._rows = RowIndex(np.concatenate([[0], np.cumsum(np.concatenate(lengths or [np.empty(0, np.int64)]))]))
        self.fingerprint = self._files.content(self._names)

    def read(self, spans: np.ndarray) -> CountBlock:
        """See `Store.read`; ``n_genes`` is 0."""
        indptr, ranges = self.locate(np.asarray(spans, dtype=np.int64).reshape(-1, 2))
        ids = np.empty(indptr[-1], self._indices.dtype)
        self._indices.read_into(merge_ranges(ranges), ids)
        return CountBlock(indptr, ids, np.empty(0, np.float32), 0)

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `Store.obs`: the further columns of the dataset."""
        missing = [column for column in columns if column not in self.obs_columns]
        if missing:
            raise DataError(
                f"no column {missing[0]!r}", where=self.uri, fix=registry.did_you_mean(missing[0], self.obs_columns)
            )
        pa = _pyarrow()
        parts = []
        for name in self._names:
            with pa.memory_map(str(self._folder / name)) as source:
                table = pa.ipc.open_stream(source).read_all().select(list(columns))
                parts.append(table.to_pandas())
        return pd.concat(parts, ignore_index=True)

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns beside ``input_ids``."""
        path, wanted = self._folder / "dataset_info.json", "the columns, as datasets.save_to_disk writes them"
        info = read_object(path, kind=DataError, wanted=wanted, fix="write the folder again", keys=["features"])
        return [str(name) for name in info["features"] or () if name != "input_ids"]

    def cell_ids(self) -> np.ndarray:
        """Positions in the folder as text, object (n_cells,): such folders name no cells."""
        return np.arange(self.n_cells).astype(str).astype(object)

    @property
    def var(self) -> pd.DataFrame:
        """An empty table: the columns are positions, not genes."""
        return pd.DataFrame()

    def close(self) -> None:
        """See `Store.close`."""
        self._files.close()


class _Batch:
    """Where the ids of one record batch lie: file, byte of the first, how many, their type."""

    def __init__(self, name: str, start: int, size: int, dtype: np.dtype) -> None:
        self.name, self.start, self.size, self.dtype = name, start, size, dtype


class _ArrowValues(FlatArray):
    """The ids of all record batches, one behind the other."""

    def __init__(self, files: LocalFiles, batches: list[_Batch], dtype: np.dtype) -> None:
        self._files, self._batches, self.dtype = files, batches, dtype
        self._ends = np.concatenate([[0], np.cumsum([batch.size for batch in batches], dtype=np.int64)])
        self.size = int(self._ends[-1])

    def read_into(self, ranges: np.ndarray, out: np.ndarray) -> None:
        """See `FlatArray.read_into`."""
        memory, width = as_bytes(out), self.dtype.itemsize
        jobs: dict[str, tuple[list[tuple[int, int]], list[memoryview]]] = {}
        done = 0
        first = np.searchsorted(self._ends, ranges[:, 0], side="right") - 1
        for number, (start, stop) in zip(first.tolist(), ranges.tolist(), strict=True):
            while start < stop:
                batch, begin = self._batches[number], int(self._ends[number])
                upto = min(stop, int(self._ends[number + 1]))
                wanted, views = jobs.setdefault(batch.name, ([], []))
                wanted.append((batch.start + (start - begin) * width, batch.start + (upto - begin) * width))
                views.append(memory[done * width : (done + upto - start) * width])
                done, start, number = done + upto - start, upto, number + 1
        for name, (wanted, views) in jobs.items():
            self._files.read_ranges(name, wanted, views)


def _data_files(folder: Path) -> list[str]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        several = (folder / "dataset_dict.json").is_file()
        raise DataError(
            "a DatasetDict of several splits" if several else f"no token dataset ({type(error).__name__}: {error})",
            wanted="a folder with state.json, as datasets.save_to_disk and `scmf data tokenize` write it",
            where=folder,
            fix="give the folder of one split inside it" if several else "check the path",
        ) from error


def _batches(path: Path, name: str) -> list[tuple[_Batch, np.ndarray]]:
    """The record batches of an Arrow file and the lengths of their rows."""
    pa = _pyarrow()
    found = []
    try:
        with pa.memory_map(str(path)) as source:
            base = source.read_buffer(source.size()).address
            source.seek(0)
            for batch in pa.ipc.open_stream(source):
                column = batch.column("input_ids")
                offsets = np.asarray(column.offsets)
                values = column.values
                if not pa.types.is_integer(values.type) or values.null_count:
                    raise DataError(f"input_ids of {values.type}", wanted="integers without gaps", where=path)
                dtype = np.dtype(values.type.to_pandas_dtype())
                size = int(offsets[-1] - offsets[0])
                start = values.buffers()[1].address - base + (values.offset + int(offsets[0])) * dtype.itemsize
                if size and not 0 <= start <= source.size() - size * dtype.itemsize:
                    raise DataError(
                        "a compressed Arrow file",
                        wanted="an uncompressed one",
                        where=path,
                        fix="save the dataset again",
                    )
                found.append((_Batch(name, start, size, dtype), np.diff(offsets).astype(np.int64)))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise DataError(
            f"not a complete Arrow file with input_ids ({error})", where=path, fix="copy or make it again"
        ) from error
    return found


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", needed_for="token datasets") from error
    return pa
