"""Cells of a SOMA experiment (TileDB-SOMA), picked by a value filter and streamed; never the whole query in memory.

Lives here: `SomaStore`. Lives elsewhere: opening (open), obs and var (tables), triplets to rows (rows), filters
(filters), versions and organisms of the CELLxGENE Census (census).
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from scmf.core import registry
from scmf.core.errors import DataError
from scmf.core.files import sha256_json
from scmf.core.redact import hide_address
from scmf.data.genes import ids as genes_
from scmf.data.stores.files.retries import Retries
from scmf.data.stores.soma import filters as soma_filters
from scmf.data.stores.soma import open as soma_open
from scmf.data.stores.soma import tables as soma_tables
from scmf.data.stores.soma.rows import JoinIds, LengthMismatch, RowGather
from scmf.data.stores.store import CountBlock, Store

T = TypeVar("T")

_NETWORK = re.compile(r"s3|gcs|azure|curl|timed? ?out|connection|network|http|slow ?down|throttl", re.IGNORECASE)


class SomaStore(Store):
    """Cells of a query on a SOMA experiment, in the order of their ``soma_joinid``.

    Every method may be called from several threads. TileDB keeps threads of its own and does not survive a fork:
    start worker processes with ``spawn`` and open the store in each. The experiment is seen as it was when it was
    opened; what is written to it later is not read.

    Resident are the ids (4 bytes a cell, less where they come in long runs) and the lengths (2 or 4 bytes a cell).
    Use `SomaStore.open`.

    Attributes
    ----------
    lengths_from
        ``nnz`` (that column of ``obs``) or ``scan``.
    version
        Release that was opened, as the build date of a Census; None where nobody said.
    """

    rounding = "accept"
    """The raw layer of a Census holds fractions for assays that estimate counts; NaN and negative ones never pass."""

    def __init__(
        self, experiment: Any, *, closing: Callable[[], None] | None, uri: str, measurement: str, layer: str,
        value_filter: str | None, gene_filter: str | None, gene_ids: str, cell_ids: str, nnz_column: str | None,
        version: str | None, retries: Retries | None
    ) -> None:  # fmt: skip
        uri = hide_address(uri)
        self.uri, self.counts, self.value_filter = uri, f"{measurement}/X/{layer}", value_filter
        self.version, self._closing, self._id_column = version, closing, cell_ids
        self._retries, self._pid, self._lock = retries or Retries(), os.getpid(), threading.Lock()
        self._obs = experiment.obs
        self._matrix, var_table = soma_open.members(experiment, measurement, layer, uri)
        self._var = soma_tables.gene_table(var_table, gene_filter, f"{uri}, var of {measurement}")
        ids, _ = genes_.pick_ids(self._var, gene_ids, path=uri)
        genes_.refuse_duplicates(ids, path=uri)
        self.genes = tuple(str(gene) for gene in ids)
        gene_joinids = self._var["soma_joinid"].to_numpy()
        self._column_of = np.full(int(gene_joinids.max()) + 1, -1, np.int32)
        self._column_of[gene_joinids] = np.arange(len(gene_joinids), dtype=np.int32)
        self._gene_range = slice(int(gene_joinids.min()), int(gene_joinids.max()))
        if value_filter is not None:
            soma_filters.check_filter(value_filter, self._obs, where=f"{uri}, obs")
        counted = gene_filter is None and layer == "raw" and nnz_column in self._obs.schema.names
        self.lengths_from = "nnz" if counted else "scan"
        joinids, self._lengths = self._persist(lambda: self._query(nnz_column if counted else None))
        self._ids = JoinIds(joinids)
        digest = hashlib.sha256(joinids.tobytes()).hexdigest()
        self.fingerprint = sha256_json(
            [uri, version, self.counts, value_filter, len(joinids), digest, self.genes, int(self._matrix.nnz)]
        )

    @classmethod
    def open(
        cls,
        uri: Any,
        *,
        measurement: str = "RNA",
        layer: str = "raw",
        value_filter: str | None = None,
        gene_filter: str | None = None,
        gene_ids: str = "auto",
        cell_ids: str = "soma_joinid",
        nnz_column: str | None = "nnz",
        storage_options: Mapping[str, Any] | None = None,
        tiledb_config: Mapping[str, Any] | None = None,
        version: str | None = None,
        closing: Callable[[], None] | None = None,
        retries: Retries | None = None,
    ) -> SomaStore:
        """Open a query; ids, lengths and genes are read, counts are not.

        Parameters
        ----------
        uri
            Path or address of a SOMA experiment, or one that is open (it stays open when the store is closed).
        measurement, layer
            Which counts: ``ms/<measurement>/X/<layer>``.
        value_filter, gene_filter
            Which rows of ``obs`` and of ``var``, see `scmf.data.stores.soma.filters`; all when None.
        gene_ids
            Where the gene ids are: ``var_names`` (the column ``feature_id`` or ``var_id``), a column, or ``auto``.
        cell_ids
            Column of ``obs`` that names the cells: ``soma_joinid``, ``observation_joinid`` (the same in every release
            of the Census), ``obs_id``.
        nnz_column
            Column of ``obs`` with the number of stored values of each cell in ``raw``. Where it is not there, is None,
            or genes are left out, `lengths` reads every count of the query once when it is first asked for.
        storage_options
            For S3, by the names of `scmf.data.stores.files.remote.open_remote`: endpoint, keys, region, anon.
        tiledb_config
            Settings of TileDB, over all else.
        version
            What release this is, for the fingerprint.
        closing
            Called by `close`, for an experiment that is open already and belongs to the store from now on.
        retries
            How often a read that fails on the network is tried again, above the tries of TileDB itself.

        Raises
        ------
        DataError
            No such experiment, measurement, layer or column; or the filters leave nothing.
        ConfigError
            A filter that cannot be read.
        """
        experiment = soma_open.open_experiment(uri, storage_options=storage_options, tiledb_config=tiledb_config)
        named = isinstance(uri, str | os.PathLike)
        try:
            return cls(
                experiment,
                closing=experiment.close if named else closing,
                uri=str(uri) if named else str(experiment.uri),
                measurement=measurement,
                layer=layer,
                value_filter=value_filter,
                gene_filter=gene_filter,
                gene_ids=gene_ids,
                cell_ids=cell_ids,
                nnz_column=nnz_column,
                version=version,
                retries=retries,
            )
        except BaseException:
            if named:
                experiment.close()
            raise

    # --- cells ----------------------------------------------------------------------------------------

    @property
    def n_cells(self) -> int:
        """Number of cells of the query."""
        return len(self._ids)

    @property
    def retries(self) -> int:
        """Reads tried again so far."""
        return self._retries.count

    @property
    def lengths(self) -> np.ndarray:
        """Stored values of each cell, integer (n_cells,); read from all counts when ``lengths_from`` is ``scan``."""
        with self._lock:
            if self._lengths is None:
                step = 4096
                blocks = (
                    self.read(np.array([[at, min(at + step, self.n_cells)]])) for at in range(0, self.n_cells, step)
                )
                self._lengths = _compact(np.concatenate([np.diff(block.indptr).astype(np.int32) for block in blocks]))
            return self._lengths

    def read(self, spans: np.ndarray) -> CountBlock:
        """See `Store.read`: one query on the rows of these cells alone."""
        spans = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
        ids = self._ids.spans(spans)
        if len(ids) == 0:
            return CountBlock(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), len(self.genes))
        stated = None
        if self.lengths_from == "nnz" and self._lengths is not None:
            stated = np.concatenate([self._lengths[start:stop] for start, stop in spans.tolist()])
        try:
            block = self._persist(lambda: self._gather(ids, stated))
        except LengthMismatch as error:
            raise DataError(
                f"cell {error.cell} has another number of stored values than the column nnz of obs says",
                wanted="the number of its values in the matrix",
                where=f"{self.uri}, {self.counts}",
                fix="open it with nnz_column=None, which counts instead",
            ) from error
        return self.canonical(spans, *block[:3], len(self.genes))

    def _gather(self, ids: np.ndarray, lengths: np.ndarray | None) -> CountBlock:
        gather = RowGather(ids, self._column_of, len(self.genes), lengths=lengths)
        wanted = gather.wanted
        whole_run = int(wanted[-1] - wanted[0]) == len(wanted) - 1
        rows = slice(int(wanted[0]), int(wanted[-1])) if whole_run else wanted
        for table in self._matrix.read((rows, self._gene_range)).tables():
            gather.add(*(table.column(i).to_numpy() for i in range(3)))
        return gather.block()

    # --- the tables -----------------------------------------------------------------------------------

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """See `Store.obs`; texts are categories. Only these columns are read, and kept as codes while they come."""
        known = self.obs_columns
        for column in columns:
            if column not in known:
                raise DataError(
                    f"no column {column!r} in obs", where=self.uri, fix=registry.did_you_mean(column, known)
                )
        names = ["soma_joinid", *(name for name in columns if name != "soma_joinid")]
        return self._persist(
            lambda: soma_tables.read_cells(self._obs_batches(names), self._ids, list(columns), where=f"{self.uri}, obs")
        )

    def _obs_batches(self, columns: list[str]) -> Iterator[Any]:
        yield from self._obs.read(column_names=columns, value_filter=self.value_filter, result_order="row-major")

    def _query(self, nnz_column: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids of the cells, int64 and rising, and their lengths where a column has them."""
        import tiledbsoma

        ids, lengths = [], []
        try:
            for table in self._obs_batches(["soma_joinid", *([nnz_column] if nnz_column else [])]):
                ids.append(table.column("soma_joinid").to_numpy())
                if nnz_column:
                    lengths.append(table.column(nnz_column).to_numpy().astype(np.int32))
        except tiledbsoma.SOMAError as error:
            if self.value_filter is None or _NETWORK.search(soma_open.brief(error)):
                raise
            raise soma_filters.filter_error(error, self.value_filter, where=f"{self.uri}, obs") from error
        joinids = np.concatenate(ids) if ids else np.empty(0, np.int64)
        if len(joinids) == 0:
            hints = soma_filters.unknown_values(self.value_filter, self._obs) if self.value_filter else []
            raise DataError(
                f"no cells with the filter {self.value_filter!r}" if self.value_filter else "no cells",
                wanted="at least one cell",
                where=f"{self.uri}, obs",
                fix="; ".join(hints) or "ask for less in the filter",
            )
        if np.any(np.diff(joinids) <= 0):
            raise DataError(
                "the table of cells is not sorted by soma_joinid",
                wanted="obs indexed by soma_joinid, as TileDB-SOMA writes it",
                where=f"{self.uri}, obs",
                fix="write the experiment again with soma_joinid as the only index column of obs",
            )
        return joinids, _compact(np.concatenate(lengths)) if nnz_column else None

    @property
    def obs_columns(self) -> list[str]:
        """Names of the columns of ``obs``."""
        return [str(name) for name in self._obs.schema.names]

    def cell_ids(self) -> np.ndarray:
        """Names of the cells, object (n_cells,): the column ``cell_ids`` as text."""
        if self._id_column == "soma_joinid":
            return self._ids.span(0, self.n_cells).astype(str).astype(object)
        return self.obs([self._id_column])[self._id_column].astype(str).to_numpy(dtype=object)

    @property
    def var(self) -> pd.DataFrame:
        """The gene table, one row a column of the counts."""
        return self._var

    def close(self) -> None:
        """Close the experiment where it belongs to the store."""
        if self._closing is not None:
            self._closing()

    # --- the network ----------------------------------------------------------------------------------

    def _persist(self, call: Callable[[], T]) -> T:
        """``call()``, again when it failed on the network, up to the number of tries."""
        import tiledbsoma

        if os.getpid() != self._pid:
            raise DataError(
                "a SOMA store is used in a forked process",
                wanted="the process that opened it",
                where=self.uri,
                fix="read with threads, or start the workers with 'spawn' and open the store in each",
            )
        attempt = 0
        while True:
            attempt += 1
            try:
                return call()
            except tiledbsoma.SOMAError as error:
                lasting = not _NETWORK.search(soma_open.brief(error)) or attempt >= self._retries.tries
                if lasting or not self._retries.wait(attempt, threading.Event()):
                    raise self._unreachable(attempt, error) from error

    def _unreachable(self, tries: int, error: Exception) -> DataError:
        return DataError(
            f"a read failed after {tries} tries: {soma_open.brief(error)}",
            wanted="cells",
            where=f"{self.uri}, {self.counts}",
            fix="look at the network, the region and the credentials; a run resumes from its last checkpoint",
        )


def _compact(lengths: np.ndarray) -> np.ndarray:
    return lengths.astype(np.uint16 if int(lengths.max(initial=0)) < 1 << 16 else np.int32)
