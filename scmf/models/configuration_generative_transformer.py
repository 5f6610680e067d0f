"""Configuration of the generative transformer (scGPT).

Lives here: the fields, what they may hold, and the translation from the words of a recipe.
Lives elsewhere: the network (``generative_transformer.py``). Both files are copied into every
checkpoint, so they import only torch, transformers and the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

CHOICES: dict[str, tuple[str | None, ...]] = {
    "value_encoder": ("continuous", "category", "scaling"),
    "cell_embedding": ("cls", "avg-pool", "w-pool"),
    "mvc": (None, "inner product", "inner product, detach", "concat query", "sum query"),
    "decoder": ("expression", "affine"),
    "batch_norm": (None, "shared", "per_batch"),
    "classifier_pooling": ("first", "mean"),
}
"""What each field with a choice may hold."""


class GenerativeTransformerConfig(PreTrainedConfig):
    """Shape and behavior of a `GenerativeTransformerModel`.

    Defaults are those of the published whole-human model of scGPT, without what only fine-tuning adds.

    Parameters
    ----------
    vocab_size
        Tokens, special ones included.
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
        Width of the residual stream, layers, heads (a divisor of the width), width of the feed-forward layer.
    hidden_act
        Activation of the feed-forward layer, a name of ``transformers.activations``.
    hidden_dropout_prob, attention_probs_dropout_prob
        Dropout on the residual stream and on the values, on attention probabilities.
    max_position_embeddings
        Longest input the tokenizer gives. Only kept: there are no position embeddings.
    initializer_range
        Gene embeddings start uniform in plus and minus this (official 0.1); all else as torch initializes it.
    layer_norm_eps
        Epsilon of layer normalization.
    pad_token_id, cls_token_id
        Token id of padding and of ``<cls>``; None where the vocabulary has none.
    mask_value
        Value at a position whose value is hidden.
    value_encoder
        How values enter: ``"continuous"``, a small network; ``"category"``, a table of bins; ``"scaling"``, as a
        factor of the gene embedding.
    n_value_bins, value_pad_id
        Rows of that table: digits, then padding (``value_pad_id``), then masked; None for the other encoders.
    max_value
        Larger values enter as this one (``"continuous"``).
    cell_embedding
        What stands for a cell: ``"cls"``, the first position; ``"avg-pool"``, the mean over positions;
        ``"w-pool"``, the sum weighted by the values, of length 1.
    generative
        Whether genes can be generated: there is a flag embedding that marks them.
    generated_out_proj
        Whether the attention of generated genes ends in the output projection. The official pretraining leaves it
        out, and weights from there are to be used in the same way.
    mvc
        How values are predicted from the cell embedding (official MVC, GEPC); None does not.
    explicit_zero_prob
        Predict beside each value the probability that it is not zero.
    decoder
        ``"expression"``: predict values; ``"affine"``: predict factor and offset of the given values (perturbation).
    decoder_activation, decoder_adaptive_bias
        Activation of factor and offset (a name of ``transformers.activations`` or None); offset times the mean of
        the non-zero values of the cell.
    perturbations, perturbation_pad_id
        Whether ``pert_flags`` enter (0 control, 1 perturbed, 2 padding), and which of them is a fixed vector.
    num_batches
        Batches that ``batch_ids`` counts; 0 where the data have none.
    batch_labels
        Tell the decoders the batch of the cell.
    batch_norm
        Batch normalization of the token embeddings: one for all cells, one a batch, or None.
    dab_weight
        Weight of the adversary that names the batch from the cell embedding; 0 leaves it out.
    ecs_threshold, ecs_weight
        Elastic cell similarity: threshold (0 leaves it out) and weight.
    cce_weight
        Weight of the contrastive loss of two passes; 0 leaves it out.
    n_classes, classifier_layers
        Classes of the classifier beside the value decoder (0: none), linear layers of a classifier.
    classifier_pooling
        What a fine-tuned cell classifier sees: ``"first"`` position or ``"mean"`` over gene positions.
    match_official
        Reproduce the known quirks of the official network instead of correcting them.

    Raises
    ------
    ValueError
        If two values contradict each other or a value is not one this network knows.
    """

    model_type = "scmf_generative_transformer"

    vocab_size: int = 60697
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.2
    attention_probs_dropout_prob: float | int = 0.2
    max_position_embeddings: int = 1200
    initializer_range: float = 0.1
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 60694
    cls_token_id: int | None = None
    mask_value: float | int = -1.0
    value_encoder: str = "continuous"
    n_value_bins: int | None = None
    value_pad_id: int | None = None
    max_value: float | int = 512
    cell_embedding: str = "cls"
    generative: bool = True
    generated_out_proj: bool | None = None
    mvc: str | None = "inner product"
    explicit_zero_prob: bool = False
    decoder: str = "expression"
    decoder_activation: str | None = None
    decoder_adaptive_bias: bool = False
    perturbations: bool = False
    perturbation_pad_id: int = 2
    num_batches: int = 0
    batch_labels: bool = False
    batch_norm: str | None = None
    dab_weight: float | int = 0.0
    ecs_threshold: float | int = 0.0
    ecs_weight: float | int = 10.0
    cce_weight: float | int = 0.0
    n_classes: int = 0
    classifier_layers: int = 3
    classifier_pooling: str = "first"
    match_official: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values, then let transformers place the rest."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*sizes, "max_position_embeddings", "classifier_layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise _refused(name, value, "a whole number of at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise _refused("num_attention_heads", self.num_attention_heads, f"a divisor of {self.hidden_size}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise _refused(name, getattr(self, name), " or ".join(map(repr, known)))
        for name in ("hidden_act", "decoder_activation"):
            value = getattr(self, name)
            if value not in ACT2FN and not (value is None and name == "decoder_activation"):
                raise _refused(name, value, "an activation of transformers, such as 'relu'")
        for name in ("pad_token_id", "cls_token_id"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 <= value < self.vocab_size):
                raise _refused(name, value, f"a token id below vocab_size={self.vocab_size}, or null")
        self._check_combinations()
        if self.generated_out_proj is None:
            self.generated_out_proj = not self.match_official
        super().__post_init__(**kwargs)

    def _check_combinations(self) -> None:
        if (self.value_encoder == "category") != (self.n_value_bins is not None):
            raise _refused("n_value_bins", self.n_value_bins, "a number with value_encoder 'category', else null")
        if self.generative and self.value_encoder == "scaling":
            raise _refused("generative", True, "false with value_encoder 'scaling': a generated gene has no value")
        queried = self.mvc in ("concat query", "sum query")
        if queried and self.explicit_zero_prob:
            raise _refused("explicit_zero_prob", True, f"false with mvc {self.mvc!r}, which has no probabilities")
        if queried and self.batch_labels:
            raise _refused("batch_labels", True, f"false with mvc {self.mvc!r}, which reads the cell alone")
        needing = [name for name in ("batch_labels", "dab_weight") if getattr(self, name)]
        needing += ["batch_norm"] if self.batch_norm == "per_batch" else []
        if needing and self.num_batches < 1:
            raise _refused("num_batches", self.num_batches, f"at least 1 with {needing[0]}: give data.batch_key")
        if self.perturbations and self.perturbation_pad_id not in (0, 1, 2):
            raise _refused("perturbation_pad_id", self.perturbation_pad_id, "0, 1 or 2")

    @classmethod
    def from_settings(cls, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> GenerativeTransformerConfig:
        """Build a configuration from a tokenizer and the words of a recipe's ``model`` section.

        Parameters
        ----------
        facts
            Of the tokenizer and the data: ``vocab_size``, ``max_positions``, ``pad_token_id``, ``cls_token_id``,
            ``mask_value``, ``n_bins`` (None where there is none), ``n_batches``.
        settings
            Keys of the ``model`` section and its options, under the names of the recipe. ``attention`` is a choice of
            the run and is not saved. ``cell_embedding: null`` is ``cls`` for a vocabulary that has ``<cls>``, else
            ``avg-pool``.
        """
        named: dict[str, Any] = {
            _FACTS[name]: value for name, value in facts.items() if name in _FACTS and value is not None
        }
        named |= {name: facts.get(name) for name in ("pad_token_id", "cls_token_id")}
        named |= {_SETTINGS.get(name, name): value for name, value in settings.items() if name not in _CHOSEN_HERE}
        if settings.get("mvc") == "none":
            named["mvc"] = None
        if settings.get("batch_norm") == "none":
            named["batch_norm"] = None
        if settings.get("cell_embedding") is None:
            named["cell_embedding"] = "avg-pool" if facts.get("cls_token_id") is None else "cls"
        if settings.get("value_encoder") == "category":
            if not (n_bins := facts.get("n_bins")):
                raise _refused("value_encoder", "category", "'continuous' or 'scaling' for a tokenizer without bins")
            named |= {"n_value_bins": n_bins + 2, "value_pad_id": n_bins}
        if settings.get("value_encoder") == "scaling":
            named["generative"] = False
        return cls(**named)

    @property
    def reads_batches(self) -> bool:
        """Whether training reads ``batch_ids``."""
        return bool(self.batch_labels or self.dab_weight or self.embeds_by_batch)

    @property
    def embeds_by_batch(self) -> bool:
        """Whether the embedding of a cell depends on its batch."""
        return self.batch_norm == "per_batch"

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """Tensors of a tokenizer's batch that a network of this shape reads; ``batch_ids`` come from the data."""
        return ("input_ids", "attention_mask", "values", *(("pert_flags",) if self.perturbations else ()))


_FACTS = {
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
    "mask_value": "mask_value",
    "n_batches": "num_batches",
}
"""What is taken from a tokenizer and the data, and its name here."""

_SETTINGS = {
    "hidden_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "attention": "attn_implementation",
}
"""Key of the ``model`` section, and its name here; every other key has the same name."""

_CHOSEN_HERE = ("architecture", "checkpoint", "options")
"""Keys of the ``model`` section that are not fields."""


def _refused(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(
        f"found: {name}={value!r}\nwanted: {wanted}\nwhere: GenerativeTransformerConfig\n"
        f"do: change {name} in config.json or in the model section of the recipe"
    )


GenerativeTransformerConfig.register_for_auto_class()
