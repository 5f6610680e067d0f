"""Names of the cells of a corpus, made unique over its stores, without holding them all.

Lives here: the ids of a corpus store by store, with the name of the store before them where ids clash, and their
64-bit hashes. Lives elsewhere: what is written about each id (splits), ids of files put together in memory
(loading.join) and of a conversion (convert.obs), which take their marks from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scmf.core.errors import DataError
from scmf.data.stores.corpus import Corpus

__all__ = ["hash_ids", "marks_of", "store_marks", "unique_ids"]


def hash_ids(ids: np.ndarray) -> np.ndarray:
    """64-bit hash of each id, uint64 (n,); equal on every machine (`pandas.util.hash_array`).

    Parameters
    ----------
    ids
        Text, object (n,).
    """
    hashed: np.ndarray = pd.util.hash_array(np.asarray(ids, dtype=object), categorize=False)
    return hashed


def marks_of(uris: Sequence[str]) -> list[str]:
    """What goes before the ids of cells of each file where ids clash, for every command alike.

    The name of the file without its end, and a number behind it where two files have the same name.
    """
    marks = [Path(uri.rstrip("/")).stem for uri in uris]
    return marks if len(set(marks)) == len(marks) else [f"{mark}-{i}" for i, mark in enumerate(marks)]


def store_marks(corpus: Corpus) -> tuple[str, ...] | None:
    """What goes before the ids of each store; None when all ids of the corpus differ as they are.

    For the marks see `marks_of`. 8 bytes a cell while it runs.

    Raises
    ------
    DataError
        An id is duplicated within one store.
    """
    marks = marks_of([str(store.uri) for store in corpus.stores])
    hashes = np.empty(corpus.n_cells, np.uint64)
    for store, start, stop in zip(corpus.stores, corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        part = hashes[start:stop]
        part[:] = hash_ids(store.cell_ids())
        part.sort()
        if (part[1:] == part[:-1]).any():
            _refuse_repeated(store.cell_ids(), store.uri)
    if len(corpus.stores) == 1:
        return None
    hashes.sort()
    return tuple(marks) if bool((hashes[1:] == hashes[:-1]).any()) else None


def _refuse_repeated(ids: np.ndarray, where: str) -> None:
    index = pd.Index(ids)
    if len(twice := index[index.duplicated()]):
        raise DataError(
            f"{len(twice)} duplicated cell ids, the first is {twice[0]!r}",
            wanted="unique obs_names",
            where=where,
            fix="adata.obs_names_make_unique(), or remove the copies: a cell in two parts is a leak",
        )


def unique_ids(corpus: Corpus) -> Iterator[np.ndarray]:
    """Ids of the cells, object, one array a store in their order; unique over the corpus.

    Raises
    ------
    DataError
        An id is duplicated within one store.
    """
    marks = store_marks(corpus)
    for number, store in enumerate(corpus.stores):
        ids = store.cell_ids()
        yield ids if marks is None else np.array([f"{marks[number]}:{name}" for name in ids], dtype=object)
