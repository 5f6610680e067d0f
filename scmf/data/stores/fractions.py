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
