"""Configuration of the autoregressive transformer (TranscriptFormer).

Lives here: the fields, what they may hold, and the translation from the words of a recipe.
Lives elsewhere: the network (``autoregressive_transformer.py``), official ``config.json`` files
(``scmf/models/published``). Both model files are copied into every checkpoint, so they import only
torch, transformers and the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

LINKS = ("softmax", "softplus")
LIKELIHOODS = ("zero_truncated", "softplus_approx", "poisson")


class AutoregressiveTransformerConfig(PreTrainedConfig):
    """Shape and behavior of an `AutoregressiveTransformerModel`.

    Parameters
    ----------
    vocab_size
        Tokens of the tokenizer, special ones included.
    gene_vector_dim
        Width of the given, frozen gene vectors; None: a trainable table of ``hidden_size``.
    n_assays
        Assays the tokenizer knows; 0: no assay position.
    unknown_assay_id
        Assay id that says nothing and is masked; None: every assay is used.
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
        Width of the residual stream, layers, heads (a divisor of the width), width of the feed-forward layer.
    gene_head_dim
        Hidden width of the head that predicts the next gene; None: ``hidden_size``.
    hidden_act
        Activation of the feed-forward layer; the small networks around the encoder use ReLU (official).
    hidden_dropout_prob, attention_probs_dropout_prob, classifier_dropout
        Dropout after the activations, on attention probabilities (official: 0), before the classifier (None: as the
        first).
    layer_norm_eps, initializer_range
        Epsilon of layer normalization; standard deviation of the normal initialization.
    attention_bias, ffn_bias
        Biases of the linear layers of attention and feed-forward (official: none).
    max_positions
        Most genes of a cell; a cell that fills it may have been cut.
    softcap
        Bound of attention scores and gene logits, ``softcap * tanh(x / softcap)``; None leaves them.
    count_link
        ``"softmax"``: the expected counts of a cell are its total, divided by a softmax over its genes (official);
        ``"softplus"``: each by itself.
    count_likelihood
        ``"zero_truncated"`` Poisson; ``"softplus_approx"``, the official approximation of it; ``"poisson"``.
    count_eps
        Added to expected counts, and to counts in the bias of attention scores.
    max_count
        Counts above it are cut in the loss; None: never.
    pad_token_id, start_token_id, end_token_id
        Token ids; without a start or end token in the vocabulary (None) the model owns rows behind it.
    special_token_ids
        Ids that are no genes; they are neither read nor predicted.
    gene_token_start
        First id that is a gene.
    match_official
        Reproduce the known faults of the official code (see ``recipes/transcriptformer/README.md``).
    classifier_pooling
        ``"mean"``. The first position of a causal model has seen no gene.

    Raises
    ------
    ValueError
        If two values contradict each other or a value is not one this network knows.
    """

    model_type = "scmf_autoregressive_transformer"

    vocab_size: int = 23829
    gene_vector_dim: int | None = None
    n_assays: int = 0
    unknown_assay_id: int | None = 0
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int = 512
    gene_head_dim: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.0
    classifier_dropout: float | int | None = None
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    attention_bias: bool = False
    ffn_bias: bool = False
    max_positions: int = 2047
    softcap: float | int | None = 10.0
    count_link: str = "softmax"
    count_likelihood: str = "zero_truncated"
    count_eps: float = 1e-6
    max_count: float | int | None = None
    pad_token_id: int | None = 0
    start_token_id: int | None = None
    end_token_id: int | None = None
    special_token_ids: list[int] | tuple[int, ...] = ()
    gene_token_start: int = 0
    match_official: bool = False
    classifier_pooling: str = "mean"

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values, then let transformers place the rest."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*sizes, "max_positions", "gene_vector_dim", "gene_head_dim"):
            value = getattr(self, name)
            if value is None and name in ("gene_vector_dim", "gene_head_dim"):
                continue
            if not isinstance(value, int) or value < 1:
                raise _refused(name, value, "a whole number of at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise _refused("num_attention_heads", self.num_attention_heads, f"a divisor of {self.hidden_size}")
        if self.hidden_act not in ACT2FN:
            raise _refused("hidden_act", self.hidden_act, "an activation of transformers, such as 'gelu'")
        if self.softcap is not None and not self.softcap > 0:
            raise _refused("softcap", self.softcap, "a number above 0, or null")
        for name, known in (("count_link", LINKS), ("count_likelihood", LIKELIHOODS)):
            if getattr(self, name) not in known:
                raise _refused(name, getattr(self, name), f"one of {', '.join(known)}")
        if self.classifier_pooling != "mean":
            raise _refused(
                "classifier_pooling",
                self.classifier_pooling,
                "'mean' (eval.finetune.pooling): the first position of a causal model has seen no gene",
            )
        for name in ("pad_token_id", "start_token_id", "end_token_id"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and 0 <= value < self.vocab_size):
                raise _refused(name, value, f"a token id below vocab_size={self.vocab_size}, or null")
        self.special_token_ids = [int(token) for token in self.special_token_ids]
        super().__post_init__(**kwargs)

    @property
    def start_row(self) -> int:
        """Row of the token that opens a cell, in every table."""
        return self.vocab_size if self.start_token_id is None else self.start_token_id

    @property
    def end_row(self) -> int:
        """Row of the token that closes a cell, in every table."""
        if self.end_token_id is not None:
            return self.end_token_id
        return self.vocab_size + (self.start_token_id is None)

    @property
    def n_rows(self) -> int:
        """Rows of every table: the vocabulary and what the model owns behind it."""
        return self.vocab_size + (self.start_token_id is None) + (self.end_token_id is None)

    @classmethod
    def from_settings(cls, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> AutoregressiveTransformerConfig:
        """Build a configuration from a tokenizer and the words of a recipe's ``model`` section.

        Parameters
        ----------
        facts
            Of the tokenizer: ``vocab_size``, ``max_positions``, token ids (``cls`` is START and ``eos`` is END where
            there is no ``start_token_id`` and ``end_token_id``; the model makes both itself), ``n_assays``,
            ``gene_vector_dim``, ``gene_token_start``.
        settings
            Keys of the ``model`` section and its options, under the names of the recipe. ``attention`` is a choice of
            the run and is not saved.
        """
        start, end = (facts.get(a, facts.get(b)) for a, b in _SPECIAL)
        ids = (facts.get("pad_token_id"), start, end, *(facts.get(f"{name}_token_id") for name in _UNREAD))
        return cls(
            vocab_size=facts["vocab_size"],
            max_positions=facts["max_positions"],
            pad_token_id=facts.get("pad_token_id"),
            start_token_id=start,
            end_token_id=end,
            special_token_ids=sorted({token for token in ids if token is not None}),
            gene_token_start=facts.get("gene_token_start") or 0,
            n_assays=facts.get("n_assays") or 0,
            gene_vector_dim=facts.get("gene_vector_dim"),
            **{_SETTINGS[name]: value for name, value in settings.items() if name in _SETTINGS},
        )


_SPECIAL = (("start_token_id", "cls_token_id"), ("end_token_id", "eos_token_id"))
_UNREAD = ("cls", "eos", "mask")

_SETTINGS = {
    "hidden_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "attention": "attn_implementation",
} | {
    name: name
    for name in (
        "layer_norm_eps", "initializer_range", "gene_head_dim", "softcap", "count_link", "count_likelihood",
        "count_eps", "max_count", "match_official",
    )
}  # fmt: skip
"""Key of the ``model`` section, and its name here."""


def _refused(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(
        f"found: {name}={value!r}\nwanted: {wanted}\nwhere: AutoregressiveTransformerConfig\n"
        f"do: change {name} in config.json or in the model section of the recipe"
    )


AutoregressiveTransformerConfig.register_for_auto_class()
