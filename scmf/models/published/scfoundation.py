"""Official scFoundation weights: one file ``models.ckpt`` with checkpoints of one shape, ``cell``, ``rde``, ``gene``.

Its authors hand it out under a license of its own: non-commercial research, no redistribution. What is made of it must
stay with whoever made it, and the folder says so. Lives here: reading the file, what is checked before it is believed.
Lives elsewhere: the license and where to get it (``recipes/scfoundation/models.yaml``), the network, the gene list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scmf.core import registry
from scmf.core.errors import DataError, ModelError
from scmf.models.configuration_masked_autoencoder import MaskedAutoencoderConfig
from scmf.models.masked_autoencoder import MaskedAutoencoderModel
from scmf.models.published.converter import Converter, fit, read_tensors

RELEASED = MaskedAutoencoderConfig()
"""Shape of the published checkpoints: 119,252,285 parameters."""

SHAPE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "encoder_type",
    "decoder_size", "num_decoder_layers", "num_decoder_heads", "decoder_type", "norm_first", "bin_num", "bin_alpha",
    "pad_value", "mask_value",
)  # fmt: skip
"""What must be as published."""
_HANDED_OUT = "give the file models.ckpt as its authors hand it out"


def read_checkpoint(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of one checkpoint in the file, names without the prefix ``model.``.

    Raises
    ------
    ModelError
        If the file cannot be read or has another layout.
    """
    file = read_tensors(path)
    if not isinstance(file, Mapping) or not all(isinstance(part, Mapping) for part in file.values()):
        raise ModelError(
            f"a {type(file).__name__} of other things", wanted="a mapping of checkpoints, cell, rde and gene",
            where=path, fix=_HANDED_OUT,
        )  # fmt: skip
    if key not in file or not {"config", "state_dict"} <= set(file[key]):
        raise ModelError(
            f"no checkpoint {key!r} with config and state_dict, only {', '.join(map(repr, file))}",
            wanted=f"the checkpoint {key!r}",
            where=path,
            fix="choose another variant, or another file",
        )
    state = {str(name).removeprefix("model."): tensor for name, tensor in file[key]["state_dict"].items()}
    return dict(file[key]["config"]), state


def build_model(settings: Mapping[str, Any], state: dict[str, Tensor], *, where: Path) -> MaskedAutoencoderModel:
    """Put the tensors into our network, all of them and nothing else.

    Parameters
    ----------
    settings, state
        From `read_checkpoint`.
    where
        The file, for errors.

    Raises
    ------
    ModelError
        If the configuration is not the published one, or a tensor is missing, unknown, of another shape or not finite.
    """
    try:
        config = MaskedAutoencoderConfig.from_official(settings)
    except (ValueError, TypeError) as error:
        raise ModelError(
            str(error).partition("\n")[0], wanted="the published configuration", where=where, fix="give another file"
        ) from error
    for name in SHAPE:
        if getattr(config, name) != getattr(RELEASED, name):
            raise ModelError(
                f"{name}: {getattr(config, name)}", wanted=f"{name}: {getattr(RELEASED, name)}", where=where,
                fix=_HANDED_OUT,
            )  # fmt: skip
    with torch.device("meta"):
        network = MaskedAutoencoderModel(config)
    model: MaskedAutoencoderModel = fit(network, state, where=where, fix=_HANDED_OUT)
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{name} is not finite", wanted="numbers", where=where, fix="download the file again")
    return model


class ScfoundationConverter(Converter):
    """One of the checkpoints in ``models.ckpt``."""

    def network(self) -> MaskedAutoencoderModel:
        """See `Converter`."""
        settings, state = read_checkpoint(self.weights, self.model.facts.shape["key"])
        return build_model(settings, state, where=self.weights)

    def tokenizer(self) -> Any:
        """See `Converter`."""
        assert self.tables is not None
        token_ids = self.tables.token_ids
        if len(token_ids) != RELEASED.vocab_size:
            raise DataError(
                f"{len(token_ids):,} tokens", wanted=f"{RELEASED.vocab_size:,}",
                where=self.model.facts.vocabulary, fix="fetch the list again",
            )  # fmt: skip
        return registry.resolve("tokenizers", "continuous").from_tables(
            token_ids,
            aliases=self.tables.aliases,
            max_length=len(token_ids) - 1,
            depth_tokens=True,
            target_depth=self.model.facts.shape["target_depth"],
            order="vocabulary",
        )

    def facts(self) -> dict[str, Any]:
        """See `Converter`."""
        return {"source_key": self.model.facts.shape["key"]}
