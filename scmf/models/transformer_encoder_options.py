"""Options of the transformer encoder: keys, defaults, ranges. Travels along; only the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EncoderOptions:
    """Options of ``transformer_encoder``."""

    value_encoding: Literal["none", "continuous", "category"] = "none"
    """How ``values`` of the tokenizer enter: not at all (Geneformer), through a small network, as a table of bins."""
    positions: bool = True
    """Learned absolute positions (the rank of a gene); False where the order of the genes means nothing."""
