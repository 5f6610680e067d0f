"""Columns of a count matrix as tokens: which column is which token, and a CSR block in terms of tokens.

Lives here: matching of gene names (`match_genes`, kept for later calls by `GenePanels`), `to_tokens`, the vocabulary
behind `fit` (`expressed_genes`). Any strategy may use them. Lives elsewhere: names of one gene (rank_value_genes), rows
in the order of token ids (gene_places), checks of a block and their errors (rank_value_block), the strategies.

Legend: B cells, G columns, N entries of all cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import scipy.sparse as sp

from .gene_places import BAD_COUNT, OK, Places, collect_row, places_of, room_of
from .rank_value_block import bad_count, check_counts
from .rank_value_genes import gene_name, list_of, resolve
from .rank_value_tables import problem

_PANELS = 64
"""Gene panels whose match is kept."""


class GeneTokens(NamedTuple):
    """What the columns of one gene list mean.

    Parameters
    ----------
    token_G
        int32: token id of each column, -1 for a gene that the vocabulary does not have.
    first_G
        int32: the first column with the same token (the column itself where it is alone), -1 where there is no token.
    places
        The places of the columns: tokens in the order of their ids, or known columns as they stand (``match_official``,
        which sums nothing).
    """

    token_G: np.ndarray
    first_G: np.ndarray
    places: Places


class TokenCounts(NamedTuple):
    """A CSR block in terms of tokens: cell b is ``ids[indptr[b]:indptr[b + 1]]``, counts beside them.

    Parameters
    ----------
    indptr
        int64 (B+1,).
    ids
        int32 (N,): token ids, ascending, or in the order of the columns where these stay apart (``match_official``).
    counts
        float32 or float64 (N,): counts above 0.
    """

    indptr: np.ndarray
    ids: np.ndarray
    counts: np.ndarray


def match_genes(
    genes: Sequence[str], token_ids: Mapping[str, int], aliases: Mapping[str, str], *, match_official: bool
) -> GeneTokens:
    """Find the token of every column.

    A name is looked up as it is, then by way of the aliases. An Ensembl id is also tried in upper case and without its
    version; a symbol is not, for upper case would turn a mouse gene into a human one.

    Parameters
    ----------
    genes
        Gene names, one a column.
    token_ids
        Token id of every gene of the vocabulary (no special tokens).
    aliases
        Other name (Ensembl id, retired id, old symbol) -> name in ``token_ids``.
    match_official
        Names as they are only (aliases are tried), and columns of one gene are not summed.

    Raises
    ------
    ValueError
        If no gene is known.
    """
    token_G, first_G = np.full(len(genes), -1, np.int32), np.full(len(genes), -1, np.int32)
    seen: dict[int, int] = {}
    for column, gene in enumerate(genes):
        name = _known_name(gene, token_ids, aliases, match_official=match_official)
        if name is not None:
            token_G[column] = token_ids[name]
            first_G[column] = seen.setdefault(token_ids[name], column)
    if not seen:
        raise problem(
            f"none of {len(genes):,} gene names is in the vocabulary (first: {', '.join(map(repr, genes[:3]))})",
            wanted=f"names such as {next(iter(token_ids), 'none')!r} (the vocabulary has {len(token_ids):,} genes)",
            where="genes",
            fix="give the column of var that holds such names, or a tokenizer of that species and naming",
        )
    if match_official:
        first_G = np.where(token_G >= 0, np.arange(len(genes), dtype=np.int32), np.int32(-1))
    return GeneTokens(token_G, first_G, places_of(token_G, apart=match_official))


def _known_name(gene: str, known: Mapping[str, int], aliases: Mapping[str, str], *, match_official: bool) -> str | None:
    if gene in known:
        return gene
    if not match_official and gene.strip()[:3].upper() == "ENS":
        return resolve(gene, known, aliases)
    for name in (gene,) if match_official else (gene, gene.strip()):
        if name in known:
            return name
        if aliases.get(name) in known:
            return aliases[name]
    return None


class GenePanels:
    """Matches of the last few gene lists, so that files may take turns; threads may call it side by side.

    Parameters
    ----------
    token_ids, aliases, match_official
        As `match_genes` takes them.
    """

    def __init__(self, token_ids: Mapping[str, int], aliases: Mapping[str, str], *, match_official: bool) -> None:
        self._token_ids, self._aliases, self._match_official = token_ids, aliases, match_official
        self._matched: dict[int, tuple[Any, list[Any], GeneTokens]] = {}

    def __call__(self, genes: Sequence[str]) -> GeneTokens:
        """Meaning of the columns named ``genes``; at no cost for a tuple that was given before."""
        held = self._matched.get(id(genes))  # an entry is found whole or not at all
        if held is not None and isinstance(genes, tuple) and genes is held[0]:
            return held[2]
        names = list_of(genes)
        found = next((of for _, known, of in tuple(self._matched.values()) if names == known), None)
        if found is None:
            texts = [str(name) for name in names]
            found = match_genes(texts, self._token_ids, self._aliases, match_official=self._match_official)
        if len(self._matched) >= _PANELS:
            self._matched = {}
        self._matched[id(genes)] = (genes, names, found)
        return found


def to_tokens(matrix: sp.csr_matrix, places: Places) -> TokenCounts:
    """A CSR block in terms of tokens: unknown genes and zeros dropped, duplicates summed, in the order of places.

    Parameters
    ----------
    matrix
        Counts (B, G) as `as_csr` returns them: rows may be out of order and hold zeros or a column twice.
    places
        Places of the G columns.

    Raises
    ------
    ValueError
        Negative, NaN or infinite counts; a column outside the matrix.
    """
    indptr, data = matrix.indptr.astype(np.int64), as_floats(matrix.data)
    room = int(indptr[-1] - indptr[0])
    ids, counts = np.empty(room, np.int32), np.empty(room, data.dtype)
    offsets = np.empty(indptr.size, np.int64)
    token_G = np.append(places.token_P, np.int32(-1))[places.place_G]
    code, row = _collect_rows(
        indptr, np.ascontiguousarray(matrix.indices), data, places.place_G, token_G, places.token_P, places.direct,
        ids, counts, offsets,
    )  # fmt: skip
    if code != OK:
        raise bad_row(matrix, code, row)
    return TokenCounts(offsets, ids[: offsets[-1]], counts[: offsets[-1]])


def as_floats(data: np.ndarray) -> np.ndarray:
    """Counts as float32 where that holds them, else float64; no copy if they are."""
    narrow = data.dtype.itemsize <= (4 if data.dtype.kind == "f" else 2)
    return np.ascontiguousarray(data, dtype=np.float32 if narrow else np.float64)


def bad_row(matrix: sp.csr_matrix, code: int, row: int) -> ValueError:
    """The error for a code of `collect_row`."""
    if code == BAD_COUNT:
        return bad_count(matrix, row)
    return problem(
        "a column outside the matrix",
        wanted=f"columns 0 to {matrix.shape[1] - 1}",
        where=f"row {row} of counts",
        fix="rebuild the matrix",
    )


def expressed_genes(matrix: sp.csr_matrix, genes: Sequence[str], *, min_cells: int) -> list[str]:
    """Names of the genes expressed in ``min_cells`` cells or more, sorted; for `fit`.

    Columns that differ only in the version or case of an Ensembl id, or in white space around, are one gene.

    Raises
    ------
    ValueError
        Negative, NaN or infinite counts; no such gene.
    """
    check_counts(matrix)
    names = [gene_name(str(gene)) for gene in list_of(genes)]
    order = sorted(set(names))
    position = {name: i for i, name in enumerate(order)}
    to_gene = np.array([position[name] for name in names], np.int64)
    entries = sp.csr_matrix(matrix).tocoo()
    there = entries.data > 0
    cell_and_gene = np.unique(entries.row[there].astype(np.int64) * len(order) + to_gene[entries.col[there]])
    n_cells = np.bincount(cell_and_gene % len(order), minlength=len(order)) if order else np.empty(0, np.int64)
    found = [order[g] for g in np.flatnonzero(n_cells >= max(1, min_cells))]
    if not found:
        raise problem(
            f"no gene is expressed in {min_cells} of {matrix.shape[0]} cells",
            wanted="at least one",
            where="min_cells",
            fix="lower min_cells, or give more cells",
        )
    return found


@numba.njit(cache=True, nogil=True)
def _collect_rows(
    indptr: Any, indices: Any, data: Any, place_G: Any, token_G: Any, token_P: Any, direct: bool,
    ids: Any, counts: Any, offsets: Any
) -> tuple[int, int]:  # fmt: skip
    """`collect_row` for every row, into ragged buffers; code and row of the first fault."""
    widest = 0
    for row in range(indptr.size - 1):
        widest = max(widest, indptr[row + 1] - indptr[row])
    row_ids, row_counts = np.empty(widest + 1, np.int32), np.empty(widest + 1, data.dtype)
    whole, room = np.all(token_G >= 0), room_of(token_P.size, data[:0])
    offsets[0] = cursor = 0
    for row in range(indptr.size - 1):
        span = slice(indptr[row], indptr[row + 1])
        code, n, as_given = collect_row(
            indices[span], data[span], place_G, token_G, token_P, direct, whole, room, row_ids, row_counts
        )
        if code != OK:
            return code, row
        ids[cursor : cursor + n] = row_ids[:n]
        counts[cursor : cursor + n] = data[span] if as_given else row_counts[:n]
        cursor += n
        offsets[row + 1] = cursor
    return OK, -1
