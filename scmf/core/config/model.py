"""The section ``model`` of every YAML file, and the options of each architecture.

Lives here: keys, units, defaults. Lives elsewhere: the other sections (config), the networks (scmf.models).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scmf.core.config.section import Section, check_options, known, options_schema, with_defaults


class EncoderOptions(Section):
    """Options of ``transformer_encoder``."""

    value_encoding: Literal["none", "continuous", "category"] = "none"
    """How ``values`` of the tokenizer enter: not at all (Geneformer), through a small network, as a table of bins."""
    positions: bool = True
    """Learned absolute positions (the rank of a gene); False where the order of the genes means nothing."""


class GenerativeOptions(Section):
    """Options of ``generative_transformer`` (scGPT)."""

    value_encoder: Literal["continuous", "category", "scaling"] = "continuous"
    """How values enter: a small network, a table of bins, or as a factor of the gene embedding."""
    cell_embedding: Literal["cls", "avg-pool", "w-pool"] | None = None
    """The ``<cls>`` position, the mean over positions, the sum weighted by values; null: ``cls`` if the vocabulary
    has it, else ``avg-pool``."""
    generative: bool = True
    """Have the flag of generated genes, which ``generative_value_prediction`` needs; other objectives do not use it."""
    generated_out_proj: bool | None = None
    """End the attention of generated genes in the output projection; the official pretraining leaves it out. null: not
    under ``match_official``."""
    mvc: Literal["none", "inner product", "inner product, detach", "concat query", "sum query"] = "inner product"
    """Predict values from the cell embedding too (MVC, GEPC), and how."""
    explicit_zero_prob: bool = False
    """Predict the probability that a value is not zero beside the value."""
    batch_labels: bool = False
    """Tell the decoders the batch of the cell (``data.batch_key``)."""
    batch_norm: Literal["none", "shared", "per_batch"] = "none"
    """Batch normalization of the token embeddings: none, one for all, one a batch (DSBN)."""
    dab_weight: float = Field(0.0, ge=0)
    """Weight of the adversary that names the batch from the cell embedding (DAB); 0 leaves it out."""
    ecs_threshold: float = Field(0.0, ge=0, le=1)
    """Threshold of elastic cell similarity (ECS); 0 leaves it out."""
    ecs_weight: float = Field(10.0, ge=0)
    """Weight of elastic cell similarity."""
    cce_weight: float = Field(0.0, ge=0)
    """Weight of the contrastive loss of two passes with dropout (CCE); 0 leaves it out."""
    decoder: Literal["expression", "affine"] = "expression"
    """Predict values, or factor and offset of the given values (perturbation)."""
    decoder_activation: Literal["relu", "gelu", "tanh"] | None = None
    """Activation of factor and offset."""
    decoder_adaptive_bias: bool = False
    """Multiply the offset by the mean of the non-zero values of the cell."""
    perturbations: bool = False
    """Read ``pert_flags``: 0 control, 1 perturbed, 2 padding."""
    perturbation_pad_id: int = Field(2, ge=0, le=2)
    """The flag whose vector is zero and not trained."""
    n_classes: int = Field(0, ge=0)
    """Classes of a classifier beside the decoder; 0: none. A fine-tuned head has its own."""
    classifier_layers: int = Field(3, ge=1)
    """Linear layers of a classifier."""
    match_official: bool = False
    """Reproduce the known quirks of the official network instead of correcting them."""


class MaskedAutoencoderOptions(Section):
    """Options of ``masked_autoencoder`` (scFoundation)."""

    encoder: Literal["transformer", "performer"] = "transformer"
    """Kind of the encoder."""
    decoder: Literal["performer", "transformer"] = "performer"
    """Kind of the decoder; a performer's attention (FAVOR+) costs what the number of genes does, not its square."""
    decoder_dim: int = Field(512, ge=1)
    """Width of the decoder."""
    decoder_layers: int = Field(6, ge=1)
    """Layers of the decoder."""
    decoder_heads: int = Field(8, ge=1)
    """Attention heads of the decoder; must divide ``decoder_dim``."""
    decoder_ffn_dim: int | None = Field(None, ge=1)
    """Width of the decoder's feed-forward layer; null: four times ``decoder_dim``."""
    decoder_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the decoder."""
    decode: Literal["all", "masked"] = "all"
    """Genes the decoder sees in training: all of the vocabulary (official), or those of the cell and those to be
    predicted (cheaper, and another model: a prediction does not see the other genes without a count)."""
    value_bins: int = Field(100, ge=1)
    """Rows of the table that the embedding of a value is mixed from."""
    value_alpha: float = 1.0
    """Weight of the residual in the network that mixes them."""
    redraw_interval: int | None = Field(1000, ge=1)
    """Training forward passes after which a performer draws its random features anew; null: never."""
    initialization: Literal["torch", "normal"] = "torch"
    """Random weights: the defaults of PyTorch's layers (official), or normal with ``initializer_range``."""
    match_official: bool | None = None
    """Reproduce the known quirks of the official network; null: as ``tokenizer.match_official``."""


class AutoregressiveOptions(Section):
    """Options of ``autoregressive_transformer`` (TranscriptFormer)."""

    softcap: float | None = Field(10.0, gt=0)
    """Bound of the attention scores and gene logits, by tanh; null leaves them."""
    gene_head_dim: int | None = Field(None, ge=1)
    """Hidden width of the head that predicts the next gene; null: as wide as the model."""
    count_link: Literal["softmax", "softplus"] = "softmax"
    """Expected counts: shares of the total of the cell, over all its genes, or each gene by itself."""
    count_likelihood: Literal["zero_truncated", "softplus_approx", "poisson"] = "zero_truncated"
    """Distribution of the counts: Poisson without 0, the official approximation of it (a sign is flipped), Poisson."""
    max_count: float | None = Field(None, gt=0)
    """Counts above it are cut in the loss; null leaves them, as a tokenizer with ``clip`` has cut them already."""
    match_official: bool = False
    """Reproduce the faults of the official network: divided by all positions, contextual genes off by one."""


OPTIONS: dict[str, type[Section]] = {
    "transformer_encoder": EncoderOptions,
    "generative_transformer": GenerativeOptions,
    "masked_autoencoder": MaskedAutoencoderOptions,
    "autoregressive_transformer": AutoregressiveOptions,
}


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
    checkpoint: Path | None = None
    """Folder of weights to start from; null starts from random weights."""
    options: dict[str, Any] = Field({}, json_schema_extra=options_schema(OPTIONS))
    """What only this architecture knows."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_dim={self.hidden_dim}")
        return self

    @model_validator(mode="after")
    def _options_of_architecture(self) -> ModelConfig:
        object.__setattr__(self, "options", check_options(self.options, OPTIONS, choice=self.architecture))
        return self

    @property
    def all_options(self) -> dict[str, Any]:
        """The options of the architecture, defaults included."""
        return with_defaults(self.options, OPTIONS, self.architecture)
