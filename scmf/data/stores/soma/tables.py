"""The tables of a SOMA experiment: ``obs`` of the cells of a query, streamed, and ``var``.

Lives here: Arrow batches to pandas. Lives elsewhere: which cells a query has (store), filters (filters).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.errors import DataError
from scmf.data.stores.soma import filters as soma_filters
from scmf.data.stores.soma.rows import JoinIds


def read_cells(batches: Iterable[Any], ids: JoinIds, columns: list[str], *, where: str) -> pd.DataFrame:
    """Columns of ``obs`` from Arrow tables; texts are kept as codes while they come, and become categories.

    Parameters
    ----------
    batches
        Arrow tables with ``soma_joinid`` and the columns.
    ids
        The cells that have to come, in this order.
    columns
        Which columns.
    where
        How errors call the table.

    Raises
    ------
    DataError
        Other cells come.
    """
    import pyarrow as pa

    chunks: dict[str, list[Any]] = {column: [] for column in columns}
    done, same = 0, True
    for table in batches:
        found = table.column("soma_joinid").to_numpy()
        same = same and np.array_equal(found, ids.span(done, min(done + len(found), len(ids))))
        done += len(found)
        for column in columns:
            values = table.column(column).combine_chunks()
            text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
            chunks[column].append(values.dictionary_encode() if text else values)
    if done != len(ids) or not same:
        raise DataError(
            f"the table of cells gives {done:,} rows for the filter, not those that it gave when it was opened",
            wanted=f"the same {len(ids):,} rows",
            where=where,
            fix="open the store again",
        )
    frame = {name: pa.chunked_array(parts).unify_dictionaries().to_pandas() for name, parts in chunks.items()}
    for name, series in frame.items():
        if isinstance(series.dtype, pd.CategoricalDtype):
            frame[name] = series.cat.remove_unused_categories()
    return pd.DataFrame(frame)


def gene_table(table: Any, gene_filter: str | None, where: str) -> pd.DataFrame:
    """``var`` by the order of ``soma_joinid``, named by ``feature_id`` or ``var_id``."""
    import tiledbsoma

    if gene_filter is not None:
        soma_filters.check_filter(gene_filter, table, where=where)
    try:
        var = table.read(value_filter=gene_filter).concat().to_pandas().sort_values("soma_joinid")
    except tiledbsoma.SOMAError as error:
        raise soma_filters.filter_error(error, str(gene_filter), where=where) from error
    if len(var) == 0:
        hints = soma_filters.unknown_values(gene_filter, table) if gene_filter else []
        raise DataError(
            f"no genes with the filter {gene_filter!r}", wanted="at least one gene", where=where,
            fix="; ".join(hints) or "ask for less in the filter",
        )  # fmt: skip
    named = next((name for name in ("feature_id", "var_id") if name in var), "soma_joinid")
    return var.set_index(var[named].astype(str).rename(None))
