"""On which scale predicted cells are: log1p of counts per 10,000, or something that is told apart from it.

Lives elsewhere: the rest of a prediction (truth).

Array legend: M predicted cells, G genes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from scmf.core.errors import EvaluationError

_LARGEST = float(np.log1p(1e4)) * 1.001
"""Above this no value is log1p of counts per 10,000, whatever it was rounded to."""

_NEGATIVE, _OTHER_TOTAL = 0.2, 30.0
"""Share of the absolute sum that negative values may have; how much larger the total of a cell may be."""


def as_matrix(values: Any, *, where: object) -> sp.csr_matrix:
    """Predicted values of any numeric type, dense or sparse, as CSR float64; `EvaluationError` for other types."""
    kind = getattr(getattr(values, "dtype", None), "kind", "")
    if kind not in "fiub" or not kind:
        raise EvaluationError(
            f"X holds no numbers ({getattr(values, 'dtype', None)})", wanted="expression", where=where
        )
    if sp.issparse(values):
        values = values.copy()
        values.data = values.data.astype(np.float64)
        return sp.csras_matrix(values)
    return sp.csr_matrix(np.asarray(values, np.float64))


def refuse_other_scales(x_MG: sp.csr_matrix, mean_total: float, *, where: object) -> None:
    """Raise `EvaluationError` where predicted cells are not on the scale of log1p of counts per 10,000.

    Told apart are counts (whole numbers), normalized values that are not logs (above what a log can be, or cells of one
    sum), logs of another total, and z-scores or differences (negative values that are more than the noise of a model).
    What is not finite is left to `check_prediction`.

    Parameters
    ----------
    x_MG
        Predicted cells over the genes of the truth.
    mean_total
        Mean over cells of the screen of the sum of what its logs are of.
    where
        How to call the file.
    """
    values = x_MG.data[np.isfinite(x_MG.data)]
    values = values[values != 0]
    if not len(values):
        return
    found, total = "", x_MG.copy()
    sums = np.asarray(x_MG.sum(axis=1)).ravel()
    sums = sums[np.isfinite(sums) & (sums > 0)]
    below = float(-values[values < 0].sum() / np.abs(values).sum())
    if np.array_equal(values, np.rint(values)):
        found = f"whole numbers up to {values.max():.0f}, as counts are"
    elif values.max() > _LARGEST:
        found = f"values up to {values.max():.4g}, more than log1p of 10,000 ({np.log1p(1e4):.2f})"
    elif below > _NEGATIVE:
        found = f"negative values, {below:.0%} of the sum, as z-scores and differences have them"
    elif len(sums) > 2 and sums.std() < 1e-3 * sums.mean() and not _alike(x_MG):
        found = f"cells that all add up to {sums.mean():.5g}, as normalized values do that are not logs"
    else:
        total.data = np.expm1(np.clip(total.data, 0, None))
        mine, theirs = float(np.asarray(total.sum(axis=1)).mean()), mean_total
        if np.isfinite(mine) and mine > _OTHER_TOTAL * theirs:
            found = f"logs of values that add up to {mine:,.0f} in a cell, those of the screen to {theirs:,.0f}"
    if found:
        raise EvaluationError(
            found, wanted="log1p of counts per 10,000, as the truth", where=where,
            fix="scanpy.pp.normalize_total(target_sum=1e4), then log1p; differences: add the control mean",
        )  # fmt: skip


def _alike(x_MG: sp.csr_matrix) -> bool:
    """Whether the cells are one profile repeated, whose sums say nothing."""
    return bool(abs(x_MG - x_MG[np.zeros(x_MG.shape[0], int)]).max() == 0)
