"""Counts from log-normalized values of cells whose depth nobody wrote down.

A value ``log(1 + count / depth * 10,000)`` is one number of two unknown integers, but all values of a cell share its
depth: their ratios are ratios of counts, and the depth must come out as an integer too. So both are found, cell by
cell, and proved by it: values that are anything else fail at once.

Lives here: the search and its proof. Lives elsewhere: values with a known depth (counts), when it is asked (load).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scmf.core.errors import CountsError
from scmf.data.stores.counts import canonical

TARGET = 1e4
"""Counts to which every cell was scaled."""
MAX_SMALLEST = 20
"""The smallest count of a cell is looked for up to this number; it is 1 in nearly every cell."""
TOLERANCE = 1e-3
"""How far from an integer a count or a depth may lie. Values in double precision come within 1e-9."""


def counts_and_depth(matrix: Any, *, where: object, cells: pd.Index) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts and depth of each cell, from ``log(1 + count / depth * 10,000)``.

    With :math:`v = e^x - 1` of the values of a cell, :math:`v_{min}` the smallest and :math:`k` its count, the counts
    are :math:`k v / v_{min}` and the depth is :math:`10^4 k / v_{min}`. The smallest :math:`k` for which all of them
    are integers is taken. So the answer is exact up to a common factor of all counts of a cell and its depth, which
    a cell with a single molecule of any gene cannot have.

    Parameters
    ----------
    matrix
        Log-normalized values, cells x genes; genes may be missing, so that rows need not add up to the depth.
    where
        How to call the file in an error.
    cells
        Names for the error.

    Returns
    -------
    counts : csr_matrix
        Float32, canonical.
    depth : numpy.ndarray
        int64 (cells,): counts of the cell over all genes that the values were normalized by.

    Raises
    ------
    CountsError
        A cell has no value, or no counts and depth explain its values.
    """
    values = sparse.csr_matrix(matrix, dtype=np.float64, copy=True)
    values.sum_duplicates()
    values.eliminate_zeros()
    if (empty := np.diff(values.indptr) == 0).any():
        raise CountsError(
            f"{int(empty.sum())} cells without a value, the first is {cells[int(np.argmax(empty))]!r}",
            wanted="at least one gene in each cell, from which its depth is found", where=where,
            fix="leave these cells out",
        )  # fmt: skip
    starts = values.indptr[:-1]
    scaled = np.expm1(values.data)
    smallest = np.minimum.reduceat(scaled, starts)
    ratios = scaled / np.repeat(smallest, np.diff(values.indptr))
    found = np.zeros(values.shape[0], dtype=np.int64)
    for count in range(1, MAX_SMALLEST + 1):
        off = np.maximum.reduceat(_off(ratios * count), starts)
        fits = (off <= TOLERANCE) & (_off(count * TARGET / smallest) <= TOLERANCE)
        found[fits & (found == 0)] = count
        if found.all():
            break
    if (lost := found == 0).any():
        raise CountsError(
            f"no counts and depth explain the values of {int(lost.sum())} of {found.size} cells, "
            f"the first is {cells[int(np.argmax(lost))]!r}",
            wanted="log1p of counts per 10,000 in full precision", where=where,
            fix="the card's `derive` does not describe this file; use a file with raw counts",
        )  # fmt: skip
    values.data = np.rint(ratios * np.repeat(found, np.diff(values.indptr)))
    return canonical(values), np.rint(found * TARGET / smallest).astype(np.int64)


def _off(numbers: np.ndarray) -> np.ndarray:
    """Distance to the nearest integer; infinite where a number is not finite."""
    with np.errstate(invalid="ignore"):
        off = np.abs(numbers - np.rint(numbers))
    return np.where(np.isfinite(off), off, np.inf)
