"""The one training loop, for pretraining and fine-tuning, on accelerate.

Exact resume: order, masks and dropout are functions of (seed, epoch, batch of the epoch over all processes), never of
how many random numbers were drawn before. An interrupted run that is started again has, on one CPU, bit for bit the
losses of an uninterrupted run; and N processes take the steps that one takes with N times the gradient accumulation.

Lives here: `train` and one optimizer step. Lives elsewhere: optimizer and schedule (optimizer), validation loss and
callbacks (validation), the log (log), checkpoints on disk (checkpoints), collective calls (distributed), what each
process takes of a step (share), the order of the cells (data.tokens), masks (objectives).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf.core import progress, watch
from scmf.core.config.run import TrainingConfig
from scmf.core.distributed import agreed
from scmf.core.errors import TrainingError
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import (
    Batches,
    BatchesOf,
    BatchOrder,
    MemoryBatches,
    PerEpochTokens,
)
from scmf.training import checkpoints, training_state
from scmf.training.distributed import is_sharded, make_accelerator, sum_over_ranks
from scmf.training.log import RunLog, end_trackers, start_trackers
from scmf.training.objectives.protocol import Objective, loss_of
from scmf.training.optimizer import make_optimizer, make_schedule
from scmf.training.selection import BestEpoch
from scmf.training.share import Share, resumed
from scmf.training.trainee import Trainee, whole
from scmf.training.validation import EvaluationCallback, Validation


@dataclass(frozen=True)
class TrainingReport:
    """What a run did.

    Parameters
    ----------
    steps
        Optimizer steps in total, earlier processes of the same run included.
    resumed_from
        Step of the checkpoint that this process resumed from, or None.
    seconds
        Wall time of this process.
    log
        JSON lines: one for each step (``step, epoch, loss, lr, grad_norm``) and one for each evaluation.
    data_wait
        Share of the time spent waiting for a stream; None for cells in memory.
    processes
        Processes that trained together.
    cells_per_step
        Cells of all of them in a full optimizer step.
    """

    steps: int
    resumed_from: int | None
    seconds: float
    log: Path
    data_wait: float | None = None
    processes: int = 1
    cells_per_step: int = 0


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
    best: BestEpoch | None = None,
) -> TrainingReport:
    """Train ``model`` in place on ``cells``; resume from the newest checkpoint under ``out`` if there is one.

    Parameters
    ----------
    model
        A model whose ``forward(**batch)`` returns ``.loss``, a mean over the objective's predictions.
    cells
        Tokens of the training cells in memory, fixed or drawn again in every epoch; or a function that gives a process
        its share of a stream.
    objective
        What is predicted.
    settings
        The ``training`` section.
    out
        Folder for ``log.jsonl``, ``checkpoints/`` and the trackers' files.
    digest
        Digest of everything that defines this run; checkpoints with another digest are refused.
    valid
        Tokens of validation cells; their loss is logged with the same masks every time.
    callbacks
        Evaluations whose values are logged with the loss.
    evaluate_every
        Epochs between evaluations; 0 never evaluates.
    best
        Keeps the weights of the best of the evaluations and may end the run.

    Raises
    ------
    TrainingError
        If the loss is not finite, or the checkpoints belong to another run.
    """
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    sharded = is_sharded(settings, model)
    accelerator = make_accelerator(settings, out, sharded=sharded)
    size = accelerator.num_processes
    found, share = resumed(
        settings, out / "checkpoints", digest=digest, rank=accelerator.process_index, world_size=size
    )
    source = batches_of(cells, settings, share)
    total = total_steps(source.batches_of_all_ranks, settings, share.batches_per_step)
    trainee = Trainee.of(accelerator, model, lambda network: make_optimizer(network, settings), sharded=sharded)
    schedule = trainee.schedule = make_schedule(trainee.optimizer.optimizer, settings, total_steps=total)
    start_trackers(accelerator, settings, out)
    if found is not None:
        training_state.read(trainee, found[0])

    begin = checkpoints.RunPosition(0, 0, 0, digest) if found is None else found[1]
    step = begin.step
    ended = best is not None and agreed(partial(best.resume, step))
    log = RunLog(out / "log.jsonl", accelerator, keep_until=step)
    validate = Validation(trainee, objective, valid, callbacks, settings.batch_size)

    def checkpoint(epoch: int, batch: int) -> None:
        at = checkpoints.RunPosition(step, epoch, batch, digest, share.world_size, share.batches_per_step, share.lanes)
        checkpoints.save(trainee, out / "checkpoints", at, keep=settings.keep_checkpoints)

    with watch.failures_named(), progress.bar(objective.name.replace("_", " "), total, unit="steps", done=step) as bar:
        for epoch in range(begin.epoch, settings.max_epochs if not ended else 0):
            first = share.used if epoch == begin.epoch else 0
            batches = source.epoch(epoch, start=first)
            used = first
            while step < total and (group := list(islice(batches, share.accumulation))):
                loss, norm = _step(
                    trainee, group, objective=objective.at(step), settings=settings, position=(epoch, used),
                    share=share, batches_of_all_ranks=source.batches_of_all_ranks,
                )  # fmt: skip
                step, used = step + 1, used + len(group)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"loss {loss} at step {step}",
                        wanted="a finite loss",
                        where=log.path,
                        fix="lower training.lr, raise warmup_steps or use 32-true; earlier checkpoints are intact",
                    )
                log.write(step, epoch=epoch, loss=loss, lr=schedule.get_last_lr()[0], grad_norm=norm)
                bar.advance(note=f"loss {loss:.4f}")
                every = settings.checkpoint_every_n_steps
                if every and step % every == 0 and used < source.batches_per_epoch and step < total:
                    checkpoint(epoch, used)
            done = used >= source.batches_per_epoch or step >= total
            if done and used > first:
                last = step >= total or epoch + 1 == settings.max_epochs
                if evaluate_every and ((epoch + 1) % evaluate_every == 0 or last):
                    values = validate(epoch, step)
                    log.write(step, epoch=epoch, **values)
                    if best is not None:
                        with trainee.evaluated() as network:
                            ended = agreed(partial(best.evaluated, network, epoch, step, values))
                checkpoint(epoch + 1, 0)
            if step >= total or ended:
                break
        trainee.gather()
    end_trackers(accelerator, settings)
    resumed_from = None if found is None else begin.step
    return TrainingReport(
        step, resumed_from, time.perf_counter() - started, log.path, source.wait_share(), size,
        settings.batch_size * share.batches_per_step,
    )  # fmt: skip


def batches_of(cells: Ragged | PerEpochTokens | BatchesOf, settings: TrainingConfig, share: Share) -> Batches:
    """Batches of ``cells`` for one process."""
    rank, world_size = share.rank, share.world_size
    if not isinstance(cells, Ragged | PerEpochTokens):
        return cells(rank, world_size, share.lanes)
    lengths = (cells.draw(0) if isinstance(cells, PerEpochTokens) else cells).lengths
    order = BatchOrder(lengths, settings.batch_size, settings.group_by_length, settings.seed, world_size, rank)
    return MemoryBatches(cells, order)


def total_steps(batches_per_epoch: int, settings: TrainingConfig, batches_per_step: int) -> int:
    """Optimizer steps of the whole run, from the batches of all processes."""
    steps_per_epoch = math.ceil(batches_per_epoch / batches_per_step)
    total = steps_per_epoch * settings.max_epochs
    return min(total, settings.max_steps or total)


def _step(
    trainee: Trainee,
    group: list[dict[str, torch.Tensor]],
    *,
    objective: Objective,
    settings: TrainingConfig,
    position: tuple[int, int],
    share: Share,
    batches_of_all_ranks: int,
) -> tuple[float, float | None]:
    """One optimizer step over the batches of ``group``.

    Returns
    -------
    tuple
        The loss, a mean over all predictions of all ranks, and the norm of the gradient before clipping (None without).
    """
    epoch, used = position
    accelerator, model = trainee.accelerator, trainee.model
    numbers = [share.number(used + i) for i in range(len(group))]
    inputs: list[dict[str, torch.Tensor]] = []
    weights: list[int] = []
    for number, batch in zip(numbers, group, strict=True):
        generator = torch.Generator().manual_seed(_seed(settings.seed, 0, epoch, number))
        prepared = objective.prepare(batch, generator)
        own = share.cut(prepared)
        weight = objective.predictions(own) if number < batches_of_all_ranks and len(own["input_ids"]) else 0
        inputs.append(own if weight else prepared)  # without predictions the loss is no number; that of the whole is
        weights.append(weight)
    watch.step()
    here = torch.tensor(float(sum(weights)), device=accelerator.device)
    total = max(float(sum_over_ranks(accelerator, here)), 1.0)

    model.train()
    loss = torch.zeros((), device=accelerator.device)
    for number, batch, weight in zip(numbers, inputs, weights, strict=True):
        torch.manual_seed(_seed(settings.seed, 0, epoch, number, 1 + share.part))
        trainee.before_forward()
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        loss_share = loss_of(objective, model(**batch), batch) * (weight / total)
        watch.step()
        # DDP and FSDP average gradients over ranks; a mean over all predictions wants their sum.
        accelerator.backward(loss_share * accelerator.num_processes)
        loss += loss_share.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm) if settings.max_grad_norm else None
    trainee.optimizer.step()
    trainee.schedule.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    return sum_over_ranks(accelerator, loss).item(), None if norm is None else float(whole(norm))


def _seed(*parts: int) -> int:
    """A seed for torch that depends on every one of ``parts``."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
