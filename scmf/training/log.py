"""The log of a run: one JSON line for every step and every evaluation, and the same values for the trackers.

Lives here: ``log.jsonl``, TensorBoard and Weights & Biases. Lives elsewhere: what is logged (loop, validation),
messages for people (the standard ``logging``).
"""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from scmf.core.config.run import TrainingConfig
from scmf.core.files import write_text
from scmf.core.redact import hide

log = logging.getLogger(__name__)

_PRIVATE = {
    "console": "off", "disable_git": True, "host": "machine", "program": "scmf", "save_code": False, "username": "user",
    "x_disable_machine_info": True, "x_disable_meta": True,
}  # fmt: skip
"""Settings by which Weights & Biases records no command line, no output, no names of the machine and its user."""


class RunLog:
    """``log.jsonl`` and the trackers.

    Parameters
    ----------
    path
        The file. Lines of later steps than ``keep_until``, which a resumed run computes again, are removed.
    accelerator
        Its main process writes.
    keep_until
        Last optimizer step of the checkpoint that the run resumes from; 0 without one.
    """

    def __init__(self, path: Path, accelerator: Any, *, keep_until: int) -> None:
        self.path, self._accelerator = path, accelerator
        if accelerator.is_main_process:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
            kept = [line for line in lines if 0 <= _step_of(line) <= keep_until]
            write_text(path, "".join(line + "\n" for line in kept))

    def write(self, step: int, **values: float | None) -> None:
        """Append one line; what was not computed (None) or is no finite number is left out, the latter with a warning.

        The norm of a gradient is infinite where ``16-mixed`` takes a step back, which is no fault.
        """
        odd = [name for name, value in values.items() if value is not None and not math.isfinite(value)]
        if told := [name for name in odd if name != "grad_norm"]:
            log.warning(f"step {step}: {', '.join(told)} is not finite and not in the log")
        values = {name: value for name, value in values.items() if value is not None and name not in odd}
        if self._accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        if self._accelerator.log_with:
            self._accelerator.log(values, step=step)


def start_trackers(accelerator: Any, settings: TrainingConfig, out: Path) -> None:
    """Start the trackers of ``settings``, if any; W&B stays offline unless ``WANDB_MODE`` is set."""
    if not settings.trackers:
        return
    flat = {name: value for name, value in settings.model_dump().items() if isinstance(value, int | float | str)}
    wandb = {"dir": str(out), "mode": os.environ.get("WANDB_MODE", "offline"), "name": out.name, "settings": _PRIVATE}
    accelerator.init_trackers(settings.project, config=hide(flat), init_kwargs={"wandb": wandb})


def end_trackers(accelerator: Any, settings: TrainingConfig) -> None:
    """Finish what `start_trackers` began."""
    if settings.trackers:
        accelerator.end_training()


def _step_of(line: str) -> int:
    """Step of a line of the log; -1 for one that was cut short or damaged, and is left out."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return -1
    return step if isinstance(step, int) else -1
