"""Resumable checkpoints: each is complete or absent, and held against its checksums before it is resumed from.

A checkpoint is a folder ``step-00000120``::

    model.safetensors                 weights
    config.json, configuration_*.py   their configuration, as ``from_pretrained`` reads it, too
    optimizer.safetensors             moments of the optimizer
    training_state.json               its groups, the schedule, the scale of 16-mixed
    progress.json                     how far the run has come, and the digest of what defines it
    checksums.json                    sha256 of all of these

Nothing of it is run. It is written under a temporary name and renamed when it is complete. Random states are not
kept: order, masks and dropout are functions of the position (loop).

Lives elsewhere: when one is written (loop), the tensors and numbers in it (training_state), the saved model of a
finished run (scmf.models.checkpoint).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from scmf.core import manifest
from scmf.core.errors import ScmfError, TrainingError
from scmf.core.files import write_json
from scmf.training import training_state
from scmf.training.distributed import on_main
from scmf.training.trainee import Trainee

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})")
_LEFTOVER = re.compile(r"\.step-\d{8}\.(part|old)")


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
        Batches of that epoch already used, by each of ``world_size`` processes.
    digest
        Digest of everything that defines the run.
    world_size
        Processes that take different batches, see `scmf.training.share`.
    batches_per_step, lanes
        Batches of all processes in one optimizer step, and lanes of a stream, which stay as many on any number of
        processes; 0 in a checkpoint that was written before they were kept.
    """

    step: int
    epoch: int
    batch: int
    digest: str
    world_size: int = 1
    batches_per_step: int = 0
    lanes: int = 0


def save(trainee: Trainee, folder: Path, position: RunPosition, *, keep: int) -> Path:
    """Write a checkpoint under ``folder`` and delete older ones but the newest ``keep``; every process calls it."""
    final = folder / f"step-{position.step:08d}"
    temporary, old = folder / f".{final.name}.part", folder / f".{final.name}.old"

    trainee.gather()
    writes = trainee.accelerator.is_main_process
    state = trainee.optimizer_state() if trainee.is_sharded or writes else {}  # shards are gathered by all

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        temporary.mkdir()
        training_state.write(trainee, temporary, state)
        trainee.network.config.save_pretrained(temporary)
        write_json(temporary / "progress.json", asdict(position))
        manifest.seal(temporary, {"step": position.step, "digest": position.digest})
        if final.exists():  # of a run that was resumed from an earlier one
            final.rename(old)
        temporary.rename(final)
        _sync(folder)
        shutil.rmtree(old, ignore_errors=True)
        for one in [path for path in complete(folder) if path.name <= final.name][:-keep]:
            shutil.rmtree(one)

    on_main(write)
    return final


def sweep(folder: Path) -> None:
    """Remove what a killed run left half-written; the caller holds the lock of the run."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


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
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def newest_intact(folder: Path, *, digest: str, warn: bool = True) -> tuple[Path, RunPosition] | None:
    """The newest checkpoint that is as it was written; None where there is no checkpoint at all.

    Damaged ones are passed over with a warning and stay where they are.

    Raises
    ------
    TrainingError
        It belongs to another run, or none of those that are there is intact.
    """
    reasons = []
    for path in reversed(complete(folder)):
        try:
            position = _position(path, warn=warn)
        except ScmfError as error:
            reasons.append(f"{path.name}: {error.found}")
            continue
        if position.digest != digest:
            raise TrainingError(
                f"checkpoints of another run (digest {position.digest[:12]})",
                wanted=f"digest {digest[:12]}: same cells, tokens, model and training settings",
                where=folder,
                fix="choose another --out, or restore the settings",
            )
        for reason in reasons if warn else ():
            log.warning(f"damaged checkpoint {reason}; resuming from {path.name}, the newest that is intact")
        return path, position
    if reasons:
        raise TrainingError(
            f"{len(reasons)} checkpoints, none of them intact ({'; '.join(reasons)})",
            wanted="at least one checkpoint as it was written",
            where=folder,
            fix="copy the folder again from where it is whole; or choose another --out, to train from the start",
        )
    return None


def _position(path: Path, *, warn: bool) -> RunPosition:
    """The position of a checkpoint, after all of it was held against its checksums."""
    if manifest.read(path) is not None:
        if bad := manifest.damage(path):
            raise TrainingError("; ".join(map(str, bad)))
    elif training_state.is_earlier_version(path):
        if warn:
            log.warning(f"{path} has no checksums: written by an earlier version, read unverified")
    else:
        raise TrainingError(f"no {manifest.MANIFEST}")
    try:
        return RunPosition(**json.loads((path / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"a position that cannot be read: {error}") from error
