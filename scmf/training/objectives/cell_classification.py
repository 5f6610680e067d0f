"""Cell classification: the class of a cell, for fine-tuning. Its plain loss lives in the model's head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scmf.core.config.training import TrainingConfig


@dataclass(frozen=True)
class CellClassification:
    """Cell-type classification: mean cross entropy, in nats, over the cells of a batch.

    Source: ``BertForSequenceClassification``, the head of the official cell classifier.
    """

    name: str = "cell_classification"
    definition: str = "mean cross entropy of the classes of the cells, in nats (torch)"
    weights: tuple[float, ...] = ()
    """How much a cell of each class counts, one on average over the training cells; empty: all the same."""

    @classmethod
    def from_settings(cls, training: TrainingConfig, tokenizer: Any, *, match_official: bool) -> Self:
        """It has no settings."""
        return cls()

    def at(self, step: int) -> Self:
        """The same at every step."""
        return self

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the batch as it is; its ``labels`` are classes, int64 (B,)."""
        return batch

    def loss(self, output: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The loss of the head, or the mean of the weighted cross entropies of the cells."""
        if not self.weights:
            loss: Tensor = output.loss
            return loss
        weights_C = output.logits.new_tensor(self.weights, dtype=torch.float32)
        labels_B = inputs["labels"]
        summed = cross_entropy(output.logits.float(), labels_B, weight=weights_C, reduction="sum")
        return summed / len(labels_B)

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of cells."""
        return len(inputs["labels"])
