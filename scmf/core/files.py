"""Files: how they are written and hashed.

Lives here: atomic writing, JSON files, sha256. Lives elsewhere: YAML (`core.yaml`), where files lie (`core.paths`),
what is in them (config, recipe, data.cards, results).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scmf.core.errors import ScmfError

_CHUNK = 1 << 20
_SHOWN = 32
"""Characters of a name that its temporary file bears."""


@contextmanager
def atomic_path(path: Path | str, *, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error.

    The temporary file has the same suffix (writers that look at it keep working), lies in the same
    folder (so that the rename is atomic) and is flushed to disk before it takes the name. It gets the permissions
    ``mode``; None: those of a new file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    fd, name = tempfile.mkstemp(prefix=_prefix(path), suffix=_suffix(path), dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, from which what is whole can be renamed; it is removed at the end."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    with tempfile.TemporaryDirectory(prefix=_prefix(path), suffix=_suffix(path), dir=path.parent) as folder:
        yield Path(folder)


def _prefix(path: Path, pid: int | str | None = None) -> str:
    """How temporary names of ``path`` begin: with the machine and the process that write.

    A name may be as long as the file system allows, so that only its beginning stands in them.
    """
    return f".{path.name[:_SHOWN]}.{socket.gethostname()[:_SHOWN]}-{os.getpid() if pid is None else pid}-"


def _suffix(path: Path) -> str:
    return path.suffix if len(path.suffix) <= _SHOWN else ""


def _sweep(path: Path) -> None:
    """Remove what a killed process of this machine left of an earlier try to write ``path``."""
    before, _, after = _prefix(path, "PID").rpartition("PID")
    name = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}\w{{8}}{re.escape(_suffix(path))}")
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            if (match := name.fullmatch(left.name)) and not _is_alive(int(match[1])):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; it may be somebody else's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: Path | str, text: str) -> Path:
    """Write ``text`` to ``path`` atomically, as UTF-8; what is no text in a file name is escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def write_json(path: Path | str, value: Any) -> Path:
    """Write ``value`` as JSON with sorted keys, so that equal content is an equal file."""
    return write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_object(
    path: Path | str, *, kind: type[ScmfError], wanted: str, fix: str, keys: Iterable[str] = ()
) -> dict[str, Any]:
    """Read a JSON object that a program wrote.

    Parameters
    ----------
    path
        The file.
    kind, wanted, fix
        The error for a file that is missing, damaged, no object or without one of ``keys``.
    keys
        What must be in it.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise kind(f"not readable ({type(error).__name__}: {error})", wanted=wanted, where=path, fix=fix) from error
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if not isinstance(found, dict) or lacking:
        what = f"no {lacking[0]!r}" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise kind(what, wanted=wanted, where=path, fix=fix)
    return found


def peek_object(path: Path | str) -> dict[str, Any] | None:
    """The JSON object in a file that may be anybody's; None where there is none that can be read."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def is_zarr(path: Path | str) -> bool:
    """Whether a path of this machine is a zarr group."""
    path = Path(path)
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))
