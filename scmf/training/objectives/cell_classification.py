"""Cell classification: the class of a cell, for fine-tuning. Its loss lives in the model's classification head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig


@dataclass(frozen=True)
class CellClassification:
    """Cell-type classification: mean cross entropy, in nats, over the cells of a batch.

    Source: ``BertForSequenceClassification``, the head of the official cell classifier.
    """

    name: str = "cell_classification"
    definition: str = "mean cross entropy of the classes of the cells, in nats (torch)"

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

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of cells."""
        return len(inputs["labels"])
