"""The one training loop, for pretraining and fine-tuning, on accelerate.

Exact resume: order, masks and dropout are functions of (seed, epoch, step, rank), never of how many
random numbers were drawn before. A run killed at any moment and started again gives, on one CPU, the
losses of the uninterrupted run to the bit.

Lives here: optimizer, schedule, accumulation, clipping, logging, evaluation, checkpoints' rhythm.
Lives elsewhere: order of cells (batches), masks (objectives), what is on disk (checkpoints).
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf.core import distributed as ranks
from scmf.core import progress
from scmf.core.config.run import TrainingConfig
from scmf.core.errors import TrainingError
from scmf.core.files import write_text
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import (
    Batches,
    BatchesOf,
    BatchOrder,
    MemoryBatches,
    PerEpochTokens,
    in_order,
    padded_tensors,
)
from scmf.training import checkpoints
from scmf.training.objectives import Objective

EvaluationCallback = Callable[[Any, int, int], dict[str, float]]
"""``callback(model, epoch, step) -> {name: value}``, called in evaluation mode on the main process."""

_PRECISION = {"32-true": "no", "bf16-mixed": "bf16", "16-mixed": "fp16"}


@dataclass(frozen=True)
class TrainingReport:
    """What a run did.

    Parameters
    ----------
    steps
        Optimizer steps in total, earlier processes of the same run included.
    resumed_from
        Step this process went on from, or None.
    seconds
        Wall time of this process.
    log
        JSON lines: one a step (``step, epoch, loss, lr, grad_norm``), one an evaluation.
    data_wait
        Share of the time that the steps waited for a stream; None for cells in memory.
    """

    steps: int
    resumed_from: int | None
    seconds: float
    log: Path
    data_wait: float | None = None


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters, with weight decay on matrices only (not on biases and layer norms)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def make_accelerator(settings: TrainingConfig, out: Path) -> Any:
    """An Accelerator with the precision and the trackers of ``settings``."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    if settings.precision == "16-mixed" and not torch.cuda.is_available():
        raise TrainingError(
            "training.precision 16-mixed without a GPU", wanted="a CUDA device", fix="use bf16-mixed or 32-true"
        )
    # At each checkpoint it would say that the tied decoder is written once, as it must be.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    # One process trains several models in turn; the precision of the first must not stick.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=ranks.on_cpu(),
        mixed_precision=_PRECISION[settings.precision],
        log_with=list(settings.trackers) or None,
        project_dir=str(out) if settings.trackers else None,
        step_scheduler_with_optimizer=False,
        # A model has heads for several objectives, and trains those of one.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.num_processes != ranks.world_size():
        raise TrainingError(
            f"{ranks.world_size()} processes were started and {accelerator.num_processes} train together",
            wanted="one group of all of them",
            where="accelerate",
            fix="start with torchrun --nproc-per-node=N -m scmf train ...",
        )
    return accelerator


def train(
    model: Any,
    cells: Ragged | PerEpochTokens | BatchesOf,
    *,
    objective: Objective,
    settings: TrainingConfig,
    out: Path,
    digest: str,
    valid: Ragged | None = None,
    callbacks: Sequence[EvaluationCallback] = (),
    evaluate_every: int = 1,
) -> TrainingReport:
    """Train ``model`` in place on ``cells``; go on from the newest checkpoint under ``out`` if there is one.

    Parameters
    ----------
    model
        A model whose ``forward(**batch)`` returns ``.loss``, a mean over the objective's predictions.
    cells
        Tokens of the training cells in memory, the same in every epoch or drawn anew; or what gives a process its share
        of a stream.
    objective
        What is predicted.
    settings
        The ``training`` section.
    out
        Folder for ``log.jsonl``, ``checkpoints/`` and the trackers' files.
    digest
        Digest of everything that makes this run what it is; checkpoints of another are refused.
    valid
        Tokens of validation cells; their loss is logged with the same masks every time.
    callbacks
        Evaluations whose values are logged beside the loss.
    evaluate_every
        Epochs between evaluations; 0 never evaluates.

    Raises
    ------
    TrainingError
        If the loss is not finite, or the checkpoints belong to another run.
    """
    from transformers import get_scheduler

    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(settings, out)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    source: Batches
    if isinstance(cells, Ragged | PerEpochTokens):
        lengths = (cells.draw(0) if isinstance(cells, PerEpochTokens) else cells).lengths
        order = BatchOrder(lengths, settings.batch_size, settings.group_by_length, settings.seed, world_size, rank)
        source = MemoryBatches(cells, order)
    else:
        source = cells(rank, world_size)
    per_epoch = source.batches_per_epoch
    steps_per_epoch = math.ceil(per_epoch / settings.gradient_accumulation)
    total = steps_per_epoch * settings.max_epochs
    total = min(total, settings.max_steps or total)

    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=settings.lr, betas=settings.betas, eps=settings.eps
    )
    schedule = get_scheduler(
        settings.schedule, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=total
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule)
    if settings.trackers:
        _start_trackers(accelerator, settings, out)

    position = checkpoints.restore(accelerator, out / "checkpoints", digest=digest)
    log = RunLog(out / "log.jsonl", accelerator, keep_until=position.step if position else 0)
    step = position.step if position else 0
    evaluate = Evaluation(accelerator, model, objective, valid, callbacks, settings.batch_size)

    def checkpoint(epoch: int, batch: int) -> None:
        at = checkpoints.RunPosition(step, epoch, batch, digest, world_size)
        checkpoints.save(accelerator, out / "checkpoints", at, keep=settings.keep_checkpoints)

    with progress.bar(objective.name.replace("_", " "), total, unit="steps", done=step) as bar:
        for epoch in range(position.epoch if position else 0, settings.max_epochs):
            first = position.batch if position and epoch == position.epoch else 0
            batches = source.epoch(epoch, start=first)
            used = first
            while step < total and (group := list(islice(batches, settings.gradient_accumulation))):
                loss, norm = _step(
                    accelerator, model, optimizer, schedule, group,
                    objective=objective.at(step), settings=settings, position=(epoch, used),
                )  # fmt: skip
                step, used = step + 1, used + len(group)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"loss {loss} at step {step}",
                        wanted="a finite loss",
                        where=out / "log.jsonl",
                        fix="lower training.lr, raise warmup_steps or use 32-true; checkpoints before it are whole",
                    )
                lr = schedule.get_last_lr()[0]
                log.write(step, epoch=epoch, loss=loss, lr=lr, grad_norm=norm)
                bar.advance(note=f"loss {loss:.4f}")
                every = settings.checkpoint_every_n_steps
                if every and step % every == 0 and used < per_epoch and step < total:
                    checkpoint(epoch, used)
            done = used >= per_epoch or step >= total
            if done and used > first:
                last = step >= total or epoch + 1 == settings.max_epochs
                if evaluate_every and ((epoch + 1) % evaluate_every == 0 or last):
                    log.write(step, epoch=epoch, **evaluate(epoch, step))
                checkpoint(epoch + 1, 0)
            if step >= total:
                break
    if settings.trackers:
        accelerator.end_training()
    resumed_from = position.step if position else None
    return TrainingReport(step, resumed_from, time.perf_counter() - started, log.path, source.wait_share())


