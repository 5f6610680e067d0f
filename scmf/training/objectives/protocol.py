"""What the loop asks of an objective.

An objective turns a padded batch into model inputs with labels and says how many predictions the loss is a mean of. It
owns no weights. Lives elsewhere: the loss itself (mostly the model), the loop (training.loop), the class of a name
(core.registry).
"""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig


class Objective(Protocol):
    """What the loop asks of an objective."""

    @classmethod
    def from_settings(cls, training: TrainingConfig, tokenizer: Any, *, match_official: bool) -> Self:
        """The objective of a ``training`` section for the tokens of ``tokenizer``."""
        ...

    @property
    def name(self) -> str:
        """What the progress bar calls it."""
        ...

    @property
    def definition(self) -> str:
        """What the loss is, with its unit and the package that computes it; reports show it."""
        ...

    def at(self, step: int) -> Self:
        """The objective at an optimizer step, counted from 0; most do not change."""
        ...

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the model's inputs, labels included; random choices come from ``generator`` alone."""
        ...

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of predictions the loss of ``inputs`` is a mean of."""
        ...


@runtime_checkable
class OwnLoss(Protocol):
    """An objective that makes another loss of the model's output than the model does."""

    def loss(self, output: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The loss, a mean over the predictions of ``inputs``."""
        ...


def loss_of(objective: Objective, output: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The loss of a batch: that of the objective where it has one, else that of the model."""
    loss: Tensor = objective.loss(output, inputs) if isinstance(objective, OwnLoss) else output.loss
    return loss
