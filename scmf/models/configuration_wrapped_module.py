"""Configuration of a network that somebody wrote as a plain ``torch.nn.Module``.

Lives here: which class it is and what its constructor gets. Lives elsewhere: what makes a model of it
(``wrapped_module.py``). Both files are copied into every checkpoint, so they import only transformers and the standard
library.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig


class WrappedModuleConfig(PreTrainedConfig):
    """Which module is wrapped, and how it was made.

    Parameters
    ----------
    module
        ``package.module:Class``.
    arguments
        What its constructor gets, by name.
    vocab_size, pad_token_id
        Of the tokenizer.
    hidden_size
        Width, as the recipe names it.
    required_inputs
        Tensors of a batch that ``forward`` and ``encode`` read.
    objectives
        Names of the objectives that it can be trained under.
    """

    model_type = "scmf_wrapped_module"

    module: str = ""
    arguments: dict[str, Any] | None = None
    vocab_size: int = 0
    pad_token_id: int | None = 0
    hidden_size: int = 0
    required_inputs: list[str] | tuple[str, ...] = ("input_ids", "attention_mask")
    objectives: list[str] | tuple[str, ...] = ("masked_gene_prediction",)

    @classmethod
    def around(
        cls, module: type, facts: Mapping[str, Any], settings: Mapping[str, Any], options: Mapping[str, Any]
    ) -> WrappedModuleConfig:
        """The configuration of a new network.

        Parameters
        ----------
        module
            The class.
        facts
            Of the tokenizer, see `scmf.models.build.tokenizer_facts`.
        settings
            Keys of the ``model`` section.
        options
            Its ``options``, which the constructor gets all of.

        Raises
        ------
        ValueError
            The class lacks a method, or its constructor asks for something that nobody has.
        """
        name = f"{module.__module__}:{module.__qualname__}"
        if lacking := [method for method in ("forward", "encode") if not _defines(module, method)]:
            raise _refused(f"{name} has no {' and no '.join(lacking)}", "an nn.Module with forward and encode")
        known = {**facts, **settings, **options}
        asked = {key: one for key, one in inspect.signature(module).parameters.items() if one.kind not in _REST}
        strange = [key for key, one in asked.items() if key not in known and one.default is one.empty]
        if strange:
            raise _refused(
                f"{name} asks for {', '.join(strange)}",
                f"parameters among {', '.join(sorted(known))}, or with a default",
            )
        reads = [key for method in ("forward", "encode") for key in _inputs(module, method)]
        return cls(
            module=name,
            arguments={key: known[key] for key in known if key in asked or key in options},
            vocab_size=facts["vocab_size"], pad_token_id=facts["pad_token_id"], hidden_size=settings["hidden_dim"],
            required_inputs=list(dict.fromkeys(reads)),
            objectives=list(getattr(module, "objectives", ("masked_gene_prediction",))),
        )  # fmt: skip


_REST = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _defines(module: type, method: str) -> bool:
    """Whether the class, and not only ``nn.Module``, has a method."""
    return any(
        method in vars(one) for one in module.__mro__ if not one.__module__.startswith("torch.nn.modules.module")
    )


def _inputs(module: type, method: str) -> list[str]:
    """Tensors that a method cannot do without."""
    parameters = list(inspect.signature(getattr(module, method)).parameters.values())[1:]
    return [one.name for one in parameters if one.default is one.empty and one.kind not in _REST]


def _refused(found: str, wanted: str) -> ValueError:
    return ValueError(f"found: {found}\nwanted: {wanted}\nwhere: model.architecture\ndo: change the class")
