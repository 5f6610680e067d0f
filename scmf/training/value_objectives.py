"""Objectives of scGPT: values are hidden and predicted, or genes are generated with their values.

An objective turns a padded batch into what the model reads and what it is to predict; the losses are
computed in the model. Lives elsewhere: the losses (scmf.models.generative_transformer), objectives over
tokens (objectives), the loop (loop).

Shape suffixes: B cells, L positions, P perceived positions, G generated positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig
from scmf.core.errors import TrainingError
from scmf.training.value_objectives_options import GenerativeValueOptions, MaskedValueOptions

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
        What stands for a hidden value; the value at padding (None: not known).
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
            special_token_ids=_special_ids(tokenizer, training.pretraining_task),
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
        genes_BL = _gene_positions(batch, self.special_token_ids)
        if not self.include_cls:
            return genes_BL
        return genes_BL | (batch["attention_mask"].bool() & (batch["values"] != self._padding))

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of hidden values."""
        return int(inputs["target_mask"].sum())


@dataclass(frozen=True)
class GenerativeValuePrediction:
    """Generative pretraining of scGPT: genes are given without a value, and their values are predicted.

    A share r is drawn for the batch, and in each cell ``int(r * n)`` of its n genes, at random, become generated
    genes; the others and ``<cls>`` are perceived with their values. The loss over the generated genes G,

        L = 1/|G| * sum over g in G of (prediction_g - value_g)^2 + the same of the prediction from the cell embedding
            + after ``second_pass_after`` steps, the same again with the detached cell embedding in place of ``<cls>``,

    in squared units of the values. A generated gene attends to the perceived ones and to itself; all are generated in
    one pass (the iterative scheme of the paper is not in the official code).

    Source: Cui et al. 2024, doi:10.1038/s41592-024-02201-0, Methods, generative pretraining; ``DataCollator`` (style
    ``both``) and ``examples/pretrain.py`` of bowang-lab/scGPT, branch dev-temp at 4068d67.

    Parameters
    ----------
    generated_shares
        One of them is drawn for each batch.
    special_token_ids, pad_token_id, pad_value
        Ids that are always perceived; what fills short rows.
    second_pass_after
        Optimizer steps before the second pass; None: never, as for cells that do not begin with ``<cls>``.
    match_official
        Let a batch in which no gene is generated have no loss (NaN).
    second_pass
        Whether this step has one.
    """

    Options = GenerativeValueOptions

    generated_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    special_token_ids: tuple[int, ...] = ()
    pad_token_id: int = 0
    pad_value: float = 0.0
    second_pass_after: int | None = 1000
    match_official: bool = False
    second_pass: bool = False
    name: str = "generative_value_prediction"
    definition: str = (
        "mean squared error of the values of generated genes of the validation cells, from their tokens and from the "
        "cell embedding, in squared units of the values, draws fixed, without the second pass (torch)"
    )

    @classmethod
    def from_settings(cls, training: TrainingConfig, tokenizer: Any, *, match_official: bool) -> Self:
        """See `Objective`; `TrainingError` for a tokenizer without values."""
        special = _special_ids(tokenizer, training.pretraining_task)
        begins_with_cls = tokenizer.special_tokens and tokenizer.cls_token_id is not None
        return cls(
            generated_shares=tuple(training.all_options["generated_shares"]),
            special_token_ids=special,
            pad_token_id=tokenizer.pad_values["input_ids"],
            pad_value=tokenizer.pad_values["values"],
            second_pass_after=training.all_options["second_pass_after"] if begins_with_cls else None,
            match_official=match_official,
        )

    def at(self, step: int) -> Self:
        """With the second pass when the step is past ``second_pass_after``."""
        return replace(self, second_pass=self.second_pass_after is not None and step > self.second_pass_after)

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Split a batch into what is perceived and what is generated.

        Parameters
        ----------
        batch
            ``input_ids``, ``attention_mask`` and ``values``, each (B, L), on the CPU; whatever else has one entry a
            cell stays, other (B, L) tensors are split along.
        generator
            Source of the draws.

        Returns
        -------
        dict
            ``input_ids``, ``attention_mask``, ``values`` (B, P) of the perceived tokens; ``generated_ids``,
            ``generated_mask``, ``target_values``, ``target_mask`` (B, G); ``second_pass``, bool (). If every cell is
            too small for a generated gene, one is chosen at random (not under ``match_official``).
        """
        pick = int(torch.randint(len(self.generated_shares), (1,), generator=generator))
        genes_BL = _gene_positions(batch, self.special_token_ids)
        real_BL = batch["attention_mask"].bool()
        chosen_BL = draw_share(
            genes_BL, self.generated_shares[pick], generator, at_least_one=not self.match_official, leave_one=real_BL
        )
        shape = batch["input_ids"].shape
        kept = {name: tensor for name, tensor in batch.items() if tensor.shape[:2] != shape}
        split = {name: tensor for name, tensor in batch.items() if tensor.shape[:2] == shape}
        fill = {"input_ids": self.pad_token_id, "values": self.pad_value}
        perceived = {name: _compact(x, real_BL & ~chosen_BL, fill.get(name, 0)) for name, x in split.items()}
        mask_BG = _compact(batch["attention_mask"], chosen_BL, 0)
        return {
            **kept,
            **perceived,
            "generated_ids": _compact(batch["input_ids"], chosen_BL, self.pad_token_id),
            "generated_mask": mask_BG,
            "target_values": _compact(batch["values"], chosen_BL, self.pad_value),
            "target_mask": mask_BG.bool(),
            "second_pass": torch.tensor(self.second_pass),
        }

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of generated genes."""
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


