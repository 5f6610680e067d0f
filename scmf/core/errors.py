"""Every error a user can meet, drawn as one tree.

::

    ScmfError                      what was found, what was wanted, where, what to do
    ├── ConfigError                a YAML file, an override or a name is wrong           (exit 2)
    ├── DataError                  cells cannot be used                                  (exit 3)
    │   ├── ChecksumError          the file is not the file the card names
    │   ├── SourceError            no source of a card could deliver
    │   ├── CountsError            not raw counts: normalized, negative, NaN, empty
    │   └── GeneError              gene ids unknown or ambiguous
    ├── ModelError                 weights or tensors do not fit the model               (exit 4)
    ├── TrainingError              a run cannot start, go on or resume                   (exit 5)
    ├── EvaluationError            a score cannot be computed                            (exit 6)
    ├── MissingExtraError          an optional dependency is not installed               (exit 7)
    └── ResourceError              no permission, space or memory; a file that fails     (exit 8)

Exit code 1 is kept for a negative answer: a verdict that is off, a check that found something.
Tokenizer and model files do not import this module (they travel alone inside a checkpoint);
they raise ``ValueError`` with a message of the same four parts.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from scmf.core.redact import hide_text


class ScmfError(Exception):
    """An error with four parts, so that the reader knows what to do next.

    Parameters
    ----------
    found
        What was found, as one clause.
    wanted
        What was wanted instead.
    where
        File, key, row or command in which it was found.
    fix
        What to do next.
    """

    exit_code = 1

    def __init__(
        self, found: str, *, wanted: str | None = None, where: object | None = None, fix: str | None = None
    ) -> None:
        # texts of libraries name addresses and options, with what is secret in them
        self.found = hide_text(found)
        self.wanted = None if wanted is None else hide_text(wanted)
        self.where = hide_text(where) if isinstance(where, str) else where
        self.fix = None if fix is None else hide_text(fix)
        super().__init__(self._message())

    def _message(self) -> str:
        parts = [f"found: {self.found}"]
        if self.wanted:
            parts.append(f"wanted: {self.wanted}")
        if self.where is not None:
            parts.append(f"where: {hide_text(str(self.where))}")
        if self.fix:
            parts.append(f"do: {self.fix}")
        return "\n".join(parts)

    def to_json(self) -> dict[str, str | None]:
        """The four parts as a JSON object, for ``--json``."""
        where = None if self.where is None else hide_text(str(self.where))
        return {
            "error": type(self).__name__,
            "found": self.found,
            "wanted": self.wanted,
            "where": where,
            "do": self.fix,
        }


class ConfigError(ScmfError):
    """A configuration file, an override or a name is wrong."""

    exit_code = 2


class DataError(ScmfError):
    """The cells cannot be used as asked."""

    exit_code = 3


class ChecksumError(DataError):
    """A file is not the one its card names."""


class SourceError(DataError):
    """None of the sources of a card could deliver the file."""


class CountsError(DataError):
    """The matrix does not hold raw counts."""


class GeneError(DataError):
    """Gene identifiers are unknown, ambiguous or duplicated."""


class ModelError(ScmfError):
    """Weights, configuration or tensors do not fit the model."""

    exit_code = 4


class TrainingError(ScmfError):
    """A training run cannot start, continue or resume."""

    exit_code = 5


class EvaluationError(ScmfError):
    """A score cannot be computed from what was given."""

    exit_code = 6


class MissingExtraError(ScmfError):
    """An optional dependency is not installed."""

    exit_code = 7

    def __init__(self, package: str, extra: str, *, needed_for: str) -> None:
        super().__init__(
            f"package {package!r} is not installed",
            wanted=f"{package} for {needed_for}",
            fix=f'pip install "scmodelforge[{extra}]"',
        )


class ResourceError(ScmfError):
    """The machine cannot: no permission, no space, no memory, or a file or folder that cannot be read or written."""

    exit_code = 8


_OF_LIBRARIES = ("h5py", "zarr", "safetensors", "pyarrow", "anndata", "obstore", "fsspec", "numcodecs")
"""Packages whose own errors say that a file is damaged."""

_WORDS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("no space left on the disk", "make room, or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "make room, or write to another disk"),
    errno.EFBIG: ("a file larger than the file system or the limit of the shell allows", "see `ulimit -f`"),
    errno.EROFS: ("a file system that is read-only", "write to another folder"),
    errno.EACCES: ("no permission", "ask for it, or name another folder"),
    errno.EPERM: ("no permission", "ask for it, or name another folder"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.ENOTDIR: ("a file where a folder is needed", "check the path"),
    errno.EISDIR: ("a folder where a file is needed", "check the path"),
    errno.EEXIST: ("a file where a folder is needed", "check the path"),
    errno.ENAMETOOLONG: ("a name that is too long for the file system", "choose a shorter name"),
    errno.ELOOP: ("links that lead in a circle", "check the path"),
    errno.EMFILE: ("too many open files", "see `ulimit -n`"),
    errno.ENOMEM: ("no memory left", "use less memory, or a larger machine"),
    errno.EIO: ("the disk fails to read or write", "copy the file to another disk"),
}
"""errno -> what it means, what to do."""


def resource_error(error: BaseException, *, where: object | None = None) -> ResourceError | None:
    """An error of the system, of memory or of a library that reads files as ours; None for any other.

    Parameters
    ----------
    error
        What was raised.
    where
        The file or folder; the one that the error names when None.
    """
    text = " ".join(str(error).split())[:300]
    lack = "allocate memory" in text or "out of memory" in text.lower()
    if isinstance(error, MemoryError) or lack:
        found = f"not enough memory ({text})" if text else "not enough memory"
        fix = "smaller sizes or batches, or a larger machine; a file that asks for this may be damaged"
        return ResourceError(found, where=where, fix=fix)
    if isinstance(error, OSError):
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        found, fix = _WORDS.get(error.errno or 0, (text or type(error).__name__, "check the file and the disk"))
        return ResourceError(found, where=where or ", ".join(names) or None, fix=fix)
    if type(error).__module__.partition(".")[0] in _OF_LIBRARIES:
        fix = "copy or download the file again"
        return ResourceError(f"a file that cannot be read or written: {text}", where=where, fix=fix)
    return None


@contextmanager
def reading(
    kind: type[ScmfError], *, what: str, where: object, wanted: str | None = None, fix: str | None = None
) -> Iterator[None]:
    """Whatever a library raises while it reads a file of somebody's becomes one error that names the file.

    Parameters
    ----------
    kind
        Class of the error.
    what
        What the file should have been, for example ``the weights``; the message says that they cannot be read.
    where, wanted, fix
        As in `ScmfError`.
    """
    try:
        yield
    except ScmfError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise kind(
            f"{what} cannot be read ({type(error).__name__}{': ' if text else ''}{text})",
            wanted=wanted or "a complete file, as it was written",
            where=where,
            fix=fix or "copy it again; it may be truncated or damaged",
        ) from error


def from_value_error(kind: type[ScmfError], error: ValueError, *, where: object | None = None) -> ScmfError:
    """Turn the ``ValueError`` of a tokenizer or model file, whose text has the same four parts, into ours."""
    parts: dict[str, str] = {}
    last = "found"
    for line in str(error).splitlines():
        name, colon, text = line.partition(": ")
        if colon and name in ("found", "wanted", "where", "do"):
            last, parts[name] = name, text
        else:
            parts[last] = f"{parts[last]}\n{line}" if last in parts else line
    place = ", ".join(str(part) for part in (where, parts.get("where")) if part) or None
    return kind(parts.get("found", str(error)), wanted=parts.get("wanted"), where=place, fix=parts.get("do"))
