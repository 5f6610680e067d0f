"""Subsamples of cells, so that scores whose cost grows with the square of the cells stay bounded.

Every subsample has the same number of cells of each batch and label, in proportion to all cells, and at least one of
each. A score is then the mean over the subsamples, and its interval goes from the smallest to the largest. Scores that
look at a fixed number of neighbors depend on how many cells there are: numbers of subsamples are compared with numbers
of subsamples of the same size. Lives elsewhere: the scores (integration, composites).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.results.score import Interval, Score

DRAWS = 5


def strata_sizes(sizes: np.ndarray, total: int) -> np.ndarray:
    """Cells to take of each stratum: in proportion, rounded by the largest remainder, one at least.

    Parameters
    ----------
    sizes
        Cells of each stratum, int (S,), each positive.
    total
        Cells to take in all, at least S and at most their sum.

    Returns
    -------
    numpy.ndarray
        int (S,), of sum ``total``.
    """
    wanted = sizes * (total / sizes.sum())
    taken = np.maximum(np.floor(wanted).astype(int), 1)
    while (missing := total - taken.sum()) != 0:
        # strata that can give one more, or that have the most too many
        open_ = taken < sizes if missing > 0 else taken > 1
        distance = np.where(open_, (wanted - taken) * np.sign(missing), -np.inf)
        chosen = np.argsort(-distance, kind="stable")[: min(abs(missing), int(open_.sum()))]
        taken[chosen] += np.sign(missing)
    return taken


def subsamples(truth: CellLabels, max_cells: int, *, draws: int = DRAWS, seed: int = 0) -> list[np.ndarray]:
    """Rows of each subsample, sorted, int (max_cells,).

    Parameters
    ----------
    truth
        Batches (or None) and labels of N cells, of which the strata are made.
    max_cells
        Cells of a subsample, fewer than N.
    draws, seed
        How many subsamples, and the seed of the draws.

    Raises
    ------
    EvaluationError
        If there are more strata than cells of a subsample, or fewer than two draws.
    """
    batches = np.zeros(len(truth.labels), dtype=int) if truth.batches is None else truth.batches
    keys = np.stack([np.unique(column, return_inverse=True)[1] for column in (batches, truth.labels)], axis=1)
    _, stratum, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    if len(sizes) > max_cells or draws < 2:
        raise EvaluationError(
            f"{draws} subsamples of {max_cells} cells for {len(sizes)} pairs of batch and label",
            wanted="two subsamples or more, and a cell of each pair in each",
            where="max_cells",
            fix="raise it",
        )
    take = strata_sizes(sizes, max_cells)
    members = np.split(np.argsort(stratum.ravel(), kind="stable"), np.cumsum(sizes)[:-1])
    found = []
    for child in np.random.SeedSequence(seed).spawn(draws):
        rng = np.random.default_rng(child)
        rows = [rng.choice(mine, size=n, replace=False) for mine, n in zip(members, take, strict=True)]
        found.append(np.sort(np.concatenate(rows)))
    return found


def bounded(
    measure: Callable[[np.ndarray | None], Score], truth: CellLabels, *, max_cells: int | None, draws: int, seed: int
) -> Score:
    """The score of all cells, or the mean over subsamples where there are more than ``max_cells``.

    Parameters
    ----------
    measure
        Called with None for all cells, or with the rows of a subsample.
    truth, draws, seed
        As in `subsamples`.
    """
    n_cells = len(truth.labels)
    if max_cells is None or n_cells <= max_cells:
        return measure(None)
    scores = [measure(rows) for rows in subsamples(truth, max_cells, draws=draws, seed=seed)]
    how = (
        f"; mean of {draws} subsamples of {max_cells} of {n_cells} cells, drawn with seed {seed} in proportion to "
        "batch and label, interval from the smallest to the largest"
    )
    values = {name: [score.metrics[name] for score in scores] for name in scores[0].metrics}
    return replace(
        scores[0],
        metrics={name: float(np.mean(column)) for name, column in values.items()},
        intervals={name: _range(column) for name, column in values.items()},
        definitions={name: line + how for name, line in scores[0].definitions.items()},
        seconds=sum(score.seconds for score in scores),
        details={"subsamples": {"cells": max_cells, "of": n_cells, "seed": seed, "each": _details(scores)}},
    )


def _range(values: Sequence[float]) -> Interval:
    return Interval(
        low=min(values), high=max(values), level=1.0, unit="subsamples", n_units=len(values), draws=len(values)
    )


def _details(scores: Sequence[Score]) -> list[dict[str, Any]]:
    return [{"metrics": score.metrics, **score.details} for score in scores]
