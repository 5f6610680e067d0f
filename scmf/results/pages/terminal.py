"""The table of a report on the command line.

Lives here: one rich table. Lives elsewhere: what is in the rows (table), printing (cli).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scmf.core.printable import printable
from scmf.results.pages.table import Row, group_of, number, verdict_text

if TYPE_CHECKING:
    from rich.table import Table


def render_terminal(rows: Sequence[Row], *, title: str = "") -> Table:
    """The rows as a rich table; ``expected`` and ``observed`` are means over seeds."""
    import rich.box
    import rich.table
    import rich.text

    colors = {"match": "green", "close": "green", "not_applicable": "dim", "missing": "yellow", "stale": "yellow"}
    head = rich.text.Text(printable(title)) if title else None
    table = rich.table.Table(
        title=head, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False,
        caption="★ best observed mean of its metric", caption_justify="left",
    )  # fmt: skip
    table.add_column("metric, method", min_width=18)
    for name in ("expected", "observed", "delta", "band"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=14)
    before: tuple[str, ...] = ()
    for row in rows:
        here = (*group_of(row), row["metric"])
        if here != before:
            table.add_section()
            title = printable(f"{row['metric']} ({row['benchmark']}, {row['split']})")
            table.add_row(rich.text.Text(title, "bold"))
        before = here
        text = printable(f"{row['label']}, {row['protocol'].replace('_', ' ')}")
        verdict = printable(verdict_text(row) + (f": {row['reason']}" if row["reason"] else ""))
        table.add_row(
            rich.text.Text(f"{'★' if row['best'] else ' '} {text}", "italic" if row["baseline"] else ""),
            number(row["expected_mean"]),
            number(row["observed_mean"]),
            number(row["delta"], sign=True),
            number(row["band"]),
            rich.text.Text(verdict, colors.get(row["verdict"], "red")),
        )
    return table
