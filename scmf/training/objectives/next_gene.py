"""Next-gene prediction, the objective of TranscriptFormer: the gene that comes next, and its count.

Lives here: which rows predict what, the random order of the genes. Lives elsewhere: the losses (the model), the loop
(training.loop).

Shape suffixes: B cells, L genes of the longest cell, R = 1 + L rows (START and genes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig
from scmf.models.autoregressive_transformer import next_genes
from scmf.training.objectives.masking import IGNORED
from scmf.training.objectives.next_gene_options import NextGeneOptions


@dataclass(frozen=True)
class NextGenePrediction:
    """Next-gene prediction: every row of a cell predicts the next gene, and how often that gene was counted.

    With ``g_1 ... g_n`` the genes of a cell, ``c_i`` their counts, ``z_i`` the expected count of ``g_i`` given
    everything before it and its name, and ``norm(z) = ln(e^z - 1)``, that of a Poisson distribution without 0::

        L = mean over i of [norm(z_i) - c_i ln(z_i) + lgamma(c_i + 1)]
            + gene_loss_weight * mean over i of [-ln p(g_i | g_1, c_1, ..., g_{i-1}, c_{i-1})]

    both in nats, both means over all genes of the batch. The second has one more term a cell, the end, for cells that
    are shorter than the longest the tokenizer gives (a cell that fills it may have been cut).

    ``match_official`` reproduces the official targets: the end takes the place of the last gene of a cell that fills
    the sequence, with the count 1, and no other cell has an end, so that a model never learns to stop. The other half
    of the official loss is the model's ``options.match_official``: gene losses are divided by all positions, padding
    included.

    Source: Pearce et al. 2025, doi:10.1101/2025.04.25.650731; formulas of ``transcriptformer`` 0.6.1. The order of the
    genes is the tokenizer's; ``shuffle_expressed_each_batch`` of the official training draws a new one each batch.

    Parameters
    ----------
    longest
        Most genes the tokenizer gives.
    special_token_ids
        Ids that are no genes; they are not predicted.
    gene_loss_weight
        Weight of the second term.
    shuffle
        Put the genes of each cell into a random order, another one each time.
    match_official
        Reproduce the official targets.
    """

    Options = NextGeneOptions

    longest: int
    special_token_ids: tuple[int, ...]
    gene_loss_weight: float = 1.0
    shuffle: bool = False
    match_official: bool = False
    name: str = "next_gene_prediction"

    @classmethod
    def from_settings(cls, training: TrainingConfig, tokenizer: Any, *, match_official: bool) -> Self:
        """The objective of a ``training`` section for the tokens of ``tokenizer``."""
        return cls(
            longest=tokenizer.max_length,
            special_token_ids=tuple(sorted(tokenizer.all_special_ids)),
            match_official=match_official,
            **training.all_options,
        )

    @property
    def definition(self) -> str:
        """What the loss is, with its unit and the package that computes it."""
        return (
            "mean negative log likelihood of counts under a zero-truncated Poisson distribution, plus "
            f"{self.gene_loss_weight:g} x mean cross entropy of the next gene, in nats (torch)"
        )

    def at(self, step: int) -> Self:
        """The same at every step."""
        return self

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Add the targets to a batch.

        Parameters
        ----------
        batch
            ``input_ids``, ``attention_mask`` (B, L) and whatever else the tokenizer gives, on the CPU.
        generator
            Source of the random order.

        Returns
        -------
        dict
            The batch, with its genes in a new order under ``shuffle``, with ``labels``, int64 (B, R): the gene that
            each row predicts, -1 for the end, -100 for nothing; and the weight of the gene loss.
        """
        if self.shuffle:
            batch = self._shuffled(batch, generator)
        genes_BL = self._genes(batch)
        labels_BR = next_genes(batch["input_ids"], genes_BL, longest=self.longest, match_official=self.match_official)
        return {**batch, "labels": labels_BR, "gene_loss_weight": torch.tensor(self.gene_loss_weight)}

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of rows that predict a gene or the end."""
        return int((inputs["labels"] != IGNORED).sum())

    def _genes(self, batch: dict[str, Tensor]) -> Tensor:
        genes_BL = batch["attention_mask"].bool()
        if self.match_official:
            return genes_BL
        return genes_BL & ~torch.isin(batch["input_ids"], torch.tensor(self.special_token_ids))

    def _shuffled(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Every cell in a random order; what is no gene stays where it is."""
        genes_BL = self._genes(batch)
        places_BL = torch.arange(genes_BL.shape[1]).expand(genes_BL.shape)
        lots_BL = torch.rand(genes_BL.shape, generator=generator)
        # Genes by place and genes by lot, both in front: the first are where the second go.
        by_place_BL = torch.argsort(torch.where(genes_BL, places_BL, genes_BL.shape[1]), dim=1, stable=True)
        by_lot_BL = torch.argsort(torch.where(genes_BL, lots_BL, 2.0), dim=1, stable=True)
        order_BL = places_BL.scatter(1, by_place_BL, by_lot_BL)
        ragged = {name for name, tensor in batch.items() if tensor.shape == genes_BL.shape}
        return {name: tensor.gather(1, order_BL) if name in ragged else tensor for name, tensor in batch.items()}
