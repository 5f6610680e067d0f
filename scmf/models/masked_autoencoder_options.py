"""Options of the masked autoencoder: keys, defaults, ranges. Travels along; only the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class MaskedAutoencoderOptions:
    """Options of ``masked_autoencoder`` (scFoundation)."""

    encoder: Literal["transformer", "performer"] = "transformer"
    """Kind of the encoder."""
    decoder: Literal["performer", "transformer"] = "performer"
    """Kind of the decoder; a performer's attention (FAVOR+) costs what the number of genes does, not its square."""
    decoder_dim: int = field(default=512, metadata={"ge": 1})
    """Width of the decoder."""
    decoder_layers: int = field(default=6, metadata={"ge": 1})
    """Layers of the decoder."""
    decoder_heads: int = field(default=8, metadata={"ge": 1})
    """Attention heads of the decoder; must divide ``decoder_dim``."""
    decoder_ffn_dim: int | None = field(default=None, metadata={"ge": 1})
    """Width of the decoder's feed-forward layer; null: four times ``decoder_dim``."""
    decoder_dropout: float = field(default=0.0, metadata={"ge": 0, "lt": 1})
    """Dropout in the decoder."""
    decode: Literal["all", "masked"] = "all"
    """Genes the decoder sees in training: all of the vocabulary (official), or those of the cell and those to be
    predicted (cheaper, and another model: a prediction does not see the other genes without a count)."""
    value_bins: int = field(default=100, metadata={"ge": 1})
    """Rows of the table that the embedding of a value is mixed from."""
    value_alpha: float = 1.0
    """Weight of the residual in the network that mixes them."""
    redraw_interval: int | None = field(default=1000, metadata={"ge": 1})
    """Training forward passes after which a performer draws its random features anew; null: never."""
    initialization: Literal["torch", "normal"] = "torch"
    """Random weights: the defaults of PyTorch's layers (official), or normal with ``initializer_range``."""
    match_official: bool | None = None
    """Reproduce the known quirks of the official network; null: as ``tokenizer.match_official``."""
