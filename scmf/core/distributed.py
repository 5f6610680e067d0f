"""Which process of a run this is: who writes, who waits, how they end.

Lives here: what a program asks before or after training. Lives elsewhere: what processes do together while they train
(training.distributed), shares of cells (data.stream).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta


def world_size() -> int:
    """Number of processes that torchrun or accelerate started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def on_cpu() -> bool:
    """Whether several processes share their gradients on the CPU; accelerate must be told, or each trains alone."""
    import torch

    return world_size() > 1 and not torch.cuda.is_available()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block alone, the others after it: they find what it has made.

    They wait as long as a pass over a large corpus may take (a day), not the half hour that is the default.
    """
    if world_size() == 1:
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu(), timeout=timedelta(days=1))
    with state.main_process_first():
        yield


def leave(code: int) -> None:
    """End one of several processes at once, without the interpreter's shutdown.

    A worker thread of gloo may still hold a Python object then, and the process would abort (seen under load).
    """
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
