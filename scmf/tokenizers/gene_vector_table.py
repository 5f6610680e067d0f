"""Tables of gene vectors for the `gene_embedding` tokenizer: checked, matched with a vocabulary, made of cells, saved.

Lives here: what a table must be, which gene has which vector, the vectors of special tokens, vectors learnt from
counts. Lives elsewhere: the tokenizer that carries the table (gene_embedding), reading the tables of others
(scmf.data.genes.vectors, which does not travel with a tokenizer).

Legend: B cells, G columns, K genes of the vocabulary, V tokens, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .gene_columns import match_genes, to_tokens
from .rank_value_genes import list_of, resolve
from .rank_value_tables import problem

MISSING = ("drop", "mean", "error")
"""What becomes of genes without a vector: no token, the mean of the vectors that were found, an error."""

MOST_CELLS = 100_000
"""Vectors are learnt from at most so many cells, spread evenly over those given."""

_OVERSAMPLED, _ROUNDS = 16, 6
"""Directions beyond those asked for, and rounds, of the randomized decomposition."""


class VectorRows(NamedTuple):
    """Vectors of the genes of a vocabulary.

    Parameters
    ----------
    genes
        Genes that have a vector, in the order of the vocabulary.
    vectors_KD
        float32, one row each.
    without
        Genes that have none of their own: no longer in ``genes``, or there with the mean vector.
    """

    genes: list[str]
    vectors_KD: np.ndarray
    without: tuple[str, ...]


def as_table(vectors: Any) -> tuple[list[str], np.ndarray]:
    """Gene names and a float32 matrix of a mapping gene -> vector, or of a pair (genes, matrix).

    Raises
    ------
    ValueError
        Neither; a gene twice; vectors of different lengths; NaN or infinite numbers; no genes.
    """
    pair = isinstance(vectors, Sequence) and not isinstance(vectors, str) and len(vectors) == 2
    if not pair and not isinstance(vectors, Mapping):
        raise _bad(f"a {type(vectors).__name__}", "a mapping gene -> vector, or genes and a matrix (genes, width)")
    names, rows = (list(vectors), list(vectors.values())) if isinstance(vectors, Mapping) else vectors
    genes = [str(gene) for gene in list_of(names)]
    try:
        matrix = np.asarray(rows, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise _bad("vectors of different lengths, or no numbers", "one row of numbers a gene") from error
    if not genes or matrix.ndim != 2 or matrix.shape[0] != len(genes) or not matrix.shape[1]:
        raise _bad(f"{len(genes):,} genes and vectors of the shape {matrix.shape}", "one row of numbers a gene")
    if len(set(genes)) < len(genes):
        raise _bad(f"{len(genes) - len(set(genes)):,} genes that stand twice", "each gene once")
    if bad := np.flatnonzero(~np.isfinite(matrix).all(axis=1)).tolist():
        raise _bad(f"{len(bad):,} vectors with NaN or infinite numbers (first: {genes[bad[0]]!r})", "finite numbers")
    return genes, matrix


def match_vectors(
    genes: Sequence[str], vectors: Any, aliases: Mapping[str, str], *, missing: str = "drop"
) -> VectorRows:
    """The vector of each gene of a vocabulary.

    A name of the table is looked up as it is; then as an Ensembl id without its version, and by way of the aliases. A
    gene that several names of the table lead to, none of them its own, has no vector.

    Parameters
    ----------
    genes
        Genes of the vocabulary.
    vectors
        As `as_table` takes them.
    aliases
        Other name (Ensembl id, symbol) -> gene of the vocabulary.
    missing
        One of `MISSING`.

    Raises
    ------
    ValueError
        A wrong table; no gene has a vector; a gene has none and that is an error.
    """
    if missing not in MISSING:
        raise problem(
            f"missing_vectors={missing!r}", wanted=", ".join(MISSING), where="missing_vectors", fix="choose one"
        )
    names, matrix = as_table(vectors)
    known = {gene: i for i, gene in enumerate(genes)}
    row_K = np.full(len(known), -1, np.int64)
    others: dict[int, list[int]] = {}
    for row, name in enumerate(names):
        if name in known:
            row_K[known[name]] = row
        elif (gene := _other_name(name, known, aliases)) is not None:
            others.setdefault(known[gene], []).append(row)
    for at, rows in others.items():
        if row_K[at] < 0 and len(rows) == 1:
            row_K[at] = rows[0]
    found = row_K >= 0
    without = tuple(gene for gene, is_there in zip(known, found.tolist(), strict=True) if not is_there)
    if not found.any():
        raise problem(
            f"none of {len(known):,} genes has a vector (first: {', '.join(map(repr, list(known)[:3]))})",
            wanted=f"a table of such names; it has {names[0]!r}",
            where="vectors",
            fix="give a table that names genes as the cells do, or aliases from one to the other",
        )
    if missing == "error" and without:
        raise problem(
            f"{len(without):,} of {len(known):,} genes without a vector (first: {', '.join(without[:3])})",
            wanted="a vector for every gene",
            where="vectors, missing_vectors='error'",
            fix="missing_vectors='drop' leaves these genes out, 'mean' gives them the mean vector",
        )
    if missing == "mean":
        vectors_KD = np.empty((len(known), matrix.shape[1]), np.float32)
        vectors_KD[found] = matrix[row_K[found]]
        vectors_KD[~found] = vectors_KD[found].mean(axis=0, dtype=np.float64)
        return VectorRows(list(known), vectors_KD, without)
    kept = [gene for gene, is_there in zip(known, found.tolist(), strict=True) if is_there]
    return VectorRows(kept, matrix[row_K[found]], without)


def _other_name(name: str, known: Mapping[str, int], aliases: Mapping[str, str]) -> str | None:
    """The gene that another name stands for; symbols keep their case, which tells species apart."""
    if name.strip()[:3].upper() == "ENS":
        return resolve(name, known, aliases)
    gene = aliases.get(name)
    return gene if gene in known else None


def with_special_rows(token_ids: Mapping[str, int], genes: Sequence[str], vectors_KD: np.ndarray) -> np.ndarray:
    """Vectors of all tokens, float32 (V, D), row = id.

    Tokens that are no genes get random rows as TranscriptFormer gives them: ``numpy.random.RandomState(42).rand``, one
    row each in the order of their ids. With its seven tokens they are its rows.

    Raises
    ------
    ValueError
        Ids are not 0 to V - 1.
    """
    if sorted(token_ids.values()) != list(range(len(token_ids))):
        raise problem(
            f"{len(token_ids):,} tokens, highest id {max(token_ids.values())}",
            wanted="ids from 0 without a gap: the table has one row a token",
            where="token_ids",
            fix="number the tokens anew",
        )
    special = sorted(token_ids.keys() - set(genes), key=token_ids.__getitem__)
    vectors_VD = np.empty((len(token_ids), vectors_KD.shape[1]), np.float32)
    vectors_VD[[token_ids[token] for token in special]] = np.random.RandomState(42).rand(
        len(special), vectors_KD.shape[1]
    )
    vectors_VD[[token_ids[gene] for gene in genes]] = vectors_KD
    return vectors_VD


# --- vectors from cells ---------------------------------------------------------------------------


def fit_vectors(
    counts: sp.csr_matrix,
    columns: Sequence[str],
    genes: Sequence[str],
    *,
    dimensions: int,
    seed: int,
    totals: np.ndarray | None = None,
    raw: bool = True,
) -> np.ndarray:
    """Vectors of genes from cells alone, float32 (K, D): how a gene goes along with the main axes of these cells.

    This is ours, not of any published model, and needs no download. Counts are brought to ``ln(1 + count / total x
    10,000)``, each gene to mean 0 and standard deviation 1 over the cells. The vector of a gene are its correlations
    with the first D principal components, then all are scaled by one number so that the mean square of an entry is 1.
    A gene that does not vary has the vector 0. Each component has the sign that makes its largest entry positive.

    The decomposition is randomized (Halko, Martinsson, Tropp, SIAM Review 53, 217, 2011) from ``seed``: components that
    stand out are exact to rounding, whatever the seed; among those that hardly differ in size it finds a mixture. The
    order of cells and columns does not matter but for rounding.

    Parameters
    ----------
    counts, columns
        Raw counts (B, G) and the names of the columns; columns of one gene are summed.
    genes
        Genes of the vocabulary.
    dimensions
        D.
    seed
        Of the random start.
    totals
        Total counts of each cell (B,); default: sums over these genes.
    raw
        False where ``counts`` are values already: they are taken as they are.

    Raises
    ------
    ValueError
        More dimensions than these cells and genes have.
    """
    place = {gene: i for i, gene in enumerate(genes)}
    if counts.shape[0] > MOST_CELLS:
        chosen = np.linspace(0, counts.shape[0] - 1, MOST_CELLS).astype(np.int64)
        counts, totals = counts[chosen], None if totals is None else np.asarray(totals)[chosen]
    meaning = match_genes([str(name) for name in list_of(columns)], place, {}, match_official=False)
    found = to_tokens(counts, meaning.places)
    shape = (counts.shape[0], len(genes))
    x_BK = sp.csr_matrix((found.counts.astype(np.float64), found.ids, found.indptr), shape=shape)
    most = min(shape[0] - 1, shape[1])
    if not 1 <= dimensions <= most:
        raise problem(
            f"{dimensions} dimensions from {shape[0]:,} cells and {shape[1]:,} genes",
            wanted=f"at most {most}",
            where="dimensions",
            fix="lower dimensions, or give more cells",
        )
    if raw:
        total_B = np.asarray(x_BK.sum(axis=1)).ravel() if totals is None else np.asarray(totals, np.float64)
        factor_B = np.divide(10_000.0, total_B, out=np.zeros_like(total_B), where=total_B > 0)
        x_BK.data = np.log1p(x_BK.data * np.repeat(factor_B, np.diff(x_BK.indptr)))
    mean_K = np.asarray(x_BK.mean(axis=0)).ravel()
    square_K = np.asarray(x_BK.multiply(x_BK).mean(axis=0)).ravel()
    variance_K = square_K - mean_K**2
    varies_K = variance_K > 1e-12 * np.maximum(square_K, 1e-300)
    scale_K = np.where(varies_K, 1 / np.sqrt(np.where(varies_K, variance_K, 1.0)), 0.0)
    loadings_KD = _loadings(x_BK, mean_K, scale_K, dimensions, seed)
    size = np.sqrt(np.mean(loadings_KD**2))
    return (loadings_KD / size if size else loadings_KD).astype(np.float32)


def _loadings(x_BK: sp.csr_matrix, mean_K: np.ndarray, scale_K: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """Right singular vectors of ``(x - mean) * scale`` times singular values, over the root of the cells (K, D)."""
    n_cells, n_genes = x_BK.shape
    x_KB = x_BK.T.tocsr()

    def forward(q: np.ndarray) -> np.ndarray:
        scaled = q * scale_K[:, None]
        return x_BK @ scaled - mean_K @ scaled

    def backward(y: np.ndarray) -> np.ndarray:
        return scale_K[:, None] * (x_KB @ y - np.outer(mean_K, y.sum(axis=0)))

    width = min(dimensions + _OVERSAMPLED, n_cells, n_genes)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_genes, width)))
    for _ in range(_ROUNDS):
        outer, _ = np.linalg.qr(forward(basis))
        basis, _ = np.linalg.qr(backward(outer))
    projected = forward(basis)
    values, turns = np.linalg.eigh(projected.T @ projected)
    first = np.argsort(values, kind="stable")[::-1][:dimensions]
    vectors = basis @ turns[:, first]
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dimensions)])
    return vectors * np.sqrt(np.maximum(values[first], 0) / n_cells)


# --- files ----------------------------------------------------------------------------------------


def write_vectors(path: Path, vectors_VD: np.ndarray) -> None:
    """Write the vectors of all tokens as ``.npz`` with one array, ``vectors``."""
    with path.open("wb") as handle:
        np.savez(handle, vectors=vectors_VD)


def read_vectors(path: str | None, n_tokens: int) -> np.ndarray:
    """Read what `write_vectors` wrote; never a pickle.

    Raises
    ------
    ValueError
        No such file, another file, or another number of tokens.
    """
    if path is None:
        raise problem(
            "no gene vectors",
            wanted="gene_vectors.npz beside vocab.json",
            where="the folder of the tokenizer",
            fix="save it again with save_pretrained, or make one with from_tables or fit",
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            vectors_VD = file["vectors"]
    except (OSError, ValueError, KeyError) as error:
        raise problem(
            f"not readable: {error}", wanted="the array 'vectors'", where=str(path), fix="save the tokenizer again"
        ) from error
    if vectors_VD.dtype != np.float32 or vectors_VD.ndim != 2 or len(vectors_VD) != n_tokens:
        raise problem(
            f"vectors of the shape {vectors_VD.shape}, {vectors_VD.dtype}",
            wanted=f"({n_tokens}, width) float32: one row a token of vocab.json",
            where=str(path),
            fix="save the tokenizer again",
        )
    return vectors_VD


def _bad(found: str, wanted: str) -> ValueError:
    return problem(found, wanted=wanted, where="vectors", fix="repair the table")
