"""Configuration of the masked autoencoder (scFoundation).

Lives here: the fields, what they may hold, and the translation from the words of a recipe.
Lives elsewhere: the network (``masked_autoencoder.py``). Both files are copied into every checkpoint, so they import
only torch, transformers and the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

KINDS = ("transformer", "performer")


class MaskedAutoencoderConfig(PreTrainedConfig):
    """Shape and behavior of a `MaskedAutoencoderModel`. The defaults are the released 119M model.

    Parameters
    ----------
    vocab_size
        Token ids: genes, depth tokens, padding and whatever else the tokenizer has (released: 19,264 + 2 + 1).
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, hidden_act
        Width, layers, heads, feed-forward width and activation of the encoder.
    encoder_type, encoder_head_dim
        ``"transformer"`` or ``"performer"``; head size of a performer, None: width / heads.
    decoder_type, decoder_size, num_decoder_layers, num_decoder_heads, decoder_head_dim, decoder_intermediate_size
        The same of the decoder; a feed-forward width of None is four times the width.
    hidden_dropout_prob, attention_probs_dropout_prob, decoder_dropout_prob
        Dropout of the encoder, of its attention probabilities, of the decoder.
    norm_first
        Normalize before instead of after each half of a transformer layer.
    bin_num, bin_alpha
        Rows of the table that a value is mixed from; weight of the residual in the mixing network.
    redraw_interval
        Forward passes in training mode after which the random features of a performer are drawn anew; None: never.
    layer_norm_eps
        Epsilon of layer normalization.
    initialization, initializer_range
        ``"torch"``: the defaults of PyTorch's layers, as in the official code; ``"normal"``: normal with standard
        deviation ``initializer_range``.
    pad_token_id, cls_token_id, eos_token_id, mask_token_id
        Token ids that are no gene; None where the vocabulary has none.
    gene_token_start
        First id that is a gene.
    depth_token_ids
        Ids of the tokens T and S; None if the tokenizer has none.
    decode
        Positions of the decoder in training: ``"all"`` genes (official), or ``"masked"``, only the encoder's genes and
        those to be predicted. ``"masked"`` is cheaper and another model: a prediction does not see the other genes
        without a count.
    match_official
        Reproduce the official code: values equal to ``pad_value`` are padding and those equal to ``mask_value`` masked,
        performers attend to padding and share one key maximum in a batch, T and S are the last two tokens whatever they
        are, a batch without prediction has loss NaN, maximum pooling of the classifier covers padding.
    pad_value, mask_value
        The two values, read only under ``match_official``.
    classifier_pooling
        What a cell classifier sees: ``"max"`` over tokens (official), ``"mean"`` over genes, or the ``"first"`` token.
    classifier_size
        Width of the hidden layer of the classifier.

    Raises
    ------
    ValueError
        If two values contradict each other or a value is not one this network knows.
    """

    model_type = "scmf_masked_autoencoder"

    vocab_size: int = 19267
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "relu"
    encoder_type: str = "transformer"
    encoder_head_dim: int | None = None
    decoder_type: str = "performer"
    decoder_size: int = 512
    num_decoder_layers: int = 6
    num_decoder_heads: int = 8
    decoder_head_dim: int | None = None
    decoder_intermediate_size: int | None = None
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    decoder_dropout_prob: float | int = 0.0
    norm_first: bool = False
    bin_num: int = 100
    bin_alpha: float | int = 1.0
    redraw_interval: int | None = 1000
    layer_norm_eps: float = 1e-5
    initialization: str = "torch"
    initializer_range: float = 0.02
    pad_token_id: int | None = 19266
    cls_token_id: int | None = None
    eos_token_id: int | None = None
    mask_token_id: int | None = None
    gene_token_start: int = 0
    depth_token_ids: list[int] | tuple[int, ...] | None = (19264, 19265)
    decode: str = "all"
    match_official: bool = False
    pad_value: float | int = 103.0
    mask_value: float | int = 102.0
    classifier_pooling: str = "max"
    classifier_size: int = 256

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the values, then let transformers place the rest."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        decoder = ("decoder_size", "num_decoder_layers", "num_decoder_heads", "bin_num", "classifier_size")
        for name in (*sizes, *decoder):
            self._check_count(name)
        for name in ("encoder_head_dim", "decoder_head_dim", "decoder_intermediate_size", "redraw_interval"):
            if getattr(self, name) is not None:
                self._check_count(name)
        for name, known in (
            ("encoder_type", KINDS),
            ("decoder_type", KINDS),
            ("initialization", ("torch", "normal")),
            ("decode", ("all", "masked")),
            ("classifier_pooling", ("first", "mean", "max")),
        ):
            if getattr(self, name) not in known:
                raise _refused(name, getattr(self, name), " or ".join(map(repr, known)))
        if self.hidden_act not in ACT2FN:
            raise _refused("hidden_act", self.hidden_act, "an activation of transformers, such as 'relu'")
        for side, heads, width in (
            ("encoder", "num_attention_heads", self.hidden_size),
            ("decoder", "num_decoder_heads", self.decoder_size),
        ):
            free = getattr(self, f"{side}_type") == "performer" and getattr(self, f"{side}_head_dim") is not None
            if not free and width % getattr(self, heads):
                raise _refused(heads, getattr(self, heads), f"a divisor of {width}")
        for name in ("pad_token_id", "cls_token_id", "eos_token_id", "mask_token_id"):
            self._check_id(name, getattr(self, name))
        if self.depth_token_ids is not None:
            self.depth_token_ids = list(self.depth_token_ids)
            if len(self.depth_token_ids) != 2:
                raise _refused("depth_token_ids", self.depth_token_ids, "two ids, those of T and S, or null")
            for token in self.depth_token_ids:
                self._check_id("depth_token_ids", token)
        if not isinstance(self.gene_token_start, int) or not 0 <= self.gene_token_start < self.vocab_size:
            raise _refused("gene_token_start", self.gene_token_start, f"an id below vocab_size={self.vocab_size}")
        super().__post_init__(**kwargs)

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or value < 1:
            raise _refused(name, value, "a whole number of at least 1")

    def _check_id(self, name: str, value: object) -> None:
        if value is not None and not (isinstance(value, int) and 0 <= value < self.vocab_size):
            raise _refused(name, value, f"a token id below vocab_size={self.vocab_size}, or null")

    @classmethod
    def from_settings(cls, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> MaskedAutoencoderConfig:
        """Build a configuration from a recipe's ``model`` section and what is known of tokenizer and data.

        Parameters
        ----------
        facts
            ``vocab_size`` and, where the tokenizer has them, ``pad_token_id``, ``cls_token_id``, ``eos_token_id``,
            ``mask_token_id``, ``gene_token_start``, ``depth_token_ids`` (T, S) and ``match_official``. Other facts
            are not
            needed: there is no longest input, and padding is known from ``attention_mask``.
        settings
            The keys of the section and the options of this architecture, defaults included.
        """
        match_official = settings.get("match_official")
        return cls(
            vocab_size=facts["vocab_size"],
            hidden_size=settings["hidden_dim"],
            num_hidden_layers=settings["num_layers"],
            num_attention_heads=settings["num_heads"],
            intermediate_size=settings["ffn_dim"],
            hidden_act=settings["activation"],
            hidden_dropout_prob=settings["dropout"],
            attention_probs_dropout_prob=settings["attention_dropout"],
            layer_norm_eps=settings["layer_norm_eps"],
            initializer_range=settings["initializer_range"],
            encoder_type=settings["encoder"],
            decoder_type=settings["decoder"],
            decoder_size=settings["decoder_dim"],
            num_decoder_layers=settings["decoder_layers"],
            num_decoder_heads=settings["decoder_heads"],
            decoder_intermediate_size=settings["decoder_ffn_dim"],
            decoder_dropout_prob=settings["decoder_dropout"],
            bin_num=settings["value_bins"],
            bin_alpha=settings["value_alpha"],
            redraw_interval=settings["redraw_interval"],
            initialization=settings["initialization"],
            decode=settings["decode"],
            pad_token_id=facts.get("pad_token_id"),
            cls_token_id=facts.get("cls_token_id"),
            eos_token_id=facts.get("eos_token_id"),
            mask_token_id=facts.get("mask_token_id"),
            gene_token_start=facts.get("gene_token_start") or 0,
            depth_token_ids=facts.get("depth_token_ids"),
            match_official=bool(facts.get("match_official", False)) if match_official is None else match_official,
            attn_implementation=settings["attention"],
        )

    @classmethod
    def from_official(cls, settings: Mapping[str, Any], **changes: Any) -> MaskedAutoencoderConfig:
        """Read the ``config`` of an official checkpoint.

        Parameters
        ----------
        settings
            The dictionary: ``seq_len``, ``encoder`` and ``decoder`` with ``hidden_dim``, ``depth``, ``heads``,
            ``dim_head``, ``module_type``, ``norm_first``, and ``bin_num``, ``bin_alpha``, ``pad_token_id``,
            ``mask_token_id`` (which are values, not ids). What concerns data and training is not read.
        **changes
            Fields to set otherwise, such as ``match_official``.

        Raises
        ------
        ValueError
            If something is missing, or the network has a part that this one lacks.
        """
        for name, plain in (("model", "mae_autobin"), ("mask_gene_name", False), ("pos_embed", False)):
            if settings.get(name, plain) != plain:
                raise _refused(name, settings[name], f"{plain!r}, as in every released checkpoint")
        try:
            encoder, decoder, length = settings["encoder"], settings["decoder"], settings["seq_len"]
            kinds = encoder["module_type"], decoder["module_type"]
            if encoder.get("norm_first", False) != decoder.get("norm_first", False):
                raise _refused("norm_first", decoder["norm_first"], "the same in encoder and decoder")
            fields = {
                "vocab_size": length + 1,
                "pad_token_id": length,
                "depth_token_ids": [length - 2, length - 1],
                "hidden_size": encoder["hidden_dim"],
                "num_hidden_layers": encoder["depth"],
                "num_attention_heads": encoder["heads"],
                "intermediate_size": 4 * encoder["hidden_dim"],
                "encoder_type": kinds[0],
                "encoder_head_dim": encoder["dim_head"] if kinds[0] == "performer" else None,
                "decoder_size": decoder["hidden_dim"],
                "num_decoder_layers": decoder["depth"],
                "num_decoder_heads": decoder["heads"],
                "decoder_type": kinds[1],
                "decoder_head_dim": decoder["dim_head"] if kinds[1] == "performer" else None,
                "norm_first": bool(encoder.get("norm_first", False)),
                "bin_num": settings["bin_num"],
                "bin_alpha": settings["bin_alpha"],
                "pad_value": settings["pad_token_id"],
                "mask_value": settings["mask_token_id"],
            }
        except KeyError as error:
            raise _refused(str(error.args[0]), None, "a value, as every released checkpoint has") from error
        return cls(**(fields | changes))


def _refused(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(
        f"found: {name}={value!r}\nwanted: {wanted}\nwhere: MaskedAutoencoderConfig\n"
        f"do: change {name} in config.json or in the model section of the recipe"
    )


MaskedAutoencoderConfig.register_for_auto_class()
