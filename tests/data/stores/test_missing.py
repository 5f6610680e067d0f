"""Missing values are found whatever a file writes for them."""

import numpy as np
import pandas as pd
import pytest

from scmf.data.stores.missing import is_missing, known_text

VALUES = ["a", np.nan, None, "", "  ", "nan", "NaN", "<NA>", "None", "NA", "none", "b"]
MISSING = [False, *[True] * 8, False, False, False]


@pytest.mark.parametrize("make", [pd.Series, lambda v: pd.Series(pd.Categorical(v)), lambda v: np.array(v, object)])
def test_text(make):
    assert is_missing(make(VALUES)).tolist() == MISSING
    assert is_missing(pd.Index(VALUES)).tolist() == MISSING


def test_numbers_and_types_of_pandas():
    assert is_missing(pd.Series([1.0, np.nan, np.inf])).tolist() == [False, True, False]
    assert is_missing(pd.Series([1, None], dtype="Int64")).tolist() == [False, True]
    assert is_missing(pd.Series(["a", None], dtype="string")).tolist() == [False, True]
    assert is_missing(pd.Series([True, None], dtype="boolean")).tolist() == [False, True]
    assert is_missing(pd.Categorical([1, np.nan, 2])).tolist() == [False, True, False]
    assert is_missing(pd.Series([], dtype=object)).tolist() == []


@pytest.mark.parametrize("make", [pd.Series, lambda v: pd.Series(pd.Categorical(v)), lambda v: np.array(v, object)])
def test_missing_values_are_no_text(make):
    assert known_text(make(VALUES)).tolist() == ["a", *[""] * 8, "NA", "none", "b"]
    assert known_text(make(["a", None]), missing="unknown").tolist() == ["a", "unknown"]


def test_numbers_are_written_as_people_write_them():
    assert known_text(pd.Series([1.0, np.nan, 2.5])).tolist() == ["1", "", "2.5"]
    assert known_text(pd.Series([True, False])).tolist() == ["True", "False"]
    assert known_text(pd.Series([], dtype=object)).tolist() == []
