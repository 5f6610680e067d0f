"""An AnnData in memory as a store, so that a stream takes it as it takes a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scmf.core import registry
from scmf.core.errors import DataError
from scmf.core.files import sha256_json
from scmf.data.genes import ids as genes_
from scmf.data.genes.measured import measured_genes
from scmf.data.stores import counts as counts_
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.store import CountBlock, Store


class MemoryStore(Store):
    """Cells of an AnnData in memory.

    Parameters
    ----------
    adata
        Cells; the counts are brought to CSR without a copy where they are.
    counts
        ``X``, ``raw.X``, ``layers/<name>`` or ``auto``.
    gene_ids
        ``var_names``, a column of ``var``, or ``auto``.
    rounding
        What becomes of values that are no integers (``data.counts_rounding``).
    name
        How errors call it.
    """

    def __init__(
        self,
        adata: AnnData,
        *,
        counts: str = "auto",
        gene_ids: str = "auto",
        rounding: Rounding = "error",
        name: str = "AnnData in memory",
    ) -> None:
        self.uri, self.rounding = name, rounding
        if adata.n_obs == 0:
            raise DataError("no cells", wanted="at least one cell", where=name, fix="use another file")
        self.counts = counts_.choose(adata, counts, path=name, rounding=rounding)
        matrix, self._var = counts_.matrix_of(adata, self.counts, path=name)
        self._matrix: sp.csr_matrix = counts_.canonical(matrix, rounding=rounding)
        ids, _ = genes_.pick_ids(self._var, gene_ids, path=name)
        kept = measured_genes(self._var, ids, path=name)
        if not kept.all():
            ids, self._var, self._matrix = ids[kept], self._var[kept], self._matrix[:, kept]
        genes_.refuse_duplicates(ids, path=name)
        self.genes = tuple(str(gene) for gene in ids)
        self._obs = adata.obs

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """See `Store.fingerprint`: of the counts, cell ids and genes."""
        digest = hashlib.sha256()
        for array in (self._matrix.indptr.astype(np.int64), self._matrix.indices.astype(np.int64), self._matrix.data):
            digest.update(np.ascontiguousarray(array).data)
        return sha256_json([digest.hexdigest(), self.cell_ids().tolist(), list(self.genes)])

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self._matrix.shape[0])

    @property
    def lengths(self) -> np.ndarray:
        """Stored values of each cell, integer (n_cells,)."""
        return np.diff(self._matrix.indptr)

    def read(self, spans: np.ndarray) -> CountBlock:
        """See `Store.read`."""
        rows = np.concatenate([np.arange(a, b) for a, b in spans]) if len(spans) else np.empty(0, np.int64)
        part = self._matrix[rows]
        return CountBlock(part.indptr.astype(np.int64), part.indices, part.data, part.shape[1])

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `Store.obs`."""
        for column in columns:
            if column not in self._obs:
                raise DataError(
                    f"no column {column!r} in obs",
                    where=self.uri,
                    fix=registry.did_you_mean(column, self.obs_columns),
                )
        return self._obs[list(columns)].reset_index(drop=True)

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of ``obs``."""
        return [str(column) for column in self._obs.columns]

    def cell_ids(self) -> np.ndarray:
        """``obs_names``, object (n_cells,)."""
        return self._obs.index.astype(str).to_numpy(dtype=object)

    @property
    def var(self) -> pd.DataFrame:
        """The gene table."""
        return self._var
