"""Small cells and networks for the tests of the generative transformer."""

from __future__ import annotations

from typing import Any

import torch

from scmf.models.generative_transformer import GenerativeTransformerConfig, GenerativeTransformerModel

PAD, CLS, VOCAB = 0, 1, 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 24,
    "pad_token_id": PAD,
    "cls_token_id": CLS,
}
EVERYTHING: dict[str, Any] = {
    "explicit_zero_prob": True,
    "num_batches": 3,
    "batch_labels": True,
    "batch_norm": "per_batch",
    "dab_weight": 1.0,
    "ecs_threshold": 0.8,
    "cce_weight": 1.0,
    "n_classes": 5,
}


def cells(*lengths: int, longest: int | None = None) -> dict[str, torch.Tensor]:
    """Cells of the given lengths: ``<cls>``, genes with digits, padding."""
    generator = torch.Generator().manual_seed(0)
    width = longest or max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    values = torch.full(ids.shape, -2.0)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.cat(
            [torch.tensor([CLS]), torch.randperm(VOCAB - 2, generator=generator)[: length - 1] + 2]
        )
        values[row, 1:length] = torch.randint(1, 51, (length - 1,), generator=generator).float()
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "values": values}


def hidden(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same cells with every third value hidden."""
    where = (torch.arange(batch["input_ids"].shape[1]) % 3 == 1) & batch["attention_mask"].bool()
    values = batch["values"]
    return {**batch, "values": values.masked_fill(where, -1.0), "target_values": values, "target_mask": where}


def split(batch: dict[str, torch.Tensor], n_generated: int) -> dict[str, torch.Tensor]:
    """The last genes of each cell are generated; cells without padding."""
    cut = batch["input_ids"].shape[1] - n_generated
    perceived = {name: tensor[:, :cut] for name, tensor in batch.items()}
    targets = {"generated_ids": batch["input_ids"][:, cut:], "target_values": batch["values"][:, cut:]}
    return {**perceived, **targets}


def build(seed: int = 0, **more: Any) -> GenerativeTransformerModel:
    torch.manual_seed(seed)
    model = GenerativeTransformerModel(GenerativeTransformerConfig(**{**SHAPE, **more}))
    with torch.no_grad():  # every parameter counts, so that a wrong formula shows
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()
