"""Masked value prediction, the fine-tuning objective of scGPT: values are hidden and predicted.

Lives here: which values are hidden. Lives elsewhere: the losses (scmf.models.generative_transformer), the loop
(training.loop).

Shape suffixes: B cells, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig
from scmf.training.objectives.masking import draw_share, gene_positions, value_special_ids
from scmf.training.objectives.value_options import MaskedValueOptions

_MASK_VALUE = -1.0
"""Hidden value of a tokenizer that names none."""


@dataclass(frozen=True)
class MaskedValuePrediction:
    """Masked value prediction: gene expression prediction (GEP) of scGPT, and whatever the model adds to it.

    In each cell exactly ``int(mask_ratio * n)`` of its n values are replaced by ``mask_value`` and predicted. The loss
    is the mean squared error at these positions M,

        L = 1/|M| * sum over m in M of (prediction_m - value_m)^2,

    in squared units of the values (digits for ``binned``). Depending on its options the model adds the same error of
    the prediction from the cell embedding (GEPC, MVC), the cross entropy of values being non-zero, ECS, DAB and CCE.

    Source: Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, fine-tuning objectives; ``random_mask_value`` and
    ``masked_mse_loss`` of bowang-lab/scGPT at cebd6fa.

    Parameters
    ----------
    mask_ratio
        Share of the values of a cell that are hidden.
    mask_value, pad_value
        The value that replaces a hidden one; the value at padding (None: not known).
    special_token_ids
        Ids that are no genes.
    include_cls
        Let special tokens be hidden too, unless their value is the pad value.
    match_official
        Draw as the official code does: every position whose value is not ``pad_value`` may be hidden, ``<cls>``
        included, by ``numpy.random.choice``; a batch without a hidden value has no loss (NaN).
    """

    Options = MaskedValueOptions

    mask_ratio: float
    mask_value: float = _MASK_VALUE
    pad_value: float | None = None
    special_token_ids: tuple[int, ...] = ()
    include_cls: bool = False
    match_official: bool = False
    name: str = "masked_value_prediction"
    definition: str = (
        "mean squared error of the hidden values of the validation cells, plus the other terms of the model, "
        "in squared units of the values, hidden ones fixed (torch)"
    )

    @classmethod
    def from_settings(cls, training: TrainingConfig, tokenizer: Any, *, match_official: bool) -> Self:
        """See `Objective`; `TrainingError` for a tokenizer without values."""
        return cls(
            mask_ratio=training.mask_ratio,
            mask_value=_mask_value(tokenizer),
            pad_value=getattr(tokenizer, "pad_value", None),
            special_token_ids=value_special_ids(tokenizer, training.pretraining_task),
            include_cls=training.all_options["include_cls"],
            match_official=match_official,
        )

    def at(self, step: int) -> Self:
        """The same at every step."""
        return self

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Hide values.

        Parameters
        ----------
        batch
            ``input_ids``, ``attention_mask`` and ``values``, each (B, L), on the CPU.
        generator
            Source of the draws.

        Returns
        -------
        dict
            The batch with hidden ``values``, with ``target_values`` float (B, L) and ``target_mask`` bool (B, L). If
            every cell is too small for a hidden value, one is chosen at random (not under ``match_official``).
        """
        values_BL = batch["values"]
        if self.match_official:
            seed = int(torch.randint(2**31, (1,), generator=generator))
            hidden_BL = official_mask(values_BL, self.mask_ratio, self._padding, np.random.RandomState(seed))
        else:
            hidden_BL = draw_share(self._candidates(batch), self.mask_ratio, generator)
        hidden = values_BL.masked_fill(hidden_BL, self.mask_value)
        return {**batch, "values": hidden, "target_values": values_BL, "target_mask": hidden_BL}

    @property
    def _padding(self) -> float:
        return float("nan") if self.pad_value is None else self.pad_value

    def _candidates(self, batch: dict[str, Tensor]) -> Tensor:
        genes_BL = gene_positions(batch, self.special_token_ids)
        if not self.include_cls:
            return genes_BL
        return genes_BL | (batch["attention_mask"].bool() & (batch["values"] != self._padding))

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of hidden values."""
        return int(inputs["target_mask"].sum())


def official_mask(values_BL: Tensor, ratio: float, pad_value: float, random: np.random.RandomState) -> Tensor:
    """Positions that the official ``random_mask_value`` hides, bool (B, L).

    In each row exactly ``int(ratio * n)`` of the n positions whose value is not ``pad_value``, ``<cls>`` included where
    its value is another one. A ``RandomState`` of the seed that numpy was given gives the official positions.
    """
    hidden_BL = torch.zeros(values_BL.shape, dtype=torch.bool)
    for row, values_L in enumerate(values_BL.numpy()):
        positions = np.flatnonzero(values_L != pad_value)
        hidden_BL[row, random.choice(positions, int(len(positions) * ratio), replace=False)] = True
    return hidden_BL


def _mask_value(tokenizer: Any) -> float:
    given = getattr(tokenizer, "mask_value", None)
    return _MASK_VALUE if given is None else float(given)
