"""Official Geneformer weights: safetensors, or the pickle of 2021 with the names of before.

Lives here: the shape of a variant, old key names, tied tensors. Lives elsewhere: which files there are
(``recipes/geneformer/models.yaml``), the network (``scmf.models.transformer_encoder``), the vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scmf.core import registry
from scmf.core.errors import ModelError
from scmf.models.configuration_transformer_encoder import TransformerEncoderConfig
from scmf.models.published.converter import Converter, fit, read_tensors, state_of
from scmf.models.transformer_encoder import TransformerEncoderForMaskedLM

TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Tensors of old files that are copies of others."""
_CHOOSE = "choose the variant that these weights are: `scmf models ls`"
_DECISIVE = ("hidden_act", "layer_norm_eps", "num_attention_heads", "pad_token_id", "position_embedding_type")


def config_of(shape: Mapping[str, Any]) -> TransformerEncoderConfig:
    """The configuration of a published shape."""
    special = shape["special_tokens"]
    return TransformerEncoderConfig(
        vocab_size=shape["vocab_size"],
        max_position_embeddings=shape["max_positions"],
        hidden_size=shape["hidden_dim"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"],
        intermediate_size=shape["ffn_dim"],
        hidden_dropout_prob=shape["dropout"],
        attention_probs_dropout_prob=shape["dropout"],
        cls_token_id=2 if special else None,
        eos_token_id=3 if special else None,
    )


def our_names(state: Mapping[str, Tensor], *, where: Path) -> dict[str, Tensor]:
    """Tensors under the names of today.

    Drops the buffer ``position_ids`` and the tied decoder of old files (after checking that it is tied), renames
    ``gamma`` and ``beta`` of layer norms.

    Raises
    ------
    ModelError
        The decoder is not tied.
    """
    renamed = {re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", key)): value for key, value in state.items()}
    renamed.pop("bert.embeddings.position_ids", None)
    for decoder, source in TIED.items():
        if decoder in renamed:
            tensor, twin = renamed.pop(decoder), renamed.get(source)
            if twin is None or not torch.equal(tensor, twin):
                raise ModelError(
                    f"{decoder} differs from {source}",
                    wanted="a decoder tied to the token embeddings, as in every published checkpoint",
                    where=where,
                    fix="check where the file comes from",
                )
    return renamed


class GeneformerConverter(Converter):
    """A weight file, with its ``config.json`` beside it where there is one."""

    def network(self) -> TransformerEncoderForMaskedLM:
        """See `Converter`."""
        config = config_of(self.model.facts.shape)
        self._check_config(config)
        with torch.device("meta"):
            network = TransformerEncoderForMaskedLM(config)
        state = our_names(state_of(read_tensors(self.weights), where=self.weights), where=self.weights)
        fitted: TransformerEncoderForMaskedLM = fit(network, state, where=self.weights, fix=_CHOOSE, tied=TIED)
        return fitted

    def _check_config(self, wanted: TransformerEncoderConfig) -> None:
        """Compare the ``config.json`` beside the weights with the published shape where a value changes the output."""
        beside = self.weights.with_name("config.json")
        if not beside.is_file():
            return
        try:
            found = dict(json.loads(beside.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(
                f"not JSON: {error}", wanted="the config.json of the checkpoint", where=beside, fix="download it again"
            ) from error
        for key in _DECISIVE:
            if key in found and found[key] != getattr(wanted, key):
                raise ModelError(
                    f"{key}: {found[key]}", wanted=f"{key}: {getattr(wanted, key)}", where=beside, fix=_CHOOSE
                )

    def tokenizer(self) -> Any:
        """See `Converter`."""
        assert self.tables is not None
        shape = self.model.facts.shape
        return registry.resolve("tokenizers", "rank_value").from_tables(
            self.tables.token_ids,
            self.tables.medians,
            self.tables.aliases,
            max_length=shape["max_positions"],
            special_tokens=shape["special_tokens"],
        )
