"""The processes of a run: what is asked for, what there is, and starting them.

`start` is asked before anything is loaded. Processes that torchrun, ``accelerate launch`` or srun started are held
against the configuration; else torch elastic, which torchrun is made of, starts those of this node. Under srun with one
task on each node the nodes find each other by what SLURM says.

Lives elsewhere: how processes meet (core.distributed), whether they are still there (core.watch), what they do together
(distributed, trainee).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from scmf.core import slurm
from scmf.core.config.training import TrainingConfig
from scmf.core.distributed import world_size
from scmf.core.errors import ConfigError, TrainingError
from scmf.core.watch import STARTED_BY

log = logging.getLogger(__name__)

_PER_PROCESSOR = 4
"""More processes on one processor only wait for each other."""
_MEET_S = 600


@dataclass(frozen=True)
class Request:
    """How many processes a ``training`` section asks for.

    Parameters
    ----------
    per_node
        Processes on each node; None: what there is.
    nodes
        Number of nodes.
    gpus
        Whether each has a GPU; None: where there is one.
    """

    per_node: int | None
    nodes: int
    gpus: bool | None

    @classmethod
    def of(cls, training: TrainingConfig) -> Request:
        """What a section says."""
        if training.num_gpus:
            return cls(training.num_gpus, training.num_nodes, True)
        on_cpu = training.num_gpus == 0 or training.num_processes is not None
        per_node = training.num_processes or (1 if training.num_gpus == 0 else None)
        return cls(per_node, training.num_nodes, False if on_cpu else None)

    @property
    def key(self) -> str:
        """The key that counts the processes of a node."""
        return "num_gpus" if self.gpus else "num_processes"

    @property
    def text(self) -> str:
        """The request in the words of the file."""
        count = "" if self.per_node is None else f"training.{self.key} {self.per_node}"
        nodes = f"training.num_nodes {self.nodes}" if self.nodes > 1 or not count else ""
        return ", ".join(filter(None, (count, nodes)))


def hide_gpus(training: TrainingConfig) -> None:
    """Hide the GPUs where the CPU is asked for: before the processes meet, which chooses a GPU for each."""
    if Request.of(training).gpus is False:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def start(training: TrainingConfig, command: Sequence[str]) -> int | None:
    """Start the processes that ``training`` asks for, and wait for them.

    Parameters
    ----------
    training
        The section ``training``.
    command
        Arguments of Python by which each of them does what this process was asked for.

    Returns
    -------
    int or None
        Exit code of the processes that were started; None where this process is to train, alone or as one of several.

    Raises
    ------
    ConfigError
        What is asked for is not there; the error says what is there, and which override runs.
    TrainingError
        A process was killed.
    """
    hide_gpus(training)
    request = Request.of(training)
    if os.environ.get("WORLD_SIZE"):
        size, here = world_size(), os.environ.get("LOCAL_WORLD_SIZE", "")
        told = here.isdecimal() and int(here) > 0 and size % int(here) == 0
        local = int(here) if told else size // request.nodes if size % request.nodes == 0 else size
        if told or request.per_node:
            _refuse_unmet(request, size // local, started=local)
        return None
    step = slurm.step()
    nodes = 1 if step is None else step.nodes
    _refuse_unmet(request, nodes)
    if nodes == 1 and request.per_node in (None, 1):
        _say_idle(request)
        return None
    return _launch(request.per_node or 1, step, command)


def refuse_several(training: TrainingConfig, verb: str) -> None:
    """Raise `ConfigError` where a verb that trains in its own process is asked for several, or for a GPU in vain."""
    request = Request.of(training)
    if (request.per_node or 1) * request.nodes > 1 and world_size() == 1:
        raise ConfigError(
            f"{request.text} in `scmf {verb}`", wanted="one process, which is what this command trains in",
            where="training", fix=f"{_overrides(request, 1, 1)}, or use `scmf train`",
        )  # fmt: skip
    hide_gpus(training)
    _refuse_unmet(request, 1)


def _refuse_unmet(request: Request, nodes: int, *, started: int | None = None) -> None:
    """Raise one error that says what is there, and the overrides that run there, where it is not what is asked for.

    Parameters
    ----------
    request
        What is asked for.
    nodes
        Nodes that there are.
    started
        Processes on this node, where torchrun, accelerate launch or srun started them.
    """
    there: list[str] = []
    gpus, more = 0 if request.gpus is False else _gpus_here(), ""
    per_node = started or request.per_node or 1
    other_nodes = request.nodes != nodes and (started is None or request.nodes > 1 or request.per_node is not None)
    if started is not None and (other_nodes or request.per_node not in (None, started)):
        there.append(
            f"torchrun, accelerate launch or srun started {nodes * started} process(es), {started} on this node"
        )
        more = ", or start as many as the configuration says (`scmf train` alone starts them itself)"
    elif other_nodes:
        there.append(f"srun started this on {nodes} nodes" if nodes > 1 else "this is one node that knows of no other")
        more = (
            f"; for several nodes see docs/how-to/slurm.md: srun --nodes={request.nodes} --ntasks-per-node=1 "
            "scmf train ..."
        )
    bound = started is not None and "SLURM_STEP_NUM_TASKS" in os.environ  # each task sees the GPU that is bound to it
    if few := gpus < per_node and bool(request.gpus or gpus) and not (bound and gpus):
        there.append(f"this machine has {_gpus(gpus)}")
        per_node = started or gpus or 1
    if started is None and request.gpus is False and per_node > _PER_PROCESSOR * _processors():
        there.append(f"this machine has {_processors()} processor(s)")
        per_node = _processors()
    if there:
        raise ConfigError(
            f"{request.text}, and {'; '.join(there)}", wanted="what is there, or less", where="training",
            fix=_overrides(request, per_node if request.per_node or few else None, nodes) + more,
        )  # fmt: skip


def _overrides(request: Request, per_node: int | None, nodes: int) -> str:
    """The overrides that ask for so many processes on each of so many nodes, on the CPU where GPUs are too few."""
    keys: dict[str, int] = {}
    if per_node is None:
        pass
    elif request.gpus is not False and _gpus_here() >= per_node:
        keys = {"num_gpus": per_node}
    else:
        keys = ({"num_gpus": 0} if request.gpus else {}) | {"num_processes": per_node}
    given = {request.key: request.per_node, "num_nodes": request.nodes}
    keys = {key: n for key, n in {**keys, "num_nodes": nodes}.items() if given.get(key) != n}
    return " ".join(f"--set training.{key}={n}" for key, n in keys.items())


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _processors() -> int:
    """Processors that this process may use, which a scheduler may have made fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus(found: int) -> str:
    if not found:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        return "no GPU" if hidden is None else f"no GPU (CUDA_VISIBLE_DEVICES is {hidden!r})"
    return f"{found} GPU{'s' if found > 1 else ''}"


