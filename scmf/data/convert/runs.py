"""Rows on their way from the order of the inputs to a shuffled order: runs on disk, each sorted by bucket.

Lives here: collecting rows in memory, writing them as one run, reading a bucket back from all runs. Lives elsewhere:
which place a cell gets (plan), what a row is (rows).

The shuffle is that of an external sort. Every cell has a place in the output; consecutive places form a bucket that
fits into memory. The inputs are read once, in order. Rows collect in memory; when it is full they are written as a
run: one file, bucket after bucket, then where each bucket begins. A bucket is then the parts of it in all runs.

A run counts once its ``.json`` is there, written after the data are on disk: an interrupted conversion resumes
after the last one. Values are compressed, so that a run is about as large as what becomes of it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scmf.core.errors import DataError
from scmf.core.files import write_json
from scmf.data.convert.plan import read_note
from scmf.data.convert.rows import Rows, gather, index_dtype
from scmf.data.convert.zarr_writer import compressor

MOST_BYTES = 1 << 30
"""Of a buffer: Blosc takes less than 2 GiB."""


class Cells(NamedTuple):
    """Some cells with everything that is written of them.

    Parameters
    ----------
    rows
        Conformed counts.
    places
        Places in the output, int64 (B,).
    records
        See `scmf.data.convert.obs.ObsSpool.dtype`, (B,).
    texts
        Of each text column the number of bytes of each value (uint32 (B,)) and the bytes.
    """

    rows: Rows
    places: np.ndarray
    records: np.ndarray
    texts: list[tuple[np.ndarray, bytes]]


def _encode(cells: Cells) -> bytes:
    """A part of a run: number of frames and their sizes, then the frames."""
    codec = compressor()
    arrays: list[Any] = [
        cells.rows.lengths.astype(np.uint32),
        cells.places,
        cells.records.view(np.uint8),
        cells.rows.indices,
        cells.rows.data,
    ]
    for lengths, blob in cells.texts:
        arrays += [lengths, np.frombuffer(blob, np.uint8)]
    frames = [codec.encode(array) if array.size else b"" for array in arrays]
    head = np.array([len(arrays), len(cells.places), len(cells.rows.data), *map(len, frames)], np.int64)
    return b"".join([head.tobytes(), *frames])


def encoded_size(cells: Cells) -> tuple[int, int]:
    """Bytes that some cells take in a run and in a dataset, to estimate what a conversion needs on disk."""
    tables = 8 * len(cells.places) + cells.records.nbytes + sum(len(blob) for _, blob in cells.texts)
    counts = len(compressor().encode(cells.rows.indices.astype(np.int32))) + len(compressor().encode(cells.rows.data))
    return len(_encode(cells)), counts + tables


def _decode(data: bytes, dtype: np.dtype, index: np.dtype) -> Cells:
    """Inverse of `_encode`."""
    codec = compressor()
    n = int(np.frombuffer(data, np.int64, 1)[0])
    sizes = np.frombuffer(data, np.int64, n, offset=24)
    starts = 24 + 8 * n + np.concatenate([[0], np.cumsum(sizes)])
    frames = [codec.decode(data[a:b]) if b > a else b"" for a, b in zip(starts[:-1], starts[1:], strict=True)]
    lengths = np.frombuffer(frames[0], np.uint32).astype(np.int64)
    texts = [(np.frombuffer(frames[i], np.uint32), frames[i + 1]) for i in range(5, n, 2)]
    rows = Rows(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.frombuffer(frames[3], index),
        np.frombuffer(frames[4], np.float32),
    )
    return Cells(rows, np.frombuffer(frames[1], np.int64), np.frombuffer(frames[2], dtype), texts)


def select(cells: Cells, order: np.ndarray) -> Cells:
    """Copy of the cells ``order`` (int64), in that order."""
    texts = []
    for lengths, blob in cells.texts:
        ends = np.cumsum(lengths, dtype=np.int64)
        starts = ends - lengths
        part = b"".join(blob[a:b] for a, b in zip(starts[order].tolist(), ends[order].tolist(), strict=True))
        texts.append((lengths[order], part))
    return Cells(gather(cells.rows, order), cells.places[order], cells.records[order], texts)


def _join(parts: list[Cells], dtype: np.dtype, index: np.dtype, n_texts: int) -> Cells:
    """Cells one after the other; the parts are let go as they are copied."""
    n, nnz = sum(len(part.places) for part in parts), sum(len(part.rows.data) for part in parts)
    rows = Rows(np.zeros(n + 1, np.int64), np.empty(nnz, index), np.empty(nnz, np.float32))
    places, records = np.empty(n, np.int64), np.empty(n, dtype)
    lengths: list[list[np.ndarray]] = [[] for _ in range(n_texts)]
    blobs: list[list[bytes]] = [[] for _ in range(n_texts)]
    cell = at = 0
    for i, part in enumerate(parts):
        to_cell, to = cell + len(part.places), at + len(part.rows.data)
        rows.indptr[cell + 1 : to_cell + 1] = part.rows.indptr[1:] + at
        rows.indices[at:to], rows.data[at:to] = part.rows.indices, part.rows.data
        places[cell:to_cell], records[cell:to_cell] = part.places, part.records
        for number, (length, blob) in enumerate(part.texts):
            lengths[number].append(length)
            blobs[number].append(blob)
        cell, at = to_cell, to
        parts[i] = None  # type: ignore[call-overload]
    texts = [
        (np.concatenate([np.empty(0, np.uint32), *length]), b"".join(blob))
        for length, blob in zip(lengths, blobs, strict=True)
    ]
    return Cells(rows, places, records, texts)


class Runs:
    """The runs of a conversion in a folder.

    Parameters
    ----------
    folder
        Where they lie.
    bounds
        First place of each bucket and the number of places, int64 (buckets + 1,).
    dtype
        Of the records.
    n_genes
        Columns of the aligner.
    n_texts
        Text columns.
    stage
        Bytes of values that collect before a run is written.
    pool
        Where rows are compressed.
    """

    def __init__(
        self,
        folder: Path,
        bounds: np.ndarray,
        *,
        dtype: np.dtype,
        n_genes: int,
        n_texts: int,
        stage: int,
        pool: Executor,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._bounds, self._pool, self._n_texts = folder, bounds, pool, n_texts
        self._dtype, self._index, self._stage = dtype, index_dtype(n_genes), min(stage, MOST_BYTES)
        self._staged: list[Cells] = []
        self._bytes = 0
        self._n_runs = 0
        self.note: dict[str, Any] = {}
        """What was written with the last run; empty before the first."""
        while (note := self._path(self._n_runs, "json")).is_file():
            self.note = read_note(note)
            self._n_runs += 1

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"run-{number:06d}.{suffix}"

    @property
    def n_bytes(self) -> int:
        """Bytes of the runs on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("run-*.bin"))

    def add(self, cells: Cells) -> bool:
        """Collect some cells; True when it is time for `flush`."""
        self._staged.append(cells)
        self._bytes += cells.rows.indices.nbytes + cells.rows.data.nbytes + cells.records.nbytes
        return self._bytes >= self._stage

    def flush(self, note: dict[str, Any]) -> None:
        """Write what was collected as a run, with a note that `note` gives back after a restart."""
        if not self._staged:
            return
        cells = _join(self._staged, self._dtype, self._index, self._n_texts)
        self._staged, self._bytes = [], 0
        bucket = np.searchsorted(self._bounds, cells.places, side="right") - 1
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange(len(self._bounds)))
        path = self._path(self._n_runs, "bin")
        starts = np.zeros(len(self._bounds), np.int64)
        try:
            with path.open("wb") as file:
                for number, part in enumerate(self._parts(cells, order, edges)):
                    file.write(part)
                    starts[number + 1] = file.tell()
                file.write(starts.tobytes())
                file.flush()
                os.fsync(file.fileno())
            write_json(self._path(self._n_runs, "json"), note)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._n_runs += 1
        self.note = note

    def _parts(self, cells: Cells, order: np.ndarray, edges: np.ndarray) -> Iterator[bytes]:
        """The encoded cells of each bucket; nothing for a bucket without any."""

        def part(chosen: np.ndarray) -> bytes:
            return _encode(select(cells, chosen)) if len(chosen) else b""

        ahead: deque[Future[bytes]] = deque()
        try:
            for start, stop in zip(edges[:-1], edges[1:], strict=True):
                ahead.append(self._pool.submit(part, order[start:stop]))
                if len(ahead) > 3:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()

    def bucket(self, number: int) -> Cells:
        """All cells of a bucket, in the order of their places."""

        def read(run: int) -> Cells | None:
            path = self._path(run, "bin")
            with path.open("rb") as file:
                file.seek(8 * (number - len(self._bounds)), os.SEEK_END)
                start, stop = np.fromfile(file, np.int64, 2).tolist()
                file.seek(start)
                data = file.read(stop - start)
            return _decode(data, self._dtype, self._index) if data else None

        parts = [part for part in self._pool.map(read, range(self._n_runs)) if part is not None]
        cells = _join(parts, self._dtype, self._index, self._n_texts)
        order = np.argsort(cells.places, kind="stable")
        expected = np.arange(self._bounds[number], self._bounds[number + 1])
        if not np.array_equal(cells.places[order], expected):
            raise DataError(
                f"bucket {number} has {len(order):,} cells",
                wanted=f"the cells of the places {expected[0]:,} to {expected[-1]:,}, each once",
                where=self.folder,
                fix="remove this folder and convert again",
            )
        return Cells(cells.rows, order, cells.records, cells.texts)
