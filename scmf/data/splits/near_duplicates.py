"""Cells whose counts are nearly the same: one is a subsample, a rounded or a re-aligned copy of the other.

The similarity of two cells is the weighted Jaccard index of their detected genes, each gene with the weight
``1 / sqrt(share of cells that detect it)``: genes that nearly every cell has say little, those that few have say
much. Cells above `SIMILAR` are near-duplicates. Measured on the pancreas card (3,274 cells, 20 donors): the nearest
cell of another donor has 0.12 in the median and 0.53 at most; 99 of 100 copies with 10 % of their genes exchanged
have 0.78 or more, with 10 % of their counts lost 0.87.

Not all pairs are compared. Genes are dealt into bands; the key of a band is the hash of the few detected genes in it
that come first in a random order in which rare genes come early (a weighted MinHash). Cells that share the key of a
band are compared exactly, from their rows. Found on that card, of copies of all its cells with 1, 5, 10 and 20 % of
the genes exchanged for others (drawn by how many cells detect them): 100, 100, 100 and 87 %; with so many of the
counts lost: 100 % each; and no pair of other cells.
Of larger corpora more genes go into a key, so that cells of one kind do not meet too often: with 1,000,000 cells
10 % exchanged are found in 98 % of the cases, with 20 % in half of them.

Lives here: similarity, keys, pairs. Lives elsewhere: cells that are the same (duplicates), parts (leaks).

Legend: B cells of a block, G genes, K bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
import scipy.sparse as sp

from scmf.data.splits.duplicates import gene_keys, mix
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.store import CountBlock

SIMILAR = 0.65
"""Weighted Jaccard index from which two cells count as near-duplicates, at least; see `threshold`."""

BLIND = 0.5
"""Where cells are usually as similar as that, detected genes do not tell them apart."""

BANDS = 16
"""Keys of a cell."""

_DEPTH = 5
_MEETING = 2e-5
"""Pairs of cells of three random parts that meet in a key of `_DEPTH` genes, by the square of the cells (pancreas)."""
_FEWER = 4.9
"""By which one gene more in the key makes them fewer."""
_MEETINGS = 500_000
"""Pairs of cells that may meet by chance."""
_SAMPLE = 20_000
_BATCH = 1024
_RAREST = 1e-3


def key_depth(n_cells: int) -> int:
    """Genes in a key: as many as keep the pairs that meet by chance below half a million."""
    chance = _MEETING * float(n_cells) ** 2 / _MEETINGS
    return _DEPTH + max(0, math.ceil(math.log(max(chance, 1.0)) / math.log(_FEWER)))


class GeneOrder:
    """Weight, band and place in the random order of every gene of a corpus.

    Parameters
    ----------
    corpus
        Its first pass: how many cells detect a gene is taken from some 20,000 cells spread over it.
    """

    def __init__(self, corpus: Corpus) -> None:
        keys = [gene_keys(store.genes) for store in corpus.stores]
        self.depth = key_depth(corpus.n_cells)
        """Genes in a key; a cell needs about twice ``BANDS * depth`` genes to have most of its keys."""
        self.keys = np.unique(np.concatenate(keys))
        """Keys of all genes, uint64 (G,), sorted."""
        self.columns = [np.searchsorted(self.keys, one).astype(np.int32) for one in keys]
        """For each store: number of each of its columns among `keys`."""
        share = self._shares(corpus)
        with np.errstate(over="ignore"):
            drawn = np.array([mix(key) for key in self.keys + np.uint64(1)], np.uint64)
        self.weights = 1 / np.sqrt(np.maximum(share, _RAREST))
        """Weights of the similarity (G,)."""
        uniform = ((drawn >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
        # for the keys rare genes weigh even more: fewer cells that are merely of one kind meet in a band
        self.place = -np.log(uniform) * np.maximum(share, _RAREST)
        self.band = (drawn % np.uint64(BANDS)).astype(np.int64)

    def _shares(self, corpus: Corpus) -> np.ndarray:
        """Share of cells that detect each gene, from blocks spread over the corpus."""
        width = 256
        every = max(1, corpus.n_cells // _SAMPLE)
        keep = (np.arange(corpus.n_cells) // width) % every == 0
        detected, n = np.zeros(len(self.keys)), 0
        for store, _, counts in corpus.scan(keep=keep, cells_per_block=4096):
            genes = self.columns[store][counts.indices[counts.data != 0]]
            detected += np.bincount(genes, minlength=len(self.keys))
            n += counts.n_cells
        return detected / max(n, 1)

    def band_keys(self, block: CountBlock, store: int) -> np.ndarray:
        """Key of each band of each cell, uint64 (B, K); 0 where fewer than `depth` genes lie in the band."""
        out = np.zeros((block.n_cells, BANDS), np.uint64)
        columns = self.columns[store]
        place, band = self.place[columns], self.band[columns]
        _band_keys(block.indptr, block.indices, block.data, self.keys[columns], place, band, self.depth, out)
        return out

    def matrix(self, corpus: Corpus, cells: np.ndarray) -> sp.csr_matrix:
        """Counts of some cells, rising numbers, over all genes (B, G)."""
        parts = []
        for number, store in enumerate(corpus.stores):
            inside = cells[(cells >= corpus.offsets[number]) & (cells < corpus.offsets[number + 1])]
            if len(inside):
                rows = inside - corpus.offsets[number]
                block = store.read(np.stack([rows, rows + 1], axis=1))
                genes = self.columns[number][block.indices]
                parts.append(sp.csr_matrix((block.data, genes, block.indptr), shape=(len(rows), len(self.keys))))
        return sp.vstack(parts, format="csr")


@numba.njit(nogil=True, cache=True)
def _band_keys(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    keys: np.ndarray,
    place: np.ndarray,
    band: np.ndarray,
    depth: int,
    out: np.ndarray,
) -> None:  # pragma: no cover  (compiled)
    first = np.empty((BANDS, depth), np.float64)
    which = np.empty((BANDS, depth), np.uint64)
    for row in range(len(indptr) - 1):
        first[:] = np.inf
        for at in range(indptr[row], indptr[row + 1]):
            if data[at] == 0:
                continue
            gene = indices[at]
            here, value = band[gene], place[gene]
            if value >= first[here, depth - 1]:
                continue
            slot = depth - 1
            while slot > 0 and first[here, slot - 1] > value:
                first[here, slot] = first[here, slot - 1]
                which[here, slot] = which[here, slot - 1]
                slot -= 1
            first[here, slot] = value
            which[here, slot] = keys[gene]
        for here in range(BANDS):
            if first[here, depth - 1] < np.inf:
                total = np.uint64(here + 1)
                for slot in range(depth):
                    total += mix(which[here, slot])
                out[row, here] = mix(total)


def similarities(
    corpus: Corpus, order: GeneOrder, pairs: np.ndarray | Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted Jaccard index of the detected genes, and cosine of log1p counts, of each pair of cells.

    Parameters
    ----------
    corpus
        Rows are read from its stores, a thousand pairs at once.
    order
        Weights of the genes.
    pairs
        Numbers of cells, integer (n, 2).

    Returns
    -------
    Two arrays float64 (n,), both within 0 and 1.
    """
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    jaccard, cosine = np.empty(len(pairs)), np.empty(len(pairs))
    for start in range(0, len(pairs), _BATCH):
        some = pairs[start : start + _BATCH]
        cells, at = np.unique(some, return_inverse=True)
        counts = order.matrix(corpus, cells)
        counts.sum_duplicates()
        counts.eliminate_zeros()
        a, b = counts[at.reshape(-1, 2)[:, 0]], counts[at.reshape(-1, 2)[:, 1]]
        both = a.astype(bool).multiply(b.astype(bool)) @ order.weights
        either = a.astype(bool) @ order.weights + b.astype(bool) @ order.weights - both
        jaccard[start : start + len(some)] = both / np.maximum(either, 1e-300)
        a, b = a.log1p(), b.log1p()
        norms = np.sqrt(_sums(a.multiply(a)) * _sums(b.multiply(b)))
        cosine[start : start + len(some)] = _sums(a.multiply(b)) / np.maximum(norms, 1e-300)
    return jaccard, cosine


