"""The share of each process in a run, also where another number of processes goes on with it.

A step is of as many batches as at the start of the run. They are numbered over all processes: with W of them, process r
takes batch ``i * W + r`` of the epoch as its i-th. Where there are more processes than batches in a step, several take
the same batch, a part of its cells each. So a run goes on with the same batches on any number of processes that divides
the cells of a step.

Lives elsewhere: the batches and their order (data.tokens, stream_batches), positions on disk (checkpoints).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from scmf.core.config.training import TrainingConfig
from scmf.core.distributed import agreed
from scmf.core.errors import TrainingError
from scmf.training.checkpoints import RunPosition, newest_intact

_LANES = 64


@dataclass(frozen=True)
class Share:
    """What one process takes of each step.

    Parameters
    ----------
    rank, world_size
        Which batches: those of ``rank`` of ``world_size``.
    part, parts
        Which part of the cells of each of them, of how many.
    accumulation
        Batches of this process in one step.
    used
        Batches of the epoch that this process has used when it begins.
    lanes
        Stretches of an epoch that a stream reads side by side, see `scmf.training.stream_batches`.
    """

    rank: int = 0
    world_size: int = 1
    part: int = 0
    parts: int = 1
    accumulation: int = 1
    used: int = 0
    lanes: int = 1

    @property
    def batches_per_step(self) -> int:
        """Batches of all processes in one step."""
        return self.accumulation * self.world_size

    @classmethod
    def of(
        cls, settings: TrainingConfig, *, rank: int, world_size: int, at: tuple[Path, RunPosition] | None = None
    ) -> Share:
        """The share of a process.

        Parameters
        ----------
        settings
            The section ``training``.
        rank, world_size
            Which process this is, of how many.
        at
            The checkpoint that is resumed from; None at the start.

        Raises
        ------
        TrainingError
            The number of processes does not divide the cells of a step.
        """
        if at is None:
            in_step, done, lanes = settings.gradient_accumulation * world_size, 0, 0
        else:
            position = at[1]
            in_step = position.batches_per_step or settings.gradient_accumulation * position.world_size
            done, lanes = position.batch * position.world_size, position.lanes or position.world_size
        groups = math.gcd(in_step, world_size)
        parts = world_size // groups
        if settings.batch_size % parts:
            assert at is not None
            raise _does_not_divide(in_step * settings.batch_size, world_size, at[0])
        return cls(
            rank=rank // parts,
            world_size=groups,
            part=rank % parts,
            parts=parts,
            accumulation=in_step // groups,
            used=done // groups,
            lanes=lanes or lanes_of(in_step),
        )

    def number(self, i: int) -> int:
        """Number over all processes of the i-th batch of this one."""
        return i * self.world_size + self.rank

    def cut(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of this process of a prepared batch; it may be without a cell."""
        if self.parts == 1:
            return batch
        n = len(batch["input_ids"])
        cells = slice(self.part * n // self.parts, (self.part + 1) * n // self.parts)
        return {name: tensor[cells] if tensor.ndim else tensor for name, tensor in batch.items()}


def resumed(
    settings: TrainingConfig, folder: Path, *, digest: str, rank: int, world_size: int
) -> tuple[tuple[Path, RunPosition] | None, Share]:
    """The newest intact checkpoint, and the share of this process of what remains; every process calls it.

    The main process alone looks, and alone tells what is wrong.
    """

    def look() -> tuple[Path, RunPosition] | None:
        found = newest_intact(folder, digest=digest)
        Share.of(settings, rank=0, world_size=world_size, at=found)
        return found

    at = agreed(look)
    return at, Share.of(settings, rank=rank, world_size=world_size, at=at)


def lanes_of(batches_per_step: int) -> int:
    """Lanes of a stream at the start of a run: one for each batch of a step, unless these are very many."""
    return max(n for n in range(1, min(batches_per_step, _LANES) + 1) if batches_per_step % n == 0)


def _does_not_divide(cells: int, world_size: int, where: Path) -> TrainingError:
    able = [n for n in range(1, cells + 1) if cells % n == 0]
    return TrainingError(
        f"{world_size} processes, for a run whose steps are of {cells} cells",
        wanted=f"a number of processes that divides {cells}: {', '.join(map(str, able))}",
        where=where,
        fix=f"resume with {max(n for n in able if n <= world_size)} process(es)",
    )
