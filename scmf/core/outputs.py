"""Outputs are tried before the work: the one check of every option that names a file or folder to write.

Lives here: `try_file` and `try_folder`. Nothing is left behind by them, and what is there is not touched. Lives
elsewhere: writing (`core.files`), what may be replaced in a folder (the module that writes it).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scmf.core.errors import ConfigError, ResourceError, resource_error
from scmf.core.files import is_zarr

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The beginning of an address, also of one that became a path: ``s3://bucket`` is ``s3:/bucket`` then."""

_TRIES = 16 << 10
"""Bytes written to see that there is room at all."""


def try_file(
    path: Path | str,
    *,
    option: str,
    endings: tuple[str, ...] = (),
    inputs: Iterable[Path | str] = (),
    need: int = 0,
) -> Path:
    """See that a file can be written.

    Parameters
    ----------
    path
        The file; it may exist (it will be replaced), and so may its folder.
    option
        What names it, for example ``--out``.
    endings
        Endings of which the name must have one; none: any name.
    inputs
        Files and folders that are read: none of them may be the output.
    need
        Bytes that will be written, as far as that is known.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ConfigError
        The name is none for such a file, or the output is an input.
    ResourceError
        It cannot be written there.
    """
    path = _named(path, option)
    if endings and not path.name.endswith(endings):
        wanted = f"a name that ends in {' or '.join(endings)}"
        raise ConfigError(f"a file called {path.name!r}", wanted=wanted, where=f"{option} {path}", fix="rename it")
    _refuse_inputs(path, option, inputs)
    where = f"{option} {path}"
    with _told(where):
        if path.is_dir() and not path.name.endswith(".zarr"):
            raise ResourceError("a folder", wanted="the name of a file", where=where, fix="add a file name")
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ResourceError("neither a file nor a folder", wanted="a file", where=where, fix="choose another name")
        if path.exists() and path.name.endswith(".zarr"):
            raise ConfigError("a folder or file that exists", wanted="a new name", where=where, fix="choose another")
        _try(path.parent, where, need=need, name=path.name)
    return path


def try_folder(path: Path | str, *, option: str, inputs: Iterable[Path | str] = (), need: int = 0) -> Path:
    """See that files can be written into a folder, which need not exist; see `try_file`."""
    path = _named(path, option)
    _refuse_inputs(path, option, inputs)
    where = f"{option} {path}"
    with _told(where):
        _try(path, where, need=need)
    return path


def _named(path: Path | str, option: str) -> Path:
    text = str(path)
    if not text.strip() or "\0" in text:
        raise ConfigError(f"the name {text!r}", wanted="the name of a file or folder", where=option, fix="give a name")
    if _ADDRESS.match(text):
        raise ConfigError(
            f"the address {text.partition('?')[0]!r}",
            wanted="a path of this machine",
            where=option,
            fix="write to a local path and copy it there afterwards",
        )
    return Path(path)


def _refuse_inputs(path: Path, option: str, inputs: Iterable[Path | str]) -> None:
    for one in inputs:
        try:
            same = path.exists() and Path(one).exists() and path.samefile(one)
            inside = is_zarr(one) and path.resolve().is_relative_to(Path(one).resolve())
        except (OSError, ValueError):  # a name that is none: said where it is read
            continue
        if same or inside:
            raise ConfigError(
                f"output {'is' if same else 'lies in'} the input", wanted="another file", where=f"{option} {path}",
                fix=f"choose another {option}",
            )  # fmt: skip


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        said = resource_error(error)
        assert said is not None
        at = where if error.filename is None or str(error.filename) in where else f"{where} ({error.filename})"
        raise ResourceError(said.found, wanted="a place that can be written to", where=at, fix=said.fix) from error


def _try(folder: Path, where: str, *, need: int, name: str | None = None) -> None:
    """Write a few bytes into the nearest folder that exists, and look whether the names that are missing are possible.

    Asking for the permissions is not enough: they say nothing of a read-only file system, and root has them all.
    """
    names = [] if name is None else [name]
    while not folder.exists():
        if folder.is_symlink():
            raise FileNotFoundError(errno.ENOENT, "a link that leads nowhere", str(folder))
        names.append(folder.name)
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
    longest = os.statvfs(folder).f_namemax
    if any(len(os.fsencode(name)) > longest for name in names):
        raise OSError(errno.ENAMETOOLONG, "name too long")
    try:
        with tempfile.NamedTemporaryFile(prefix=".scmf-", dir=folder) as probe:
            probe.write(bytes(_TRIES))
            probe.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error  # not the name of the probe
    free = shutil.disk_usage(folder).free
    if need > free:
        from rich.filesize import decimal

        raise ResourceError(
            f"{decimal(free)} free on the disk",
            wanted=f"about {decimal(need)}",
            where=where,
            fix="make room, or write to another disk",
        )
