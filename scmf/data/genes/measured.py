"""Which columns of a count matrix are genes: antibodies, peaks, guides and columns without id are not.

Lives here: the mask and what is said about it. Lives elsewhere: what the file says of them (feature_types), ids (ids),
reading only these columns (scmf.data.stores).
"""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from scmf.core.errors import GeneError
from scmf.data.genes.feature_types import genes_by_type
from scmf.data.genes.ids import detect

_log = logging.getLogger("scmf.data.genes")


def measured_genes(var: pd.DataFrame, ids: np.ndarray, *, path: object) -> np.ndarray:
    """Which columns are genes with an id, boolean (n_columns,); what is left out is logged with its number.

    Parameters
    ----------
    var
        The gene table.
    ids
        Gene ids, empty where there is none, see `scmf.data.genes.ids.pick_ids`.
    path
        How to call the file.

    Raises
    ------
    GeneError
        No column is left.
    """
    has_id = np.array([bool(gene) for gene in ids], bool)
    is_gene, others = genes_by_type(var)
    said = [f"{n:,} columns of the type {word!r}" for word, n in others.most_common()]
    if lost := int((is_gene & ~has_id).sum()):
        said.append(f"{lost:,} genes without id")
    kept: np.ndarray = is_gene & has_id
    if said and kept.any():
        _log.warning("%s: left out %s; %s genes stay", path, ", ".join(said), f"{int(kept.sum()):,}")
    if kept.any() and (kind := detect(ids[kept])).is_mixture:
        _log.warning("%s: genes of several species: %s", path, kind)
    if len(ids) and not kept.any():
        raise GeneError(
            f"no gene among {len(ids):,} columns: {', '.join(said)}", wanted="columns of the type 'Gene Expression'",
            where=path, fix="give the file with gene expression, or name the column of ids (data.gene_ids)",
        )  # fmt: skip
    return kept
