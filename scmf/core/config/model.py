"""The section ``model`` of every YAML file, and the options of each architecture.

Lives here: keys, units, defaults. Lives elsewhere: the other sections (config), the networks (scmf.models).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scmf.core.config.options import check_options, options_schema, with_defaults
from scmf.core.config.section import Section, known


class ModelConfig(Section):
    """The network."""

    architecture: Annotated[str, known("models")] = "transformer_encoder"
    """Name of the model family."""
    hidden_dim: int = Field(256, ge=1)
    """Width of the residual stream."""
    num_layers: int = Field(6, ge=1)
    """Number of transformer layers."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; must divide ``hidden_dim``."""
    ffn_dim: int = Field(512, ge=1)
    """Width of the feed-forward layer."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation of the feed-forward layer and of the prediction head."""
    dropout: float = Field(0.02, ge=0, lt=1)
    """Dropout on the residual stream."""
    attention_dropout: float = Field(0.02, ge=0, lt=1)
    """Dropout on attention probabilities."""
    layer_norm_eps: float = Field(1e-12, gt=0)
    """Epsilon of layer normalization."""
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of the normal initialization."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel."""
    checkpoint: str | None = None
    """Weights to start from: a folder, a published model (``geneformer@v2-104m``) or ``owner/name`` on the Hub; null:
    random weights."""
    options: dict[str, Any] = Field({}, json_schema_extra=options_schema("models"))
    """What only this architecture knows."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_dim={self.hidden_dim}")
        return self

    @model_validator(mode="after")
    def _options_of_architecture(self) -> ModelConfig:
        object.__setattr__(self, "options", check_options("models", self.architecture, self.options))
        return self

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of the architecture, defaults included."""
        return with_defaults("models", self.architecture, self.options)
