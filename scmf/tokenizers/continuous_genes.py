"""Genes of the continuous tokenizer: the place and the token of every column of a count matrix.

Lives here: which column is read as which gene and in which order, by default and as the two official codes do it.
Lives elsewhere: matching of names (gene_columns), the loops over cells (continuous_kernel), the class (continuous).

Legend: G columns, P places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .gene_columns import match_genes
from .rank_value_genes import list_of
from .rank_value_tables import problem

_PANELS = 64
"""Gene panels whose match is kept."""

OVERFLOW_ID = 103
"""Id that scFoundation's code gives to a column behind its last id (its ``pad_token_id``)."""


class Columns(NamedTuple):
    """What the columns of one gene list mean.

    Parameters
    ----------
    place_G
        int32: the place of each column in the order of the genes, -1 for a column that is dropped. Columns of one
        place are summed.
    token_P
        int32: token id of each place, -1 where no column has it.
    direct
        Places grow with the columns.
    depth_ids
        Ids of the depth tokens T and S, -1 without them.
    unaligned
        The matrix is read as it stands, so that its values keep their type (scFoundation's code).
    n_ids
        Ids that scFoundation's code has for the places; 0 where that does not matter.
    """

    place_G: np.ndarray
    token_P: np.ndarray
    direct: bool
    depth_ids: tuple[int, int]
    unaligned: bool = False
    n_ids: int = 0


class Genes(NamedTuple):
    """The vocabulary as the columns are matched with it.

    Parameters
    ----------
    token_ids
        Gene -> id.
    aliases
        Other name -> gene.
    depth_ids
        Ids of T and S, -1 without them.
    unknown_id
        Id of a gene that is not in the vocabulary, -1 to drop such columns.
    duplicates
        ``sum``, ``first`` or ``error``.
    by_vocabulary
        Places are those of the vocabulary, else those of the columns.
    official
        ``scfoundation`` or ``transcriptformer`` to match as that code does, else None.
    """

    token_ids: Mapping[str, int]
    aliases: Mapping[str, str]
    depth_ids: tuple[int, int]
    unknown_id: int
    duplicates: str
    by_vocabulary: bool
    official: str | None


def match_columns(names: Sequence[str], genes: Genes) -> Columns:
    """Find the place and token of every column.

    Raises
    ------
    ValueError
        No gene is known; a gene in two columns where that is not to be mended.
    """
    if genes.official == "scfoundation":
        return _as_scfoundation(names, genes)
    if genes.official == "transcriptformer":
        names = [name.split(".")[0] for name in names]
        token_G = np.array([genes.token_ids.get(name, -1) for name in names], np.int32)
        at: dict[str, int] = {}
        first_G = np.array([at.setdefault(name, i) for i, name in enumerate(names)], np.int32)
        if not (token_G >= 0).any() and genes.unknown_id < 0:
            match_genes(names, genes.token_ids, {}, match_official=True)  # raises
    else:
        token_G, first_G = _matched(names, genes)
    own = np.arange(len(names), dtype=np.int32)
    twice = np.flatnonzero((first_G >= 0) & (first_G != own))
    if twice.size and (genes.duplicates == "error" or (genes.official and genes.duplicates != "first")):
        raise problem(
            f"{twice.size} gene(s) in two columns or more (first: {names[twice[0]]!r})",
            wanted="each gene once",
            where="genes",
            fix="sum them or take the first: duplicate_genes='sum' or 'first'",
        )
    known_G = token_G >= 0
    token_G = np.where(known_G, token_G, np.int32(genes.unknown_id))
    first_G = np.where(first_G >= 0, first_G, own)
    if genes.duplicates == "first":
        token_G[twice] = -1
    if genes.by_vocabulary:
        place_of, extra = {id_: p for p, id_ in enumerate(sorted(genes.token_ids.values()))}, len(genes.token_ids)
        unknown = sorted({name for name, k in zip(names, known_G.tolist(), strict=True) if not k})
        place_of_unknown = {name: extra + i for i, name in enumerate(unknown)}  # by name: columns may stand anywhere
        place_G = np.array(
            [
                -1 if t < 0 else place_of[t] if k else place_of_unknown[name]
                for name, t, k in zip(names, token_G.tolist(), known_G.tolist(), strict=True)
            ],
            np.int32,
        )
        n_places = extra + len(unknown) if genes.unknown_id >= 0 else extra
    else:
        leads_G = (token_G >= 0) & (first_G == own)
        place_G = np.where(token_G >= 0, (np.cumsum(leads_G, dtype=np.int32) - 1)[first_G], np.int32(-1))
        n_places = int(leads_G.sum())
    token_P = np.full(n_places, -1, np.int32)
    token_P[place_G[place_G >= 0]] = token_G[place_G >= 0]
    return _columns(place_G, token_P, genes.depth_ids)