def _say_idle(request: Request) -> None:
    """Say that GPUs stay idle, where nobody said how many to use."""
    if request.gpus is None and (found := _gpus_here()) > 1:
        log.info(f"one of {found} GPUs is used; --set training.num_gpus={found} uses all")


def _launch(per_node: int, step: slurm.Step | None, command: Sequence[str]) -> int:
    """Start the processes of this node with torch elastic; their exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _processors() // per_node)))
    nodes = 1 if step is None else step.nodes
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=per_node,
        run_id="scmf" if step is None else f"scmf-{step.name}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if nodes == 1 or step is None else f"{step.host}:{step.port}",
        rdzv_configs={"timeout": _MEET_S},
        local_addr="localhost" if nodes == 1 else None,
        max_restarts=0,
    )
    log.info(f"starting {per_node} process(es)" + (f" on each of {nodes} nodes" if nodes > 1 else ""))
    os.environ[STARTED_BY] = str(os.getpid())
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        raise TrainingError(
            f"process {rank} of {per_node * nodes} was ended by {signal.Signals(-failure.exitcode).name}",
            wanted="all processes at work",
            where="this node",
            fix="see what it said last (SIGKILL: mostly memory); then give the same command again, which resumes from "
            "the newest checkpoint",
        ) from error
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except RendezvousError as error:
        raise TrainingError(
            f"the nodes did not find each other within {_MEET_S} s ({str(error).splitlines()[0][:200]})",
            wanted=f"{nodes} nodes", where=config.rdzv_endpoint, fix="check that srun started a task on each of them",
        ) from error  # fmt: skip
    finally:
        del os.environ[STARTED_BY]
    return 0
