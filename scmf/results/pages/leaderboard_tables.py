"""From results to the tables of the leaderboard, and the sentence above each: whether a simple baseline does as well.

Lives here: what a table is, its columns, its sentence. Lives elsewhere: rows, baselines, leaks (leaderboard_rows), the
test of differences (scmf.results.significance), tables of tables (leaderboard_summary), files (leaderboard).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scmf.results.metric import plain_label
from scmf.results.pages.leaderboard_rows import CEILING, CHANCE, Leaks, Row, Verdicts, rows_of, words
from scmf.results.result import Result
from scmf.results.significance import EQUAL, differ

CONSTANT, ON_TEST_CELLS = "constant", ("linear_probe", "knn_probe", "knn_transfer", "finetuned_head")
"""Protocol of the majority class, and the protocols that score the same test cells."""

ANY = "any"
"""Protocol of a result that says why nothing could be scored at all."""

MOST_COLUMNS = 8
"""Columns of a table whose results do not say which metrics are columns."""

BENCHMARKS = ("annotation", "integration", "perturbation", "gene_network", "pretraining")
"""Order of the page."""

Outcome = Literal["baseline", "tie", "model", "leak", "unknown", ""]
"""Best against the first metric: a simple baseline, neither, a model, a model that may have been trained on the test
cells, nobody knows (single samples); "" where models or baselines are lacking."""

_NAMED = 4
"""Most names in a sentence."""


@dataclass(frozen=True)
class Table:
    """All methods on the same cells under the same protocol."""

    benchmark: str
    dataset: str
    split: str
    protocol: str
    metrics: tuple[str, ...]
    """Columns, as the results say."""
    first: str
    """The metric that decides which method is called best: the first column that may; "" where there is none."""
    labels: dict[str, str]
    """Metric to how pages call it, where that is not its name with spaces."""
    higher: dict[str, bool]
    definitions: dict[str, str]
    rows: tuple[Row, ...] = field(default=())

    @property
    def id(self) -> str:
        """Name for links."""
        return f"{self.benchmark}.{self.dataset}.{self.split}.{self.protocol}"

    @property
    def title(self) -> str:
        """What pages call it."""
        what = words(self.benchmark)
        return f"{what[0].upper()}{what[1:]} on {self.dataset}, split {self.split}: {words(self.protocol)}"

    def label(self, metric: str) -> str:
        """What pages call a metric."""
        return self.labels.get(metric, plain_label(metric))

    @property
    def judged(self) -> bool:
        """Whether any number has a verdict of its reproduction."""
        return any(row.verdict for row in self.rows)

    def worth(self, row: Row) -> float:
        """The first metric of a row, turned so that more is better."""
        value = row.entries[self.first].estimate.value
        return value if self.higher.get(self.first, True) else -value

    def _best(self, *, baseline: bool) -> Row | None:
        mine = [row for row in self.rows if row.baseline is baseline and not row.role and self.first in row.entries]
        return max(mine, key=self.worth, default=None)

    @property
    def outcome(self) -> Outcome:
        """Whether a simple baseline does as well as the best model."""
        model, base = self._best(baseline=False), self._best(baseline=True)
        if model is None or base is None or self.benchmark == "pretraining":
            return ""
        apart = differ(model.entries[self.first].estimate, base.entries[self.first].estimate)
        if apart is None and self.worth(model) != self.worth(base):
            return "unknown"
        if not apart:
            return "tie"
        if self.worth(base) > self.worth(model):
            return "baseline"
        return "leak" if model.leak[0] in ("leak", "unknown") else "model"

    @property
    def baseline_first(self) -> bool:
        """Whether a simple baseline is ahead of every model, told apart or not."""
        model, base = self._best(baseline=False), self._best(baseline=True)
        return base is not None and (model is None or self.worth(base) > self.worth(model))

    @property
    def untrained_first(self) -> bool:
        """Whether the best model is one with the weights it was born with."""
        model = self._best(baseline=False)
        return model is not None and model.untrained

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        model, base = self._best(baseline=False), self._best(baseline=True)
        if self.benchmark == "pretraining" or (model is None and base is None):
            return ""
        if model is None:
            return "No model was measured here: baselines only."
        metric, said = "overall score" if self.first == "overall" else self.label(self.first), []
        if base is None:
            said.append(f"{model.name} has the best {metric}; no baseline but chance was measured here.")
        else:
            said.append(self._told(model, base, metric))
        if model.untrained:
            said.append("The best model is an untrained one.")
        elif model.leak[0] == "leak" and (base is None or self.worth(model) >= self.worth(base)):
            said.append("But its training cells hold the cells that are scored (leak).")
        chance = [row for row in self.rows if row.method in CHANCE and self.first in row.entries]
        over = [row.name for row in chance if self.worth(row) >= self.worth(model)]
        if over:
            said.append(f"No model is above {over[0]}.")
        return " ".join(said)

    def _told(self, model: Row, base: Row, metric: str) -> str:
        outcome = self.outcome
        ahead = base if self.worth(base) > self.worth(model) else model
        if outcome == "unknown":
            other = base if ahead is model else model
            said = f"{ahead.name} has the best {metric}, before {other.name}"
            said = said if ahead is model else f"A simple baseline is first: {said}"
            return f"{said}; not compared, for want of seeds or intervals."
        if outcome == "tie":
            rivals = [row for row in self.rows if row.baseline is not ahead.baseline and not row.role]
            near = [row for row in rivals if self.first in row.entries and row.entries[self.first].mark == EQUAL]
            names = _names(near) or (base if ahead is model else model).name
            if ahead is base:
                return (
                    f"A simple baseline wins: {base.name} has the best {metric}; not distinguishable from it: {names}."
                )
            said = f"{model.name} has the best {metric}, not distinguishable from it: {names}"
            return f"No model is shown to beat the simple baselines: {said}."
        if outcome == "baseline":
            return f"A simple baseline wins: {base.name} has the best {metric}, above every model."
        return f"{model.name} has the best {metric}, above every baseline."


def _names(rows: Sequence[Row]) -> str:
    more = len(rows) - _NAMED
    return "; ".join(row.name for row in rows[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def tables(results: Sequence[Result], *, leaks: Leaks, verdicts: Verdicts) -> list[Table]:
    """One table for each benchmark, split and protocol, in the order of the page, whatever the order of the results.

    Parameters
    ----------
    results
        What was measured.
    leaks
        What the cards say of the presence of their cells in training corpora.
    verdicts
        (Recipe, cell) to verdict of its reproduction.
    """
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: (str(result.path), result.recipe_digest)):
        groups.setdefault((result.benchmark, result.dataset, result.split, result.protocol), []).append(result)
    _spread_constant(groups)
    order = {name: i for i, name in enumerate(BENCHMARKS)}
    keys = sorted(groups, key=lambda key: (order.get(key[0], len(order)), *key))
    found = [_table(key, groups[key], leaks, verdicts) for key in keys if key[3] != ANY]
    return [table for table in found if table.rows]


def _spread_constant(groups: dict[tuple[str, str, str, str], list[Result]]) -> None:
    """The majority class has no protocol of its own: it stands in every table of labels of the same test cells."""
    for key in [key for key in groups if key[3] == CONSTANT]:
        others = [other for other in groups if other[:3] == key[:3] and other[3] in ON_TEST_CELLS]
        for other in others:
            groups[other] += groups[key]
        if others:
            del groups[key]


def _table(key: tuple[str, str, str, str], results: Sequence[Result], leaks: Leaks, verdicts: Verdicts) -> Table:
    benchmark, dataset, split, protocol = key
    seen = {name: None for result in results for name in result.metrics}
    columns = dict.fromkeys(name for result in results for name in result.columns)
    metrics = tuple(name for name in columns if name in seen)
    heads = {name for result in results for name in result.heads}
    if not metrics:
        metrics = tuple(name for name in seen if "." not in name)[:MOST_COLUMNS]
        heads = set(metrics)
    labels = {name: label for result in results for name, label in result.labels.items()}
    higher = {name: value for result in results for name, value in result.higher_is_better.items()}
    said = {name: text for result in results for name, text in result.definitions.items()}
    rows = rows_of(results, known=leaks.get(dataset, {}), verdicts=verdicts, higher=higher)
    first = next((name for name in metrics if name in heads), "")
    table = Table(benchmark, dataset, split, protocol, metrics, first, labels, higher, said)

    def place(row: Row) -> tuple[Any, ...]:
        absent = table.first not in row.entries
        return (row.method == CEILING, absent, 0.0 if absent else -table.worth(row), row.name)

    return replace(table, rows=tuple(sorted(rows, key=place)))