def draw_share(
    candidates_BL: Tensor,
    share: float,
    generator: torch.Generator,
    *,
    at_least_one: bool = True,
    leave_one: Tensor | None = None,
) -> Tensor:
    """Choose exactly ``int(share * n)`` of the n candidates of each row at random, bool (B, L).

    Parameters
    ----------
    candidates_BL
        Positions that may be chosen.
    share
        Below 1.
    at_least_one
        Choose one in the whole batch where the rule gives none.
    leave_one
        Of these positions at least one a row is to stay when one is chosen in that way.
    """
    counts_B = candidates_BL.sum(1)
    wanted_B = (counts_B.double() * share).long()
    if at_least_one and not wanted_B.any():
        able_B = (counts_B > 0) if leave_one is None else (counts_B > 0) & (leave_one.sum(1) > 1)
        rows = able_B.nonzero()[:, 0]
        if len(rows):
            wanted_B[rows[int(torch.randint(len(rows), (1,), generator=generator))]] = 1
    chance_BL = torch.rand(candidates_BL.shape, generator=generator).masked_fill_(~candidates_BL, 2.0)
    rank_BL = chance_BL.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (rank_BL < wanted_B[:, None]) & candidates_BL


def _compact(x_BL: Tensor, chosen_BL: Tensor, fill: float) -> Tensor:
    """The chosen entries of each row side by side, in order, filled on the right; at least one column."""
    counts_B = chosen_BL.sum(1)
    place_BW = torch.arange(max(int(counts_B.max()), 1)) < counts_B[:, None]
    out_BW = torch.full(place_BW.shape, fill, dtype=x_BL.dtype)
    out_BW[place_BW] = x_BL[chosen_BL]
    return out_BW


def _gene_positions(batch: dict[str, Tensor], special_token_ids: tuple[int, ...]) -> Tensor:
    special_BL = torch.isin(batch["input_ids"], torch.tensor(special_token_ids, dtype=torch.long))
    return batch["attention_mask"].bool() & ~special_BL


def _special_ids(tokenizer: Any, task: str) -> tuple[int, ...]:
    if "values" not in tokenizer.model_input_names:
        raise TrainingError(
            f"{type(tokenizer).__name__} gives no values",
            wanted="a tokenizer whose tokens have values, such as binned or continuous",
            where=f"training.pretraining_task: {task}",
            fix="choose another tokenizer.strategy, or masked_gene_prediction",
        )
    return tuple(sorted(tokenizer.all_special_ids))


def _mask_value(tokenizer: Any) -> float:
    given = getattr(tokenizer, "mask_value", None)
    return _MASK_VALUE if given is None else float(given)
