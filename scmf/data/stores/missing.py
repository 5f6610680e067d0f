"""Values of a column of ``obs`` whatever a file writes for them: which are missing, and what they are as text.

Lives here: `is_missing`, `as_text` and `known_text`, the rules for labels, batches, donors and conditions. Lives
elsewhere: what becomes of a cell without a value: refused (splits, hvg), left out and counted (loading.labels).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scmf.data.genes.ids import MISSING_TEXTS


def is_missing(values: Any) -> np.ndarray:
    """Which values are missing: NaN, None, NA, empty text or the text that NaN becomes; boolean (n,).

    Parameters
    ----------
    values
        A column (n,): a Series, an Index, a Categorical or an array.
    """
    values = values if isinstance(values, (pd.Series, pd.Index)) else pd.Series(values)
    if isinstance(values.dtype, pd.CategoricalDtype):
        categorical = pd.Categorical(values)
        empty = np.append(_missing_texts(categorical.categories), True)  # code -1 is the last
        return np.asarray(empty[np.asarray(categorical.codes)])
    return _missing_texts(values)


def as_text(values: Any) -> list[str]:
    """Values as text, so that a donor that is a number in one file and text in another is one: 1, 1.0 and "1" are "1".

    Parameters
    ----------
    values
        Values that are not missing, in any container.
    """
    return [str(int(one)) if _is_whole(one) else str(one) for one in values]


def known_text(values: Any, *, missing: str = "") -> np.ndarray:
    """Values as text, ``missing`` where there is none; str (n,).

    Parameters
    ----------
    values
        A column (n,), as `is_missing` takes it.
    missing
        What stands for a missing value; the empty text is never a value.
    """
    categorical = pd.Categorical(values)
    lost = np.append(_missing_texts(categorical.categories), True)  # code -1 is the last
    names = [missing if gone else name for gone, name in zip(lost, [*as_text(categorical.categories), ""], strict=True)]
    return np.array(names, dtype=str)[np.asarray(categorical.codes)]


def _is_whole(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and float(value).is_integer()


def text_categories(values: Any) -> pd.Categorical:
    """A column as categories of text; missing values have none."""
    categorical = pd.Categorical(values)
    names = [
        None if gone else name
        for gone, name in zip(_missing_texts(categorical.categories), as_text(categorical.categories), strict=True)
    ]
    kept = [name for name in dict.fromkeys(names) if name is not None]
    place: dict[str | None, int] = {None: -1, **{name: i for i, name in enumerate(kept)}}
    codes = np.array([*(place[name] for name in names), -1], np.int64)[np.asarray(categorical.codes)]
    return pd.Categorical.from_codes(codes, categories=pd.Index(kept, dtype=object))


def _missing_texts(values: pd.Series | pd.Index) -> np.ndarray:
    missing = np.asarray(values.isna(), bool)
    if values.dtype.kind in "biufcmM":  # numbers and times have no text
        return missing
    texts = np.fromiter((isinstance(one, str) and one.strip() in MISSING_TEXTS for one in values), bool, len(values))
    return missing | texts
