"""Files far away, read by ranges: what S3, HTTP and every other protocol have in common.

Lives here: joining ranges into few requests, sending them side by side, trying again, noticing that a file was
replaced. Lives elsewhere: the requests themselves (obstore_files, fsspec_files), choosing one for an address (remote).
"""

from __future__ import annotations

import functools
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import NamedTuple, TypeVar

import numpy as np

from scmf.core.errors import DataError
from scmf.core.redact import hide_address
from scmf.data.stores.files.byte_ranges import ByteSource
from scmf.data.stores.files.retries import Retries

GAP_BYTES = 256 << 10
"""Ranges nearer than this are read in one request: at 100 MB/s the bytes between cost less than a round trip."""
PART_BYTES = 8 << 20
"""Longer ranges are read in several requests, because one connection does not fill the line."""
CONNECTIONS = 16
"""Requests of all sources of a process at the same time; so at most 128 MiB of answers wait to be copied."""

T = TypeVar("T")


class Seen(NamedTuple):
    """What a server says of a file.

    Parameters
    ----------
    version
        Its ETag, or the time of its last change.
    size
        Bytes.
    """

    version: str
    size: int


class Transient(Exception):
    """A request failed in a way that the next one may not; a signal between two modules, which users never see."""


class Part(NamedTuple):
    """One request: the bytes ``[start, stop)`` of a file, and which ranges they serve.

    Parameters
    ----------
    start, stop
        Bytes of the file.
    pieces
        ``(number of the range, first byte, last byte + 1)``, in bytes of the file.
    """

    start: int
    stop: int
    pieces: list[tuple[int, int, int]]


def plan_parts(ranges: Sequence[tuple[int, int]], *, gap: int = GAP_BYTES, longest: int = PART_BYTES) -> list[Part]:
    """Requests that bring ``ranges``: near ones together, long ones in pieces, in the order of the file."""
    parts: list[Part] = []
    for i in sorted(range(len(ranges)), key=lambda i: ranges[i]):
        start, stop = ranges[i]
        last = parts[-1] if parts else None
        near = last is not None and last.start <= start <= last.stop + gap and stop - last.start <= longest
        if last is not None and near and start < stop:
            last.pieces.append((i, start, stop))
            parts[-1] = Part(last.start, max(last.stop, stop), last.pieces)
            continue
        for first in range(start, stop, longest):
            end = min(first + longest, stop)
            parts.append(Part(first, end, [(i, first, end)]))
    return parts


@functools.lru_cache(maxsize=1)
def _connections(pid: int) -> ThreadPoolExecutor:
    """The threads that wait for answers, in this process; a fork starts with none."""
    return ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="remote")


