"""Files of every protocol that fsspec knows and obstore does not: ``memory://``, ``hf://``, ``ftp://``, ``sftp://``...

Lives here: the requests, what their errors mean. Lives elsewhere: ranges, tries, versions (remote_files). fsspec has
no conditional requests, so the version of a file is asked for after each read: one request more a part.
"""

from __future__ import annotations

import ftplib
import sys
import threading
from typing import Any

import numpy as np

from scmf.core.errors import DataError
from scmf.data.stores.files.remote_files import RemoteFiles, Seen, Transient
from scmf.data.stores.files.retries import Retries

_VERSION_KEYS = (
    "ETag", "etag", "e_tag", "blob_id", "oid", "sha256", "checksum", "generation",
    "LastModified", "last_modified", "last_commit", "mtime", "modify", "updated", "created",
)  # fmt: skip
"""Names under which file systems keep what changes with a file, all that are there are compared."""
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_LIBRARIES = (
    ("aiohttp", "ClientError"),
    ("httpx", "HTTPError"),
    ("paramiko", "SSHException"),
    ("requests", "RequestException"),
)


class FsspecFiles(RemoteFiles):
    """Files below ``root`` through an fsspec file system; see `RemoteFiles` for threads and forks.

    A file system that is not asynchronous holds one connection: its requests are sent one after the other.

    Parameters
    ----------
    root
        Address, as errors name it.
    filesystem
        An fsspec file system of ours alone (``skip_instance_cache``), without a cache of listings.
    path
        ``root`` as the file system names it.
    retries
        How often a request is tried again.
    """

    def __init__(self, root: str, *, filesystem: Any, path: str, retries: Retries | None = None) -> None:
        super().__init__(root, retries=retries)
        self._fs = filesystem
        self._root_path = path.rstrip("/")
        self._one = threading.Lock() if not getattr(filesystem, "async_impl", False) else _NoLock()
        loaded = [getattr(sys.modules[module], kind) for module, kind in _LIBRARIES if module in sys.modules]
        self._failures = (OSError, EOFError, ftplib.Error, *loaded)

    def _path(self, name: str) -> str:
        return f"{self._root_path}/{name}" if name else self._root_path

    def _head(self, name: str) -> Seen:
        with self._one:
            info = self._fs.info(self._path(name))
        if info["type"] == "directory":
            raise FileNotFoundError(f"{self._address(name)} is a folder")
        if info.get("size") is None:
            raise DataError(
                "the server does not say how long the file is",
                wanted="a file of known size",
                where=self._address(name),
                fix="download the file first",
            )
        return Seen(" ".join(f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key)), int(info["size"]))

    def _get(self, name: str, start: int, stop: int, first: Seen | None) -> tuple[np.ndarray, Seen]:
        if first is not None and start >= first.size:
            return np.empty(0, np.uint8), first
        with self._one:
            content = self._fs.cat_file(self._path(name), start=start, end=stop)
        seen = self._head(name)
        if len(content) > stop - start:
            raise DataError(
                "the server sends whole files only (it does not answer requests for ranges)",
                wanted="requests for ranges",
                where=self._address(name),
                fix="download the file, or put it on a server that knows ranges",
            )
        return np.frombuffer(content, np.uint8), seen

    def _get_all(self, name: str, first: Seen | None) -> tuple[bytes, Seen]:
        with self._one:
            content = self._fs.cat_file(self._path(name))
        seen = self._head(name)
        if len(content) != seen.size:
            raise Transient(f"{len(content):,} of {seen.size:,} bytes came")
        return content, seen

    def _children(self, folder: str) -> list[str]:
        path = self._path(folder)
        with self._one:
            found = self._fs.ls(path, detail=False)
        return [name for name in (str(one).rstrip("/").rpartition("/")[2] for one in found) if name]

    def _judge(self, error: Exception, name: str) -> Exception:
        said = f"{type(error).__name__}: {error}"[:400]
        status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, FileNotFoundError | NotADirectoryError) or status == 404:
            return FileNotFoundError(f"{self._address(name)}: {said}")
        if isinstance(error, PermissionError) or status in (401, 403):
            hint = "give credentials in storage_options, by the names that the fsspec file system takes"
            return self._forbidden(name, said, hint)
        lasting = isinstance(error, (*_LASTING, ftplib.error_perm)) or (
            isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)
        )
        if lasting:
            return DataError(
                f"the request failed: {said}",
                wanted="a file",
                where=self._address(name),
                fix="look at the address and at storage_options",
            )
        return Transient(said)


class _NoLock:
    """Stands where a lock would, for file systems that take requests side by side."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
