"""What the metadata of a zarr array says about its bytes, for zarr v2 and v3.

Lives here: finding the chunks of a one-dimensional zarr array, in shards or one a file, and the decoders they need;
zarr-python for every array that is laid out another way. Lives elsewhere: reading the chunks (chunked_array), AnnData
in a zarr group (zarr_store).

Source: Zarr v2 and v3 core specifications, and the specification of the codec ``sharding_indexed``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from scmf.core.errors import DataError
from scmf.data.stores.chunks import codecs
from scmf.data.stores.chunks.chunked_array import ABSENT, ChunkedArray, ChunkIndex, Places
from scmf.data.stores.files.byte_ranges import ByteSource
from scmf.data.stores.store import FlatArray

_NOTHING = np.iinfo(np.uint64).max
"""Offset of a chunk that a shard does not hold."""


def open_flat(source: ByteSource, path: str, *, group: zarr.Group) -> FlatArray:
    """The one-dimensional array ``path`` of the zarr group ``group``, whose files are ``source``.

    An array whose codecs or layout are not known here is read with zarr-python: correct, and slower.
    """
    try:
        array = _known(source, path)
    except _UnknownLayout:
        return ZarrPythonArray(group[path], where=f"{source.root}/{path}")
    if source.is_local:  # far away, a missing file is found when it is read
        for name in array.files:
            if not source.exists(name):
                raise DataError(
                    f"a file of the array {path} is missing, so values are lost",
                    wanted=f"all {len(array.files):,} files that its metadata counts",
                    where=f"{source.root}/{name}",
                    fix="copy, download or convert the store again",
                )
    return array


class _UnknownLayout(Exception):
    """The fast way does not know this array."""


def _known(source: ByteSource, path: str) -> ChunkedArray:
    if source.exists(f"{path}/zarr.json"):
        return _version_3(source, path, json.loads(source.read(f"{path}/zarr.json")))
    return _version_2(source, path, json.loads(source.read(f"{path}/.zarray")))


def _version_2(source: ByteSource, path: str, meta: Mapping[str, Any]) -> ChunkedArray:
    (size,), (chunk_size,) = meta["shape"], meta["chunks"]
    dtype = _dtype(meta["dtype"])
    compressor = meta["compressor"]
    stages = [(stage["id"], stage) for stage in [*(meta.get("filters") or []), *([compressor] if compressor else [])]]
    index = _Files(
        source, f"{path}/", n_chunks=-(-size // chunk_size), chunk_bytes=_stored_plain(stages, dtype, chunk_size)
    )
    return ChunkedArray(
        source,
        index,
        dtype=dtype,
        size=size,
        chunk_size=chunk_size,
        decoders=_decoders(stages),
        name=path,
    )


def _version_3(source: ByteSource, path: str, meta: Mapping[str, Any]) -> ChunkedArray:
    (size,) = meta["shape"]
    if not isinstance(meta["data_type"], str) or meta.get("storage_transformers"):
        raise _UnknownLayout
    dtype = _dtype(meta["data_type"])
    grid, keys = meta["chunk_grid"], meta["chunk_key_encoding"]
    if grid["name"] != "regular" or keys["name"] not in ("default", "v2"):
        raise _UnknownLayout
    (chunk_size,) = grid["configuration"]["chunk_shape"]
    separator = keys.get("configuration", {}).get("separator", "/" if keys["name"] == "default" else ".")
    prefix = f"{path}/c{separator}" if keys["name"] == "default" else f"{path}/"
    chain = [(codec["name"], codec.get("configuration", {})) for codec in meta["codecs"]]
    n_files = -(-size // chunk_size)
    index: ChunkIndex
    if [name for name, _ in chain] == ["sharding_indexed"]:
        sharding = chain[0][1]
        (inner,) = sharding["chunk_shape"]
        index_chain = [(codec["name"], codec.get("configuration", {})) for codec in sharding["index_codecs"]]
        if [name for name, _ in index_chain] != ["bytes", "crc32c"] or not _is_little(index_chain[0][1]):
            raise _UnknownLayout
        chain = [(codec["name"], codec.get("configuration", {})) for codec in sharding["codecs"]]
        at_start = sharding.get("index_location", "end") == "start"
        index = _Shards(source, prefix, n_shards=n_files, chunks_per_shard=chunk_size // inner, at_start=at_start)
        chunk_size = inner
        stages = _bytes_stages(chain)
    else:
        stages = _bytes_stages(chain)
        index = _Files(source, prefix, n_chunks=n_files, chunk_bytes=_stored_plain(stages, dtype, chunk_size))
    return ChunkedArray(
        source,
        index,
        dtype=dtype,
        size=size,
        chunk_size=chunk_size,
        decoders=_decoders(stages),
        fill_value=meta["fill_value"],
        name=path,
    )


def _dtype(name: str) -> np.dtype:
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise _UnknownLayout from error
    if dtype.kind not in "fiu" or not dtype.isnative:
        raise _UnknownLayout
    return dtype


def _is_little(configuration: Mapping[str, Any]) -> bool:
    return bool(configuration.get("endian", "little") == "little")


def _bytes_stages(chain: Sequence[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Codecs after ``bytes``, which must be the first and little-endian."""
    if not chain or chain[0][0] != "bytes" or not _is_little(chain[0][1]):
        raise _UnknownLayout
    return [(name.removeprefix("numcodecs."), configuration) for name, configuration in chain[1:]]


