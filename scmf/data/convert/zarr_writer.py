"""Writing one AnnData zarr v3 group whose CSR matrix comes in pieces: sharded, compressed with blosc.

Lives here: cutting the values into chunks, compressing them in threads, the rest of the group through anndata,
reading it back, the root of a collection. Lives elsewhere: shard files (zarr_shards), which cells (convert), reading
for a stream (stores).

zarr-python writes shards too, at three to four times the CPU time (each chunk passes through its event loop), and
cannot append to one. All metadata are still written by zarr-python, and what stands here is read by it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numcodecs import Blosc

from scmf.core.files import write_json
from scmf.data.convert.zarr_shards import ShardedArray
from scmf.data.stores.chunks.zarr_layout import open_flat
from scmf.data.stores.files.byte_ranges import LocalFiles

CHUNK = 32_768
"""Values of a chunk where nothing else is said: 16 cells of 2,000 genes."""
CHUNKS_PER_SHARD = 4_096
"""Most chunks of a shard file: 128 Mi values, and an index of 64 KiB."""
_CELLS_OF_CHUNK = 16
_CODEC = {"cname": "lz4hc", "clevel": 5, "shuffle": "shuffle"}
"""Blosc of the arrays that are kept; any lz4 reads it. Measured on counts of 2,000 genes a cell, it decodes data twice
as fast as lz4 with either shuffle (1.8 against 3.8 and 3.4 us a cell) from two thirds of the bytes, and takes 0.14 ms a
cell to write, once."""
_READ_BACK = 1 << 21
"""Values of each array that are read back at once."""


def compressor(*, kept: bool = False) -> Blosc:
    """Blosc as the arrays have it that are ``kept``, or as is quick to write and read once."""
    name, level = (_CODEC["cname"], _CODEC["clevel"]) if kept else ("lz4", 3)
    return Blosc(cname=name, clevel=level, shuffle=Blosc.SHUFFLE)


def chunk_size(mean_length: float) -> int:
    """Values of a chunk for cells of so many values: about 16 cells, a power of two from 1,024 to 131,072.

    A reader of 64 cells in a row decodes the chunks at both ends in part for nothing; smaller chunks cost more
    requests. Around 16 cells was the fastest of 8 to 128 for random blocks of 64.
    """
    return int(2 ** np.clip(round(np.log2(max(1.0, mean_length) * _CELLS_OF_CHUNK)), 10, 17))


def shard_size(n_values: float, chunk: int) -> int:
    """Chunks of a shard for datasets of about so many values: one shard, or several of `CHUNKS_PER_SHARD`."""
    return int(2 ** np.clip(np.ceil(np.log2(max(1.0, n_values / chunk))), 0, np.log2(CHUNKS_PER_SHARD)))


class DatasetWriter:
    """One AnnData group on disk: append cells, then `finish`. Nothing stands under ``path`` before that.

    Parameters
    ----------
    path
        Folder of the group; it must not exist. Until `finish` the files lie beside it in ``.<name>.partial``;
        what an earlier try left there is removed.
    n_genes
        Number of columns.
    pool
        Where chunks are compressed.
    chunk, chunks_per_shard
        Values of a chunk, chunks of a shard.
    """

    def __init__(
        self, path: Path, n_genes: int, *, pool: Executor, chunk: int = CHUNK, chunks_per_shard: int = CHUNKS_PER_SHARD
    ) -> None:
        self.path, self.n_genes, self.chunk = path, n_genes, chunk
        self.partial = path.parent / f".{path.name}.partial"
        self._per_shard = chunks_per_shard
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self._pool = pool
        # not uint16: scipy refuses eliminate_zeros and sort_indices on what anndata then reads
        self._dtypes = {"indices": np.dtype(np.int32), "data": np.dtype(np.float32)}
        self._codecs = dict.fromkeys(self._dtypes, compressor(kept=True))
        self._arrays = {
            name: ShardedArray(self.partial / "X" / name, chunks_per_shard=chunks_per_shard)
            for name in ("indices", "data")
        }
        self._buffers: dict[str, np.ndarray] = {}
        self._filled = self.nnz = 0
        self._lengths: list[np.ndarray] = []
        self._ahead: deque[tuple[str, Future[bytes]]] = deque()

    @property
    def n_cells(self) -> int:
        """Cells appended so far."""
        return sum(len(part) for part in self._lengths)

    def append(self, lengths: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
        """Add cells.

        Parameters
        ----------
        lengths
            Stored values of each cell, integer (B,).
        indices
            Columns, rising within a cell, integer (N,).
        data
            Counts (N,), exact as float32.
        """
        self._lengths.append(lengths.astype(np.int64))
        self.nnz += len(indices)
        done = 0
        while done < len(indices):
            if self._filled == 0:
                self._buffers = {name: np.zeros(self.chunk, dtype) for name, dtype in self._dtypes.items()}
            n = min(self.chunk - self._filled, len(indices) - done)
            self._buffers["indices"][self._filled : self._filled + n] = indices[done : done + n]
            self._buffers["data"][self._filled : self._filled + n] = data[done : done + n]
            done, self._filled = done + n, self._filled + n
            if self._filled == self.chunk:
                self._send()

    def _send(self) -> None:
        for name, buffer in self._buffers.items():
            self._ahead.append((name, self._pool.submit(self._codecs[name].encode, buffer)))
        self._buffers, self._filled = {}, 0
        while len(self._ahead) > 16:
            self._write_one()

    def _write_one(self) -> None:
        name, encoded = self._ahead.popleft()
        self._arrays[name].append(encoded.result())

    def finish(self, obs: pd.DataFrame, var: pd.DataFrame) -> None:
        """Write what is left of the counts, ``obs``, ``var`` and the empty rest of an AnnData, below `partial`."""
        import anndata
        import zarr

        if self._filled:
            self._send()
        while self._ahead:
            self._write_one()
        for shards in self._arrays.values():
            shards.finish()
        group = zarr.open_group(str(self.partial), mode="a", zarr_format=3)
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self._describe_counts(group.require_group("X"))
        with warnings.catch_warnings(), anndata.settings.override(auto_shard_zarr_v3=False):
            warnings.filterwarnings("ignore", message=".*(onsolidated metadata|autosharding).*")
            anndata.io.write_elem(group, "obs", obs)
            anndata.io.write_elem(group, "var", var)
            for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
                anndata.io.write_elem(group, name, {})
            zarr.consolidate_metadata(group.store)

    def _describe_counts(self, matrix: Any) -> None:
        """Metadata of the arrays whose shards stand already, and the offsets of the rows."""
        from zarr.codecs import BloscCodec

        matrix.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [self.n_cells, self.n_genes]}
        )
        for name, dtype in self._dtypes.items():
            matrix.create_array(
                name,
                shape=(self.nnz,),
                dtype=dtype,
                chunks=(self.chunk,),
                shards=(self.chunk * self._per_shard,),
                compressors=[BloscCodec(**_CODEC)],  # type: ignore[arg-type]
                fill_value=0,
            )
        # of the type of the columns where it holds the offsets, as scipy wants it for changes in place
        indptr = np.zeros(self.n_cells + 1, np.int32 if self.nnz < 1 << 31 else np.int64)
        if self._lengths:
            np.cumsum(np.concatenate(self._lengths), out=indptr[1:])
        matrix.create_array("indptr", data=indptr, chunks=(len(indptr),))

    def publish(self) -> None:
        """Give the finished group its name."""
        for folder in [self.partial, *(path for path in self.partial.rglob("*") if path.is_dir())]:
            _sync_folder(folder)
        self.partial.rename(self.path)
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written so far."""
        for _, encoded in self._ahead:
            encoded.cancel()
        self._ahead.clear()
        for shards in self._arrays.values():
            with contextlib.suppress(OSError):  # on a full disk the rest of the buffer cannot be written either
                shards.close()
        shutil.rmtree(self.partial, ignore_errors=True)


