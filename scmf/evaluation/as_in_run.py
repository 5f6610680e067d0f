"""What is read of a file or an AnnData as the run of a model has read its own: matrix, gene ids, column with the batch.

Lives here: the choice where nothing is asked for. Lives elsewhere: the verbs that read files with a saved model
(embed_file, predict).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.errors import DataError
from scmf.data.genes.ids import pick_ids
from scmf.data.stores.adata_files import places_of
from scmf.data.stores.adata_memory import places_in
from scmf.models.embed import embeds_by_batch
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.coverage import known_columns

log = logging.getLogger(__name__)


def as_in_run(stored: Path | AnnData, model: Path, tokenizer: Any, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The matrix and the ids that the run has read, where nothing is asked for and the file has them too."""
    run = RunFolder.find(model)
    data = None if run is None else run.config.data
    asked = () if data is None else ("counts", "gene_ids")
    wanted = {name: getattr(data, name) for name in asked if keys[name] == "auto" != getattr(data, name)}
    if not wanted:
        return {}
    matrices, tables = places_in(stored) if isinstance(stored, AnnData) else places_of(stored)
    if "counts" in wanted and wanted["counts"] not in matrices:
        del wanted["counts"]
    if "gene_ids" in wanted and not any(_read_as_well(tokenizer, var, wanted["gene_ids"]) for var in tables.values()):
        del wanted["gene_ids"]
    for name, value in wanted.items():
        log.info(f"{name} {value!r}, as in the run")
    return wanted


def _read_as_well(tokenizer: Any, var: pd.DataFrame, column: str) -> bool:
    """Whether a file has this column of gene ids, and a tokenizer knows no fewer of them than of those found alone."""
    if column != "var_names" and column not in var:
        return False
    named, auto = (_n_known(tokenizer, pick_ids(var, where, path="var")[0]) for where in (column, "auto"))
    return named >= auto


def _n_known(tokenizer: Any, ids: np.ndarray) -> int:
    """Genes of its vocabulary that a tokenizer finds among gene ids."""
    try:
        return known_columns(tokenizer, ids.tolist(), where="var")[1]
    except DataError:  # none
        return 0


def batch_column(
    network: Any, model: Path, batch_key: str | None, columns: Iterable[object], *, where: object
) -> str | None:
    """The column of ``obs`` with the batch of each cell; None where the model does not read it.

    Parameters
    ----------
    network, model
        The network and its folder.
    batch_key
        What is asked for; None: that of the run.
    columns
        Those that the cells have.
    where
        How to call the cells.
    """
    if not embeds_by_batch(network):
        if batch_key is not None:
            log.warning("--batch-key is not used: what this model says of a cell does not depend on the batch")
        return None
    run = RunFolder.find(model)
    key = batch_key or (None if run is None else run.config.data.batch_key)
    known = [str(column) for column in columns]
    if key is None or key not in known:
        raise DataError(
            "no column with the batch" if key is None else f"no column {key!r} in obs",
            wanted="the batch of each cell, which this model reads", where=where,
            fix=f"--batch-key COLUMN, one of {', '.join(known)}" if known else "add the column to obs",
        )  # fmt: skip
    return key
