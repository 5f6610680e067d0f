"""Control cells in two halves: what predictions may see (A), what the truth is compared with (B).

A change of the prediction and one of the truth against the same control mean share its noise, and correlate for that
alone. Lives here: which cell is in which half. Lives elsewhere: metrics with both (own_controls).

Array legend: N cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

LEAST = 20
"""With fewer control cells in a half, metrics against control are not filed."""

A, B = "control_a", "control_b"


def control_half_codes(cell_ids: Iterable[str], covariates: np.ndarray) -> np.ndarray:
    """Half of each control cell, str (N,): every other cell by the sha256 of its id, within each covariate; odd to A."""
    digests = [hashlib.sha256(str(name).encode()).hexdigest() for name in cell_ids]
    order = np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=int)
    halves = np.empty(len(digests), dtype=f"<U{len(A)}")
    for covariate in sorted(set(covariates.tolist())):
        mine = order[covariates[order] == covariate]
        halves[mine[0::2]], halves[mine[1::2]] = A, B
    return halves
