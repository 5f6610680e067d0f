"""What the converters of official files have in common: finding the weights, reading them safely, fitting them in.

Lives here: the class that each family's converter extends, and reading of files that may be pickles (with
``weights_only=True``, so that they run no code). Lives elsewhere: the layout of each family (the files beside this
one), checksums and the folder that is made (pull).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # only to catch it
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scmf.core.errors import ModelError
from scmf.data.genes.vocabulary import GeneTables
from scmf.models.published.cards import PublishedModel

_LFS_POINTER = b"version https://git-lfs"
_DAMAGED = (
    SafetensorError, UnpicklingError, OSError, RuntimeError, ValueError, TypeError, EOFError, KeyError, AttributeError,
    IndexError,
)  # fmt: skip
"""What safetensors and torch raise for a file that is none of theirs."""


class Converter:
    """The official files of one checkpoint.

    Parameters
    ----------
    model
        Which published model it is to be.
    source
        The weight file, or a folder that holds it.
    tables
        Tables of the vocabulary card that the model names; None where it names none.

    Raises
    ------
    ModelError
        There are no weights.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    """Names of keyword arguments that only this family knows."""

    def __init__(self, model: PublishedModel, source: Path, *, tables: GeneTables | None = None) -> None:
        self.model, self.tables = model, tables
        self.weights = self.find(source)

    def find(self, source: Path) -> Path:
        """The weight file at ``source``, a file or a folder with one of the published names."""
        names = [file.name for file in self.model.facts.files]
        candidates = [source / name for name in names] if source.is_dir() else [source]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise ModelError(
                f"no weights ({' or '.join(names)})" if source.exists() else "no such file or folder: no weights",
                wanted=" or ".join(names), where=source, fix="give the folder or file of the checkpoint",
            )  # fmt: skip
        refuse_pointer(path)
        return path

    def network(self) -> Any:
        """The network with the weights; `ModelError` when they do not fit the published model."""
        raise TypeError(f"{type(self).__name__} makes no network")

    def tokenizer(self) -> Any:
        """The tokenizer of the checkpoint; `DataError` when its tables cannot be had or do not fit."""
        raise TypeError(f"{type(self).__name__} makes no tokenizer")

    def facts(self) -> dict[str, Any]:
        """What is recorded of the source besides its checksum, by names that begin with ``source_``."""
        return {}


def refuse_pointer(path: Path) -> None:
    """Raise `ModelError` for the few lines that Git leaves in place of a large file."""
    with path.open("rb") as handle:
        if handle.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(
                "a Git-LFS pointer of a few lines", wanted="the weights it points to", where=path,
                fix="run `git lfs pull` in that clone, or download the file itself",
            )  # fmt: skip


def read_tensors(path: Path) -> Any:
    """What a weight file holds: safetensors, or a pickle that is read without running code.

    Raises
    ------
    ModelError
        It cannot be read, or is no plain weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except _DAMAGED as error:
        raise ModelError(
            f"unreadable weights: {error}", wanted="a whole file", where=path, fix="download the file again"
        ) from error


def state_of(value: Any, *, where: Path) -> dict[str, Tensor]:
    """A table of tensors by name; `ModelError` for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise ModelError("something else than tensors", wanted="a state dict", where=where, fix="check the file")
    return {str(name): tensor for name, tensor in value.items()}


def fit(network: Any, state: Mapping[str, Tensor], *, where: object, fix: str, tied: Collection[str] = ()) -> Any:
    """Put tensors into a network on the device ``meta``, all of them and nothing else.

    Parameters
    ----------
    network
        A network without memory.
    state
        Its tensors.
    where, fix
        For the error.
    tied
        Names of tensors that the network makes of others.

    Raises
    ------
    ModelError
        A tensor is missing, unknown or of another shape; the first is named.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items() if name not in tied}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != wanted:
        name = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))[0]
        raise ModelError(
            f"{name} with shape {found[name]}" if name in found else f"no tensor {name}",
            wanted=f"shape {wanted[name]}" if name in wanted else "no tensor of that name",
            where=where,
            fix=fix,
        )
    network.load_state_dict(state, strict=not tied, assign=True)
    if tied:
        network.tie_weights()
    return network.float().eval()
