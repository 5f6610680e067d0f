"""What is measured during training: the loss of the validation cells, and callbacks that the caller hands in.

Lives here: `Validation` and the type of a callback. Lives elsewhere: when it runs (loop), callbacks that score
benchmarks (scmf.evaluation.callbacks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import in_order, padded_tensors
from scmf.training.distributed import on_main
from scmf.training.objectives.protocol import Objective, loss_of
from scmf.training.trainee import Trainee


class EvaluationCallback(Protocol):
    """An evaluation of the network as it is at some step."""

    def __call__(self, model: Any, epoch: int, step: int, /) -> dict[str, float]:
        """Values by name, for the log; called on the main process, with ``model`` in evaluation mode."""
        ...


@dataclass(frozen=True)
class Validation:
    """Validation loss and callbacks, in evaluation mode, on the main process, with whole weights.

    Parameters
    ----------
    trainee
        What is trained.
    objective
        Gives the validation loss.
    cells
        Tokens of the validation cells; None or empty: no validation loss.
    callbacks
        Called in this order.
    batch_size
        Validation cells in a batch.
    """

    trainee: Trainee
    objective: Objective
    cells: Ragged | None
    callbacks: Sequence[EvaluationCallback]
    batch_size: int

    def __call__(self, epoch: int, step: int) -> dict[str, float]:
        """Values by name, empty on other processes; ``valid_loss`` is a mean over all predictions, masks fixed.

        Every process calls it: weights in shards are gathered first.
        """
        self.trainee.gather()
        return on_main(lambda: self._values(epoch, step)) or {}

    def _values(self, epoch: int, step: int) -> dict[str, float]:
        values: dict[str, float] = {}
        with self.trainee.evaluated() as model:
            model.eval()
            if self.cells is not None and len(self.cells):
                values["valid_loss"] = self._loss(model, self.cells)
            for callback in self.callbacks:
                values.update(callback(model, epoch, step))
        return values

    @torch.no_grad()
    def _loss(self, model: Any, cells: Ragged) -> float:
        accelerator, summed, count = self.trainee.accelerator, 0.0, 0
        generator = torch.Generator().manual_seed(0)
        for rows in in_order(cells, batch_size=self.batch_size):
            batch = self.objective.prepare(padded_tensors(cells, rows), generator)
            weight = self.objective.predictions(batch)
            with accelerator.autocast():
                batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
                loss = loss_of(self.objective, model(**batch), batch)
            summed += float(loss) * weight
            count += weight
        return summed / max(count, 1)
