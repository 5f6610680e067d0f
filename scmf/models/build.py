"""A network for a configuration: the class of the architecture, told what its tokenizer is like.

Lives here: `build_model` and the facts of a tokenizer. Lives elsewhere: weights and folders (checkpoint).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from scmf.core import registry
from scmf.core.config.run import RunConfig
from scmf.core.errors import ModelError, ResourceError, from_value_error
from scmf.models.checkpoint import family_of, load_weights, read_config
from scmf.models.configuration_wrapped_module import WrappedModuleConfig
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.models.wrapped_module import WrappedModule


def tokenizer_facts(tokenizer: Any, *, n_batches: int = 0) -> dict[str, Any]:
    """What a model is told about the tokens it will see; None where the tokenizer has no such thing.

    Returns
    -------
    dict
        ``vocab_size, max_positions, pad_token_id, cls_token_id, eos_token_id, mask_token_id, pad_value, mask_value,
        n_bins, n_assays, n_batches, gene_vector_dim, gene_token_start, depth_token_ids, match_official``.
    """
    special = set(tokenizer.all_special_ids)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "eos", "mask")}
    if not tokenizer.special_tokens:  # in the vocabulary, but in no cell
        ids |= {"cls_token_id": None, "eos_token_id": None}
    names = ("pad_value", "mask_value", "gene_vector_dim")
    depth_ids = list(getattr(tokenizer, "depth_ids", ()))
    return {
        "vocab_size": len(tokenizer),
        "max_positions": tokenizer.max_length,
        **ids,
        **{name: getattr(tokenizer, name, None) for name in names},
        "n_bins": getattr(tokenizer, "n_bins", None) or None,  # 0: values as they are
        "n_assays": getattr(tokenizer, "n_assays", 0),
        "n_batches": n_batches,
        "gene_token_start": next(i for i in range(len(tokenizer) + 1) if i not in special),
        "depth_token_ids": depth_ids if min(depth_ids, default=-1) >= 0 else None,
        "match_official": tokenizer.match_official,
    }


def build_model(config: RunConfig, tokenizer: Any, *, seed: int, batch_names: Sequence[str] = ()) -> Any:
    """A model for the tokenizer: random weights from ``seed``, or those of ``model.checkpoint``.

    Parameters
    ----------
    config, tokenizer, seed
        The configuration, the tokenizer whose batches the model will read, the seed of its weights.
    batch_names
        Batches that ``batch_ids`` counts; kept in the configuration of the model.

    Raises
    ------
    ModelError
        If the model needs tensors that the tokenizer does not give, cannot be trained under the objective, or the
        checkpoint does not fit.
    """
    family = family_of(config.model.architecture)
    torch.manual_seed(seed)
    if config.model.checkpoint is not None:
        model = load_weights(family, RunFolder.weights_in(find_model(config.model.checkpoint).folder))
        _check_objective(config, getattr(model.config, "objectives", family.objectives))
        if model.config.vocab_size != len(tokenizer):
            raise ModelError(
                f"weights for {model.config.vocab_size} tokens",
                wanted=f"{len(tokenizer)} tokens, as the tokenizer has",
                where=config.model.checkpoint,
                fix="set tokenizer.vocabulary to the one the weights were trained with",
            )
        return model
    _refuse_size(config, len(tokenizer))
    model = family(_shape(config, tokenizer, batch_names))
    if getattr(tokenizer, "gene_vector_dim", None) is not None and hasattr(model, "set_gene_vectors"):
        model.set_gene_vectors(tokenizer.vectors)
    return model


def build_on_meta(config: RunConfig, tokenizer: Any, *, batch_names: Sequence[str] = ()) -> Any:
    """The model that `build_model` builds, without memory for its weights: on torch's meta device."""
    family = family_of(config.model.architecture)
    if config.model.checkpoint is not None:
        shape = read_config(RunFolder.weights_in(find_model(config.model.checkpoint).folder))
    else:
        shape = _shape(config, tokenizer, batch_names)
    with torch.device("meta"):
        return family(shape)


def _shape(config: RunConfig, tokenizer: Any, batch_names: Sequence[str]) -> Any:
    """The configuration of a new model."""
    family = family_of(config.model.architecture)
    settings = config.model.model_dump(exclude={"architecture", "checkpoint", "options"})
    facts, options = tokenizer_facts(tokenizer, n_batches=len(batch_names)), config.model.all_options
    try:
        if family is WrappedModule:
            module = registry.resolve("models", config.model.architecture)
            shape = WrappedModuleConfig.around(module, facts, settings, options)
        else:
            shape = family.config_class.from_settings(facts, settings | options)
    except ValueError as error:
        raise from_value_error(ModelError, error, where="model") from error
    _check_objective(config, getattr(shape, "objectives", family.objectives))
    needed = getattr(shape, "required_inputs", family.required_inputs)
    if lacking := sorted(set(needed) - set(tokenizer.model_input_names)):
        raise ModelError(
            f"tokenizer {config.tokenizer.strategy!r} gives {', '.join(tokenizer.model_input_names)}",
            wanted=f"also {', '.join(lacking)} for model {config.model.architecture!r}",
            where="tokenizer.strategy, model.architecture",
            fix="choose another pair",
        )
    if batch_names:
        shape.batch_names = list(batch_names)
    return shape


def _refuse_size(config: RunConfig, vocab_size: int) -> None:
    """Refuse a network whose weights alone are more than this machine's memory, before it is asked for."""
    sizes = config.model
    layer = 4 * sizes.hidden_dim**2 + 2 * sizes.hidden_dim * sizes.ffn_dim
    n_bytes = 4 * (sizes.num_layers * layer + vocab_size * sizes.hidden_dim)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > memory:
        raise ResourceError(
            f"a network of about {n_bytes / 4:.2g} parameters, {n_bytes / 1e9:,.0f} GB",
            wanted=f"at most the {memory / 1e9:,.0f} GB of memory of this machine",
            where="model",
            fix="lower model.hidden_dim, ffn_dim or num_layers",
        )


def _check_objective(config: RunConfig, known: Sequence[str]) -> None:
    if config.training.pretraining_task not in known:
        raise ModelError(
            f"objective {config.training.pretraining_task!r} with model {config.model.architecture!r}",
            wanted=f"one of {', '.join(known)}",
            where="training.pretraining_task, model.architecture, model.options",
            fix="choose an objective that this model can be trained under",
        )
