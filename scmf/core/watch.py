"""Whether all processes of a run are still there: each says so every second, and looks at the others.

A process that was killed, stopped or cut off falls silent; one that hangs still talks, but its count of steps stands
while the others wait for it. Either way the others end within a minute, and the first of them says which it was. While
the main process alone does something (validation, a checkpoint), the others wait for as long as it talks.

``SCMF_RANK_TIMEOUT`` (seconds, 45 if not set) is how long a process may be silent, or behind all others.

Lives here: the meeting of the processes, the watch, errors of collective calls in our words. Lives elsewhere: the
process group (core.distributed), where steps are counted (training.loop).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from scmf.core.errors import ScmfError, TrainingError

STARTED_BY = "SCMF_STARTED_BY"
"""Environment variable with the id of the process that started this one as a process of a run."""
_BEAT_S = 1.0
_BUSY = 10
"""So many times longer may the main process be silent while it alone does something."""

_current: _Watch | None = None


def limit_s() -> float:
    """Seconds that a process may be silent, or behind all others."""
    try:
        return max(float(os.environ.get("SCMF_RANK_TIMEOUT", "45")), 2 * _BEAT_S)
    except ValueError as error:
        raise TrainingError(
            f"SCMF_RANK_TIMEOUT is {os.environ['SCMF_RANK_TIMEOUT']!r}", wanted="seconds", where="environment",
            fix="for example SCMF_RANK_TIMEOUT=300",
        ) from error  # fmt: skip


def _say(error: ScmfError) -> None:
    sys.stderr.write(f"{type(error).__name__}\n{error}\n")
    sys.stderr.flush()


say: Callable[[ScmfError], Any] = _say
"""How an error is told that ends the process from its watch; the command line prints it as it prints all others."""


class _Watch(threading.Thread):
    """The thread of one process."""

    def __init__(self, store: Any, *, rank: int, size: int, names: list[str]) -> None:
        super().__init__(name="scmf-watch", daemon=True)
        self.rank, self.size, self.names, self.limit = rank, size, names, limit_s()
        self._store, self._keys = store, [f"beat/{i}" for i in range(size)]
        self.count, self.busy, self._beats, self._ended = 0, False, 0, threading.Event()
        now = time.monotonic()
        self._seen: dict[int, tuple[str, float]] = dict.fromkeys(range(size), ("", now))
        self._moved, self._heard, self._gone = (0, now), now, ""

    def run(self) -> None:
        """Look at what the other processes said until this one ends or another one is lost."""
        threading.Thread(target=self._talk, name="scmf-beat", daemon=True).start()
        while not self._ended.wait(_BEAT_S):
            if (lost := self.lost() or self._cut_off()) is not None and not self._ended.is_set():
                self.end(*lost)

    def _talk(self) -> None:
        """Say and hear; a call may never come back when the process that holds the store was stopped."""
        while not self._ended.is_set():
            try:
                self.beat()
                self.look()
            except (RuntimeError, ValueError) as error:
                self._gone = str(error).splitlines()[0]
                return
            self._ended.wait(_BEAT_S)

    def _cut_off(self) -> tuple[int, str] | None:
        """Whether the store of the processes, which the first of them (or torchrun) holds, has fallen silent."""
        said = self._seen[0][0].split()
        if said[:2] == ["left", "0"]:
            return None
        silent = time.monotonic() - self._heard
        if self._gone:
            return 0, f"what it held for all is gone ({self._gone}): it was killed or cut off"
        if silent > self.limit * (_BUSY if said[2:] == ["1"] else 1):
            return 0, f"it has said nothing for {silent:.0f} s: it was killed, stopped or cut off"
        return None

    def beat(self) -> None:
        """Say that this process is there, how far it is, and whether it works alone."""
        self._beats += 1
        self._store.set(self._keys[self.rank], f"{self._beats} {self.count} {int(self.busy)}")

    def look(self) -> None:
        """Note who has said something new."""
        now = time.monotonic()
        for other, said in enumerate(self._store.multi_get(self._keys)):
            if said.decode() != self._seen[other][0]:
                self._seen[other] = (said.decode(), now)
        self._heard = now
        if self.count != self._moved[0]:
            self._moved = (self.count, now)

    def lost(self, *, silent_s: float | None = None) -> tuple[int, str] | None:
        """A process that is gone, and what is known of it."""
        now = time.monotonic()
        for other, (said, when) in self._seen.items():
            if other == self.rank:
                continue
            words = said.split()
            if words[:1] == ["left"]:
                if words[1] != "0":
                    return other, f"it ended with code {words[1]}"
                continue
            silent, busy = now - when, words[2:] == ["1"]
            if silent > (silent_s or self.limit * (_BUSY if busy else 1)):
                return other, f"it has said nothing for {silent:.0f} s: it was killed, stopped or cut off"
            behind = now - self._moved[1]
            if silent_s is None and not busy and len(words) == 3 and int(words[1]) < self.count and behind > self.limit:
                return other, f"it hangs: the others have waited for it for {behind:.0f} s"
        return None

    def error(self, other: int, what: str) -> TrainingError:
        """What is told of a lost process."""
        return TrainingError(
            f"process {other} of {self.size} ({self.names[other]}) is lost: {what}",
            wanted="all processes at work",
            where=f"process {self.rank} ({self.names[self.rank]})",
            fix="see what it said last; then give the same command again, which resumes from the newest checkpoint "
            "(SCMF_RANK_TIMEOUT=seconds waits longer)",
        )

    def end(self, other: int, what: str) -> None:
        """End this process, whose main thread waits for one that is lost; the lowest number says why."""
        error = self.error(other, what)
        if self.rank == (1 if other == 0 else 0):
            say(error)
        else:
            time.sleep(1.5 * _BEAT_S)
        os._exit(error.exit_code)

    def stop(self, code: int) -> None:
        """Say that this process leaves, and stop looking; nobody may be left to be told."""
        self._ended.set()

        def last_word() -> None:
            with contextlib.suppress(RuntimeError, ValueError):
                self._store.set(self._keys[self.rank], f"left {code}")

        word = threading.Thread(target=last_word, daemon=True)
        word.start()
        word.join(timeout=2 * _BEAT_S)


def meet(address: str, port: int, *, rank: int, size: int, fix: str) -> Any:
    """Wait until all processes are there, and watch them from then on.

    Returns
    -------
    torch.distributed.Store
        For the process group.

    Raises
    ------
    TrainingError
        The address cannot be reached, or a process never comes; it is named.
    """
    from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

    global _current
    wait = timedelta(seconds=limit_s())
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun itself

    def connect(is_master: bool) -> Any:
        store = TCPStore(address, port, size, is_master, timeout=wait, wait_for_workers=False)
        return PrefixStore(f"scmf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    try:
        store = connect(is_master=rank == 0 and not hosted)
    except (DistError, RuntimeError, ValueError) as error:
        who = "this process could not listen there" if rank == 0 else "process 0 never came"
        raise TrainingError(
            f"{who} within {wait.seconds} s ({str(error).splitlines()[0][:200]})",
            wanted=f"{size} processes that meet at {address}:{port}",
            where=f"process {rank} of {size}, MASTER_ADDR and MASTER_PORT",
            fix=fix,
        ) from error
    keys = [f"here/{i}" for i in range(size)]
    try:
        store.set(keys[rank], f"{socket.gethostname()}, process id {os.getpid()}")
        store.set(f"beat/{rank}", "0 0 0")
        store.wait(keys, wait)
        names = [name.decode() for name in store.multi_get(keys)]
        own = connect(is_master=False)  # a connection of its own: the other may wait for long
    except (DistError, RuntimeError) as error:
        missing = [i for i, key in enumerate(keys) if not _is_there(store, key)]
        never = ", ".join(map(str, missing)) or "0"
        raise TrainingError(
            f"process {never} of {size} never came (waited {wait.seconds} s)",
            wanted=f"{size} processes, as WORLD_SIZE says, that meet at {address}:{port}",
            where=f"process {rank}",
            fix=f"{fix}; SCMF_RANK_TIMEOUT=seconds waits longer",
        ) from error
    _current = _Watch(own, rank=rank, size=size, names=names)
    _current.start()
    return PrefixStore("group", store)


def _is_there(store: Any, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except RuntimeError:
        return False


def follow(parent: int) -> None:
    """End this process when the one that started it is gone: nobody waits for what it does any more."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_BEAT_S)
        error = TrainingError(
            f"the process that started this one ({parent}) is gone",
            wanted="`scmf train`, which waits for its processes",
            where=f"process {os.environ.get('RANK', '0')}",
            fix="give the same command again, which resumes from the newest checkpoint",
        )
        if os.environ.get("RANK", "0") == "0":
            say(error)
        os._exit(error.exit_code)

    threading.Thread(target=look, name="scmf-parent", daemon=True).start()


