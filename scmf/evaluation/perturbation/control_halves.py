"""Cells in two halves: which control cells predictions may see (A), and which the truth is compared with (B).

A change of the prediction and one of the truth against the same control mean share its noise, and correlate for that
alone. Lives here: which cell is in which half. Lives elsewhere: metrics with both (own_controls).

Array legend: N cells.
"""

from __future__ import annotations

import hashlib

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.truth import PerturbationTruth

LEAST = 20
"""With fewer control cells in a half, metrics against control are not filed."""

A, B = "a", "b"


def half_of_cells(truth: PerturbationTruth) -> np.ndarray:
    """Half of each cell, str (N,): of the cells of a covariate and condition, by sha256 of their ids, every other one.

    The odd cell is in A. The halves are those of the ids alone: neither the order of the file nor a seed has a part.

    Raises
    ------
    EvaluationError
        The ids of the cells are not known.
    """
    if truth.cell_ids is None:
        raise EvaluationError("cells without ids", wanted="the id of each cell", where="control halves")
    digests = np.array([hashlib.sha256(name.encode()).hexdigest() for name in truth.cell_ids.tolist()])
    halves = np.full(len(digests), B)
    order = np.lexsort((digests, truth.conditions, truth.covariates))
    start = 0
    for stop in range(1, len(order) + 1):
        first = order[start]
        same = stop < len(order) and (
            truth.conditions[order[stop]] == truth.conditions[first]
            and truth.covariates[order[stop]] == truth.covariates[first]
        )
        if not same:
            halves[order[start:stop:2]] = A
            start = stop
    return halves


def seen_by_models(truth: PerturbationTruth) -> PerturbationTruth:
    """The screen without the control cells that the truth is compared with: what baselines and models are fitted on."""
    hidden = (truth.conditions == truth.control) & (half_of_cells(truth) == B)
    return truth.kept(np.flatnonzero(~hidden))