def _step(
    accelerator: Any,
    model: Any,
    optimizer: Any,
    schedule: Any,
    group: list[dict[str, torch.Tensor]],
    *,
    objective: Objective,
    settings: TrainingConfig,
    position: tuple[int, int],
) -> tuple[float, float | None]:
    """One optimizer step over the batches of ``group``: mean over all their predictions, on all ranks."""
    epoch, used = position
    rank = accelerator.process_index
    inputs = []
    for i, batch in enumerate(group):
        generator = torch.Generator().manual_seed(_seed(settings.seed, rank, epoch, used + i))
        inputs.append(objective.prepare(batch, generator))
    weights = [objective.predictions(batch) for batch in inputs]
    everywhere = torch.tensor(float(sum(weights)), device=accelerator.device)
    if accelerator.num_processes > 1:
        everywhere = accelerator.reduce(everywhere, reduction="sum")
    total = max(float(everywhere), 1.0)

    model.train()
    loss = torch.zeros((), device=accelerator.device)
    for i, (batch, weight) in enumerate(zip(inputs, weights, strict=True)):
        torch.manual_seed(_seed(settings.seed, rank, epoch, used + i, 1))
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        share = model(**batch).loss * (weight / total)
        # DDP averages gradients over ranks; a mean over all predictions wants their sum.
        accelerator.backward(share * accelerator.num_processes)
        loss += share.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm) if settings.max_grad_norm else None
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
    if accelerator.num_processes > 1:
        loss = accelerator.reduce(loss, reduction="sum")
    return loss.item(), None if norm is None else float(norm)


@dataclass(frozen=True)
class Evaluation:
    """Validation loss and callbacks, in evaluation mode."""

    accelerator: Any
    model: Any
    objective: Objective
    valid: Ragged | None
    callbacks: Sequence[EvaluationCallback]
    batch_size: int

    def __call__(self, epoch: int, step: int) -> dict[str, float]:
        """Values by name; ``valid_loss`` is a mean over all predictions, with the same masks every time."""
        values: dict[str, float] = {}
        if self.accelerator.is_main_process:
            model = self.accelerator.unwrap_model(self.model)
            model.eval()
            if self.valid is not None and len(self.valid):
                values["valid_loss"] = self._loss(model, self.valid)
            for callback in self.callbacks:
                values.update(callback(model, epoch, step))
        self.accelerator.wait_for_everyone()
        return values

    @torch.no_grad()
    def _loss(self, model: Any, cells: Ragged) -> float:
        summed, count = 0.0, 0
        generator = torch.Generator().manual_seed(0)
        for rows in in_order(cells, batch_size=self.batch_size):
            batch = self.objective.prepare(padded_tensors(cells, rows), generator)
            weight = self.objective.predictions(batch)
            with self.accelerator.autocast():
                output = model(**{name: tensor.to(self.accelerator.device) for name, tensor in batch.items()})
            summed += float(output.loss) * weight
            count += weight
        return summed / max(count, 1)


class RunLog:
    """``log.jsonl`` and the trackers; after a resume, lines beyond the checkpoint are cut."""

    def __init__(self, path: Path, accelerator: Any, *, keep_until: int) -> None:
        self.path, self._accelerator = path, accelerator
        if accelerator.is_main_process:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= keep_until]
            write_text(path, "".join(line + "\n" for line in kept))

    def write(self, step: int, **values: float | None) -> None:
        """Append one line; what was not computed (None) is left out."""
        values = {name: value for name, value in values.items() if value is not None}
        if self._accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        if self._accelerator.log_with:
            self._accelerator.log(values, step=step)


def _start_trackers(accelerator: Any, settings: TrainingConfig, out: Path) -> None:
    flat = {name: value for name, value in settings.model_dump().items() if isinstance(value, int | float | str)}
    wandb = {"dir": str(out), "mode": os.environ.get("WANDB_MODE", "offline"), "name": out.name}
    accelerator.init_trackers(settings.project, config=flat, init_kwargs={"wandb": wandb})