def step() -> None:
    """Count one step on; every process calls this at the same places."""
    if _current is not None:
        _current.count += 1


@contextmanager
def alone() -> Iterator[None]:
    """The main process alone does something that may take long."""
    if _current is None:
        yield
        return
    before, _current.busy = _current.busy, True
    try:
        yield
    finally:
        _current.busy = before


def left(code: int) -> None:
    """Tell the others that this process leaves."""
    global _current
    if _current is not None:
        _current.stop(code)
        _current = None


@contextmanager
def failures_named() -> Iterator[None]:
    """Turn an error of a collective call into one that names the process that is gone."""
    try:
        yield
    except RuntimeError as error:
        if _current is None or not _is_collective(error):
            raise
        held = _current
        until = time.monotonic() + max(held.limit, 8 * _BEAT_S)
        while time.monotonic() < until:
            if (lost := held.lost(silent_s=4 * _BEAT_S) or held._cut_off()) is not None:
                raise held.error(*lost) from error
            time.sleep(_BEAT_S / 4)
        raise TrainingError(
            f"a call to the other processes failed ({str(error).splitlines()[0][:200]})",
            wanted="all processes at work",
            where=f"process {held.rank} ({held.names[held.rank]})",
            fix="give the same command again, which resumes from the newest checkpoint",
        ) from error


def _is_collective(error: RuntimeError) -> bool:
    from torch.distributed import DistError

    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "process group", "peer")
    return isinstance(error, DistError) or any(word in str(error).lower() for word in words)