def _matched(names: Sequence[str], genes: Genes) -> tuple[np.ndarray, np.ndarray]:
    if genes.unknown_id < 0:
        found = match_genes(names, genes.token_ids, genes.aliases, match_official=False)
        return found.token_G, found.first_G
    # One name that is known, so that a matrix of unknown genes only is not refused.
    found = match_genes([*names, next(iter(genes.token_ids))], genes.token_ids, genes.aliases, match_official=False)
    return found.token_G[:-1], found.first_G[:-1]


def _columns(place_G: np.ndarray, token_P: np.ndarray, depth_ids: tuple[int, int]) -> Columns:
    known = place_G[place_G >= 0]
    return Columns(place_G.astype(np.int32), token_P, bool((np.diff(known) > 0).all()), depth_ids)


def _as_scfoundation(names: Sequence[str], genes: Genes) -> Columns:
    """Columns as scFoundation's script reads them.

    Fewer columns than the vocabulary: each gene in order, all its columns side by side, T and S behind. Otherwise the
    columns as they stand. The n-th value gets the n-th id, whatever it is.
    """
    ids = sorted(genes.token_ids.values())
    unaligned = len(names) >= len(ids)
    if unaligned:
        place_G, n_places = np.arange(len(names), dtype=np.int32), len(names)
    else:
        of: dict[str, list[int]] = {}
        for column, name in enumerate(names):
            of.setdefault(name, []).append(column)
        place_G, n_places = np.full(len(names), -1, np.int32), 0
        for name in sorted(genes.token_ids, key=genes.token_ids.__getitem__):
            columns = of.get(name, [])
            place_G[columns] = np.arange(n_places, n_places + len(columns))
            n_places += max(1, len(columns))
    known_ids = [*ids, *(i for i in genes.depth_ids if i >= 0)]
    token_P = np.array([*known_ids, *[OVERFLOW_ID] * max(0, n_places + 2 - len(known_ids))], np.int32)
    depth_ids = (int(token_P[n_places]), int(token_P[n_places + 1])) if genes.depth_ids[0] >= 0 else (-1, -1)
    found = _columns(place_G, token_P[:n_places], depth_ids)
    return found._replace(unaligned=unaligned, n_ids=len(known_ids))


class Panels:
    """Meaning of the columns of the last few gene lists; threads may call it side by side.

    Parameters
    ----------
    genes
        The vocabulary.
    """

    def __init__(self, genes: Genes) -> None:
        self._genes = genes
        self._matched: dict[int, tuple[Any, list[Any], Columns]] = {}

    def __call__(self, genes: Sequence[str]) -> Columns:
        """Meaning of the columns named ``genes``; at no cost for a tuple that was given before."""
        held = self._matched.get(id(genes))  # an entry is found whole or not at all
        if held is not None and isinstance(genes, tuple) and genes is held[0]:
            return held[2]
        names = list_of(genes)
        found = next((of for _, known, of in tuple(self._matched.values()) if names == known), None)
        if found is None:
            found = match_columns([str(name) for name in names], self._genes)
        if len(self._matched) >= _PANELS:
            self._matched = {}
        self._matched[id(genes)] = (genes, names, found)
        return found
