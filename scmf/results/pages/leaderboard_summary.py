"""Tables of tables: in how many does a simple baseline do as well, who stands where, and ranks over complete sets.

Lives here: counting outcomes, mean ranks. Lives elsewhere: the tables and their outcomes (leaderboard_tables).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scmf.results.pages.leaderboard_rows import Entry, words
from scmf.results.pages.leaderboard_tables import BENCHMARKS, Outcome, Table

OUTCOMES: dict[Outcome, str] = {
    "baseline": "baseline better",
    "tie": "not distinguishable",
    "model": "model better",
    "leak": "model better, leak possible",
    "unknown": "not compared",
}
"""Outcomes of a table, of the best model against the best simple baseline, in words."""


@dataclass(frozen=True)
class SummaryRow:
    """A method over all tables of a benchmark.

    Parameters
    ----------
    entries
        The first metric of each table; None where the method is absent.
    rank
        Mean rank among the methods that are in every table with models and baselines; None for all others.
    why
        Why there is no rank.
    """

    name: str
    baseline: bool
    entries: tuple[Entry | None, ...]
    rank: float | None
    why: str = ""


@dataclass(frozen=True)
class Summary:
    """One benchmark at a glance."""

    benchmark: str
    tables: tuple[Table, ...]
    rows: tuple[SummaryRow, ...]

    @property
    def title(self) -> str:
        """Name of the benchmark."""
        said = words(self.benchmark)
        return f"{said[0].upper()}{said[1:]}"

    @property
    def counts(self) -> dict[str, int]:
        """Outcome to number of tables."""
        return counts(self.tables)

    @property
    def untrained(self) -> int:
        """In how many tables the best model is an untrained one."""
        return sum(table.untrained_first for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        """Method to mean rank, and the tables that it is over."""
        ranks = {row.name: row.rank for row in self.rows}
        over = [table.id for table in self.tables if table.outcome]
        counted = {**self.counts, "best_model_untrained": self.untrained}
        return {"benchmark": self.benchmark, "outcomes": counted, "over": over, "mean_rank": ranks}


def counts(tables: Sequence[Table]) -> dict[str, int]:
    """Outcome to number of tables, those without models or without baselines left out."""
    found = Counter(table.outcome for table in tables)
    return {kind: found[kind] for kind in OUTCOMES}


def headline(tables: Sequence[Table]) -> str:
    """In how many tables no model is shown to beat the simple baselines: the first thing to know."""
    n = counts(tables)
    told = sum(n.values()) - n["unknown"]
    said = []
    if told:
        said.append(
            f"No model is shown to beat the simple baselines in {n['baseline'] + n['tie']} of {told} "
            f"table{'s' if told > 1 else ''}: a baseline is better than the best model in {n['baseline']}, not "
            f"distinguishable from it in {n['tie']}."
        )
    if n["unknown"]:
        ahead = sum(table.outcome == "unknown" and table.baseline_first for table in tables)
        more = "more tables hold" if n["unknown"] > 1 else "more table holds"
        said.append(f"{n['unknown']} {more} single samples that were not compared; the baseline is ahead in {ahead}.")
    untrained = sum(table.untrained_first for table in tables if table.outcome)
    if untrained:
        total = sum(n.values())
        said.append(f"Among the models an untrained one has the best number in {untrained} of all {total} tables.")
    return " ".join(said) or "No table holds both models and baselines."


def summaries(tables: Sequence[Table]) -> list[Summary]:
    """One block a benchmark, in the order of the page; losses of pretraining cannot be compared and have none."""
    blocks = []
    for benchmark in dict.fromkeys((*BENCHMARKS, *(table.benchmark for table in tables))):
        mine = [table for table in tables if table.benchmark == benchmark and table.metrics]
        if mine and benchmark != "pretraining":
            blocks.append(_summary(benchmark, mine))
    return blocks


def _summary(benchmark: str, mine: Sequence[Table]) -> Summary:
    lines: dict[tuple[str, bool], list[Entry | None]] = {}
    places: dict[str, list[float]] = {}  # of those that compete: the first metric, turned so that more is better
    over = [table for table in mine if table.outcome]
    chance = {row.name for table in mine for row in table.rows if row.role == "chance"}
    for column, table in enumerate(mine):
        for row in table.rows:
            if table.first not in row.entries or row.role == "ceiling":
                continue
            lines.setdefault((row.name, row.baseline), [None] * len(mine))[column] = row.entries[table.first]
            if table in over and not row.role:
                places.setdefault(row.name, []).append(table.worth(row))
    complete = {name: worth for name, worth in places.items() if len(worth) == len(over)}
    rows = []
    for (name, baseline), line in lines.items():
        why, rank = "", None
        if len(over) < 2:
            why = "a mean rank needs two tables with models and baselines"
        elif name in chance:
            why = "chance competes with nobody"
        elif name not in complete:
            why = f"stands in {len(places.get(name, ()))} of {len(over)} tables with models and baselines"
        else:
            above = [sum(other[i] > complete[name][i] for other in complete.values()) for i in range(len(over))]
            rank = 1 + sum(above) / len(over)
        rows.append(SummaryRow(name, baseline, tuple(line), rank, why))
    rows.sort(key=lambda row: (row.rank is None, row.rank or 0.0, row.baseline, row.name))
    return Summary(benchmark, tuple(mine), tuple(rows))
