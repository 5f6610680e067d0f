"""Stored bytes of a chunk back into its values.

Lives here: the decoders of the codecs that AnnData files are written with (blosc, zstd, lz4, gzip, zlib, the byte
shuffle of HDF5, crc32c), each writing into memory of ours, and the memory that each thread keeps for it.
Lives elsewhere: which decoders a file needs (zarr_layout, h5ad_layout), where chunks lie (chunked_array).

A decoder is called with the stored bytes and the memory to fill, uint8 (bytes of a chunk,). It releases the GIL for
the work, may run in several threads, and raises `CorruptChunkError` when the bytes do not give exactly one chunk.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

import google_crc32c
import numba
import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError
from numcodecs import blosc, lz4, zstd

Decode = Callable[[memoryview, np.ndarray], None]
"""``decode(stored, out)``: fill ``out``, uint8 (bytes of a chunk,), from the stored bytes."""


DecodePart = Callable[[memoryview, int, int, np.ndarray], None]
"""``decode(stored, start, stop, out)``: the same for the bytes ``[start, stop)`` alone; may write into ``stored``."""

_BLOSC_HEADER = struct.Struct("<BBBBiii")
"""Version, version of the codec, flags, bytes of an item, bytes, bytes of a block, stored bytes."""
_BLOSC_COPIED = 2
"""Flag: the bytes are stored as they are."""


class CorruptChunkError(Exception):
    """Stored bytes that are no chunk; the array that meets it says which one."""


class Scratch(threading.local):
    """Memory that a thread uses again and again; no two uses of one name may overlap in time."""

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def take(self, use: str, n_bytes: int) -> np.ndarray:
        """Uninitialized memory, uint8 (n_bytes,)."""
        kept = self._kept.get(use)
        if kept is None or len(kept) < n_bytes:
            kept = self._kept[use] = np.empty(n_bytes, np.uint8)
        return kept[:n_bytes]


SCRATCH = Scratch()
"""One for all arrays, so that a thousand open files need no more memory than one."""


def copy(stored: memoryview, out: np.ndarray) -> None:
    """A chunk stored as it is."""
    _expect(len(stored), out)
    out[:] = stored


def unblosc(stored: memoryview, out: np.ndarray) -> None:
    """Blosc 1, any of its compressors and shuffles.

    Outside the main thread, numcodecs decompresses with one thread and without a lock.
    """
    if len(stored) < 16:
        raise CorruptChunkError(f"{len(stored)} bytes, too few for blosc")
    _expect(int.from_bytes(stored[4:8], "little"), out)
    if (said := int.from_bytes(stored[12:16], "little")) != len(stored):
        raise CorruptChunkError(f"{len(stored):,} bytes where the blosc header says {said:,}")
    try:
        blosc.decompress(stored, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptChunkError(f"blosc: {error}") from error


def unblosc_part(stored: memoryview, start: int, stop: int, out: np.ndarray) -> None:
    """The bytes ``[start, stop)`` of a blosc chunk at their place in ``out``; what else is in ``out`` is undefined.

    Blosc compresses blocks of a chunk one by one. A header is written in front of the blocks that are wanted, over
    others of ``stored``, and makes a smaller chunk of them: so half a chunk costs half, and ``stored`` is spent.
    """
    if len(stored) < 16:
        raise CorruptChunkError(f"{len(stored)} bytes, too few for blosc")
    version, codec_version, flags, item_size, n_bytes, block, n_stored = _BLOSC_HEADER.unpack_from(stored)
    n_blocks = -(-n_bytes // block) if block > 0 else 0
    first, last = start // max(block, 1), (stop - 1) // max(block, 1)
    if first == last and last == n_blocks - 1:
        first = max(0, first - 1)  # blosc wants a whole block before a shorter last one
    n_wanted = last - first + 1
    if (
        flags & _BLOSC_COPIED
        or stored.readonly
        or n_wanted >= n_blocks
        or n_stored != len(stored)
        or n_bytes != len(out)
    ):
        unblosc(stored, out)
        return
    begins = np.frombuffer(stored[16 : 16 + 4 * n_blocks], "<i4")[first : last + 1].copy()
    if len(begins) < n_wanted or begins.min() < 16 + 4 * n_blocks or begins.max() >= n_stored:
        raise CorruptChunkError("blosc: a block begins outside the chunk")
    head = int(begins.min()) - 16 - 4 * n_wanted
    wanted = min(n_wanted * block, n_bytes - first * block)
    part = stored[head:]
    _BLOSC_HEADER.pack_into(part, 0, version, codec_version, flags, item_size, wanted, block, len(part))
    part[16 : 16 + 4 * n_wanted] = (begins - head).astype("<i4").tobytes()
    unblosc(part, out[first * block : first * block + wanted])


def unzstd(stored: memoryview, out: np.ndarray) -> None:
    """Zstandard, with or without the size in its header."""
    size = _zstd_size(stored)
    try:
        if size is None:
            plain = zstd.decompress(stored)
        else:
            _expect(size, out)
            zstd.decompress(stored, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptChunkError(f"zstd: {error}") from error
    if size is None:
        copy(memoryview(plain), out)


def _zstd_size(stored: memoryview) -> int | None:
    """Size of the values as the header of the frame says it (RFC 8878, 3.1.1.1), None where it does not."""
    if len(stored) < 6:
        raise CorruptChunkError(f"{len(stored)} bytes, too few for zstd")
    flags = stored[4]
    width, single = flags >> 6, flags >> 5 & 1
    if width == 0 and not single:
        return None
    start = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    n_bytes = 1 << width
    return int.from_bytes(stored[start : start + n_bytes], "little") + (256 if width == 1 else 0)


def unlz4(stored: memoryview, out: np.ndarray) -> None:
    """LZ4 as numcodecs writes it: four bytes of size, then one block."""
    _expect(int.from_bytes(stored[:4], "little"), out)
    try:
        lz4.decompress(stored, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptChunkError(f"lz4: {error}") from error


def unzlib(stored: memoryview, out: np.ndarray) -> None:
    """Zlib, the "gzip" of HDF5."""
    _inflate(stored, out, wbits=15)


def ungzip(stored: memoryview, out: np.ndarray) -> None:
    """Gzip with its header, the "gzip" of zarr."""
    _inflate(stored, out, wbits=31)


def _inflate(stored: memoryview, out: np.ndarray, *, wbits: int) -> None:
    try:
        plain = isal_zlib.decompress(stored, wbits, len(out))
    except (IsalError, EOFError, ValueError) as error:  # type: ignore[misc]  # its stub says Any
        raise CorruptChunkError(f"gzip: {error}") from error
    copy(memoryview(plain), out)


def checked(decode: Decode) -> Decode:
    """``decode`` after the crc32c of zarr, four bytes at the end, was found right."""

    def decode_checked(stored: memoryview, out: np.ndarray) -> None:
        decode(verify_crc32c(stored), out)

    return decode_checked


def verify_crc32c(stored: memoryview) -> memoryview:
    """The bytes without the four of their crc32c at the end; `CorruptChunkError` when it is another."""
    body = stored[:-4]
    if len(stored) < 4 or google_crc32c.value(bytes(body)) != int.from_bytes(stored[-4:], "little"):
        raise CorruptChunkError("the checksum (crc32c) is another")
    return body


def unshuffled(decode: Decode, item_size: int) -> Decode:
    """``decode``, then the byte shuffle of HDF5 undone: first bytes of all values, second bytes of all, ..."""

    def decode_unshuffled(stored: memoryview, out: np.ndarray) -> None:
        planes = SCRATCH.take("planes", len(out))
        decode(stored, planes)
        n_items = len(out) // item_size
        if item_size == 4:
            _unshuffle_4(planes, out[: 4 * n_items].view(np.uint32))
        else:
            out[: n_items * item_size].reshape(n_items, item_size)[...] = (
                planes[: n_items * item_size].reshape(item_size, n_items).T
            )
        out[n_items * item_size :] = planes[n_items * item_size :]

    return decode_unshuffled


@numba.njit(nogil=True, cache=True)
def _unshuffle_4(planes: np.ndarray, out: np.ndarray) -> None:
    n = len(out)
    a, b, c, d = planes[:n], planes[n : 2 * n], planes[2 * n : 3 * n], planes[3 * n : 4 * n]
    for i in range(n):
        out[i] = (
            np.uint32(a[i])
            | (np.uint32(b[i]) << np.uint32(8))
            | (np.uint32(c[i]) << np.uint32(16))
            | (np.uint32(d[i]) << np.uint32(24))
        )


def _expect(n_bytes: int, out: np.ndarray) -> None:
    if n_bytes != len(out):
        raise CorruptChunkError(f"{n_bytes:,} bytes of values in place of {len(out):,}")


PARTS: dict[Decode, DecodePart] = {unblosc: unblosc_part}
"""Decoders that can do with less than the whole."""
