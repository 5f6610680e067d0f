"""One writer of a folder at a time.

Lives here: the lock, which the system takes back when its process dies, however it dies. Lives elsewhere: who takes it
(training, fine-tuning, conversion, publishing).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scmf.core.errors import ScmfError, TrainingError

LOCK = ".scmf-lock"
"""Name of the file in a folder that is written to; it stays, and is unlocked when no process holds it."""


@contextmanager
def one_writer(folder: Path, what: str, *, error: type[ScmfError] = TrainingError) -> Iterator[None]:
    """Hold the lock of ``folder``, which is made, while the block runs.

    Parameters
    ----------
    folder
        What is written to.
    what
        What this process does there, for the message that another one gets.
    error
        Kind of error for the one that comes second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            holder = os.read(handle, 4096).decode(errors="replace")
            os.close(handle)
            raise error(
                f"{_holder(holder)} is writing here",
                wanted="one process at a time in a folder",
                where=folder,
                fix="wait for it to end, end it, or choose another folder",
            ) from busy
        except OSError:  # a file system without locks: one writer cannot be told from two
            break
        try:
            if path.stat().st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # the folder took its name in between, and its lock with it
    try:
        os.ftruncate(handle, 0)
        note = {"pid": os.getpid(), "host": socket.gethostname(), "what": what}
        os.pwrite(handle, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(note: str) -> str:
    """Who holds a lock, from what it wrote into it."""
    try:
        held = json.loads(note)
        return f"another process ({held['what']}, process {held['pid']} on {held['host']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
