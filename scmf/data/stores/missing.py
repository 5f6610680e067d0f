"""Which values of a column are missing, whatever a file writes for them.

Lives here: `is_missing`, the one rule for labels, batches, donors, conditions and gene ids. Lives elsewhere: what
becomes of a cell without a value: refused (splits, hvg), left out and counted (evaluation).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

TEXTS = frozenset({"", "nan", "NaN", "NAN", "<NA>"})
"""What missing values become where a column was turned into text; spaces around do not count."""


def is_missing(values: Any) -> np.ndarray:
    """Which values are missing: NaN, None, NA, empty text or the text that NaN becomes; boolean (n,).

    Parameters
    ----------
    values
        A column (n,): a Series, an Index, a Categorical or an array.
    """
    values = values if isinstance(values, (pd.Series, pd.Index)) else pd.Series(values)
    if isinstance(values.dtype, pd.CategoricalDtype):
        categorical = values.array if isinstance(values, pd.Series) else pd.Categorical(values)
        empty = np.append(_missing_texts(categorical.categories), True)  # code -1 is the last
        return np.asarray(empty[np.asarray(categorical.codes)])
    return _missing_texts(values)


def _missing_texts(values: pd.Series | pd.Index) -> np.ndarray:
    missing = np.asarray(values.isna(), bool)
    if values.dtype.kind in "biufcmM":  # numbers and times have no text
        return missing
    texts = np.fromiter((isinstance(one, str) and one.strip() in TEXTS for one in values), bool, len(values))
    return missing | texts
