"""What ``var["feature_types"]`` of 10x Genomics says: which columns of a matrix are of genes.

Lives elsewhere: ids (ids), genes without one and what is said of columns that are left out (measured).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

FEATURE_TYPES = "feature_types"
"""Column of ``var`` in which 10x Genomics says what a row is."""
_GENES = frozenset({"gene expression", "gex", "rna", "gene"})
_OTHERS = frozenset(
    {"antibody capture", "antigen capture", "adt", "hto", "peaks", "atac", "crispr guide capture",
     "multiplexing capture", "custom"}
)  # fmt: skip


def genes_by_type(var: pd.DataFrame) -> tuple[np.ndarray, Counter[str]]:
    """Which columns may be genes, boolean (n_columns,), all where nothing is said; types of the others, counted."""
    every = np.ones(len(var), bool)
    if FEATURE_TYPES not in var:
        return every, Counter()
    types = var[FEATURE_TYPES].astype(object)
    words = np.array(["" if pd.isna(one) else str(one).strip() for one in types], dtype=object)
    small = [word.lower() for word in words]
    if any(word in _GENES for word in small):
        every = np.array([word in _GENES or not word for word in small], bool)
    elif any(word in _OTHERS for word in small):
        every = np.array([word not in _OTHERS for word in small], bool)
    return every, Counter(words[~every].tolist())
