"""What files hold: the identity of cells, the same after a copy and another after any change.

Lives here: `sha256_of`, of a file or a folder, remembered between calls. Lives elsewhere: the sum itself (core.files),
whether a file was replaced while it is read (data.stores.files.byte_ranges).

A sum is remembered under device, inode, size, and times of change of the bytes and of the inode. The last one is set
by the system alone, so that no program can give a changed file the mark of the old one. A file that changed in the
last seconds is not remembered, for it may change again without a later time; nor is anything on systems that know no
such time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scmf.core.files import peek_object, sha256_file, sha256_json, write_json
from scmf.core.paths import cache_dir

log = logging.getLogger(__name__)

_SETTLED = 3.0
"""Seconds after which a change of a file must have shown in its times."""

_LARGE = 1 << 32
"""Bytes from which on it is said that a file is read for its sum."""


def sha256_of(path: Path | str, names: Sequence[str] | None = None) -> str:
    """Hex sha256 of what a file holds, or of the names and contents of the files of a folder.

    Parameters
    ----------
    path
        A file, or a folder such as a zarr group.
    names
        The files of the folder that count, relative to it; None: all of them.
    """
    path = Path(path)
    if path.is_file():
        return _of_files({"": path})
    if names is None:
        names = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
    return _of_files({name: path / name for name in names})


def _of_files(files: Mapping[str, Path]) -> str:
    marks = {name: _mark(path) for name, path in files.items()}
    record = cache_dir() / "content" / f"{sha256_json(marks)[:32]}.json"
    settled = os.name == "posix" and all(mark[-1] < (time.time() - _SETTLED) * 1e9 for mark in marks.values())
    if settled and (found := _remembered(record)) is not None:
        return found
    if (size := sum(mark[2] for mark in marks.values())) >= _LARGE:
        log.info(f"reading {size / 1e9:,.0f} GB once, to know these cells again")
    sums = {name: sha256_file(path) for name, path in files.items()}
    value = sums[""] if list(sums) == [""] else sha256_json([[name, sum_] for name, sum_ in sums.items()])
    if settled and marks == {name: _mark(path) for name, path in files.items()}:
        try:
            write_json(record, {"sha256": value})
        except OSError as error:
            log.debug(f"sum of {len(files)} file(s) not remembered: {error}")
    return value


def _mark(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _remembered(record: Path) -> str | None:
    value = (peek_object(record) or {}).get("sha256")
    return value if isinstance(value, str) and len(value) == 64 else None
