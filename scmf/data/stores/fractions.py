"""What values that are no integers are, and sparse matrices in memory that point outside themselves.

Ambient-corrected counts (SoupX, CellBender) and counts dealt out by an EM algorithm (alevin, kallisto) are counts with
fractions; log-normalized values and counts per 10,000 are not. Normalized values of a cell are all multiples of one
number, or add up to the same sum in every cell.

Lives here: telling the two apart, the check of indices. Lives elsewhere: what is done with them (counts, canonical).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scmf.core.errors import DataError

_CELLS = 500
_SMALLEST_COUNT = 3
_FEW_CELLS, _VALUES, _STEP = 5, 10, 16
"""Cells, values of a cell, and smallest value of a cell from which on rounded values are told from counts."""


def looks_like(matrix: Any) -> str:
    """``normalized``, ``corrected`` or, where it cannot be told, empty; from the first 500 cells.

    Parameters
    ----------
    matrix
        Cells x genes, non-negative, dense or sparse.
    """
    rows = sparse.csr_matrix(np.asarray(matrix[:_CELLS]) if not sparse.issparse(matrix) else matrix[:_CELLS])
    rows = sparse.csr_matrix(rows, dtype=np.float64)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    rows = rows[np.diff(rows.indptr) > 2]
    if not rows.shape[0]:
        return ""
    logs = [False, True] if rows.data.max() < 20 else [False]
    for is_log in logs:
        values = np.expm1(rows.data) if is_log else rows.data
        sums = np.add.reduceat(values, rows.indptr[:-1])
        if len(sums) > 2 and sums.std() < 1e-3 * sums.mean():
            return "normalized"
        ratios = values / np.repeat(np.minimum.reduceat(values, rows.indptr[:-1]), np.diff(rows.indptr))
        for least in range(1, _SMALLEST_COUNT + 1):
            off = np.abs(ratios * least - np.rint(ratios * least)) > 1e-3 * np.maximum(ratios * least, 1)
            multiples = np.add.reduceat(off.astype(np.int64), rows.indptr[:-1]) == 0
            whole = np.add.reduceat((rows.data != np.rint(rows.data)).astype(np.int64), rows.indptr[:-1]) == 0
            if (multiples & ~whole).sum() > 0.5 * max(int((~whole).sum()), 1):
                return "normalized"
    integers = float(np.mean(rows.data == np.rint(rows.data)))
    return "corrected" if integers > 0.01 or rows.data.max() >= 20 else ""


def rounded_normalized(matrix: Any) -> str:
    """Why whole numbers are no counts but normalized values that were rounded (CPM), as one clause; else empty.

    Looked at are the first 500 cells. Totals of normalized cells differ by what rounding adds up to, which no sampled
    cells do (counts that were drawn down to one depth have one total exactly); or the values of a cell are multiples of
    a large number, that of one count.

    Parameters
    ----------
    matrix
        Cells x genes, whole and non-negative, dense or sparse.
    """
    rows = sparse.csr_matrix(matrix[:_CELLS] if sparse.issparse(matrix) else np.asarray(matrix[:_CELLS]))
    rows = sparse.csr_matrix(rows, dtype=np.float64)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    rows = rows[np.diff(rows.indptr) > 0]
    sizes = np.diff(rows.indptr)
    if rows.shape[0] < _FEW_CELLS:
        return ""
    sums = np.add.reduceat(rows.data, rows.indptr[:-1])
    off = np.abs(sums - sums.mean()).max()
    if sums.mean() >= 1000 and 0 < off <= 1 + 4 * 0.29 * np.sqrt(sizes.max()):
        return f"every cell adds up to {sums.mean():,.0f} but for {off:.0f}, as normalized values do that were rounded"
    rows = rows[sizes >= _VALUES]
    if rows.shape[0] < _FEW_CELLS:
        return ""
    starts, sizes = rows.indptr[:-1], np.diff(rows.indptr)
    step = np.repeat(np.minimum.reduceat(rows.data, starts), sizes)
    low = rows.data <= 5 * step
    multiple = np.abs(rows.data - step * np.rint(rows.data / step)) <= 3.5  # of a step that is known to .5
    clean = np.add.reduceat((low & ~multiple).astype(np.int64), starts) == 0
    large = np.minimum.reduceat(rows.data, starts) >= _STEP
    if (clean & large).mean() > 0.9:
        return f"the values of a cell are multiples of {np.median(step[starts]):.0f}, as counts per million are"
    return ""


def refuse_damage(matrix: Any, *, where: str, cells: pd.Index, genes: pd.Index) -> None:
    """Raise `DataError` where offsets or indices of a CSR or CSC matrix point outside it."""
    by_cell = matrix.format == "csr"
    n_major, n_minor = matrix.shape if by_cell else matrix.shape[::-1]
    names = cells if by_cell else genes
    indptr, indices = np.asarray(matrix.indptr), np.asarray(matrix.indices)
    n = len(indices)
    fix = "the matrix is damaged: get the file again"
    if len(matrix.data) != n or len(indptr) != n_major + 1 or indptr[0] != 0 or indptr[-1] != n:
        raise DataError(
            f"{len(matrix.data):,} values, {n:,} indices and offsets that end at {int(indptr[-1]):,}",
            wanted=f"as many indices as values, and {n_major + 1:,} offsets", where=where, fix=fix,
        )  # fmt: skip
    if (falls := np.diff(indptr.astype(np.int64)) < 0).any():
        row = int(np.argmax(falls))
        raise DataError(
            f"the offset behind {'cell' if by_cell else 'gene'} {names[row]!r} falls",
            wanted=f"offsets that rise from 0 to {n:,}", where=where, fix=fix,
        )  # fmt: skip
    if n and (indices.min() < 0 or indices.max() >= n_minor):
        at = int(np.argmax((indices < 0) | (indices >= n_minor)))
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        raise DataError(
            f"column {int(indices[at])} in the row of {'cell' if by_cell else 'gene'} {names[row]!r}",
            wanted=f"indices from 0 to {n_minor - 1:,}", where=where, fix=fix,
        )  # fmt: skip
