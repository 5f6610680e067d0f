"""Options of the generative transformer: keys, defaults, ranges. Travels along; only the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class GenerativeOptions:
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
    dab_weight: float = field(default=0.0, metadata={"ge": 0})
    """Weight of the adversary that names the batch from the cell embedding (DAB); 0 leaves it out."""
    ecs_threshold: float = field(default=0.0, metadata={"ge": 0, "le": 1})
    """Threshold of elastic cell similarity (ECS); 0 leaves it out."""
    ecs_weight: float = field(default=10.0, metadata={"ge": 0})
    """Weight of elastic cell similarity."""
    cce_weight: float = field(default=0.0, metadata={"ge": 0})
    """Weight of the contrastive loss of two passes with dropout (CCE); 0 leaves it out."""
    decoder: Literal["expression", "affine"] = "expression"
    """Predict values, or factor and offset of the given values (perturbation)."""
    decoder_activation: Literal["relu", "gelu", "tanh"] | None = None
    """Activation of factor and offset."""
    decoder_adaptive_bias: bool = False
    """Multiply the offset by the mean of the non-zero values of the cell."""
    perturbations: bool = False
    """Read ``pert_flags``: 0 control, 1 perturbed, 2 padding."""
    perturbation_pad_id: int = field(default=2, metadata={"ge": 0, "le": 2})
    """The flag whose vector is zero and not trained."""
    n_classes: int = field(default=0, metadata={"ge": 0})
    """Classes of a classifier beside the decoder; 0: none. A fine-tuned head has its own."""
    classifier_layers: int = field(default=3, metadata={"ge": 1})
    """Linear layers of a classifier."""
    match_official: bool = False
    """Reproduce the known quirks of the official network instead of correcting them."""
