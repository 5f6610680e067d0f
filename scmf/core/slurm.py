"""What srun says of a task: which of how many it is, on which nodes; a task as one process of a run.

``srun`` with several tasks on a node starts every process of a run itself: `adopt` gives each the variables by which
torchrun says the same. With one task on each node a task starts the processes of its node (scmf.training.processes).
Only variables of a job step are read: a batch script has no step, and is one process.

Lives elsewhere: the process group (core.distributed).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from scmf.core.errors import TrainingError

_FIRST_PORT, _PORTS = 12_000, 20_000
"""Ports below those that systems give out on their own; jobs on the same nodes get different ones."""


@dataclass(frozen=True)
class Step:
    """The job step of this task.

    Parameters
    ----------
    tasks, nodes
        Tasks and nodes of the step.
    task, local_task
        Number of this task, in the step and on its node.
    host
        The first node.
    port
        A port of it, the same for all tasks of the step.
    name
        Job and step.
    """

    tasks: int
    nodes: int
    task: int
    local_task: int
    host: str
    port: int
    name: str

    @property
    def tasks_per_node(self) -> int:
        """Tasks on each node."""
        return self.tasks // self.nodes


def step() -> Step | None:
    """The job step that this process is a task of; None outside one."""
    if not os.environ.get("SLURM_STEP_NUM_TASKS"):
        return None
    job, number = _number("SLURM_JOB_ID"), _number("SLURM_STEP_ID")
    found = Step(
        tasks=_number("SLURM_STEP_NUM_TASKS"),
        nodes=_number("SLURM_STEP_NUM_NODES"),
        task=_number("SLURM_PROCID"),
        local_task=_number("SLURM_LOCALID"),
        host=first_host(os.environ.get("SLURM_STEP_NODELIST", "")),
        port=_FIRST_PORT + (job + 977 * number) % _PORTS,
        name=f"{job}.{number}",
    )
    if found.tasks % max(found.nodes, 1) or not found.nodes:
        raise TrainingError(
            f"{found.tasks} tasks on {found.nodes} nodes", wanted="as many tasks on each node",
            where="the job step of srun", fix="srun --ntasks-per-node=1 scmf train ..., which starts the processes",
        )  # fmt: skip
    return found


def adopt() -> None:
    """Make this process, where it is one of several tasks on a node, a process of a run as torchrun would."""
    if os.environ.get("WORLD_SIZE") or (found := step()) is None or found.tasks_per_node == 1:
        return
    os.environ.update(
        WORLD_SIZE=str(found.tasks),
        RANK=str(found.task),
        LOCAL_RANK=str(found.local_task),
        LOCAL_WORLD_SIZE=str(found.tasks_per_node),
    )
    os.environ.setdefault("MASTER_ADDR", found.host)
    os.environ.setdefault("MASTER_PORT", str(found.port))


def first_host(nodes: str) -> str:
    """The first of a list of nodes in SLURM's short form: ``gpu[03-05,9],login`` -> ``gpu03``."""
    head = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    if head is None:
        raise TrainingError(
            f"SLURM_STEP_NODELIST is {nodes!r}", wanted="nodes, as srun sets it", where="environment",
            fix="start with srun, or unset SLURM_STEP_NUM_TASKS to train in this process alone",
        )  # fmt: skip
    return "".join(part or "" for part in head.groups())


def _number(name: str) -> int:
    text = os.environ.get(name, "").strip()
    if not text.isdecimal():
        raise TrainingError(
            f"{name} is {text!r}" if text else f"{name} is not set",
            wanted="a number, as srun sets it beside SLURM_STEP_NUM_TASKS", where="environment",
            fix="start with srun, or unset SLURM_STEP_NUM_TASKS to train in this process alone",
        )  # fmt: skip
    return int(text)
