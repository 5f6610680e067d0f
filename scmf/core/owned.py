"""Only what we wrote is replaced or removed: the one rule for every folder that a command writes to.

A folder that exists is ours when it carries our mark, and then the files that we wrote in it are known by name. Another
folder of that name is refused. What somebody else put into a folder of ours stays in it.

Lives here: `new_folder`, which replaces a folder as a whole, and `refuse_foreign` for folders that are added to. Lives
elsewhere: single files (scmf.core.files), the mark of a saved model (scmf.core.manifest), that of a run
(scmf.models.run_folder).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scmf.core import manifest
from scmf.core.errors import ConfigError, ModelError, ScmfError
from scmf.core.locks import LOCK, one_writer

Ours = Callable[[Path], Collection[str] | None]
"""From a folder that exists to the names of the files that we wrote in it; None where it is not ours."""


def by_manifest(folder: Path) -> Collection[str] | None:
    """The files that ``checksums.json`` names, when it is one of ours."""
    try:
        found = manifest.read(folder)
    except ModelError:
        found = {"files": dict.fromkeys(_read_names(folder), "")}  # ours once, and damaged since
    return None if found is None else {*found["files"], manifest.MANIFEST}


def _read_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file() and manifest.is_read(path.name)]


@contextmanager
def new_folder(
    path: Path, *, ours: Ours = by_manifest, what: str = "writing", error: type[ScmfError] = ModelError
) -> Iterator[Path]:
    """Yield a new folder beside ``path`` that takes its place when the block ends without an error.

    What a killed process left of an earlier try is removed first; a folder it was about to replace is put back.

    Parameters
    ----------
    path
        The folder to make or to replace.
    ours
        Tells a folder of ours and the files that we wrote in it. Others that lie there are kept.
    what
        What is done, for the message to a second process.
    error
        Kind of error for a folder that is not ours.

    Raises
    ------
    ScmfError
        ``path`` is there and not ours, or another process is writing it.
    """
    path = path.resolve() if path.is_symlink() else path
    part, old = path.with_name(f".{path.name}.scmf-part"), path.with_name(f".{path.name}.scmf-old")
    with one_writer(part, what, error=error):
        if old.is_dir() and not path.exists():
            old.rename(path)
        clear(old)
        for leftover in part.iterdir():
            if leftover.name != LOCK:
                _remove(leftover)
        fresh = part / path.name
        try:
            refuse_replacing(path, ours=ours, error=error)
            fresh.mkdir()
            yield fresh
            if path.is_dir():
                _keep_others(path, fresh, set(ours(path) or ()))
                path.rename(old)
            fresh.rename(path)
        finally:
            if old.is_dir() and not path.exists():
                old.rename(path)
            shutil.rmtree(part, ignore_errors=True)
        clear(old)


def refuse_replacing(path: Path, *, ours: Ours = by_manifest, error: type[ScmfError] = ModelError) -> None:
    """Raise ``error`` when ``path`` is there and not a folder of ours; an empty folder may be anybody's."""
    if path.is_dir():
        if not any(path.iterdir()) or ours(path) is not None:
            return
        found = f"a folder that scmf did not write, with {_some(path)}"
    elif path.exists():
        found = "a file"
    else:
        return
    raise error(
        found, wanted="a new folder, or one that scmf wrote", where=path, fix="choose another folder, or move it away"
    )


def refuse_foreign(
    folder: Path, names: Sequence[str], *, is_ours: Callable[[Path], bool], error: type[ScmfError] = ConfigError
) -> None:
    """Raise ``error`` when a folder that we did not make holds something under a name that we would write.

    Parameters
    ----------
    folder
        Where files are to be added.
    names
        What will be written there, files and folders.
    is_ours
        Whether the folder carries our mark.
    error
        Kind of error.
    """
    if folder.exists() and not folder.is_dir():
        raise error("a file", wanted="a folder", where=folder, fix="choose another folder")
    taken = [name for name in names if _is_something(folder / name)]
    if taken and not is_ours(folder):
        raise error(
            f"{', '.join(taken)} in a folder that scmf did not write to before",
            wanted="a new folder, or one that scmf wrote",
            where=folder,
            fix="choose another folder, or move what lies there away",
        )


def clear(folder: Path) -> None:
    """Remove a folder under a name that only scmf gives (temporary, or replaced)."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def _is_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() or path.is_symlink()


def _some(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _keep_others(path: Path, fresh: Path, written: set[str]) -> None:
    """Take what others put into ``path`` along into ``fresh``, as links, so that no kill can lose it."""
    if not path.is_dir():
        return
    for source in sorted(path.rglob("*")):
        name = source.relative_to(path)
        target = fresh / name
        if source.is_dir() and not source.is_symlink():
            continue
        if name.as_posix() in written or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)
