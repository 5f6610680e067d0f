"""The files of a `ByteSource` as zarr-python wants them, for what is not read by ourselves: obs, var, other codecs.

Lives here: a read-only store of zarr. Lives elsewhere: counts (zarr_layout, chunked_array).
"""

from __future__ import annotations

import asyncio
from builtins import list as List  # the class has a method `list`
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from scmf.data.stores.files.byte_ranges import ByteSource


class ZarrFiles(Store):
    """A read-only zarr store over a `ByteSource`.

    Parameters
    ----------
    source
        The files.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, source: ByteSource) -> None:
        super().__init__(read_only=True)
        self._source = source

    def __eq__(self, value: object) -> bool:
        return isinstance(value, ZarrFiles) and value._source is self._source

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self._source.root

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Bytes of a file, or None where there is no such file."""
        try:
            stored = await asyncio.to_thread(self._read, key, byte_range)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return prototype.buffer.from_bytes(stored)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes:
        if byte_range is None:
            return self._source.read(key)
        size = self._source.size(key)
        if isinstance(byte_range, RangeByteRequest):
            start, stop = byte_range.start, min(byte_range.end, size)
        elif isinstance(byte_range, OffsetByteRequest):
            start, stop = byte_range.offset, size
        else:
            assert isinstance(byte_range, SuffixByteRequest)
            start, stop = max(0, size - byte_range.suffix), size
        stored = bytearray(max(0, stop - start))
        if stored:
            self._source.read_ranges(key, [(start, stop)], [memoryview(stored)])
        return bytes(stored)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> List[Buffer | None]:
        """Parts of several files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return await asyncio.to_thread(self._source.exists, key)

    async def set(self, key: str, value: Buffer) -> None:
        """Never: the store is read-only."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Never: the store is read-only."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Every file."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every file whose name begins with ``prefix``, a folder."""
        folder = prefix.strip("/")
        for name in await asyncio.to_thread(self._names, folder):
            key = f"{folder}/{name}" if folder else name
            if await self.exists(key):
                yield key
            else:
                async for below in self.list_prefix(key):
                    yield below

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names of the files and folders directly in a folder."""
        for name in await asyncio.to_thread(self._names, prefix.strip("/")):
            yield name

    def _names(self, folder: str) -> List[str]:
        try:
            return self._source.list(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