class RemoteFiles(ByteSource):
    """Files below one address.

    Every method may be called from several threads. The parts of all reads of a process share `CONNECTIONS`, however
    many sources are open. A source does not survive a fork: the libraries below keep threads of their own. Use it in
    the process that opened it, or start workers with ``spawn`` and open it there; anything else is an error and not
    a hang.

    Parameters
    ----------
    root
        Address, without a slash at the end; credentials in it are hidden from errors and records.
    retries
        How often a request is tried again.
    """

    is_local = False
    _failures: tuple[type[Exception], ...]
    """Exceptions of the library that `_judge` understands."""

    def __init__(self, root: str, *, retries: Retries | None = None) -> None:
        self.root = hide_address(root)
        self._retries = retries or Retries()
        self._seen: dict[str, Seen] = {}
        self._pid = os.getpid()

    @property
    def retries(self) -> int:
        """Requests sent again so far."""
        return self._retries.count

    # --- what a library has to do ---------------------------------------------------------------------

    @abstractmethod
    def _head(self, name: str) -> Seen:
        """Size and version of a file, now."""

    @abstractmethod
    def _get(self, name: str, start: int, stop: int, first: Seen | None) -> tuple[np.ndarray, Seen]:
        """Bytes ``[start, stop)`` as uint8, fewer where the file ends; only of the version ``first`` where it is known.

        The version that comes back is that of the bytes.
        """

    @abstractmethod
    def _get_all(self, name: str, first: Seen | None) -> tuple[bytes, Seen]:
        """The whole file."""

    @abstractmethod
    def _children(self, folder: str) -> list[str]:
        """Names directly in ``folder``; none where there is no such folder."""

    @abstractmethod
    def _judge(self, error: Exception, name: str) -> Exception:
        """The error to raise for one of `_failures`; `Transient` when it is worth another try."""

    # --- the interface --------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """See `ByteSource.read`."""
        content, seen = self._persist(name, lambda: self._get_all(name, self._seen.get(name)))
        self._hold(name, seen)
        return content

    def size(self, name: str) -> int:
        """See `ByteSource.size`; asks once a file."""
        held = self._seen.get(name)
        if held is None:
            seen = self._persist(name, lambda: self._head(name))
            held = self._seen.setdefault(name, seen)
        return held.size

    def exists(self, name: str) -> bool:
        """See `ByteSource.exists`."""
        try:
            seen = self._persist(name, lambda: self._head(name))
        except FileNotFoundError:
            return False
        self._seen.setdefault(name, seen)
        return True

    def version(self, name: str) -> str:
        """See `ByteSource.version`."""
        seen = self._persist(name, lambda: self._head(name))
        self._seen.setdefault(name, seen)
        return f"{seen.version}-{seen.size}"

    def list(self, folder: str = "") -> list[str]:
        """See `ByteSource.list`."""
        names = self._persist(folder, lambda: self._children(folder))
        if not names:
            raise FileNotFoundError(self._address(folder))
        return sorted(names)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]], outs: Sequence[memoryview]) -> None:
        """See `ByteSource.read_ranges`."""
        if len(ranges) != len(outs):
            raise ValueError(f"{len(ranges)} ranges and {len(outs)} places to put them")
        parts = plan_parts(ranges)
        stop = threading.Event()
        if len(parts) == 1:
            self._fill(name, parts[0], ranges, outs, stop)
            return
        futures = [_connections(self._pid).submit(self._fill, name, part, ranges, outs, stop) for part in parts]
        try:
            done, _ = wait_for(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future in done and not future.cancelled() and future.exception()]
            if failed:
                failed[0].result()
        finally:  # nothing writes into `outs` once this method is left
            stop.set()
            for future in futures:
                future.cancel()
            wait_for(futures)

    # --- how ------------------------------------------------------------------------------------------

    def _fill(
        self,
        name: str,
        part: Part,
        ranges: Sequence[tuple[int, int]],
        outs: Sequence[memoryview],
        stop: threading.Event,
    ) -> None:
        def fetch() -> tuple[np.ndarray, Seen]:
            content, seen = self._get(name, part.start, part.stop, self._seen.get(name))
            if len(content) < part.stop - part.start and part.stop <= seen.size:
                raise Transient(f"{len(content):,} of {part.stop - part.start:,} bytes came")
            return content, seen

        content, seen = self._persist(name, fetch, stop)
        self._hold(name, seen)
        if part.stop > seen.size:
            raise DataError(
                f"the file ends at byte {seen.size:,}",
                wanted=f"at least {part.stop:,} bytes",
                where=self._address(name),
                fix="upload it again; it is truncated",
            )
        for i, first, end in part.pieces:
            begin = ranges[i][0]
            place = np.frombuffer(outs[i], np.uint8)[first - begin : end - begin]
            np.copyto(place, content[first - part.start : end - part.start])

    def _persist(self, name: str, call: Callable[[], T], stop: threading.Event | None = None) -> T:
        """``call()``, again and again while it fails in passing, up to the number of tries."""
        if os.getpid() != self._pid:
            raise DataError(
                "a source of remote files is used in a forked process",
                wanted="the process that opened it",
                where=self.root,
                fix="read with threads, or start the workers with 'spawn' and open the source in each",
            )
        stop = stop or threading.Event()
        attempt = 0
        while True:
            attempt += 1
            try:
                return call()
            except Transient as passing:
                reason: Exception = passing
            except self._failures as error:
                reason = self._judge(error, name)
                if not isinstance(reason, Transient):
                    raise reason from error
            if attempt >= self._retries.tries or not self._retries.wait(attempt, stop):
                raise DataError(
                    f"{attempt} requests failed, the last one with: {reason}",
                    wanted="an answer of the server",
                    where=self._address(name),
                    fix="look at the network and the server; a run goes on from its last checkpoint",
                ) from reason

    def _hold(self, name: str, seen: Seen) -> None:
        """Remember the version of a file that was seen first, and raise when it is another one now."""
        if self._seen.setdefault(name, seen) != seen:
            raise self._replaced(name)

    def _replaced(self, name: str) -> DataError:
        return DataError(
            "the file was replaced or written to while it was being read",
            wanted="the file that was opened",
            where=self._address(name),
            fix="leave files alone during a run; start again, the run goes on from its last checkpoint",
        )

    def _address(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def _forbidden(self, name: str, said: str, hint: str) -> DataError:
        return DataError(
            f"the server does not let us read: {said}",
            wanted="permission to read this file",
            where=self._address(name),
            fix=hint,
        )
