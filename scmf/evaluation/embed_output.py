"""What ``embed`` writes: a copy of a file with vectors, the file itself, or cell ids and vectors alone.

Lives here: which file that is, trying it before the work, what is said of earlier work. Lives elsewhere: adding vectors
to an AnnData file (scmf.data.stores.adata_added), the vectors (embed_job).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.errors import ConfigError
from scmf.core.outputs import try_file, try_folder
from scmf.data.stores.adata_added import Vectors, add_vectors, write_vectors
from scmf.data.stores.adata_files import obsm_keys, stored_bytes
from scmf.data.stores.cell_ids import unique_ids
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.files.remote import is_remote
from scmf.data.stores.open import sources_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """The file that is written.

    Parameters
    ----------
    inputs
        The stores that are read, as far as they are on this machine.
    stored
        The store that gets the vectors, or whose copy does; None: vectors alone are written.
    file
        Where the vectors will be; None: beside the input, under a name with the recipe in it.
    is_in_place
        Whether the input itself was asked to get the vectors.
    record
        What made the vectors, see `scmf.evaluation.made_by`.
    """

    inputs: tuple[Path, ...]
    stored: Path | None
    file: Path | None
    is_in_place: bool = False
    record: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, word: str, output: Path | None, *, in_place: bool, vectors_only: bool) -> Output:
        """What the options ask for; `ConfigError` for those that do not go together."""
        if in_place and (output is not None or vectors_only):
            other = "--output" if output is not None else "--vectors-only"
            raise ConfigError(
                f"--in-place with {other}", wanted="one of them", where="scmf embed", fix=f"leave out {other}"
            )
        inputs = _inputs(word)
        if len(inputs) != 1 and (in_place or output is None):
            raise ConfigError(
                f"the address {word.partition('?')[0]}" if is_remote(word) else f"{len(inputs)} files",
                wanted="one .h5ad file or zarr group of this machine, or the name of a file for the vectors",
                where=f"scmf embed{' --in-place' if in_place else ''}",
                fix="name a file: -o vectors.h5ad (it gets cell ids and vectors, no counts)",
            )  # fmt: skip
        if in_place:
            return cls(inputs, inputs[0].resolve(), inputs[0].resolve(), is_in_place=True)
        return cls(inputs, None if vectors_only or len(inputs) != 1 else inputs[0], output and Path(output))

    def named(self, recipe: str) -> Output:
        """With the usual name."""
        path = self.inputs[0]
        name = f"{path.stem}.{recipe}{'' if self.stored is not None else '.vectors'}{self._ending}"
        return Output(self.inputs, self.stored, path.with_name(name))

    @property
    def _ending(self) -> str:
        return ".zarr" if self.stored is not None and self.stored.is_dir() else ".h5ad"

    def try_it(self) -> None:
        """See that it can be written, before the work."""
        assert self.file is not None
        need = 0 if self.stored is None else stored_bytes(self.stored)
        if not self.is_in_place:
            try_file(self.file, option="--output", endings=(self._ending,), inputs=self.inputs, need=need)
        elif self.file.is_dir():
            for folder in (self.file, self.file.parent):  # the vectors are written beside it first
                try_folder(folder, option="--in-place")
        else:
            try_file(self.file, option="--in-place", need=need)

    def say_replaced(self, key: str) -> None:
        """What of earlier work the output takes the place of, before the work."""
        assert self.file is not None
        if self.file.exists() and not self.is_in_place:
            log.warning(f"{self.file} is there already and is replaced")
        if self.stored is not None and key in obsm_keys(self.stored):
            gets = "a new" if self.is_in_place else "the copy gets a new"
            log.warning(f"{self.stored}: {gets} obsm[{key!r}] in place of the one that is there; --key names another")

    def write(self, corpus: Corpus, key: str, vectors: Vectors) -> None:
        """Write it, whole or not at all."""
        assert self.file is not None
        if self.stored is not None:
            add_vectors(self.stored, self.file, key, vectors, record=self.record)
        else:
            write_vectors(self.file, np.concatenate(list(unique_ids(corpus))), key, vectors, record=self.record)


def _inputs(word: str) -> tuple[Path, ...]:
    """The stores that a word on the command line means; none for an address."""
    if is_remote(word):
        return ()
    sources = sources_of(word, None)
    for source in sources:
        source.close()
    return tuple(Path(source.root) for source in sources)
