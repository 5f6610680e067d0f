"""Resumable checkpoints: each is complete or absent, never half-written.

A checkpoint is a folder ``step-00000120`` that holds what accelerate saves (weights, optimizer, schedule, random
states), the model's ``config.json`` (so that ``from_pretrained`` reads it too) and ``progress.json``. It is written
under a temporary name and renamed when it is complete.

Lives elsewhere: when one is written (loop), the saved model of a finished run (scmf.models.checkpoint).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scmf.core.errors import TrainingError
from scmf.core.files import write_json
from scmf.training.distributed import on_main

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class RunPosition:
    """How far a run has come.

    Parameters
    ----------
    step
        Optimizer steps done.
    epoch
        Epoch to continue with, counted from 0.
    batch
        Batches of that epoch already used, on each rank.
    digest
        Digest of everything that defines the run.
    world_size
        Number of processes; within an epoch their shares of the cells depend on it.
    """

    step: int
    epoch: int
    batch: int
    digest: str
    world_size: int = 1


def save(accelerator: Any, folder: Path, position: RunPosition, *, keep: int) -> Path:
    """Write a checkpoint under ``folder`` and delete all but the newest ``keep``; every process calls it."""
    final = folder / f"step-{position.step:08d}"
    temporary = folder / f".{final.name}.part"

    def begin() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)

    def finish() -> None:
        model = accelerator.unwrap_model(accelerator._models[0])
        model.config.save_pretrained(temporary)
        write_json(temporary / "progress.json", asdict(position))
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(folder)
        for old in complete(folder)[:-keep]:
            shutil.rmtree(old)

    on_main(accelerator, begin)
    accelerator.save_state(str(temporary))
    on_main(accelerator, finish)
    return final


def _sync(folder: Path) -> None:
    """Make a rename durable; only POSIX systems need it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def restore(accelerator: Any, folder: Path, *, digest: str) -> RunPosition | None:
    """Load the newest checkpoint into the prepared objects; None if there is none.

    Raises
    ------
    TrainingError
        If the checkpoint belongs to another configuration or cannot be read.
    """
    found = complete(folder)
    if not found:
        return None
    newest = found[-1]
    try:
        position = RunPosition(**json.loads((newest / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"a checkpoint that cannot be read: {error}",
            wanted="progress.json as written by this program",
            where=newest,
            fix="delete that folder to resume from the checkpoint before it",
        ) from error
    if position.digest != digest:
        raise TrainingError(
            f"checkpoints of another run (digest {position.digest[:12]})",
            wanted=f"digest {digest[:12]}: same cells, tokens, model and training settings",
            where=folder,
            fix="choose another --out, or restore the settings",
        )
    if position.batch and position.world_size != accelerator.num_processes:
        raise TrainingError(
            f"a checkpoint in the middle of an epoch, written by {position.world_size} process(es)",
            wanted=f"one written by {accelerator.num_processes}: the shares of the cells depend on the number",
            where=newest,
            fix=f"resume with {position.world_size} process(es); the number may change only at the end of an epoch",
        )
    try:
        accelerator.load_state(str(newest))
    except Exception as error:  # whatever safetensors, torch and pickle raise for what is damaged
        raise TrainingError(
            f"a checkpoint that cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
            wanted="weights, optimizer, schedule and random states as written by this program",
            where=newest,
            fix="delete that folder to resume from the checkpoint before it",
        ) from error
    return position
