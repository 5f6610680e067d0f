"""T-digests of all genes at once: quantiles of streams of values in bounded memory.

Lives here: `GeneDigests`, what a pass fills; it does not know what the values are.
Lives elsewhere: the compiled loops (tdigest_kernel), the pass over a corpus (statistics_pass), the medians as a table
(statistics).

A digest keeps the values of a gene as centroids (mean, weight), small at the ends and at most ``pi / (2 compression)``
of all values wide in the middle (Dunning & Ertl, arXiv 1902.04023, scale function k1; ``compression`` counts as in
crick, which the official Geneformer uses). Values wait in a buffer until it is full, so a gene with no more values
than the buffer holds is known exactly.

Legend: G genes, K values a buffer holds, C most centroids of a digest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scmf.core.errors import DataError
from scmf.data.preprocess.tdigest_kernel import add_values, merge_genes, quantiles


class GeneDigests:
    """One t-digest for each of many genes.

    Parameters
    ----------
    n_genes
        Number of genes G.
    compression
        As in crick: at most ``2 * compression`` centroids a gene, each with ``pi / (2 compression)`` of its values
        at most.
    buffer
        Values that wait K; genes with at most so many are exact. Memory is at most
        ``8 * n_genes * (buffer + 4 * compression)`` bytes, of which genes never seen take nothing.
    """

    def __init__(self, n_genes: int, *, compression: float = 100.0, buffer: int = 1024) -> None:
        if n_genes < 1 or compression < 10 or buffer < 8:
            raise DataError(
                f"n_genes {n_genes}, compression {compression}, buffer {buffer}",
                wanted="at least 1, 10 and 8",
                where="t-digests",
                fix="give larger numbers",
            )
        self.n_genes, self.compression, self.buffer = int(n_genes), float(compression), int(buffer)
        c = 2 * int(np.ceil(compression)) + 8
        self._buffer_GK = np.zeros((n_genes, buffer))
        self._waiting_G = np.zeros(n_genes, np.int32)
        self._mean_GC, self._weight_GC = np.zeros((n_genes, c)), np.zeros((n_genes, c))
        self._size_G = np.zeros(n_genes, np.int32)
        self._ones = np.ones(buffer)
        self._sums = (float(np.cos(np.pi / compression)), float(np.sin(np.pi / compression)))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the kernel `tdigest_kernel.add_rows` writes to, in its order, without the constants."""
        return self._buffer_GK, self._waiting_G, self._mean_GC, self._weight_GC, self._size_G

    @property
    def constants(self) -> tuple[np.ndarray, tuple[float, float]]:
        """Weights of waiting values; cosine and sine of one step of the scale function."""
        return self._ones, self._sums

    @property
    def n_values(self) -> np.ndarray:
        """Values seen of each gene, int64 (G,)."""
        used = np.arange(self._weight_GC.shape[1]) < self._size_G[:, None]  # behind them lie old ones
        return np.rint(self._weight_GC.sum(axis=1, where=used)).astype(np.int64) + self._waiting_G

    def add(self, gene: int, values: np.ndarray) -> None:
        """Add values of one gene.

        Raises
        ------
        DataError
            A value is negative, NaN or infinite.
        """
        values = np.ascontiguousarray(values, np.float64) + 0.0  # -0.0 has the bits of a negative number
        if not (np.isfinite(values) & (values >= 0)).all():
            raise DataError("a negative, NaN or infinite value", wanted="values of 0 or more", where=f"gene {gene}")
        add_values(values, gene, *self.constants, *self.arrays)

    def merge(self, other: GeneDigests, genes: np.ndarray | None = None) -> None:
        """Add all that ``other`` has seen; ``other`` is left as it is.

        Parameters
        ----------
        other
            Digests of the same compression.
        genes
            Gene of ours for each gene of theirs, integer; default: the same genes.
        """
        if other.compression != self.compression or (genes is None and other.n_genes != self.n_genes):
            raise DataError(
                f"{other.n_genes:,} digests of compression {other.compression:g}",
                wanted=f"{self.n_genes:,} of compression {self.compression:g}",
                where="merging t-digests",
                fix="make both with the same settings",
            )
        gene_of = np.arange(self.n_genes) if genes is None else np.asarray(genes, np.int64)
        merge_genes(gene_of, *self.constants, *self.arrays, *other.arrays)

    def quantile(self, q: float) -> np.ndarray:
        """Quantile ``q`` of every gene, float64 (G,), NaN without values; changes nothing.

        Where all values are still single this is numpy's ``hazen`` quantile, and for 0.5 the exact median.
        """
        out = np.empty(self.n_genes)
        quantiles(float(q), *self.constants, *self.arrays, out)
        return out

    def state(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays without the empty places, for ``numpy.savez``."""
        centroids = np.arange(self._mean_GC.shape[1]) < self._size_G[:, None]
        waiting = np.arange(self.buffer) < self._waiting_G[:, None]
        return {
            "settings": np.array([self.n_genes, self.compression, self.buffer], np.float64),
            "size": self._size_G,
            "mean": self._mean_GC[centroids],
            "weight": self._weight_GC[centroids],
            "waiting": self._waiting_G,
            "values": self._buffer_GK[waiting],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> GeneDigests:
        """Make the digests whose ``state`` this is; adding values continues as if there had been no interruption."""
        n_genes, compression, buffer = state["settings"].tolist()
        made = cls(int(n_genes), compression=compression, buffer=int(buffer))
        made._size_G[:], made._waiting_G[:] = state["size"], state["waiting"]
        centroids = np.arange(made._mean_GC.shape[1]) < made._size_G[:, None]
        made._mean_GC[centroids], made._weight_GC[centroids] = state["mean"], state["weight"]
        made._buffer_GK[np.arange(made.buffer) < made._waiting_G[:, None]] = state["values"]
        return made
