"""Shard files of the zarr v3 sharding specification, written chunk by chunk.

Lives here: the files of one array, each with its index. Lives elsewhere: what the chunks are and the
metadata of the array (zarr_writer), reading (stores).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import google_crc32c

_MISSING = 2**64 - 1


class ShardedArray:
    """Shard files of a one-dimensional array, written front to back, one compressed chunk after the other.

    A shard is its chunks, then for each of them offset and number of bytes as little-endian uint64 (both
    ``2**64 - 1`` for a chunk that is not there), then the CRC-32C of that index.

    Parameters
    ----------
    folder
        Folder of the array; the shards are ``c/0``, ``c/1``, ... in it.
    chunks_per_shard
        Chunks of a shard.
    """

    def __init__(self, folder: Path, *, chunks_per_shard: int) -> None:
        self.folder = folder / "c"
        self.folder.mkdir(parents=True)
        self._per_shard = chunks_per_shard
        self._index: list[tuple[int, int]] = []
        self._file: BinaryIO | None = None
        self._shards = 0

    def append(self, chunk: bytes) -> None:
        """Add one compressed chunk."""
        if self._file is None:
            self._file = (self.folder / str(self._shards)).open("wb")
        self._index.append((self._file.tell(), len(chunk)))
        self._file.write(chunk)
        if len(self._index) == self._per_shard:
            self.finish()

    def finish(self) -> None:
        """Write the index of the open shard, if there is one, and bring the file to disk."""
        if self._file is None:
            return
        absent = [(_MISSING, _MISSING)] * (self._per_shard - len(self._index))
        index = b"".join(struct.pack("<QQ", *entry) for entry in [*self._index, *absent])
        self._file.write(index + struct.pack("<I", google_crc32c.value(index)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        self._index, self._shards = [], self._shards + 1

    def close(self) -> None:
        """Let go of the file as it is."""
        if self._file is not None:
            self._file.close()
            self._file = None
