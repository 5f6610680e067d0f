"""What the commands print: the answer on stdout, all else on stderr.

Lives here: tables, YAML, JSON, and messages on stderr; all of it without secrets (scmf.core.redact) and without
control characters (scmf.core.printable). Lives elsewhere: the commands and their options.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from scmf.core import progress
from scmf.core.printable import printable
from scmf.core.redact import hide, hide_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from scmf.experiments.reproduce import Outcome
    from scmf.results.parity import ParityCase


class _Stderr(logging.Handler):
    """Messages of scmf as lines on stderr, above the progress bars where there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(hide_text(record.getMessage()))
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        progress.console().print(text, markup=False, highlight=False, soft_wrap=True)


def listen(quiet: bool = False) -> bool:
    """Print the messages of scmf and show its bars, or (``quiet``) warnings alone and no bar; returns ``quiet``."""
    logger = logging.getLogger("scmf")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    progress.show(not quiet)
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return quiet


def say(text: object) -> None:
    """A line on stdout, without secrets and without control characters."""
    print(printable(hide_text(str(text))))


def complain(text: object) -> None:
    """A line on stderr, without secrets and without control characters."""
    print(printable(hide_text(str(text))), file=sys.stderr)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python shows of an error that nobody foresaw, without secrets and without control characters."""
    complain("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


class Commands(typer.core.TyperGroup):
    """The verbs; what their parser says of a wrong option repeats it without secrets and control characters."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """See typer."""
        with _repeated_safely():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """See typer."""
        with _repeated_safely():
            return super().invoke(ctx)


@contextmanager
def _repeated_safely() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if (written := getattr(error, "format_message", None)) is not None:
            said = printable(hide_text(written()))
            error.format_message = lambda: said  # type: ignore[attr-defined]
        raise


def as_text(cell: object) -> Text:
    """A cell of a table that rich takes as it is: no markup, no control characters, no secrets."""
    from rich.text import Text

    return Text(printable(hide_text(str(cell))))


def print_json(value: object) -> None:
    """One JSON value on stdout, without secrets; control characters are escaped as JSON has it."""
    import json

    print(printable(json.dumps(hide(value), indent=1, ensure_ascii=False, allow_nan=False), long=True))


def print_answer(answer: dict[str, Any], *, as_json: bool) -> None:
    """Names and values on stdout, as YAML or JSON."""
    if as_json:
        print_json(answer)
        return
    from scmf.core.yaml import dump_yaml

    print(printable(dump_yaml(hide(answer))), end="")


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(as_text(column))
    for row in rows:
        table.add_row(*map(as_text, row))
    console = Console()
    # A pipe has no width; do not fold what a program reads.
    Console(width=None if console.is_terminal else 200).print(table)


def print_scores(scores: Sequence[Any]) -> None:
    """Scores of a run and the baselines as a table on stdout."""
    print_table(
        ("benchmark", "protocol", "method", "metric", "value"),
        [
            (score.benchmark, score.protocol, score.method, name, f"{value:.4f}")
            for score in scores
            for name, value in score.metrics.items()
        ],
    )


def print_report(report: Any, *, as_json: bool) -> None:
    """A check's findings; exit code 1 when one of them is an error."""
    if as_json:
        print_json(report.to_json())
    else:
        print_table(("level", "what", "found", "do"), [tuple(str(part) for part in row) for row in report.rows()])
    raise typer.Exit(0 if report.ok else 1)


def print_outcome(outcome: Outcome) -> None:
    """Parity, verdicts and pages of a reproduction."""
    from scmf.results.expected import load_expected
    from scmf.results.pages.table import table_rows
    from scmf.results.pages.terminal import render_terminal

    console = _wide_console()
    for tier, reason in outcome.absent.items():
        console.print(as_text(f"{tier}: — ({reason})"))
    if outcome.parity is not None:
        print_parity(outcome.parity)
    if outcome.verdicts:
        expected = load_expected(outcome.recipe.folder / "expected.yaml")
        rows = table_rows(results=outcome.results, expected=expected, verdicts=outcome.verdicts)
        console.print(render_terminal(rows, title=f"{outcome.recipe.name}, variant {outcome.recipe.variant}"))
    for page in outcome.pages:
        console.print(as_text(f"wrote {page}"))
    print_verdict(outcome.ok)


def print_parity(cases: Sequence[ParityCase]) -> None:
    """Comparisons with official code: a row each part, a line each case that differs."""
    from scmf.results.pages.table import parity_rows

    columns = ("parity", "passed", "largest difference", "tolerance")
    print_table(columns, [_parity_line(row) for row in parity_rows(cases)])
    for case in cases:
        if not case.passed:
            _wide_console().print(as_text(f"FAIL {case.name}: {case.compared}; {case.detail}"))


def print_verdict(ok: bool) -> None:
    """The last line of a reproduction."""
    print("reproduced" if ok else "NOT reproduced: see the rows above")


def _wide_console() -> Console:
    """A console of the width of the terminal, or wide enough for the tables where there is none."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def _parity_line(row: dict[str, Any]) -> tuple[str, ...]:
    passed = f"{row['passed']} of {row['cases']} cases"
    return row["part"], passed, f"{row['difference']:.2g}", f"{row['tolerance']:.2g}"