def _decoders(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[codecs.Decode, ...]:
    """One decoder for codecs in the order of encoding; none where the values are stored as they are."""
    known = {
        "blosc": codecs.unblosc,
        "zstd": codecs.unzstd,
        "lz4": codecs.unlz4,
        "zlib": codecs.unzlib,
        "gzip": codecs.ungzip,
    }
    decode: codecs.Decode | None = None
    for number, (name, _) in enumerate(stages):
        if name == "shuffle" and number == 0 and len(stages) > 1:
            continue
        if name in known and decode is None:
            decode = known[name]
        elif name == "crc32c" and number == len(stages) - 1:
            decode = codecs.checked(decode or codecs.copy)
        else:
            raise _UnknownLayout
    if stages and stages[0][0] == "shuffle":
        if decode is None:
            raise _UnknownLayout
        decode = codecs.unshuffled(decode, int(stages[0][1].get("elementsize", 4)))
    return () if decode is None else (decode,)


def _stored_plain(stages: Sequence[object], dtype: np.dtype, chunk_size: int) -> int | None:
    """Stored bytes of a chunk where they are known without a look."""
    return None if stages else chunk_size * dtype.itemsize


class _Files(ChunkIndex):
    """One chunk a file."""

    def __init__(self, source: ByteSource, prefix: str, *, n_chunks: int, chunk_bytes: int | None) -> None:
        self._source, self._prefix, self._chunk_bytes = source, prefix, chunk_bytes
        self._sizes = np.full(n_chunks, -1 if chunk_bytes is None else chunk_bytes, np.int64)

    def file(self, number: int) -> str:
        return f"{self._prefix}{number}"

    def places(self, chunks_K: np.ndarray) -> Places:
        if self._chunk_bytes is None:
            for number in chunks_K[self._sizes[chunks_K] < 0].tolist():
                self._sizes[number] = self._source.size(self.file(number))
        return Places(chunks_K, np.zeros(len(chunks_K), np.int64), self._sizes[chunks_K])

    def files(self) -> list[str]:
        return [self.file(number) for number in range(len(self._sizes))]


class _Shards(ChunkIndex):
    """Many chunks a file, with an index at its start or end that is read when it is first needed."""

    def __init__(
        self, source: ByteSource, prefix: str, *, n_shards: int, chunks_per_shard: int, at_start: bool
    ) -> None:
        self._source, self._prefix, self._at_start = source, prefix, at_start
        self._per_shard = chunks_per_shard
        self._indexes: list[np.ndarray | None] = [None] * n_shards
        self._lock = threading.Lock()

    def file(self, number: int) -> str:
        return f"{self._prefix}{number}"

    def places(self, chunks_K: np.ndarray) -> Places:
        shards, inner = np.divmod(chunks_K, self._per_shard)
        starts, sizes = np.empty(len(chunks_K), np.int64), np.empty(len(chunks_K), np.int64)
        for shard in np.unique(shards).tolist():
            index = self._indexes[shard]
            if index is None:
                index = self._indexes[shard] = self._read(shard)
            here = shards == shard
            starts[here], sizes[here] = index[inner[here]].T
        return Places(shards, starts, sizes)

    def _read(self, shard: int) -> np.ndarray:
        """First byte and size of each chunk of a shard, int64 (chunks_per_shard, 2)."""
        name = self.file(shard)
        n_bytes = self._per_shard * 16 + 4
        total = self._source.size(name)
        stored = bytearray(n_bytes)
        begin = 0 if self._at_start else total - n_bytes
        try:
            if begin < 0 or total < n_bytes:
                raise codecs.CorruptChunkError(f"{total:,} bytes, too few for its index")
            self._source.read_ranges(name, [(begin, begin + n_bytes)], [memoryview(stored)])
            index = np.frombuffer(codecs.verify_crc32c(memoryview(stored)), "<u8").reshape(-1, 2)
            held = index[:, 0] != _NOTHING
            if (index[held].sum(axis=1) > total).any() or (index[held] > total).any():
                raise codecs.CorruptChunkError("its index points behind its end")
        except codecs.CorruptChunkError as error:
            raise DataError(
                f"a shard is damaged or truncated: {error}",
                wanted=f"a shard with an index of {self._per_shard:,} chunks",
                where=f"{self._source.root}/{name}",
                fix="copy, download or convert the store again",
            ) from error
        result = np.zeros((self._per_shard, 2), np.int64)
        result[held] = index[held]
        result[~held, 1] = ABSENT
        return result

    def files(self) -> list[str]:
        return [self.file(number) for number in range(len(self._indexes))]


class ZarrPythonArray(FlatArray):
    """Any one-dimensional zarr array, read with zarr-python (and the codec pipeline it is set to).

    Parameters
    ----------
    array
        The array.
    where
        How errors call it.
    """

    def __init__(self, array: zarr.Array, *, where: str) -> None:
        self._array, self._where = array, where
        self.dtype, (self.size,) = np.dtype(array.dtype).newbyteorder("="), array.shape
        if array.nchunks_initialized < array.nchunks:
            raise DataError(
                f"{array.nchunks - array.nchunks_initialized:,} of {array.nchunks:,} chunks are missing",
                wanted="all chunks that the metadata of the array counts",
                where=where,
                fix="copy, download or convert the store again",
            )

    def read_into(self, ranges: np.ndarray, out: np.ndarray) -> None:
        """See `FlatArray.read_into`."""
        at = 0
        for start, stop in ranges.tolist():
            try:
                out[at : at + stop - start] = self._array[start:stop]
            except (OSError, RuntimeError, ValueError) as error:
                raise DataError(
                    f"elements {start:,} to {stop:,} cannot be read ({type(error).__name__}: {error})",
                    wanted="a complete zarr array",
                    where=self._where,
                    fix="copy, download or convert the store again",
                ) from error
            at += stop - start
