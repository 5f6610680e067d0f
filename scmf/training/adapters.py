"""What of a pretrained network is trained beside its new head: nothing, or adapters of peft in its layers.

Lives here: the head of a classifier, freezing all but it, LoRA, DoRA and IA3 with the layers they go into by family,
saving an adapter with its base named. Lives elsewhere: the settings (core.config.training), training (finetune), how a
classifier is built from a base (finetune).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from scmf.core import manifest
from scmf.core.config.training import FinetuneConfig
from scmf.core.errors import ConfigError, MissingExtraError
from scmf.core.files import write_json
from scmf.core.owned import new_folder
from scmf.models.origin import RECORD

PEFT_METHODS = ("lora", "dora", "ia3")

_SCALED = {
    "scmf_transformer_encoder": (("key", "value"), ("output.dense",)),
    "scmf_autoregressive_transformer": (("linears.1", "linears.2"), ("linear2",)),
    # Query, key and value are one matrix there: values are scaled where they enter the output projection.
    "scmf_generative_transformer": ((), ("out_proj", "linear2")),
    "scmf_masked_autoencoder": (("to_k", "to_v"), ("out_proj", "linear2", "w2")),
}
"""Family -> ends of the names of layers whose output IA3 scales, and of those whose input it scales."""


def head_modules(model: Any) -> dict[str, nn.Module]:
    """Name to module of what a classifier has beyond the pretrained network: the parts of its head, with the pooler."""
    inner = f"{model.base_model_prefix}."
    return {
        name: module
        for name, module in model.named_modules()
        if (not name.startswith(inner) or name.startswith(f"{inner}pooler."))
        and not list(module.children()) and module.state_dict()
    }  # fmt: skip


def freeze_all_but_head(model: Any) -> None:
    """Leave the pretrained network as it is, its statistics included; train the head."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in head_modules(model).values():
        module.requires_grad_(True)
    _hold_statistics(model)


def add_adapters(model: Any, settings: FinetuneConfig) -> Any:
    """Put adapters into the layers of ``model``, in place; its first ``freeze_layers`` layers get none.

    Returns
    -------
    peft.PeftModel
        What saves and merges the adapters; ``model`` itself is trained.

    Raises
    ------
    MissingExtraError
        peft is not installed.
    ConfigError
        No layer is left, or IA3 does not know the family.
    """
    try:
        from peft import IA3Config, LoraConfig, get_peft_model
        from peft.utils import ModulesToSaveWrapper
    except ImportError as error:
        raise MissingExtraError("peft", "finetune", needed_for=f"eval.finetune.method: {settings.method}") from error
    layers = list(_linear_layers(model))
    head = list(head_modules(model))
    if settings.method == "ia3":
        outputs, inputs = _scaled(model)
        scaled = [name for name in layers if name.endswith((*outputs, *inputs))]
        feedforward = [name for name in scaled if name.endswith(tuple(inputs) or ("\0",))]
        _refuse_none(scaled, settings)
        config = IA3Config(target_modules=scaled, feedforward_modules=feedforward, modules_to_save=head)
    else:
        _refuse_none(layers, settings)
        config = LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.adapter_dropout,
            use_dora=settings.method == "dora", target_modules=layers, modules_to_save=head,
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name of before
        adapted = get_peft_model(model, config)
    for name, module in model.named_modules():  # peft compares ends of names: `norm` is that of the network, too
        if isinstance(module, ModulesToSaveWrapper) and name not in head:
            module.requires_grad_(False)
    _hold_statistics(model)
    return adapted


def save_adapter(adapted: Any, folder: Path, *, base: dict[str, Any]) -> None:
    """Write the adapter and the head as `peft.PeftModel.from_pretrained` reads them, whole or not at all.

    Parameters
    ----------
    adapted
        What `add_adapters` returned.
    folder
        The folder to make; one that was written here is replaced.
    base
        ``name`` and ``weights_sha256`` of the model that the adapter belongs to; written beside it.
    """
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = base["name"]
    with new_folder(folder, what="saving an adapter") as part:
        adapted.save_pretrained(part, save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)  # a form of peft that nobody filled in
        write_json(part / RECORD, {"base_model": base["name"], "base_weights_sha256": base["weights_sha256"]})
        manifest.seal(part, {})


def _linear_layers(model: Any) -> Iterator[str]:
    """Names of the linear maps in the transformer layers that are not frozen."""
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            for inner, part in module.named_modules():
                if isinstance(part, nn.Linear) and part.weight.requires_grad:
                    yield f"{name}.{inner}"


def _scaled(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    kind = model.config.model_type
    if kind not in _SCALED:
        raise ConfigError(
            f"method 'ia3' with {kind}", wanted=f"one of {', '.join(_SCALED)}", where="eval.finetune.method",
            fix="use lora, which goes into the linear layers of any network",
        )  # fmt: skip
    return _SCALED[kind]


def _refuse_none(names: list[str], settings: FinetuneConfig) -> None:
    if not names:
        raise ConfigError(
            f"no layer for an adapter, {settings.freeze_layers} being frozen", wanted="at least one layer",
            where="eval.finetune.freeze_layers", fix="freeze fewer layers, or use method: frozen",
        )  # fmt: skip


def _hold_statistics(model: Any) -> None:
    """Keep what a pass in training mode would move in the pretrained network: running means, random features."""
    for module in model.base_model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0
        if hasattr(module, "redraw_interval"):
            module.redraw_interval = None