def read_back(
    path: Path, sources: Sequence[str]
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]]:
    """What stands in a dataset, read as a stream reads it, some million values at a time.

    Parameters
    ----------
    path
        Folder of the group.
    sources
        Names whose numbers are given for ``obs["source"]``.

    Yields
    ------
    tuple
        Lengths, columns and counts of some cells; number of the source of each; its row there.
    """
    import anndata
    import zarr

    group = zarr.open_group(str(path), mode="r")
    files = LocalFiles(path)
    try:
        obs = anndata.io.read_elem(group["obs"])
        source = pd.Index(list(sources)).get_indexer(obs["source"].astype(object))
        row = obs["source_row"].to_numpy()
        offsets = group["X"]["indptr"][:]
        arrays = [open_flat(files, f"X/{name}", group=group) for name in ("indices", "data")]
        start = 0
        while start < len(offsets) - 1:
            stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + _READ_BACK, "right")) - 1)
            values = [np.empty(offsets[stop] - offsets[start], array.dtype) for array in arrays]
            for array, out in zip(arrays, values, strict=True):
                array.read_into(offsets[[start, stop]][None], out)
            yield (np.diff(offsets[start : stop + 1]), *values), source[start:stop], row[start:stop]
            start = stop
    finally:
        files.close()


def write_root(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder of finished datasets a collection: the root group, with ``about`` in its attributes.

    The mark is that of annbatch, which knows its collections by it.
    """
    attributes = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0", "scmf": about}
    write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
