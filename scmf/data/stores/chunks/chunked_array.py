"""A one-dimensional array cut in equal chunks, each at some place of some file.

Lives here: which chunks a range of elements needs, reading them with few requests, and putting the wanted part
where it is wanted. Lives elsewhere: where the chunks are (zarr_layout, h5ad_layout), how one is decoded
(codecs), bytes (byte_ranges).

Legend: S ranges, P pieces (what one range wants of one chunk), K chunks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scmf.core.errors import DataError
from scmf.data.stores.chunks import blosc_direct
from scmf.data.stores.chunks.codecs import PARTS, SCRATCH, CorruptChunkError, Decode, unblosc
from scmf.data.stores.files.byte_ranges import ByteSource, as_bytes
from scmf.data.stores.store import FlatArray, merge_ranges

_LOCAL_BATCH = 1 << 20
"""Stored bytes read before they are decoded, local: what a core keeps in its cache."""
_REMOTE_BATCH = 64 << 20
"""The same, remote: many requests at once."""
ABSENT = -1
"""Size of a chunk that was left out because it holds nothing but the fill value."""


class Places(NamedTuple):
    """Where chunks lie.

    Parameters
    ----------
    files
        Number of the file of each chunk, int64 (K,).
    starts, sizes
        First byte in the file, and stored bytes (or `ABSENT`), int64 (K,).
    variants
        Which decoder a chunk needs (HDF5 leaves out filters that do not help), uint32 (K,); None: the first.
    """

    files: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    variants: np.ndarray | None = None


class ChunkIndex(ABC):
    """Where the chunks of one array lie. Every method may be called from several threads at once."""

    @abstractmethod
    def places(self, chunks_K: np.ndarray) -> Places:
        """Places of the chunks of these numbers, int64 (K,); `DataError` where the index itself is broken."""

    @abstractmethod
    def file(self, number: int) -> str:
        """Name of a file in its `ByteSource`."""

    @abstractmethod
    def files(self) -> list[str]:
        """Names of all files."""


class ChunkedArray(FlatArray):
    """Equal chunks in files, read by ranges.

    Parameters
    ----------
    source
        The files.
    index
        Where the chunks lie. Every chunk is stored whole, the last one padded.
    dtype
        Type of the elements, of this machine's byte order.
    size
        Number of elements.
    chunk_size
        Elements of a chunk.
    decoders
        How to decode a chunk of variant 0, 1, ...; empty where the chunks are stored as they are.
    fill_value
        Value of the elements of chunks that were left out.
    name
        How errors call it, such as ``X/data``.
    """

    def __init__(
        self,
        source: ByteSource,
        index: ChunkIndex,
        *,
        dtype: np.dtype,
        size: int,
        chunk_size: int,
        decoders: tuple[Decode, ...] = (),
        fill_value: float = 0,
        name: str,
    ) -> None:
        self.dtype, self.size, self.chunk_size = np.dtype(dtype), size, chunk_size
        self._source, self._index, self._decoders = source, index, decoders
        self._parts = tuple(PARTS.get(decode) for decode in decoders)
        self._fill_value, self._name = fill_value, name
        self._chunk_bytes = chunk_size * self.dtype.itemsize
        self._batch = _LOCAL_BATCH if source.is_local else _REMOTE_BATCH

    @property
    def files(self) -> list[str]:
        """Names of the files that hold the chunks."""
        return self._index.files()

    def read_into(self, ranges: np.ndarray, out: np.ndarray) -> None:
        """See `FlatArray.read_into`."""
        ranges = merge_ranges(np.asarray(ranges, np.int64).reshape(-1, 2))
        if len(ranges) == 0:
            return
        if ranges.min() < 0 or ranges.max() > self.size:
            raise IndexError(f"elements {ranges.min():,} to {ranges.max():,} of {self.size:,}")
        pieces = _cut(ranges, self.chunk_size)
        try:
            if self._decoders:
                self._read_decoded(pieces, out)
            else:
                self._read_plain(pieces, out)
        except FileNotFoundError as error:
            raise DataError(
                f"a file of the array {self._name} is missing",
                wanted="every chunk of a sparse matrix: a missing one means that values are lost",
                where=error.filename or f"{self._source.root}: {self._name}",
                fix="copy or convert the store again",
            ) from error

    # --- chunks stored as they are: bytes go where they are wanted ---------------------------------

    def _read_plain(self, pieces: _Pieces, out: np.ndarray) -> None:
        item = self.dtype.itemsize
        places = self._index.places(pieces.chunks)
        if (short := (places.sizes != self._chunk_bytes) & (places.sizes != ABSENT)).any():
            at = int(np.argmax(short))
            raise self._broken(
                int(pieces.chunks[at]), places, at, f"{places.sizes[at]:,} bytes in place of {self._chunk_bytes:,}"
            )
        starts = places.starts + pieces.starts * item
        stops = starts + pieces.lengths * item
        absent = places.sizes == ABSENT
        for at in np.flatnonzero(absent).tolist():
            out[pieces.outs[at] : pieces.outs[at] + pieces.lengths[at]] = self._fill_value
        # pieces follow one another in `out`, so bytes that follow one another in a file are one read
        joined = (places.files[1:] == places.files[:-1]) & (starts[1:] == stops[:-1]) & ~absent[1:] & ~absent[:-1]
        first = np.concatenate([[0], np.flatnonzero(~joined) + 1])
        last = np.append(first[1:], len(starts)) - 1
        target = as_bytes(out)
        wanted: dict[int, list[tuple[int, int, int]]] = {}
        for file, a, b, to, skip in zip(
            places.files[first].tolist(),
            starts[first].tolist(),
            stops[last].tolist(),
            (pieces.outs[first] * item).tolist(),
            absent[first].tolist(),
            strict=True,
        ):
            if not skip:
                wanted.setdefault(file, []).append((a, b, to))
        for file, reads in wanted.items():
            self._source.read_ranges(
                self._index.file(file),
                [(a, b) for a, b, _ in reads],
                [target[to : to + b - a] for a, b, to in reads],
            )

    # --- compressed chunks: a few are read, then decoded, then the next few ------------------------

    def _read_decoded(self, pieces: _Pieces, out: np.ndarray) -> None:
        order = np.argsort(pieces.chunks, kind="stable")
        chunks_P = pieces.chunks[order]
        firsts = np.flatnonzero(np.diff(chunks_P, prepend=-1))
        chunks_K = chunks_P[firsts]
        places = self._index.places(chunks_K)
        bounds = np.append(firsts, len(order)).tolist()
        starts, lengths, outs = (array[order].tolist() for array in (pieces.starts, pieces.lengths, pieces.outs))
        numbers, sizes = chunks_K.tolist(), places.sizes.tolist()
        variants = None if places.variants is None else places.variants.tolist()
        item = self.dtype.itemsize
        for k in np.flatnonzero(places.sizes == ABSENT).tolist():
            for p in range(bounds[k], bounds[k + 1]):
                out[outs[p] : outs[p] + lengths[p]] = self._fill_value
        direct = blosc_direct.find() if self._decoders == (unblosc,) and out.flags.c_contiguous else None
        for batch, stored in self._fetch(places):
            if direct is not None and self._decode_at_once(direct, batch, stored, pieces, order, bounds, places, out):
                continue
            at = 0
            for k in batch:
                piece = stored[at : at + sizes[k]]
                at += sizes[k]
                variant = 0 if variants is None else variants[k]
                begin, end = bounds[k], bounds[k + 1]
                whole = end == begin + 1 and lengths[begin] == self.chunk_size
                target = out[outs[begin] : outs[begin] + self.chunk_size].view(np.uint8) if whole else None
                decoded = SCRATCH.take("chunk", self._chunk_bytes) if target is None else target
                decode_part = None if whole else self._parts[variant]
                try:
                    if decode_part is None:
                        self._decoders[variant](piece, decoded)
                    else:
                        low = min(starts[begin:end])
                        high = max(starts[p] + lengths[p] for p in range(begin, end))
                        decode_part(piece, low * item, high * item, decoded)
                except CorruptChunkError as error:
                    raise self._broken(numbers[k], places, k, str(error)) from error
                if target is None:
                    values = decoded.view(self.dtype)
                    for p in range(begin, end):
                        out[outs[p] : outs[p] + lengths[p]] = values[starts[p] : starts[p] + lengths[p]]

    def _decode_at_once(
        self,
        direct: blosc_direct.Functions,
        batch: list[int],
        stored: memoryview,
        pieces: _Pieces,
        order: np.ndarray,
        bounds: list[int],
        places: Places,
        out: np.ndarray,
    ) -> bool:
        """Decode the chunks of a batch in one compiled call; False leaves them, and what is wrong, to the slow way."""
        first, last = batch[0], batch[-1] + 1
        if last - first != len(batch):  # some are absent
            return False
        sizes_K, counts_K = places.sizes[first:last], np.diff(bounds[first : last + 1])
        of_P = order[bounds[first] : bounds[last]]
        at_K = np.cumsum(sizes_K) - sizes_K
        code, _ = blosc_direct.decode_pieces(
            direct.decompress, direct.getitem, np.frombuffer(stored, np.uint8), np.repeat(at_K, counts_K),
            np.repeat(sizes_K, counts_K), pieces.starts[of_P], pieces.lengths[of_P], pieces.outs[of_P],
            self.chunk_size, self.dtype.itemsize, out.reshape(-1).view(np.uint8),
        )  # fmt: skip
        return bool(code == blosc_direct.OK)

    def _fetch(self, places: Places) -> Iterator[tuple[list[int], memoryview]]:
        """Numbers of some chunks and their stored bytes one after the other, until all were there."""
        here = np.flatnonzero(places.sizes != ABSENT)
        if len(here) == 0:
            return
        files, starts, sizes = places.files[here], places.starts[here], places.sizes[here]
        total = np.cumsum(sizes)
        begin = 0
        while begin < len(here):
            before = int(total[begin] - sizes[begin])
            end = max(begin + 1, int(np.searchsorted(total, before + self._batch, side="right")))
            stored = memoryview(SCRATCH.take("stored", int(total[end - 1]) - before))  # type: ignore[arg-type]
            fresh = np.ones(end - begin, bool)
            fresh[1:] = (files[begin + 1 : end] != files[begin : end - 1]) | (
                starts[begin + 1 : end] != starts[begin : end - 1] + sizes[begin : end - 1]
            )
            heads = begin + np.flatnonzero(fresh)
            tails = np.append(heads[1:], end) - 1
            by_file: dict[int, tuple[list[tuple[int, int]], list[memoryview]]] = {}
            for file, a, b, to in zip(
                files[heads].tolist(),
                starts[heads].tolist(),
                (starts[tails] + sizes[tails]).tolist(),
                (total[heads] - sizes[heads] - before).tolist(),
                strict=True,
            ):
                ranges, outs = by_file.setdefault(file, ([], []))
                ranges.append((a, b))
                outs.append(stored[to : to + b - a])
            for file, (ranges, outs) in by_file.items():
                self._source.read_ranges(self._index.file(file), ranges, outs)
            yield here[begin:end].tolist(), stored
            begin = end

    def _broken(self, chunk: int, places: Places, at: int, why: str) -> DataError:
        file = self._index.file(int(places.files[at]))
        name = f"{self._source.root}/{file}" if file else self._source.root
        return DataError(
            f"chunk {chunk:,} of {self._name} is damaged: {why}",
            wanted=f"{self.chunk_size:,} values of type {self.dtype}",
            where=f"{name}, byte {int(places.starts[at]):,}",
            fix="copy, download or convert the file again",
        )


class _Pieces(NamedTuple):
    """What each range wants of each chunk, in the order of the ranges; all int64 (P,)."""

    chunks: np.ndarray
    """Number of the chunk."""
    starts: np.ndarray
    """First element within the chunk."""
    lengths: np.ndarray
    outs: np.ndarray
    """First element within what is read."""


def _cut(ranges: np.ndarray, chunk_size: int) -> _Pieces:
    """Cut non-empty ranges (S, 2) at the edges of the chunks."""
    first, last = ranges[:, 0] // chunk_size, (ranges[:, 1] - 1) // chunk_size
    n_pieces = last - first + 1
    of_range = np.repeat(np.arange(len(ranges)), n_pieces)
    chunks = np.arange(len(of_range)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces) + first[of_range]
    lows = np.maximum(chunks * chunk_size, ranges[of_range, 0])
    lengths = np.minimum((chunks + 1) * chunk_size, ranges[of_range, 1]) - lows
    return _Pieces(chunks, lows - chunks * chunk_size, lengths, np.cumsum(lengths) - lengths)
