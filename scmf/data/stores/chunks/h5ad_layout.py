"""Where the bytes of an HDF5 dataset lie.

Lives here: a one-dimensional HDF5 dataset, contiguous or chunked, as a `FlatArray` that reads with plain reads of
the file, so that threads do not wait for the lock of HDF5; h5py for every dataset with other filters; a remote file
as h5py wants it. Lives elsewhere: reading the chunks (chunked_array), AnnData in HDF5 (h5ad_store).
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

import h5py
import numpy as np

from scmf.core.errors import DataError
from scmf.data.stores.chunks import codecs
from scmf.data.stores.chunks.chunked_array import ChunkedArray, ChunkIndex, Places
from scmf.data.stores.files.byte_ranges import ByteSource
from scmf.data.stores.store import FlatArray

_BLOCK = 1 << 20
"""Bytes of a remote file fetched at once for h5py."""
_BLOCKS_KEPT = 32


def open_flat(source: ByteSource, dataset: h5py.Dataset) -> FlatArray:
    """The one-dimensional ``dataset`` of the file ``source`` (whose name is ``""``).

    Without filters or with gzip and shuffle, its bytes are read directly. Anything else is read by h5py, one thread
    at a time.
    """
    name = dataset.name.strip("/")
    plain = (
        dataset.dtype.kind in "fiu"
        and dataset.dtype.isnative
        and dataset.file.userblock_size == 0
        and not dataset.external
        and not dataset.is_virtual
    )
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    known = filters in ([], [h5py.h5z.FILTER_DEFLATE], [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE])
    index: ChunkIndex
    if dataset.size == 0 or not plain or not known:
        return H5pyArray(dataset, where=f"{source.root}: {name}")
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if offset is None:
            return H5pyArray(dataset, where=f"{source.root}: {name}")
        index, chunk_size = _Contiguous(offset, dataset.nbytes), dataset.size
    else:
        (chunk_size,) = dataset.chunks
        index = _Chunks(dataset, where=f"{source.root}: {name}", at_once=source.is_local)
    return ChunkedArray(
        source,
        index,
        dtype=dataset.dtype,
        size=dataset.size,
        chunk_size=chunk_size,
        decoders=_decoders(filters, dataset.dtype.itemsize),
        name=name,
    )


def _decoders(filters: list[int], item_size: int) -> tuple[codecs.Decode, ...]:
    """A decoder for each filter mask: bit ``i`` says that filter ``i`` was left out for that chunk."""
    if not filters:
        return ()
    if len(filters) == 1:
        return codecs.unzlib, codecs.copy
    return (
        codecs.unshuffled(codecs.unzlib, item_size),
        codecs.unzlib,
        codecs.unshuffled(codecs.copy, item_size),
        codecs.copy,
    )


class _Contiguous(ChunkIndex):
    """One piece of the file."""

    def __init__(self, start: int, n_bytes: int) -> None:
        self._start, self._n_bytes = start, n_bytes

    def file(self, number: int) -> str:
        return ""

    def files(self) -> list[str]:
        return [""]

    def places(self, chunks_K: np.ndarray) -> Places:
        zeros = np.zeros(len(chunks_K), np.int64)
        return Places(zeros, zeros + self._start, zeros + self._n_bytes)


class _Chunks(ChunkIndex):
    """The chunks of an HDF5 dataset: all looked up when it is opened, or (remote) each when it is first needed."""

    def __init__(self, dataset: h5py.Dataset, *, where: str, at_once: bool) -> None:
        (chunk_size,) = dataset.chunks
        self._dataset, self._chunk_size, self._where = dataset, chunk_size, where
        n_chunks = -(-dataset.size // chunk_size)
        self._starts = np.full(n_chunks, -1, np.int64)
        self._sizes = np.zeros(n_chunks, np.int64)
        self._variants = np.zeros(n_chunks, np.uint8)
        if at_once:
            dataset.id.chunk_iter(self._note)
            self._refuse_missing(np.arange(n_chunks))

    def file(self, number: int) -> str:
        return ""

    def files(self) -> list[str]:
        return [""]

    def places(self, chunks_K: np.ndarray) -> Places:
        unknown = chunks_K[self._starts[chunks_K] < 0]
        if len(unknown):
            for number in np.unique(unknown).tolist():
                info = self._dataset.id.get_chunk_info_by_coord((number * self._chunk_size,))
                if info.byte_offset is not None:
                    self._note(info)
            self._refuse_missing(unknown)
        return Places(
            np.zeros(len(chunks_K), np.int64), self._starts[chunks_K], self._sizes[chunks_K], self._variants[chunks_K]
        )

    def _note(self, info: h5py.h5d.StoreInfo) -> None:
        number = info.chunk_offset[0] // self._chunk_size
        self._sizes[number], self._variants[number] = info.size, info.filter_mask
        self._starts[number] = info.byte_offset

    def _refuse_missing(self, chunks: np.ndarray) -> None:
        missing = chunks[self._starts[chunks] < 0]
        if len(missing):
            raise DataError(
                f"chunk {int(missing[0]):,} of {self._dataset.name.strip('/')} was never written",
                wanted=f"all {len(self._starts):,} chunks",
                where=self._where,
                fix="copy, download or convert the file again; it was not written to its end",
            )


class H5pyArray(FlatArray):
    """Any one-dimensional HDF5 dataset, read by h5py.

    Parameters
    ----------
    dataset
        The dataset; its file stays open.
    where
        How errors call it.
    """

    def __init__(self, dataset: h5py.Dataset, *, where: str) -> None:
        self._dataset, self._where = dataset, where
        self.dtype, self.size = dataset.dtype.newbyteorder("="), int(dataset.size)

    def read_into(self, ranges: np.ndarray, out: np.ndarray) -> None:
        """See `FlatArray.read_into`."""
        at = 0
        for start, stop in ranges.tolist():
            try:
                out[at : at + stop - start] = self._dataset[start:stop]
            except (OSError, RuntimeError) as error:
                raise DataError(
                    f"elements {start:,} to {stop:,} cannot be read ({error})",
                    wanted="a complete HDF5 file whose filters are installed",
                    where=self._where,
                    fix='copy the file again; filters that h5py lacks come with "pip install hdf5plugin"',
                ) from error
            at += stop - start


class RemoteFile(io.RawIOBase):
    """A file of a `ByteSource` as h5py wants it: read in blocks, the last ones kept.

    Parameters
    ----------
    source
        The file, under the name ``""``.
    """

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source, self._size, self._at = source, source.size(""), 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` as far as the file goes; the bytes filled."""
        with self._lock:
            view = memoryview(buffer).cast("B")
            done = 0
            while done < len(view) and self._at < self._size:
                number, inside = divmod(self._at, _BLOCK)
                part = self._block(number)[inside : inside + len(view) - done]
                view[done : done + len(part)] = part
                done += len(part)
                self._at += len(part)
            return done

    def _block(self, number: int) -> bytes:
        if (held := self._blocks.get(number)) is not None:
            self._blocks.move_to_end(number)
            return held
        start, stop = number * _BLOCK, min((number + 1) * _BLOCK, self._size)
        fresh = bytearray(stop - start)
        self._source.read_ranges("", [(start, stop)], [memoryview(fresh)])
        self._blocks[number] = bytes(fresh)
        if len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return self._blocks[number]