def threshold(corpus: Corpus, order: GeneOrder, *, n_cells: int = 256) -> tuple[float, float]:
    """Similarity from which cells of this corpus are near-duplicates, and the one that its cells usually have.

    Some cells, spread over the corpus, are compared each with each. Usual is what one in ten other cells reaches
    (so that some copies change nothing), for 99 of 100 cells. The threshold is half way from there to 1, and at least
    `SIMILAR`. On a small set of genes that most cells express all cells look alike; above `BLIND` nothing can be
    said.
    """
    cells = np.unique(np.linspace(0, corpus.n_cells - 1, min(n_cells, corpus.n_cells)).astype(np.int64))
    detected = order.matrix(corpus, cells)
    detected.sum_duplicates()
    detected.eliminate_zeros()
    detected = detected.astype(bool).astype(np.float64)
    weighted = detected @ sp.diags(order.weights)
    both = np.asarray((weighted @ detected.T).todense())
    own = np.diag(both)
    similar = both / np.maximum(own[:, None] + own[None, :] - both, 1e-300)
    others = similar[~np.eye(len(cells), dtype=bool)].reshape(len(cells), -1)
    usual = float(np.quantile(np.quantile(others, 0.9, axis=1), 0.99)) if len(cells) > 1 else 0.0
    return max(SIMILAR, (1 + usual) / 2), usual


def _sums(matrix: sp.spmatrix) -> np.ndarray:
    sums: np.ndarray = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    return sums
