"""States of cells: which cells are perturbed and which they are held against.

Lives here: `States`, from the options of a command to the cells of each state. Lives elsewhere: mean vectors of the
states (run), shifts towards them (shifts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import ConfigError, DataError
from scmf.core.registry import did_you_mean
from scmf.data.loading.facts import LoadedCells
from scmf.data.stores.missing import known_text


@dataclass(frozen=True)
class States:
    """The state that cells are in, the one they should move to, and others.

    Parameters
    ----------
    key
        Column of ``obs``.
    start, goal
        Values of it: cells of ``start`` are perturbed.
    alternates
        Other values, whose shifts are reported too.
    """

    key: str
    start: str
    goal: str
    alternates: tuple[str, ...] = ()

    @classmethod
    def asked(cls, key: str | None, start: str | None, goal: str | None, alternates: Sequence[str]) -> States | None:
        """The states of the options; None where none is given.

        Raises
        ------
        ConfigError
            Some are given without the others, or one twice.
        """
        if key is None and start is None and goal is None and not alternates:
            return None
        options = {"--state-key": key, "--start": start, "--goal": goal}
        if missing := [name for name, value in options.items() if not value]:
            given = [name for name, value in options.items() if value] + ["--alternate"] * bool(alternates)
            raise ConfigError(
                f"{', '.join(given)} without {', '.join(missing)}", wanted="--state-key, --start and --goal together",
                where="scmf perturb", fix=f"give {', '.join(missing)} too, or none of them",
            )  # fmt: skip
        named = [str(start), str(goal), *alternates]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ConfigError(
                f"the state {twice[0]!r} twice", wanted="different states", where="--start, --goal, --alternate",
                fix="name each state once",
            )  # fmt: skip
        return cls(str(key), str(start), str(goal), tuple(alternates))

    @property
    def names(self) -> tuple[str, ...]:
        """All states: start, goal, alternates."""
        return (self.start, self.goal, *self.alternates)

    def rows(self, cells: LoadedCells) -> dict[str, np.ndarray]:
        """State -> its cells, int64 in their order.

        Raises
        ------
        DataError
            There is no such column, or no cell of a state.
        """
        columns = [str(column) for column in cells.obs.columns]
        if self.key not in columns:
            raise DataError(
                f"no column {self.key!r} in obs", wanted="the state of each cell", where=cells.facts.dataset,
                fix=did_you_mean(self.key, columns),
            )  # fmt: skip
        values = known_text(cells.obs[self.key])
        found = {state: np.flatnonzero(values == state) for state in self.names}
        for state, rows in found.items():
            if not len(rows):
                known = sorted(set(values.tolist()) - {""})
                raise DataError(
                    f"no cell of the state {state!r} in {self.key!r}", wanted="cells of every state",
                    where=cells.facts.dataset, fix=did_you_mean(state, known[:40]),
                )  # fmt: skip
        return found
