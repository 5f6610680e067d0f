"""What scmf asks of a network: everything that building, training, embedding and publishing use.

A family of your own is a `transformers.PreTrainedModel` with ``model_type = "scmf_<name>"`` that satisfies `Model`; it
need not inherit from it. Lives elsewhere: the families (one file each), how a name becomes a class (core.registry).
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """A batch of tokens to a loss, or to a vector a cell."""

    config_class: ClassVar[Any]
    """Its configuration: ``from_settings(facts, settings)`` translates the words of a recipe."""
    required_inputs: ClassVar[tuple[str, ...]]
    """Tensors of a tokenizer's batch that it reads. A configuration may say so of its own shape."""
    objectives: ClassVar[tuple[str, ...]]
    """Names of the objectives it can be trained under. A configuration may say so of its own shape."""
    frozen_tensors: tuple[str, ...]
    """Ends of the names of tensors that are given and never trained."""
    embedding_defaults: ClassVar[tuple[int, str]]
    """Layer and pooling of ``embed`` where a run says nothing."""
    gives_attention: ClassVar[bool]
    """Whether ``output_attentions=True`` gives the attention probabilities of each layer."""
    gives_gene_vectors: ClassVar[bool]
    """Whether ``output_hidden_states=True`` gives a vector of each gene in its cell."""
    allows_knockout: ClassVar[bool]
    """Whether a cell without one of its genes is a cell whose gene vectors may be compared."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A ``ModelOutput`` with ``loss`` where the batch has what is to be predicted."""
        ...

    def embed(self, *args: Any, layer: int = ..., pooling: str = ..., **kwargs: Any) -> Tensor:
        """Vectors of cells (B, D); ``layer`` 0 is the output of the last layer, -1 of the one before."""
        ...
