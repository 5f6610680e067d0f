"""Configuration of the transformer encoder (Geneformer): the key names of BERT's ``config.json``.

Lives here: the fields, what they may hold, and the translation from the words of a recipe.
Lives elsewhere: the network (``transformer_encoder.py``). Both files are copied into every
checkpoint, so they import only torch, transformers and the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


class TransformerEncoderConfig(PreTrainedConfig):
    """Shape and behavior of a `TransformerEncoderModel`.

    The names are those of BERT, so that the ``config.json`` of an official Geneformer folder is read as it is.
    Such a folder does not name its special tokens: pass ``cls_token_id=2, eos_token_id=3`` for V2, or convert
    it with ``scmf/models/published``, which writes them down.

    Parameters
    ----------
    vocab_size
        Tokens, special ones included.
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
        Width of the residual stream, layers, heads (a divisor of the width), width of the feed-forward layer.
    hidden_act
        Activation of the feed-forward layer and of the prediction head, a name of ``transformers.activations``.
    hidden_dropout_prob, attention_probs_dropout_prob, classifier_dropout
        Dropout on the residual stream, on attention probabilities, before the classifier (None: as the residual
        stream).
    max_position_embeddings
        Longest input in tokens; the position is the rank of the gene.
    type_vocab_size
        Rows of the token type table. Every token has type 0; the other rows are only kept.
    initializer_range, layer_norm_eps
        Standard deviation of the normal initialization; epsilon of layer normalization.
    pad_token_id
        Token id of padding.
    cls_token_id, eos_token_id
        Token ids that open and close a cell and are not genes; None where the vocabulary has none (V1).
    classifier_pooling
        What a cell classifier sees: ``"first"``, the first position (official), or ``"mean"``, the mean over
        gene positions.
    tie_word_embeddings
        Predict with the token embeddings (official).
    position_embedding_type
        ``"absolute"``; nothing else is implemented.
    value_encoding
        How the ``values`` beside the tokens enter: ``"none"`` (official Geneformer), ``"continuous"``, through two
        linear layers, or ``"category"``, as rows of a table.
    n_value_bins
        Rows of that table: values are 0 to ``n_value_bins - 1``, others (mask, padding) take one row more.
    use_positions
        Add the position embeddings (official). Without them the order of the genes means nothing.

    Raises
    ------
    ValueError
        If two values contradict each other or a value is not one this network knows.
    """

    model_type = "scmf_transformer_encoder"

    vocab_size: int = 25426
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float | int = 0.02
    attention_probs_dropout_prob: float | int = 0.02
    classifier_dropout: float | int | None = None
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    cls_token_id: int | None = None
    eos_token_id: int | None = None
    classifier_pooling: str = "first"
    tie_word_embeddings: bool = True
    position_embedding_type: str = "absolute"
    value_encoding: str = "none"
    n_value_bins: int | None = None
    use_positions: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values, then let transformers place the rest."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*sizes, "max_position_embeddings", "type_vocab_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise _refused(name, value, "a whole number of at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise _refused("num_attention_heads", self.num_attention_heads, f"a divisor of {self.hidden_size}")
        if self.hidden_act not in ACT2FN:
            raise _refused("hidden_act", self.hidden_act, "an activation of transformers, such as 'relu'")
        if self.classifier_pooling not in ("first", "mean"):
            raise _refused("classifier_pooling", self.classifier_pooling, "'first' or 'mean'")
        if self.value_encoding not in ("none", "continuous", "category"):
            raise _refused("value_encoding", self.value_encoding, "'none', 'continuous' or 'category'")
        if (self.value_encoding == "category") != (self.n_value_bins is not None):
            raise _refused("n_value_bins", self.n_value_bins, "a number with value_encoding 'category', else null")
        if self.position_embedding_type != "absolute":
            raise _refused("position_embedding_type", self.position_embedding_type, "'absolute'")
        for name in ("pad_token_id", "cls_token_id", "eos_token_id"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 <= value < self.vocab_size):
                raise _refused(name, value, f"a token id below vocab_size={self.vocab_size}, or null")
        super().__post_init__(**kwargs)

    @classmethod
    def from_settings(cls, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> TransformerEncoderConfig:
        """Build a configuration from a tokenizer and the words of a recipe's ``model`` section.

        Parameters
        ----------
        facts
            Of the tokenizer: ``vocab_size``, ``max_positions`` (longest output), ``pad_token_id``, ``cls_token_id``,
            ``eos_token_id`` (None where there is none), ``n_bins``.
        settings
            Keys of the ``model`` section and its options, under the names of the recipe. ``attention`` is a choice of
            the run and is not saved.
        """
        encoding = settings.get("value_encoding", "none")
        if encoding == "category" and facts.get("n_bins") is None:
            raise _refused("value_encoding", encoding, "'continuous' or 'none' for a tokenizer without bins")
        named = {_FACTS[name]: value for name, value in facts.items() if name in _FACTS}
        named |= {_SETTINGS[name]: value for name, value in settings.items() if name in _SETTINGS}
        return cls(**named, n_value_bins=facts["n_bins"] if encoding == "category" else None)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives that a network of this shape can be trained under."""
        return ("masked_gene_prediction", *(("masked_value_prediction",) if self.value_encoding != "none" else ()))

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """Tensors of a tokenizer's batch that a network of this shape reads."""
        return ("input_ids", "attention_mask", *(("values",) if self.value_encoding != "none" else ()))


_FACTS = {
    "vocab_size": "vocab_size",
    "max_positions": "max_position_embeddings",
    "pad_token_id": "pad_token_id",
    "cls_token_id": "cls_token_id",
    "eos_token_id": "eos_token_id",
}
"""What is taken from a tokenizer, and its name here."""

_SETTINGS = {
    "hidden_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "attention": "attn_implementation",
    "value_encoding": "value_encoding",
    "positions": "use_positions",
}
"""Key of the ``model`` section, and its name here."""


def _refused(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(
        f"found: {name}={value!r}\nwanted: {wanted}\nwhere: TransformerEncoderConfig\n"
        f"do: change {name} in config.json or in the model section of the recipe"
    )


TransformerEncoderConfig.register_for_auto_class()
