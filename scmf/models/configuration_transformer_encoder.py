"""Configuration of the transformer encoder (Geneformer): the key names of BERT's ``config.json``.

Lives here: the fields, what they may hold, and the translation from the words of a recipe.
Lives elsewhere: the network (``transformer_encoder.py``). Both files are copied into every
checkpoint, so they import only torch, transformers and the standard library.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


class TransformerEncoderConfig(PreTrainedConfig):
    """Shape and behaviour of a `TransformerEncoderModel`.

    The names are those of BERT, so that the ``config.json`` of an official Geneformer folder is read as it is.
    Such a folder does not name its special tokens: pass ``cls_token_id=2, eos_token_id=3`` for V2, or convert
    it with ``recipes/geneformer/convert.py``, which writes them down.

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
        Standard deviation of the normal initialisation; epsilon of layer normalisation.
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
        if self.position_embedding_type != "absolute":
            raise _refused("position_embedding_type", self.position_embedding_type, "'absolute'")
        for name in ("pad_token_id", "cls_token_id", "eos_token_id"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 <= value < self.vocab_size):
                raise _refused(name, value, f"a token id below vocab_size={self.vocab_size}, or null")
        super().__post_init__(**kwargs)

    @classmethod
    def from_settings(
        cls,
        *,
        vocab_size: int,
        max_positions: int,
        hidden_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 4,
        ffn_dim: int = 512,
        activation: str = "relu",
        dropout: float = 0.02,
        attention_dropout: float = 0.02,
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        attention: str = "sdpa",
        pad_token_id: int | None = 0,
        cls_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> TransformerEncoderConfig:
        """Build a configuration from the words of a recipe's ``model`` section and its tokenizer.

        Parameters
        ----------
        vocab_size, max_positions, pad_token_id, cls_token_id, eos_token_id
            From the tokenizer: tokens, longest output, special token ids (None where there is none).
        hidden_dim, num_layers, num_heads, ffn_dim, activation, dropout, attention_dropout
            Keys of the ``model`` section; see the class for their meaning under the name used by BERT.
        layer_norm_eps, initializer_range
            As in the class.
        attention
            Attention kernel, ``"sdpa"`` or ``"eager"``. It is a choice of the run and is not saved.
        """
        return cls(
            vocab_size=vocab_size,
            max_position_embeddings=max_positions,
            hidden_size=hidden_dim,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=ffn_dim,
            hidden_act=activation,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=attention_dropout,
            layer_norm_eps=layer_norm_eps,
            initializer_range=initializer_range,
            pad_token_id=pad_token_id,
            cls_token_id=cls_token_id,
            eos_token_id=eos_token_id,
            attn_implementation=attention,
        )


def _refused(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(
        f"found: {name}={value!r}\nwanted: {wanted}\nwhere: TransformerEncoderConfig\n"
        f"do: change {name} in config.json or in the model section of the recipe"
    )


TransformerEncoderConfig.register_for_auto_class()
