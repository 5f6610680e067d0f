"""Small cells and small masked autoencoders, shared by their tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scmf.models.masked_autoencoder import MaskedAutoencoderConfig, MaskedAutoencoderModel

GENES, T, S, PAD = 30, 30, 31, 32
SHAPE: dict[str, Any] = {
    "vocab_size": 33,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "decoder_size": 16,
    "num_decoder_layers": 2,
    "num_decoder_heads": 2,
    "bin_num": 7,
    "pad_token_id": PAD,
    "depth_token_ids": (T, S),
}
KINDS = [("transformer", "performer"), ("performer", "transformer")]


def build(seed: int = 0, **changes: Any) -> MaskedAutoencoderModel:
    torch.manual_seed(seed)
    return MaskedAutoencoderModel(MaskedAutoencoderConfig(**{**SHAPE, **changes})).eval()


def cells(*n_genes: int, seed: int = 0) -> dict[str, Tensor]:
    """Cells with the given numbers of genes, ascending, then T and S, then padding."""
    generator = torch.Generator().manual_seed(seed)
    width = max(n_genes) + 2
    ids, values = torch.full((len(n_genes), width), PAD), torch.zeros(len(n_genes), width)
    mask = torch.zeros(len(n_genes), width, dtype=torch.long)
    for row, n in enumerate(n_genes):
        ids[row, :n] = torch.randperm(GENES, generator=generator)[:n].sort().values
        ids[row, n], ids[row, n + 1] = T, S
        values[row, : n + 2] = 0.2 + 4 * torch.rand(n + 2, generator=generator)
        mask[row, : n + 2] = 1
    return {"input_ids": ids, "attention_mask": mask, "values": values}


def goals(batch: dict[str, Tensor], n: int = 4) -> dict[str, Tensor]:
    """The first genes of every cell, and one it lacks, taken out of the encoder and to be predicted."""
    mask = batch["attention_mask"].clone()
    ids, values = torch.full((len(mask), n + 1), -100), torch.zeros(len(mask), n + 1)
    for row in range(len(mask)):
        k = min(n, int(mask[row].sum()) - 3)
        ids[row, :k], values[row, :k] = batch["input_ids"][row, :k], batch["values"][row, :k]
        lacking = sorted(set(range(GENES)) - set(batch["input_ids"][row].tolist()))
        ids[row, k] = lacking[0] if lacking else -100
        mask[row, :k] = 0
    return {**batch, "attention_mask": mask, "target_ids": ids, "target_values": values}
