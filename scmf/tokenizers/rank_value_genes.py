"""Genes of the rank-value tokenizer: from the gene ids of a matrix to tokens, and non-zero medians.

Lives here: which column is which token, which columns are summed, the statistics behind `fit`.
Lives elsewhere: the order of the tokens (rank_value_kernel), what a user calls (rank_value).

Legend: B cells, G columns, S summed genes (several columns each).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .rank_value_tables import problem

_VERSION = re.compile(r"^(ENS[A-Z]*G\d+)\.\d+(_PAR_Y)?$", re.IGNORECASE)
_ID = re.compile(r"^ENS[A-Z]*G\d+")


class GeneColumns(NamedTuple):
    """What the columns of one gene list mean.

    Parameters
    ----------
    code_G
        int32: the token id of a column, -1 for a column without one, ``-2 - s`` for one summed into slot s.
    median_G, reciprocal_G
        float64: the median of the column's gene and ``1 / median``; 1 where there is no token.
    slot_ids, slot_median, slot_reciprocal
        The same for the genes that several columns are summed into (S,).
    """

    code_G: np.ndarray
    median_G: np.ndarray
    reciprocal_G: np.ndarray
    slot_ids: np.ndarray
    slot_median: np.ndarray
    slot_reciprocal: np.ndarray


def list_of(genes: Sequence[str]) -> list[Any]:
    """Gene ids (list, array, pandas index or column) as a list."""
    return genes.tolist() if hasattr(genes, "tolist") else list(genes)


def strip_version(gene: str) -> str:
    """``ENSG00000000003.15`` -> ``ENSG00000000003``; other names are returned as they are."""
    found = _VERSION.match(gene)
    return found.group(1) if found else gene


def gene_name(gene: str) -> str:
    """The form in which genes are counted by `fit`: no version, Ensembl ids in upper case, other names as they are."""
    name = strip_version(gene.strip())
    return name.upper() if _ID.match(name.upper()) else name


def resolve(gene: str, known: Mapping[str, object], aliases: Mapping[str, str]) -> str | None:
    """Name under which ``known`` holds a gene, or None.

    The id as it is is tried first, then upper case, then without its version; each in ``known``
    and then, by way of ``aliases`` (retired ids, symbols), again in ``known``. Of symbols only open reading frames
    are tried in upper case (``C10orf105``): ``Gpi1`` of the mouse is not ``GPI1``, an alias of the human gene PIGQ.
    """
    bare = strip_version(gene.strip())
    upper = bare.upper()
    either = _ID.match(upper) is not None or bare.replace("orf", "ORF") == upper
    for name in dict.fromkeys((gene, gene.upper(), bare, upper) if either else (gene, bare)):
        if name in known:
            return name
        if aliases.get(name) in known:
            return aliases[name]
    return None


def _resolve_all(genes: Sequence[str], known: Mapping[str, object], aliases: Mapping[str, str]) -> list[str | None]:
    return [resolve(gene, known, aliases) for gene in genes]


def _resolve_official(
    genes: Sequence[str], known: Mapping[str, object], aliases: Mapping[str, str]
) -> tuple[list[str | None], bool]:
    """Names as the official tokenizer finds them, and whether it sums columns of the same name."""
    mapping = {gene: gene for gene in known} | {k: v for k, v in aliases.items() if v in known}
    exact = {gene for gene in genes if gene in mapping}
    names = [mapping.get(gene.upper()) for gene in genes]
    return names, len(exact) != len({mapping[gene] for gene in exact})


def match_columns(
    genes: Sequence[str],
    token_ids: Mapping[str, int],
    medians: Mapping[str, float],
    aliases: Mapping[str, str],
    *,
    match_official: bool,
) -> GeneColumns:
    """Find the token of every column and the columns to be summed.

    Parameters
    ----------
    genes
        Gene ids, one a column.
    token_ids, medians
        Token id and non-zero median of every gene of the vocabulary (no special tokens).
    aliases
        Other names of those genes.
    match_official
        Follow the official tokenizer where it errs, see `RankValueTokenizer`.

    Raises
    ------
    ValueError
        If no gene is known.
    """
    if match_official:
        names, summed = _resolve_official(genes, token_ids, aliases)
    else:
        names, summed = _resolve_all(genes, token_ids, aliases), True
    times: dict[str, int] = {}
    for name in names:
        if name is not None:
            times[name] = times.get(name, 0) + 1
    if not times:
        examples = ", ".join(map(repr, genes[:3]))
        raise problem(
            f"none of {len(genes):,} gene ids is in the vocabulary (first: {examples})",
            wanted=f"ids such as {next(iter(token_ids))!r} (the vocabulary has {len(token_ids):,} genes)",
            where="genes",
            fix="give the column of var that holds Ensembl ids, or a tokenizer of that species and naming",
        )
    slots = {name: slot for slot, name in enumerate(name for name in times if summed and times[name] > 1)}
    code_G = np.full(len(genes), -1, np.int32)
    median_G = np.ones(len(genes))
    for column, name in enumerate(names):
        if name is not None:
            code_G[column] = -2 - slots[name] if name in slots else token_ids[name]
            median_G[column] = medians[name]
    slot_ids = np.array([token_ids[name] for name in slots], np.int32)
    slot_median = np.array([medians[name] for name in slots], np.float64)
    return GeneColumns(code_G, median_G, 1 / median_G, slot_ids, slot_median, 1 / slot_median)


def nonzero_medians(
    counts: sp.csr_matrix, genes: Sequence[str], *, min_cells: int, totals: np.ndarray | None = None
) -> dict[str, float]:
    """Median of ``count / total * 10,000`` over the cells that express a gene, for every gene in enough cells.

    Exact (no digest), in float64, and therefore the same for any order of the cells.

    Parameters
    ----------
    counts
        Raw counts (B, G) without negative or missing values.
    genes
        Gene ids, one a column. Columns that differ only in version or case of an Ensembl id are summed first.
    min_cells
        Genes expressed in fewer cells are left out.
    totals
        Total counts of each cell (B,); default: the row sums.

    Returns
    -------
    dict
        Gene -> median, sorted by gene.
    """
    names = [gene_name(gene) for gene in genes]
    order = sorted(set(names))
    position = {name: i for i, name in enumerate(order)}
    to_gene = np.array([position[name] for name in names], np.int64)
    entries = counts.astype(np.float64).tocoo()
    summed = sp.coo_matrix((entries.data, (entries.row, to_gene[entries.col])), shape=(counts.shape[0], len(order)))
    by_gene = summed.tocsc()  # sums what falls on one place
    by_gene.eliminate_zeros()
    if totals is None:  # gene by gene in the order of names: fractions add up alike wherever the columns stand
        total_B = np.bincount(by_gene.indices, weights=by_gene.data, minlength=counts.shape[0])
    else:
        total_B = totals.astype(np.float64)
    by_gene.data /= total_B[by_gene.indices]
    by_gene.data *= 10_000
    n_cells = np.diff(by_gene.indptr)
    return {
        order[g]: float(np.median(by_gene.data[by_gene.indptr[g] : by_gene.indptr[g + 1]]))
        for g in np.flatnonzero(n_cells >= min_cells)
    }
