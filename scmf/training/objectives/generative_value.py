"""Generative value prediction, the pretraining objective of scGPT: genes are given without a value.

Lives here: which genes are perceived and which are generated. Lives elsewhere: the losses
(scmf.models.generative_transformer), the loop (training.loop).

Shape suffixes: B cells, L positions, P perceived positions, G generated positions, W columns of a compacted row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig
from scmf.training.objectives.masking import draw_share, gene_positions, value_special_ids
from scmf.training.objectives.value_options import GenerativeValueOptions


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
        special = value_special_ids(tokenizer, training.pretraining_task)
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
        genes_BL = gene_positions(batch, self.special_token_ids)
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


def _compact(x_BL: Tensor, chosen_BL: Tensor, fill: float) -> Tensor:
    """The chosen entries of each row side by side, in order, filled on the right; at least one column."""
    counts_B = chosen_BL.sum(1)
    place_BW = torch.arange(max(int(counts_B.max()), 1)) < counts_B[:, None]
    out_BW = torch.full(place_BW.shape, fill, dtype=x_BL.dtype)
    out_BW[place_BW] = x_BL[chosen_BL]
    return out_BW
