"""Weights, optimizer and schedule as safetensors and JSON: what a checkpoint holds. Nothing in it can run code.

Numbers are written as JSON writes floats (by ``repr``), hence exact. Lives elsewhere: folders, checksums and positions
(checkpoints).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from scmf.core.errors import TrainingError
from scmf.core.files import write_json
from scmf.training.trainee import Trainee

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "training_state.json"

_EARLIER_FILES = {"optimizer": "optimizer.bin", "schedule": "custom_checkpoint_0.pkl", "scaler": "scaler.pt"}
"""Files of checkpoints before there were checksums; read as plain tensors and numbers, everything else refused."""


def write(trainee: Trainee, folder: Path, state: dict[str, Any]) -> None:
    """Write weights that were gathered, the state of the optimizer and the schedule into ``folder``."""
    save_model(trainee.network, str(folder / WEIGHTS), metadata={"format": "pt"})
    tensors, numbers = {}, {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{parameter}.{name}"] = value.detach().cpu().contiguous()
            else:
                numbers[f"{parameter}.{name}"] = value
    save_file(tensors, folder / OPTIMIZER)
    groups = {"param_groups": state["param_groups"], "numbers": numbers}
    scaler = None if trainee.accelerator.scaler is None else trainee.accelerator.scaler.state_dict()
    write_json(folder / STATE, {"optimizer": groups, "schedule": trainee.schedule.state_dict(), "scaler": scaler})


def read(trainee: Trainee, folder: Path) -> None:
    """Load what `write` wrote; every process calls it.

    Raises
    ------
    TrainingError
        It does not fit the model, or asks for code to be run.
    """
    scaler = trainee.accelerator.scaler
    try:
        load_model(trainee.network, folder / WEIGHTS, device=str(next(trainee.network.parameters()).device))
        state = _earlier_version(folder) if is_earlier_version(folder) else _state(folder)
        trainee.spread()
        trainee.load_optimizer_state(_as_saved(trainee.optimizer.state_dict(), state["optimizer"]))
        trainee.schedule.load_state_dict(state["schedule"])
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
    except Exception as error:  # whatever safetensors, torch and the optimizer raise for what is damaged
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TrainingError(
            f"a checkpoint that cannot be loaded: {lines[0]}",
            wanted="weights, optimizer state and schedule of this run, as tensors and numbers alone",
            where=folder,
            fix="choose another --out, to train from the start",
        ) from error


def is_earlier_version(folder: Path) -> bool:
    """Whether a checkpoint was written before there were checksums."""
    return (folder / _EARLIER_FILES["optimizer"]).is_file() and not (folder / OPTIMIZER).exists()


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    held: dict[int, dict[str, Any]] = {}
    named = {**load_file(folder / OPTIMIZER), **state["optimizer"]["numbers"]}
    for name, value in named.items():
        parameter, _, key = name.partition(".")
        held.setdefault(int(parameter), {})[key] = value
    return {**state, "optimizer": {"state": held, "param_groups": state["optimizer"]["param_groups"]}}


def _as_saved(now: Mapping[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """The saved state with tuples where the optimizer has tuples, which JSON does not know."""
    groups = []
    for mine, theirs in zip(now["param_groups"], saved["param_groups"], strict=True):
        tuples = {key: tuple(theirs[key]) for key, value in mine.items() if isinstance(value, tuple) and key in theirs}
        groups.append({**theirs, **tuples})
    return {**saved, "param_groups": groups}


def _earlier_version(folder: Path) -> dict[str, Any]:
    """Optimizer, schedule and scaler as earlier versions saved them: tensors and numbers, no class and no function."""
    found: dict[str, Any] = {}
    for part, name in _EARLIER_FILES.items():
        path = folder / name
        if part == "scaler" and not path.is_file():
            found[part] = None
            continue
        found[part] = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251  # no code is run
    return found
