"""Options of the autoregressive transformer: keys, defaults, ranges. Travels along; only the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class AutoregressiveOptions:
    """Options of ``autoregressive_transformer`` (TranscriptFormer)."""

    softcap: float | None = field(default=10.0, metadata={"gt": 0})
    """Bound of the attention scores and gene logits, by tanh; null leaves them."""
    gene_head_dim: int | None = field(default=None, metadata={"ge": 1})
    """Hidden width of the head that predicts the next gene; null: as wide as the model."""
    count_link: Literal["softmax", "softplus"] = "softmax"
    """Expected counts: shares of the total of the cell, over all its genes, or each gene by itself."""
    count_likelihood: Literal["zero_truncated", "softplus_approx", "poisson"] = "zero_truncated"
    """Distribution of the counts: Poisson without 0, the official approximation of it (a sign is flipped), Poisson."""
    max_count: float | None = field(default=None, metadata={"gt": 0})
    """Counts above it are cut in the loss; null leaves them, as a tokenizer with ``clip`` has cut them already."""
    match_official: bool = False
    """Reproduce the faults of the official network: divided by all positions, contextual genes off by one."""
