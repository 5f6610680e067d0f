"""Which columns of a count matrix are genes: antibodies, peaks, guides and columns without id are not.

Lives here: the mask and what is said about it. Lives elsewhere: ids (ids), reading only these columns
(scmf.data.stores).
"""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pandas as pd

from scmf.core.errors import GeneError
from scmf.data.genes.ids import detect

FEATURE_TYPES = "feature_types"
"""Column of ``var`` in which 10x Genomics says what a row is."""
_log = logging.getLogger("scmf.data.genes")
_GENES = frozenset({"gene expression", "gex", "rna", "gene"})
_OTHERS = frozenset(
    {"antibody capture", "antigen capture", "adt", "hto", "peaks", "atac", "crispr guide capture",
     "multiplexing capture", "custom"}
)  # fmt: skip


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
    is_gene, others = np.ones(len(ids), bool), Counter[str]()
    if FEATURE_TYPES in var:
        types = var[FEATURE_TYPES].astype(object)
        words = np.array(["" if pd.isna(one) else str(one).strip() for one in types], dtype=object)
        small = [word.lower() for word in words]
        if any(word in _GENES for word in small):
            is_gene = np.array([word in _GENES or not word for word in small], bool)
        elif any(word in _OTHERS for word in small):
            is_gene = np.array([word not in _OTHERS for word in small], bool)
        others = Counter(words[~is_gene].tolist())
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
