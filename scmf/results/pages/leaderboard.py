"""The leaderboard: one static page, a README, a CSV, a JSON and pictures, all from results.

Lives here: what is written where, the form of numbers in files. Lives elsewhere: tables (leaderboard_tables), tables of
tables (leaderboard_summary), marks (scmf.results.significance), pictures (leaderboard_plots), the look
(templates/leaderboard.*). Equal input gives equal bytes: no clock, no random order.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scmf.core.files import peek_object, write_json, write_text
from scmf.core.owned import refuse_foreign
from scmf.results.expected import Expected, PublishedValue
from scmf.results.pages import leaderboard_plots
from scmf.results.pages.environment import make_environment
from scmf.results.pages.escape import csv_cell, markdown
from scmf.results.pages.leaderboard_rows import Entry, Leaks, Row, Verdicts, words
from scmf.results.pages.leaderboard_summary import OUTCOMES, Summary, headline, summaries
from scmf.results.pages.leaderboard_tables import ANY, Table, tables
from scmf.results.pages.table import VERDICTS, number
from scmf.results.result import Result
from scmf.results.significance import BEST, EQUAL, UNKNOWN

PAGES = ("index.html", "README.md", "leaderboard.csv", "leaderboard.json")
"""Files of a leaderboard beside its pictures."""

MARKS = {BEST: "*", EQUAL: "=", UNKNOWN: "°"}
"""Signs behind a number: best, not distinguishable from the best, not compared with it."""

LEAKS = {"leak": "leak", "unknown": "leak unknown", "own": "own split"}
"""How the page calls what is known of the training cells."""


@dataclass(frozen=True)
class Leaderboard:
    """Everything a page shows.

    Parameters
    ----------
    title
        Of the page.
    tables
        In the order of the page.
    absences
        (Recipe and variant, benchmark and cells, reason) where something could not be scored at all.
    published
        Recipe to what papers say.
    """

    title: str
    tables: list[Table]
    absences: list[tuple[str, str, str]]
    published: dict[str, tuple[PublishedValue, ...]] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """In how many tables no model is shown to beat the simple baselines."""
        return headline(self.tables)

    @property
    def summary(self) -> list[Summary]:
        """One block a benchmark: the first metric of every table by method, and mean ranks."""
        return summaries(self.tables)

    def to_json(self) -> dict[str, Any]:
        """All numbers, with intervals, marks, definitions and provenance."""
        return {
            "title": self.title,
            "headline": self.headline,
            "summary": [block.to_json() for block in self.summary],
            "tables": [_table_json(table) for table in self.tables],
            "absences": [{"method": a, "where": b, "reason": c} for a, b, c in self.absences],
            "published": {
                name: [value.model_dump(mode="json") for value in values] for name, values in self.published.items()
            },
        }


def build_leaderboard(
    results: Sequence[Result],
    *,
    leaks: Leaks,
    expected: Mapping[str, Expected],
    verdicts: Verdicts,
    title: str = "scModelForge leaderboard",
) -> Leaderboard:
    """Put results together; pure.

    Parameters
    ----------
    results
        What was measured, in any order.
    leaks
        What the cards say of the presence of their cells in training corpora.
    expected
        Recipe to its expected values, of which the published ones get a table of their own.
    verdicts
        (Recipe, cell) to verdict of its reproduction.
    """
    absences = {
        (f"{r.recipe} {r.variant}", f"{words(r.benchmark)} on {r.dataset}, split {r.split}", r.absence.reason)
        for r in results
        if r.absence is not None and r.protocol == ANY
    }
    published = {name: _in_order(value.published) for name, value in sorted(expected.items()) if value.published}
    return Leaderboard(title, tables(results, leaks=leaks, verdicts=verdicts), sorted(absences), published)


def _in_order(values: Sequence[PublishedValue]) -> tuple[PublishedValue, ...]:
    return tuple(sorted(values, key=lambda v: (v.task, v.dataset, v.model, v.metric, v.id)))


def write_leaderboard(out: Path | str, leaderboard: Leaderboard) -> list[Path]:
    """Write ``index.html``, ``README.md``, ``leaderboard.csv``, ``leaderboard.json`` and ``plots/*.png``.

    A picture whose numbers are as they were is not drawn again. Pictures of an earlier leaderboard that this one has no
    data for are removed.

    Raises
    ------
    ConfigError
        Files of others lie there under these names.
    MissingExtraError
        jinja2 or matplotlib is not installed.
    """
    out = Path(out)
    refuse_foreign(out, PAGES, is_ours=_is_leaderboard)
    plots = leaderboard_plots.draw(leaderboard.tables, out / "plots")
    environment = _environment()
    pages = []
    for name, kind in (("index.html", "html"), ("README.md", "md")):
        template = environment.get_template(f"leaderboard.{kind}.j2")
        pages.append(write_text(out / name, template.render(leaderboard=leaderboard, plots=plots)))
    pages.append(write_text(out / "leaderboard.csv", _csv(leaderboard)))
    pages.append(write_json(out / "leaderboard.json", leaderboard.to_json()))
    return pages + [out / "plots" / plot.file for plot in plots if plot.file]


def _is_leaderboard(folder: Path) -> bool:
    """Whether a leaderboard was written into a folder before."""
    return "tables" in (peek_object(folder / "leaderboard.json") or ())


def _environment() -> Any:
    environment = make_environment(needed_for="the leaderboard")
    environment.filters.update(
        number=number, words=words, cell=markdown, span=span_text, each=each_text, cost=cost_text, seeds=_seeds_text,
        facts=facts_of,
    )  # fmt: skip
    environment.globals.update(MARKS=MARKS, VERDICTS=VERDICTS, LEAKS=LEAKS, COSTS=_COSTS, OUTCOMES=OUTCOMES)
    return environment


# --- numbers in words -----------------------------------------------------------------------------

_COSTS = (
    ("seconds", "seconds", "Wall time of the measurement, mean over seeds; the row names the machine"),
    ("peak_memory_mb", "peak MiB", "Highest resident memory of the process that measured"),
    ("parameters", "parameters", "Parameters of the network"),
)


def span_text(entry: Entry) -> str:
    """``0.81 to 0.86, 95 % over 983 cells``; the values of a few units where these give no interval; else ""."""
    if entry.span is None:
        return each_text(entry)
    low, high, what = entry.span
    level = "range" if entry.estimate.level >= 1 else f"{entry.estimate.level:.0%}".replace("%", " %")
    return f"{number(low)} to {number(high)}, {level} over {what}"


def each_text(entry: Entry) -> str:
    """``d4: 0.81, d5: 0.86``; "" where there are no values of single units."""
    return ", ".join(f"{unit}: {number(value)}" for unit, value in entry.each.items())


def cost_text(row: Row, key: str) -> str:
    """Seconds, MiB or parameters, rounded for reading; "—" where nobody said."""
    value = row.cost(key)
    if value is None:
        return "—"
    return f"{value:,.1f}" if key == "seconds" and value < 100 else f"{value:,.0f}"


def _seeds_text(seeds: Mapping[str, float]) -> str:
    if set(seeds) == {"none"}:
        return f"no seed: {seeds['none']!r}"
    return ", ".join(f"seed {seed}: {value!r}" for seed, value in seeds.items())


def facts_of(row: Row) -> dict[str, list[str]]:
    """Where the numbers of a row come from, each fact once: commands, measurements, cells, environments."""
    commands, measured, cells, places = [], [], [], []
    for result in row.results:
        facts = result.provenance
        git, data = facts.get("git", {}), facts.get("data", {})
        dirty = " with uncommitted changes" if git.get("dirty") else ""
        commands.append(result.command)
        measured.append(f"{facts.get('time', 'time unknown')}, commit {git.get('commit', 'unknown')}{dirty}")
        cells.append(
            f"{data.get('dataset', result.dataset)}, sha256 {data.get('sha256', 'unknown')}; split {result.split}, "
            f"sha256 {data.get('split_sha256', 'unknown')}"
        )
        packages = ", ".join(f"{name} {version}" for name, version in sorted(facts.get("packages", {}).items()))
        where = (facts.get("platform", "platform unknown"), facts.get("cpu", "CPU unknown"))
        places.append(
            f"Python {facts.get('python', 'unknown')}, {', '.join(where)}, {facts.get('cpu_count', '?')} cores; "
            f"{packages or 'packages unknown'}"
        )
    found = {"command": commands, "measured": measured, "cells": cells, "environment": places}
    return {name: list(dict.fromkeys(lines)) for name, lines in found.items()}


# --- what the files hold --------------------------------------------------------------------------


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "benchmark": table.benchmark,
        "dataset": table.dataset,
        "split": table.split,
        "protocol": table.protocol,
        "outcome": table.outcome,
        "sentence": table.sentence,
        "definitions": table.definitions,
        "rows": [{**_row_json(table, row), **facts_of(row)} for row in table.rows],
    }


def _row_json(table: Table, row: Row) -> dict[str, Any]:
    metrics = {}
    for name, entry in row.entries.items():
        low, high, over = entry.span or (None, None, None)
        metrics[name] = {
            "value": entry.estimate.value, "low": low, "high": high, "over": over, "seeds": entry.seeds,
            "higher_is_better": table.higher.get(name, True), "mark": entry.mark, "verdict": entry.verdict,
            **({"each": entry.each} if entry.each else {}),
        }  # fmt: skip
    return {
        "name": row.name, "recipes": list(row.recipes), "variant": row.variant, "method": row.method,
        "baseline": row.baseline, "leak": row.leak[0], "leak_reason": row.leak[1], "absence": row.absence,
        "metrics": metrics, "seconds": row.cost("seconds"), "peak_memory_mb": row.cost("peak_memory_mb"),
        "parameters": row.cost("parameters"), "n_cells": row.first.n_cells,
    }  # fmt: skip


_COLUMNS = (
    "benchmark", "dataset", "split", "protocol", "recipe", "variant", "method", "baseline", "metric", "value", "low",
    "high", "over", "seeds", "higher_is_better", "mark", "verdict", "leak", "seconds", "peak_memory_mb", "parameters",
    "n_cells", "absence", "command",
)  # fmt: skip


def _csv(leaderboard: Leaderboard) -> str:
    """One line a number, one for a row without any."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for table in leaderboard.tables:
        for row in table.rows:
            value = _row_json(table, row)
            line = {
                "benchmark": table.benchmark, "dataset": table.dataset, "split": table.split,
                "protocol": table.protocol, "recipe": "+".join(row.recipes), "command": row.first.command,
                **{key: value[key] for key in ("variant", "method", "baseline", "leak", "absence", "n_cells")},
                **{key: value[key] for key in ("seconds", "peak_memory_mb", "parameters")},
            }  # fmt: skip
            for name, metric in value["metrics"].items():
                seeds = json.dumps(metric["seeds"])
                writer.writerow(_cells({**line, **metric, "seeds": seeds, "metric": name}))
            if not value["metrics"]:
                writer.writerow(_cells(line))
    return buffer.getvalue()


def _cells(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: csv_cell(value) for name, value in line.items() if name in _COLUMNS}
