"""The table of a report on the command line.

Lives here: one rich table. Lives elsewhere: what is in the rows (table), printing (cli).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scmf.report.table import Row, group_of, number, spread, verdict_text

if TYPE_CHECKING:
    from rich.table import Table


def render_terminal(rows: Sequence[Row], *, title: str = "") -> Table:
    """The rows as a rich table, for the command line."""
    import rich.markup
    import rich.table
    import rich.text

    colours = {"match": "green", "close": "green", "not_applicable": "dim", "missing": "yellow", "stale": "yellow"}
    table = rich.table.Table(title=rich.markup.escape(title) or None, title_justify="left", header_style="bold")
    for name in ("benchmark", "metric", "protocol", "method"):
        table.add_column(name, overflow="fold")
    for name in ("expected", "observed", "delta", "band"):
        table.add_column(name, justify="right")
    table.add_column("verdict", overflow="fold")
    before: tuple[str, ...] = ()
    for row in rows:
        here = (*group_of(row), row["metric"])
        if before and here != before:
            table.add_section()
        style = "italic" if row["baseline"] else ""
        table.add_row(
            "" if here == before else row["benchmark"],
            "" if here == before else row["metric"],
            row["protocol"].replace("_", " "),
            rich.text.Text(row["label"] + (" ★" if row["best"] else ""), style),
            spread(row["expected_mean"], row["expected_sd"], len(row["expected_samples"])),
            spread(row["observed_mean"], row["observed_sd"], len(row["observed_samples"])),
            number(row["delta"], sign=True),
            number(row["band"]),
            rich.text.Text(
                verdict_text(row) + (f": {row['reason']}" if row["reason"] else ""), colours.get(row["verdict"], "red")
            ),
        )
        before = here
    return table
