"""Masked gene prediction, the objective of Geneformer: some tokens are masked, and the model names them.

Lives here: which tokens are chosen and what replaces them. Lives elsewhere: the loss (the model), the loop
(training.loop).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from scmf.core.config.training import TrainingConfig
from scmf.core.errors import TrainingError
from scmf.training.objectives.masking import IGNORED


@dataclass(frozen=True)
class MaskedGenePrediction:
    """Masked gene prediction, the objective of Geneformer (BERT's masked language modeling).

    Of the tokens that may be chosen, a share ``mask_ratio`` is chosen, each independently. 80 % of
    these become ``<mask>``, 10 % a random token, 10 % stay. The loss is the mean cross entropy, in
    nats, over the chosen positions:

        L = -1/|M| * sum over m in M of log p(token_m | all other tokens)

    Source: Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9, Methods; the draws follow
    ``transformers.DataCollatorForLanguageModeling`` in kind and in order, so that one seed gives the
    official masks.

    Parameters
    ----------
    mask_ratio
        Probability that a token is chosen.
    mask_token_id
        Id of ``<mask>``.
    vocab_size
        Number of tokens, special tokens included.
    special_token_ids
        Ids that are never chosen and never drawn as a random token. The official code
        protects only ``<pad>`` and ``<mask>`` from being chosen (so ``<cls>`` and ``<eos>`` are
        predicted in V2) and draws from the whole vocabulary, special tokens included.
    match_official
        Reproduce that.
    """

    mask_ratio: float
    mask_token_id: int
    vocab_size: int
    special_token_ids: tuple[int, ...]
    match_official: bool = False
    pad_token_id: int = 0
    name: str = "masked_gene_prediction"
    definition: str = "mean cross entropy of the masked tokens of the validation cells, in nats, masks fixed (torch)"

    @classmethod
    def from_settings(cls, training: TrainingConfig, tokenizer: Any, *, match_official: bool) -> Self:
        """See `Objective`; `TrainingError` for a tokenizer without a ``<mask>`` token."""
        if tokenizer.mask_token_id is None:
            raise TrainingError(
                f"{type(tokenizer).__name__} has no <mask> token",
                wanted="a token that hides a gene",
                where="training.pretraining_task: masked_gene_prediction",
                fix="fit the vocabulary (tokenizer.vocabulary: fit), or choose another objective",
            )
        return cls(
            mask_ratio=training.mask_ratio,
            mask_token_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            special_token_ids=tuple(sorted(tokenizer.all_special_ids)),
            match_official=match_official,
            pad_token_id=tokenizer.pad_token_id,
        )

    def at(self, step: int) -> Self:
        """The same at every step."""
        return self

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Mask a batch.

        Parameters
        ----------
        batch
            ``input_ids`` and ``attention_mask``, int64 (B, L), on the CPU.
        generator
            Source of the draws.

        Returns
        -------
        dict
            The batch with masked ``input_ids`` and with ``labels``, int64 (B, L), -100 where nothing
            is predicted. If no token was drawn, one token is chosen at random, so that every step has
            a loss (not under ``match_official``).
        """
        tokens_BL = batch["input_ids"]
        protected = (self.pad_token_id, self.mask_token_id) if self.match_official else self.special_token_ids
        eligible_BL = ~torch.isin(tokens_BL, torch.tensor(protected))

        chance_BL = torch.full(tokens_BL.shape, self.mask_ratio).masked_fill_(~eligible_BL, 0.0)
        chosen_BL = torch.bernoulli(chance_BL, generator=generator).bool()
        if not self.match_official and not chosen_BL.any() and eligible_BL.any():
            spots = eligible_BL.flatten().nonzero()[:, 0]
            pick = int(torch.randint(len(spots), (1,), generator=generator))
            chosen_BL.view(-1)[spots[pick]] = True
        labels_BL = tokens_BL.masked_fill(~chosen_BL, IGNORED)

        masked_BL = torch.bernoulli(torch.full(tokens_BL.shape, 0.8), generator=generator).bool() & chosen_BL
        inputs_BL = tokens_BL.masked_fill(masked_BL, self.mask_token_id)
        random_BL = torch.bernoulli(torch.full(tokens_BL.shape, 0.5), generator=generator).bool()
        random_BL &= chosen_BL & ~masked_BL
        words_BL = self._random_tokens(tokens_BL.shape, generator)
        inputs_BL = torch.where(random_BL, words_BL, inputs_BL)
        return {**batch, "input_ids": inputs_BL, "labels": labels_BL}

    def _random_tokens(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Any token under ``match_official``, else any gene; special ids lie below or above those of the genes."""
        special = self.special_token_ids
        if self.match_official or special[-1] == len(special) - 1:
            first = 0 if self.match_official else len(special)
            return torch.randint(first, self.vocab_size, shape, dtype=torch.long, generator=generator)
        genes = torch.tensor(sorted(set(range(self.vocab_size)) - set(special)))
        return genes[torch.randint(len(genes), shape, generator=generator)]

    def predictions(self, inputs: dict[str, Tensor]) -> int:
        """Number of chosen positions."""
        return int((inputs["labels"] != IGNORED).sum())
