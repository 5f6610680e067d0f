"""One process under watch: memory of it and its children, a time limit, what it said when it failed.

Memory is read from /proc from outside, ten times a second, so that the watched process does not pay for it.
``rss`` counts pages of mapped files too (they belong to the page cache); ``anonymous`` does not.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_INTERVAL = 0.1
_TAIL = 2_000


class Outcome(NamedTuple):
    """How a process ended.

    Parameters
    ----------
    code
        Exit code; None when it was stopped for its time.
    seconds
        From start to end.
    rss_peak_mb, anonymous_peak_mb
        Largest sums over the process and its children, in MB (10^6 bytes).
    said
        The end of its output.
    """

    code: int | None
    seconds: float
    rss_peak_mb: float
    anonymous_peak_mb: float
    said: str


def memory_of(pid: int) -> tuple[int, int]:
    """Resident and anonymous bytes of a process; zeros when it is gone."""
    found = {"VmRSS": 0, "RssAnon": 0, "RssShmem": 0}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0, 0
    return found["VmRSS"], found["RssAnon"] + found["RssShmem"]


def tree_of(pid: int) -> list[int]:
    """A process and all its descendants."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def watch(command: Sequence[str], *, env: Mapping[str, str], timeout: float) -> Outcome:
    """Run a command to its end.

    Parameters
    ----------
    command
        Program and arguments.
    env
        Whole environment.
    timeout
        Seconds after which it is stopped.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command), env=dict(env), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        rss = anonymous = 0
        code: int | None = None
        while code is None and time.perf_counter() - start < timeout:
            sizes = [memory_of(pid) for pid in tree_of(process.pid)]
            rss, anonymous = max(rss, sum(s[0] for s in sizes)), max(anonymous, sum(s[1] for s in sizes))
            try:
                code = process.wait(_INTERVAL)
            except subprocess.TimeoutExpired:
                code = None
        if code is None:
            os.killpg(process.pid, 9)
            process.wait()
        seconds = time.perf_counter() - start
        output.seek(0)
        said = output.read()[-_TAIL:]
    return Outcome(code, seconds, rss / 1e6, anonymous / 1e6, said)
