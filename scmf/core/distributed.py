"""Which process of a run this is: how they come together, who writes, who waits, how they end.

Lives here: what a program asks before or after training, and the call by which all processes come together. Lives
elsewhere: whether the others are still alive (core.watch), what processes do together while they train
(training.distributed), shares of cells (data.stream).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from scmf.core import watch
from scmf.core.errors import TrainingError

T = TypeVar("T")

_START = (
    "unset WORLD_SIZE and RANK: `scmf train` starts the processes of training.num_gpus itself; or start all of them "
    "with torchrun --nproc-per-node=N -m scmf train ..."
)
_COLLECTIVE = timedelta(days=1)
"""A pass over a large corpus may take so long while the others wait; processes that are gone are found by the watch."""


def _number(name: str, default: int | None = None) -> int:
    """A number that torchrun or accelerate gave in the environment."""
    text = os.environ.get(name, "").strip()
    if not text and default is not None:
        return default
    if not text.isdecimal():
        found = f"{name} is {text!r}" if text else f"{name} is not set"
        raise TrainingError(
            f"{found}, while WORLD_SIZE is {os.environ.get('WORLD_SIZE', 'not set')}",
            wanted="a number, as torchrun sets it", where="environment", fix=_START,
        )  # fmt: skip
    return int(text)


def world_size() -> int:
    """Number of processes that torchrun or accelerate started."""
    return max(_number("WORLD_SIZE", 1), 1)


def rank() -> int:
    """Number of this process; 0 where there is but one, whatever else the environment says."""
    return 0 if world_size() == 1 else _number("RANK")


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def on_cpu() -> bool:
    """Whether several processes share their gradients on the CPU; accelerate must be told, or each trains alone."""
    import torch

    return world_size() > 1 and not torch.cuda.is_available()


def join() -> Any:
    """Bring all processes together, once: accelerate's state of this process.

    Raises
    ------
    TrainingError
        The environment does not say where, the address cannot be reached, or a process never comes.
    """
    from accelerate import PartialState

    if world_size() == 1:
        return PartialState(cpu=on_cpu())
    size, own = world_size(), rank()
    if not os.environ.get("MASTER_ADDR"):
        raise TrainingError(
            f"WORLD_SIZE is {size}, but MASTER_ADDR is not set",
            wanted="MASTER_ADDR and MASTER_PORT, by which the processes find each other",
            where="environment",
            fix=_START,
        )
    if own >= size:
        raise TrainingError(
            f"RANK {own} of WORLD_SIZE {size}", wanted=f"0 to {size - 1}", where="environment", fix=_START
        )
    address, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT")
    if PartialState._shared_state:
        return PartialState(cpu=on_cpu())
    store = watch.meet(address, port, rank=own, size=size, fix=_START)
    try:
        return PartialState(cpu=on_cpu(), store=store, rank=own, world_size=size, timeout=_COLLECTIVE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the processes found each other but cannot talk: {str(error).splitlines()[0]}",
            wanted="a network between them",
            where=f"{address}, process {own} of {size}",
            fix="check the network (GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the interface)",
        ) from error


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block alone, the others after it: they find what it has made.

    They wait as long as a pass over a large corpus may take (a day), not the half hour that is the default.
    """
    if world_size() == 1:
        yield
        return
    with watch.failures_named(), join().main_process_first():
        yield


def agreed(action: Callable[[], T], *, share: bool = True) -> T:
    """Run ``action`` on the main process alone and give its result to all; its error ends all.

    Parameters
    ----------
    action
        What the main process does; every process must make this call.
    share
        Send the result; else the other processes get None.
    """
    if world_size() == 1:
        return action()
    from accelerate.utils import broadcast_object_list

    join()
    error: Exception | None = None
    said: list[Any] = [None, None]
    if is_main():
        try:
            with watch.alone():
                said[0] = action()
        except Exception as problem:  # noqa: BLE001  (raised below: the others must not wait for it)
            error, said = problem, [None, getattr(problem, "exit_code", 1)]
    result = said[0]
    if not share:
        said[0] = None
    with watch.failures_named():
        broadcast_object_list(said)
    if error is not None:
        raise error
    if said[1] is not None:
        raise SystemExit(said[1])  # the main process says why
    return result if is_main() else said[0]  # type: ignore[no-any-return]


def leave(code: int) -> None:
    """End one of several processes at once, without the interpreter's shutdown.

    A worker thread of gloo may still hold a Python object then, and the process would abort (seen under load).
    """
    watch.left(code)
    if os.environ.get("WORLD_SIZE", "1").strip() not in ("", "0", "1"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
