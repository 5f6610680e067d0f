"""What is drawn anew for the interval of a score of labels: donors where there are several, else cells.

Cells of one donor are alike, so that whole donors are drawn. Of fewer than five no interval is given, since a bootstrap
over them claims far more than they say: the values of each are listed instead. Cells whose donor nobody knows belong to
no unit; they count in the score and not in its interval. Lives elsewhere: the bootstrap (scmf.evaluation.uncertainty).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmf.results.score import FEW_UNITS, Interval

Draw = Callable[[np.ndarray, np.ndarray | None, str], Mapping[str, Interval]]
"""From rows, their group (None: each row is a unit) and the word for a unit to the interval of each metric."""


@dataclass(frozen=True)
class Units:
    """Units of N test cells.

    Parameters
    ----------
    rows
        Cells that belong to a unit.
    groups
        Donor of each of them, str; None where each cell is a unit of its own.
    """

    rows: np.ndarray
    groups: np.ndarray | None

    @classmethod
    def of(cls, donors: np.ndarray | None, n_cells: int) -> Units:
        """Donors (N,), empty where nobody knows; cells where there are not two donors."""
        if donors is not None:
            rows = np.flatnonzero(donors != "")
            if len(np.unique(donors[rows])) > 1:
                return cls(rows, donors[rows])
        return cls(np.arange(n_cells), None)

    def among(self, chosen: np.ndarray) -> Units:
        """The units of the cells that are marked in ``chosen``, boolean (N,); of the cells left out nothing is said."""
        inside = chosen[self.rows]
        place = np.cumsum(chosen) - 1
        groups = None if self.groups is None else self.groups[inside]
        if groups is not None and len(np.unique(groups)) < 2:
            return Units(np.arange(int(chosen.sum())), None)
        return Units(place[self.rows[inside]], groups)

    @property
    def word(self) -> str:
        """``cells`` or ``donors``."""
        return "cells" if self.groups is None else "donors"

    def __len__(self) -> int:
        return len(self.rows) if self.groups is None else len(np.unique(self.groups))

    def intervals(self, draw: Draw) -> dict[str, Interval]:
        """What ``draw`` gives; nothing of fewer than five units."""
        return {} if len(self) < FEW_UNITS else dict(draw(self.rows, self.groups, self.word))

    def listed(self, value: Callable[[np.ndarray], Mapping[str, float]]) -> dict[str, Any]:
        """``{"units": {"unit": "donors", "values": {metric: {donor: value}}}}`` of two to four donors, else nothing."""
        if self.groups is None or len(self) >= FEW_UNITS:
            return {}
        each = {str(name): value(self.rows[self.groups == name]) for name in np.unique(self.groups)}
        metrics = dict.fromkeys(metric for found in each.values() for metric in found)
        values = {
            metric: {name: found[metric] for name, found in each.items() if metric in found} for metric in metrics
        }
        return {"units": {"unit": self.word, "values": values}}
