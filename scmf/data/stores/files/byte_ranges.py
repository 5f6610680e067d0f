"""Bytes of files, local or far away, by ranges.

Lives here: the interface and the files of this machine. Lives elsewhere: S3, GCS and HTTP (remote), what the bytes
mean (chunked_array, zarr_store, h5ad_store).
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scmf.core.content import sha256_of
from scmf.core.errors import DataError
from scmf.core.files import sha256_json

_OPEN_FILES = 256
"""Files kept open by all sources together; systems allow a process about a thousand."""


class ByteSource(ABC):
    """Files below one root. Every method may be called from several threads at once.

    Attributes
    ----------
    root
        Path or address, as errors and records name it: without credentials.
    is_local
        Whether reads come from a file system of this machine (then many small reads are cheap).
    """

    root: str
    is_local: bool

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole file ``name`` (relative to the root, ``""`` for the root itself); `FileNotFoundError` if absent."""

    @abstractmethod
    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]], outs: Sequence[memoryview]) -> None:
        """Fill each of ``outs`` with the bytes ``[start, stop)`` of the file ``name``.

        Raises
        ------
        DataError
            The file ends too early, was replaced since it was first read, or cannot be reached after several tries.
        FileNotFoundError
            There is no such file.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of the file; `FileNotFoundError` if absent."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def version(self, name: str) -> str:
        """Changes whenever the file is replaced: size and time of change, or the ETag."""

    def content(self, names: Sequence[str] | None = None) -> str:
        """Identity of what is stored: the same after a copy on this machine; elsewhere what the server says.

        Parameters
        ----------
        names
            The files that count, below a folder; None: all.
        """
        return sha256_json([self.version(name) for name in (names or [""])])

    @abstractmethod
    def list(self, folder: str = "") -> list[str]:
        """Names of the files and folders directly in ``folder``, sorted."""

    def close(self) -> None:  # noqa: B027  (most have nothing to give back)
        """Give back files and connections."""


class LocalFiles(ByteSource):
    """Files of this machine, read with ``pread``, each checked to be the one first read.

    The first 256 of a process stay open; the others, as of a store with a file a chunk, are opened for each read.

    Parameters
    ----------
    root
        A folder, or a file (then its name is ``""``).
    """

    is_local = True
    _n_open = 0
    _lock = threading.Lock()

    def __init__(self, root: Path | str) -> None:
        self.root = str(root)
        self._open: dict[str, tuple[int, str]] = {}
        self._seen: dict[str, str] = {}

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root  # noqa: PTH118  (on the hot path)

    def read(self, name: str) -> bytes:
        """See `ByteSource.read`."""
        return Path(self._path(name)).read_bytes()

    def size(self, name: str) -> int:
        """See `ByteSource.size`."""
        return Path(self._path(name)).stat().st_size

    def exists(self, name: str) -> bool:
        """See `ByteSource.exists`."""
        return Path(self._path(name)).is_file()

    def version(self, name: str) -> str:
        """See `ByteSource.version`."""
        return _version(Path(self._path(name)).stat())

    def content(self, names: Sequence[str] | None = None) -> str:
        """See `ByteSource.content`."""
        return sha256_of(self.root, names)

    def list(self, folder: str = "") -> list[str]:
        """See `ByteSource.list`."""
        return sorted(entry.name for entry in Path(self._path(folder)).iterdir())

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]], outs: Sequence[memoryview]) -> None:
        """See `ByteSource.read_ranges`."""
        fd, stays_open = self._descriptor(name)
        try:
            for (start, stop), out in zip(ranges, outs, strict=True):
                self._fill(fd, name, start, stop, out)
        finally:
            if not stays_open:
                os.close(fd)

    def _fill(self, fd: int, name: str, start: int, stop: int, out: memoryview) -> None:
        done = 0
        while done < stop - start:
            got = os.preadv(fd, [out[done : stop - start]], start + done)
            if got == 0:
                raise DataError(
                    f"the file ends at byte {start + done:,}",
                    wanted=f"at least {stop:,} bytes",
                    where=self._path(name),
                    fix="copy or download it again; it is truncated, or is still being written",
                )
            done += got

    def _descriptor(self, name: str) -> tuple[int, bool]:
        """The open file, after a look that its path still leads to what was first read, and whether it stays open."""
        path = self._path(name)
        held = self._open.get(name)
        if held is not None:
            if _version(os.stat(path)) != held[1]:  # noqa: PTH116  (on the hot path)
                raise _replaced(path)
            return held[0], True
        with self._lock:
            if (held := self._open.get(name)) is not None:
                return held[0], True
            fd = os.open(path, os.O_RDONLY)
            version = _version(os.fstat(fd))
            if LocalFiles._n_open < _OPEN_FILES:
                LocalFiles._n_open += 1
                self._open[name] = (fd, version)
                return fd, True
            first = self._seen.setdefault(name, version)
        if version != first:
            os.close(fd)
            raise _replaced(path)
        return fd, False

    def close(self) -> None:
        """See `ByteSource.close`."""
        with self._lock:
            for fd, _ in self._open.values():
                os.close(fd)
            LocalFiles._n_open -= len(self._open)
            self._open.clear()


def _replaced(path: str) -> DataError:
    return DataError(
        "the file was replaced or written to while it was being read",
        wanted="the file that was opened",
        where=path,
        fix="leave files alone during a run; start again, the run resumes from its last checkpoint",
    )


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"


def as_bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array, to be read into."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
