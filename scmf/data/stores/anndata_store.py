"""Cells of one AnnData on disk: what zarr and HDF5 have in common.

Lives here: choosing the matrix with the raw counts from a sample of its cells, gene ids, matrices stored dense.
Lives elsewhere: opening a zarr group (zarr_store) or an HDF5 file (h5ad_store), columns of obs and var
(anndata_tables), rules for counts and gene ids (counts, genes).
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmf.core import registry
from scmf.core.errors import CountsError, DataError
from scmf.core.files import sha256_json
from scmf.data.genes import ids as genes_
from scmf.data.genes.measured import measured_genes
from scmf.data.stores import counts as counts_
from scmf.data.stores.anndata_tables import frame_names, read_column, read_frame, text_of
from scmf.data.stores.canonical import Rounding, keep_columns
from scmf.data.stores.files.byte_ranges import ByteSource
from scmf.data.stores.store import CountBlock, CsrStore, FlatArray, RowIndex

_log = logging.getLogger("scmf.data.stores")
_SAMPLE_CELLS = 2000
_SAMPLE_FIRST = 512
_SAMPLE_BLOCK = 64
_DENSE_VALUES = 1 << 24
"""Values of a dense matrix in memory at once."""


class SparseMatrix(NamedTuple):
    """The three arrays of a CSR matrix on disk."""

    rows: RowIndex
    data: FlatArray
    indices: FlatArray
    n_genes: int


class ByColumnsError(DataError):
    """A matrix that cannot be read by cells, because it is stored by genes."""


class AnnDataStore(CsrStore):
    """Cells of one AnnData on disk. A dense matrix is read as well: slower, as every zero is read too.

    Parameters
    ----------
    source
        The files; the store closes them.
    counts
        ``X``, ``raw.X``, ``layers/<name>``; or ``auto``: the first of ``layers/counts``, ``raw.X`` and ``X`` that
        holds non-negative integers in a sample of about 2,000 cells.
    gene_ids
        ``var_names``, a column of ``var``, or ``auto``, see `scmf.data.genes.ids.pick_ids`.
    rounding
        What becomes of values that are no integers: ``error``, ``round`` or ``accept``; float noise is always rounded.

    Raises
    ------
    DataError
        No complete AnnData, CSC, or no cells.
    CountsError
        No matrix with raw counts; each is named with the reason.
    GeneError
        A gene id is duplicated.
    """

    def __init__(
        self, source: ByteSource, *, counts: str = "auto", gene_ids: str = "auto", rounding: Rounding = "error"
    ) -> None:
        self.uri, self._source, self.rounding = source.root, source, rounding
        with self._tree() as tree:
            self.counts, self._path, self._matrix = self._choose(tree, counts)
            self._var = self._read_var(tree, self.counts)
            index, columns = frame_names(tree["obs"])
            self._obs_index, self._obs_columns = index, columns
        if isinstance(self._matrix, SparseMatrix):
            self._rows, self._data, self._indices, n_genes = self._matrix
        else:
            n_genes = self._matrix.shape[1]
        ids, _ = genes_.pick_ids(self._var, gene_ids, path=self.uri)
        if n_genes != len(ids):
            raise DataError(
                f"{self.counts} has {n_genes:,} columns", wanted=f"{len(ids):,}, one a row of var", where=self.uri
            )
        self._n_columns, self._columns = int(n_genes), measured_genes(self._var, ids, path=self.uri)
        if not self._columns.all():
            ids, self._var = ids[self._columns], self._var[self._columns]
        genes_.refuse_duplicates(ids, path=self.uri)
        self.genes = tuple(str(gene) for gene in ids)
        self._version = self._version_of_files()

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """See `Store.fingerprint`."""
        self._refuse_change()
        facts = [self._content_of_files(), self.counts, self.n_cells, sha256_json(list(self.genes))]
        return sha256_json(facts if self.rounding == "error" else [*facts, self.rounding])

    @property
    def _is_dense(self) -> bool:
        return not isinstance(self._matrix, SparseMatrix)

    # --- what a kind of file gives -----------------------------------------------------------------

    @abstractmethod
    def _tree(self) -> AbstractContextManager[Any]:
        """The open root: an h5py.File or a zarr.Group."""

    @abstractmethod
    def _version_of_files(self) -> str:
        """Changes when a file of the chosen matrix does."""

    @abstractmethod
    def _content_of_files(self) -> str:
        """Identity of what the files hold, whatever they are called and whenever they were copied."""

    @abstractmethod
    def _flat(self, tree: Any, path: str) -> FlatArray:
        """A one-dimensional array of the tree."""

    @abstractmethod
    def _dense(self, tree: Any, path: str) -> Any:
        """A two-dimensional array of the tree that stays readable, also from several threads."""

    # --- counts ------------------------------------------------------------------------------------

    def _choose(self, tree: Any, wanted: str) -> tuple[str, str, SparseMatrix | Any]:
        """The place of the raw counts, its path, and the matrix there."""
        known = _places(tree)
        names = [name for name in known if name in ("layers/counts", "raw.X", "X")] if wanted == "auto" else [wanted]
        if wanted != "auto" and wanted not in known:
            raise DataError(
                f"no matrix {wanted!r}",
                wanted="the place of the raw counts (data.counts)",
                where=self.uri,
                fix=registry.did_you_mean(wanted, list(known)) if known else "the file has no matrix at all",
            )
        verdicts = []
        for name in names:
            matrix = self._open(tree, known[name])
            verdict = self._examine(matrix, name, self._read_var(tree, name).index)
            if verdict.ok:
                if "rounded" in verdict.found:
                    _log.warning("%s: %s holds %s", self.uri, name, verdict.found)
                    self._told_rounded = True
                return name, known[name], matrix
            verdicts.append(verdict)
        if not verdicts:
            raise CountsError("no matrix at all", wanted="raw counts", where=self.uri, fix="write counts to X")
        raise CountsError(
            "; ".join(f"{verdict.where} holds {verdict.found}" for verdict in verdicts),
            wanted="raw counts: non-negative integers",
            where=self.uri,
            fix=next(
                (counts_.corrected_advice(verdict.where) for verdict in verdicts if verdict.look == "corrected"),
                "go back to the file with raw counts; normalized values cannot be used in their place",
            )
            + (f"; other matrices here: {', '.join(more)}" if (more := [n for n in known if n not in names]) else ""),
        )

    def _open(self, tree: Any, path: str) -> SparseMatrix | Any:
        node = tree[path]
        where = f"{self.uri}: {path}"
        if hasattr(node, "dtype"):
            dense = self._dense(tree, path)
            if len(dense.shape) != 2 or dense.shape[0] == 0:
                raise DataError(
                    f"an array of shape {tuple(dense.shape)}", wanted="cells x genes, at least one cell", where=where
                )
            return dense
        kind = text_of(node.attrs.get("encoding-type") or node.attrs.get("h5sparse_format") or "")
        if kind.startswith("csc"):
            raise ByColumnsError(
                "a matrix stored by columns (CSC)",
                wanted="CSR, from which cells can be read",
                where=where,
                fix="`scmf data convert` rewrites the file",
            )
        missing = [name for name in ("data", "indices", "indptr") if name not in node]
        if not kind.startswith("csr") or missing:
            raise DataError(
                f"a matrix of the kind {kind!r}" + (f" without {', '.join(missing)}" if missing else ""),
                wanted="csr_matrix or a dense array",
                where=where,
                fix="write the file again with anndata",
            )
        shape = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
        n_cells, n_genes = (int(length) for length in shape)
        data, indices, indptr = (self._flat(tree, f"{path}/{name}") for name in ("data", "indices", "indptr"))
        if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
            raise DataError(
                f"indices of type {indices.dtype}, indptr of type {indptr.dtype}", wanted="integers", where=where
            )
        if indices.size != data.size or indptr.size != n_cells + 1:
            raise DataError(
                f"{data.size:,} values, {indices.size:,} indices and {indptr.size:,} offsets",
                wanted=f"as many indices as values, and {n_cells + 1:,} offsets",
                where=where,
                fix="copy, download or convert the file again; it was not written to its end",
            )
        if n_cells == 0:
            raise DataError("no cells", wanted="at least one cell", where=self.uri, fix="use another file")
        return SparseMatrix(RowIndex.read(indptr, n_values=data.size, where=where), data, indices, n_genes)

    def _examine(self, matrix: Any, place: str, genes: pd.Index) -> counts_.Verdict:
        """What a sample of the cells holds: the first, and blocks spread over the rest."""
        n_cells = len(matrix.rows) if isinstance(matrix, SparseMatrix) else int(matrix.shape[0])
        if n_cells <= _SAMPLE_CELLS:
            rows = np.arange(n_cells)
        else:
            n_blocks = (_SAMPLE_CELLS - _SAMPLE_FIRST) // _SAMPLE_BLOCK
            heads = np.linspace(_SAMPLE_FIRST, n_cells - _SAMPLE_BLOCK, n_blocks).astype(np.int64)
            rows = np.unique(np.append((heads[:, None] + np.arange(_SAMPLE_BLOCK)).ravel(), np.arange(_SAMPLE_FIRST)))
        if isinstance(matrix, SparseMatrix):
            edges = np.flatnonzero(np.diff(rows) > 1) + 1
            spans = np.array([[part[0], part[-1] + 1] for part in np.split(rows, edges)], np.int64).reshape(-1, 2)
            self._rows, self._data, self._indices, n_genes = matrix
            indptr, indices, data = self.read_stored(spans)
            if data.dtype.kind in "bfiu":
                data = data.astype(np.float64 if data.dtype.itemsize > 4 else np.float32, copy=False)
            block = sp.csr_matrix((len(rows), n_genes), dtype=data.dtype if data.dtype.kind == "f" else np.float32)
            block.data, block.indices, block.indptr = data, indices, indptr
        else:
            parts = [sp.csr_matrix(as_float32(part)) for part in _dense_rows(matrix, rows, where=self.uri)]
            block = sp.vstack(parts, format="csr")
        cells = pd.Index([f"number {row:,}" for row in rows])
        return counts_.examine(block, where=place, cells=cells, genes=genes, rounding=self.rounding)

    def read(self, spans: np.ndarray) -> CountBlock:
        """See `Store.read`."""
        block = self._read_all(spans)
        return CountBlock(*keep_columns(*block[:3], self._columns), len(self.genes))

    def _read_all(self, spans: np.ndarray) -> CountBlock:
        """The counts over all columns, also those that are no genes."""
        if isinstance(self._matrix, SparseMatrix):
            return super().read(spans)
        spans = np.asarray(spans, np.int64).reshape(-1, 2)
        rows = np.concatenate([np.arange(a, b) for a, b in spans]) if len(spans) else np.empty(0, np.int64)
        parts = [sp.csr_matrix(as_float32(part)) for part in _dense_rows(self._matrix, rows, where=self.uri)]
        n_columns = int(self._matrix.shape[1])
        block = sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, n_columns), dtype=np.float32)
        return self.canonical(spans, block.indptr.astype(np.int64), block.indices, block.data, n_columns)

    @property
    def n_columns(self) -> int:
        """Columns of the matrix; those that are no genes count."""
        return self._n_columns

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self._rows) if isinstance(self._matrix, SparseMatrix) else int(self._matrix.shape[0])

    @property
    def lengths(self) -> np.ndarray:
        """Stored values of each cell, integer (n_cells,); for a dense matrix non-zeros, counted in one pass."""
        return self._rows.lengths if isinstance(self._matrix, SparseMatrix) else self._dense_lengths

    @cached_property
    def _dense_lengths(self) -> np.ndarray:
        parts = _dense_rows(self._matrix, np.arange(self.n_cells), where=self.uri)
        return np.concatenate([np.count_nonzero(part, axis=1).astype(np.int32) for part in parts])

    # --- tables ------------------------------------------------------------------------------------

    def _read_var(self, tree: Any, place: str) -> pd.DataFrame:
        """The gene table of a matrix, as `scmf.data.stores.counts.matrix_of` makes it."""
        var = read_frame(tree, "var")
        if place != "raw.X":
            return var
        raw = read_frame(tree, "raw/var" if "raw/var" in tree else "raw.var")
        more = [column for column in var.columns if column not in raw.columns]
        return raw.join(var[more]) if more and var.index.is_unique and raw.index.is_unique else raw

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `Store.obs`."""
        for column in columns:
            if column not in self._obs_columns:
                raise DataError(
                    f"no column {column!r} in obs",
                    where=self.uri,
                    fix=registry.did_you_mean(column, self._obs_columns),
                )
        with self._tree() as tree:
            self._refuse_change()
            table = {column: read_column(tree, "obs", column) for column in columns}
        return pd.DataFrame(table, index=pd.RangeIndex(self.n_cells))

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of ``obs``."""
        return list(self._obs_columns)

    def cell_ids(self) -> np.ndarray:
        """``obs_names``, object (n_cells,)."""
        with self._tree() as tree:
            self._refuse_change()
            return pd.Index(read_column(tree, "obs", self._obs_index)).astype(str).to_numpy(dtype=object)

    @property
    def var(self) -> pd.DataFrame:
        """The gene table."""
        return self._var

    def _refuse_change(self) -> None:
        if self._version_of_files() != self._version:
            raise DataError(
                "the file was replaced or written to since it was opened",
                wanted="the file that was opened",
                where=self.uri,
                fix="leave files alone during a run; start again, the run goes on from its last checkpoint",
            )

    def close(self) -> None:
        """Close the files."""
        self._source.close()


def _places(tree: Any) -> dict[str, str]:
    """Matrices of a tree in the order in which ``auto`` tries them: how we call them -> path."""
    layers = list(tree["layers"]) if "layers" in tree else []
    found = {f"layers/{name}": f"layers/{name}" for name in sorted(layers, key=lambda name: name != "counts")}
    first = {name: path for name, path in found.items() if name == "layers/counts"}
    for path in ("raw/X", "raw.X"):
        if path in tree:
            first["raw.X"] = path
    if "X" in tree:
        first["X"] = "X"
    return first | found


def as_float32(values: np.ndarray) -> np.ndarray:
    """Numbers of any width as float32; NaN and infinite values stay what they are."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _dense_rows(matrix: Any, rows: np.ndarray, *, where: str) -> Iterator[np.ndarray]:
    """Rows of a dense matrix on disk, a bounded number of values at a time; runs of rows are read as one."""
    step = max(1, _DENSE_VALUES // max(1, int(matrix.shape[1])))
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        for at in range(0, len(run), step):
            part = run[at : at + step]
            try:
                yield np.asarray(matrix[int(part[0]) : int(part[-1]) + 1])
            except (OSError, RuntimeError, ValueError) as error:
                raise DataError(
                    f"cells {part[0]:,} to {part[-1] + 1:,} cannot be read ({type(error).__name__}: {error})",
                    wanted="a complete dense matrix",
                    where=f"{where}: {matrix.name}",
                    fix="copy, download or convert the file again",
                ) from error
