"""A network as a plain ``torch.nn.Module``: ``forward``, ``encode``, ``generate``. scmf wraps it.

The file is copied into the checkpoint: it imports only torch. Legend: B cells, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GeneBag(nn.Module):
    """Names a hidden gene from the mean of the other genes of its cell.

    A constructor gets what it names: of the section ``model`` (``hidden_dim``, ``num_layers``, ``dropout``), of the
    tokenizer (``vocab_size``, ``pad_token_id``, ``max_positions``), and the fields of a nested ``Options``.

    Parameters
    ----------
    vocab_size
        Tokens, special ones included.
    hidden_dim
        Width.
    num_layers
        Layers of the perceptron.
    dropout
        Dropout after each of them.
    """

    def __init__(self, vocab_size: int, hidden_dim: int, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.genes = nn.Embedding(vocab_size, hidden_dim)
        layers = ((nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Dropout(dropout)) for _ in range(num_layers))
        self.layers = nn.Sequential(*(part for layer in layers for part in layer))
        self.head = nn.Linear(hidden_dim, vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of the gene at every position (B, L, V)."""
        cell_BD = self.encode(input_ids, attention_mask)
        return self.head(cell_BD[:, None, :] + self.genes(input_ids))

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors of cells (B, D)."""
        mask_BL1 = attention_mask.unsqueeze(-1).to(self.genes.weight.dtype)
        mean_BD = (self.genes(input_ids) * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1)
        return self.layers(mean_BD)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor, n_genes: int = 1) -> Tensor:
        """The likeliest genes that a cell does not have yet (B, n_genes)."""
        logits_BV = self.head(self.encode(input_ids, attention_mask))
        return logits_BV.scatter(1, input_ids, float("-inf")).topk(n_genes, dim=1).indices
