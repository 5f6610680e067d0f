"""Statistics of shifts over cells, as ``InSilicoPerturberStats`` of Geneformer computes them.

Lives here: `summary`, means for each perturbation with Wilcoxon rank-sum tests against the shifts of all perturbations
(``goal_state_shift``) or against those of other cells (``vs_null``), corrected by Benjamini and Hochberg. Lives
elsewhere: the shifts (shifts), names and the table on the screen (run).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, ranksums

from scmf.evaluation.in_silico.shifts import Shifts

SIGNIFICANT = 0.05
"""False discovery rate below which a perturbation counts as significant."""
MOST_COMPARED = 100_000
"""Shifts that a perturbation is held against; of more, so many are drawn, with the official seed."""
_SEED = 42


@dataclass(frozen=True)
class Wanted:
    """Names of the states that shifts are tested for.

    Parameters
    ----------
    goal
        The state that cells should move to; None: how far they move at all.
    alternates
        Other states.
    """

    goal: str | None = None
    alternates: tuple[str, ...] = ()


def summary(shifts: Shifts, names: Sequence[str], wanted: Wanted, *, null: Shifts | None = None) -> pd.DataFrame:
    """One row for each perturbation that some cell had, the most convincing first.

    Parameters
    ----------
    shifts
        What the perturbations did.
    names
        Name of each target.
    wanted
        States.
    null
        The same perturbations in other cells: what is seen without the state in question.

    Returns
    -------
    DataFrame
        ``perturbation``, ``n_cells``; without a goal ``cosine_mean`` and ``cosine_sd``; with one ``shift_to_<state>``
        for the goal, the alternates and the start. Then ``p_value`` and ``fdr``: of the cosine, or of the shift to the
        goal, against those of all perturbations together (missing for one perturbation alone); ``p_<state>`` and
        ``fdr_<state>`` of alternates. With ``null`` instead ``null_mean``, ``difference``, ``n_null`` and the test of
        the two. ``significant``: whether ``fdr`` is below 0.05.
    """
    present = np.unique(shifts.target_E)
    table = pd.DataFrame({"perturbation": [names[t] for t in present]})
    cosines = _Values(shifts.target_E, shifts.cosine_E, len(names))
    table["n_cells"] = [len(cosines[t]) for t in present]
    value = cosines if wanted.goal is None else _of_state(shifts, wanted.goal, len(names))
    if wanted.goal is None:
        table["cosine_mean"] = [cosines[t].mean() for t in present]
        table["cosine_sd"] = [cosines[t].std() for t in present]
    else:
        others = [state for state in shifts.states if state != wanted.goal]
        for state in (wanted.goal, *others):
            found = _of_state(shifts, state, len(names))
            table[f"shift_to_{state}"] = [found[t].mean() for t in present]
    if null is not None:
        return _against_null(table, present, value, null, wanted, len(names))
    if len(present) > 1:
        table["p_value"], table["fdr"] = _against_all(value, present)
        for state in wanted.alternates:
            table[f"p_{state}"], table[f"fdr_{state}"] = _against_all(_of_state(shifts, state, len(names)), present)
        table["significant"] = table["fdr"] < SIGNIFICANT
    return _in_order(table, "cosine_mean" if wanted.goal is None else f"shift_to_{wanted.goal}", wanted)


class _Values:
    """Values of each target; those of equal targets stand together."""

    def __init__(self, target_E: np.ndarray, value_E: np.ndarray, n_targets: int) -> None:
        self.all = value_E
        self._bounds = np.searchsorted(target_E, np.arange(n_targets + 1))

    def __getitem__(self, target: int) -> np.ndarray:
        return self.all[self._bounds[target] : self._bounds[target + 1]]


def _of_state(shifts: Shifts, state: str, n_targets: int) -> _Values:
    return _Values(shifts.target_E, shifts.shift_ES[:, shifts.states.index(state)], n_targets)


def _against_all(value: _Values, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P value and false discovery rate of each target against the values of all targets, its own among them."""
    every = value.all
    if len(every) > MOST_COMPARED:
        every = np.array(random.Random(_SEED).sample(every.tolist(), k=MOST_COMPARED))
    p_T = np.array([ranksums(every, value[t]).pvalue for t in present])
    return p_T, false_discovery_control(p_T, method="bh")


def _against_null(
    table: pd.DataFrame, present: np.ndarray, value: _Values, null: Shifts, wanted: Wanted, n_targets: int
) -> pd.DataFrame:
    """The table with the same perturbations of other cells beside; p is 1 where these have none."""
    other = _Values(null.target_E, null.cosine_E, n_targets)
    if wanted.goal is not None:
        other = _of_state(null, wanted.goal, n_targets)
    n_T = np.array([len(other[t]) for t in present])
    table["null_mean"] = [other[t].mean() if n else np.nan for t, n in zip(present, n_T, strict=True)]
    table["difference"] = [value[t].mean() for t in present] - table["null_mean"]
    table["n_null"] = n_T
    table["p_value"] = [
        ranksums(value[t], other[t]).pvalue if n else 1.0 for t, n in zip(present, n_T, strict=True)
    ]  # fmt: skip
    table["fdr"] = false_discovery_control(table["p_value"].to_numpy(), method="bh")
    table["significant"] = table["fdr"] < SIGNIFICANT
    return _in_order(table, "difference", wanted)


def _in_order(table: pd.DataFrame, by: str, wanted: Wanted) -> pd.DataFrame:
    """Significant ones first; then the largest shift or difference, or the smallest cosine, where cells moved most."""
    keys = [key for key in ("significant", by, "fdr") if key in table]
    rising = {"significant": False, by: by == "cosine_mean", "fdr": True}
    return table.sort_values(keys, ascending=[rising[key] for key in keys], kind="stable").reset_index(drop=True)
