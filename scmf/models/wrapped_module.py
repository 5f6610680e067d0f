"""A network that somebody wrote as a plain ``torch.nn.Module``, as a model that scmf and transformers take.

The module has ``forward(input_ids, attention_mask, ...) -> logits (B, L, V)``, ``encode(input_ids, attention_mask, ...)
-> vectors of cells (B, D)`` and, where it can, ``generate``. Lives here: the loss, saving its file along. Lives
elsewhere: what its constructor gets (``configuration_wrapped_module.py``). Both files travel with the weights.

Legend: B cells, L tokens, D width of the embedding, V vocabulary.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from .configuration_wrapped_module import WrappedModuleConfig

MODULE: Any = None  # in a checkpoint: the class, imported from the file beside this one
_LINE = "MODULE: Any = None"


class WrappedModule(PreTrainedModel):
    """A module with what `scmf.models.protocol.Model` asks for.

    Parameters
    ----------
    config
        Names the class and what its constructor gets.
    """

    config_class = WrappedModuleConfig
    base_model_prefix = "wrapped"
    main_input_name = "input_ids"

    required_inputs = ("input_ids", "attention_mask")
    objectives = ("masked_gene_prediction",)
    frozen_tensors: tuple[str, ...] = ()
    embedding_defaults = (0, "cell")
    gives_attention = False
    gives_gene_vectors = False
    allows_knockout = False

    def __init__(self, config: WrappedModuleConfig) -> None:
        super().__init__(config)
        self.wrapped = _class_of(config.module)(**(config.arguments or {}))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as the constructor drew them."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> MaskedLMOutput:
        """Logits (B, L, V); with ``labels`` (B, L), -100 where nothing is predicted, the mean cross entropy too.

        A module whose ``forward`` takes ``labels`` makes its loss itself: it returns an object with ``loss``.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **inputs}
        found = self.wrapped(**_taken(self.wrapped.forward, given))
        logits_BLV = found if isinstance(found, Tensor) else found.logits
        loss = None if isinstance(found, Tensor) else getattr(found, "loss", None)
        if labels is not None and loss is None:
            loss = cross_entropy(logits_BLV.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits_BLV)

    @torch.no_grad()
    def embed(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, layer: int = 0, pooling: str = "cell",
        **inputs: Any,
    ) -> Tensor:  # fmt: skip
        """Vectors of cells (B, D): what ``encode`` of the module gives; layers 0 and -1, the usual ones, are that."""
        if layer not in (0, -1) or pooling != "cell":
            raise ValueError(
                f"found: layer {layer}, pooling {pooling!r}\nwanted: layer 0, pooling 'cell'\n"
                "where: eval.embedding_layer, eval.pooling\ndo: leave them out: encode() of the module makes the vector"
            )
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        x_BD: Tensor = self.wrapped.encode(**_taken(self.wrapped.encode, given))
        return x_BD

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """What ``generate`` of the module gives."""
        return self.wrapped.generate(*args, **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save weights, configuration and code, with the file of the module beside them."""
        self.config.auto_map = dict(_AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)
        wrapper, kind = Path(save_directory) / f"{Path(__file__).stem}.py", type(self.wrapped)
        try:
            source = Path(inspect.getfile(kind))
        except (OSError, TypeError):  # of an interactive session: the folder then needs the class where it is read
            return
        line = f"from .{source.stem} import {kind.__qualname__} as MODULE"
        wrapper.write_text(wrapper.read_text(encoding="utf-8").replace(_LINE, line, 1), encoding="utf-8")
        if source != Path(save_directory) / source.name:
            shutil.copyfile(source, Path(save_directory) / source.name)


def _class_of(name: str) -> Any:
    """The class of the module: from the file beside this one, else from where it is installed."""
    if MODULE is not None:
        return MODULE
    place, _, attribute = name.partition(":")
    return getattr(importlib.import_module(place), attribute)


def _taken(method: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What a method takes of the tensors of a batch."""
    parameters = inspect.signature(method).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return {name: value for name, value in given.items() if value is not None or name in parameters}
    return {name: value for name, value in given.items() if name in parameters}


_AUTO_CLASSES = {AutoModel: WrappedModule, AutoModelForPreTraining: WrappedModule}
_AUTO_MAP = {"AutoConfig": f"configuration_wrapped_module.{WrappedModuleConfig.__name__}"} | {
    auto.__name__: f"wrapped_module.{model.__name__}" for auto, model in _AUTO_CLASSES.items()
}
for _auto, _model in _AUTO_CLASSES.items():
    _model.register_for_auto_class(_auto.__name__)

# The copy of this file in a checkpoint leaves the tables of the process alone; the installed one is known there.
if __name__.startswith("scmf."):
    AutoConfig.register(WrappedModuleConfig.model_type, WrappedModuleConfig)
    for _auto, _model in _AUTO_CLASSES.items():
        _auto.register(WrappedModuleConfig, _model)
