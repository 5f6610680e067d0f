"""Texts of others on a page: labels, names, commands and versions that cannot become markup, links or formulas.

Lives here: Markdown, code in Markdown, cells of CSV. HTML is escaped by jinja2 (environment), YAML by its writer. Lives
elsewhere: control characters (scmf.core.printable), secrets and paths (scmf.core.shareable).
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from scmf.core.printable import printable

_MARKS = re.compile(r"[\\|*_<>\[\]`#]|~(?=~)|(?<=~)~|&(?=#?\w+;)")
_FORMULA = "=+-@＝＋－＠"
"""What a spreadsheet takes for the start of a formula, also in its wide form."""


def line(text: Any) -> str:
    """``text`` as one line without control characters."""
    return printable(" ".join(str(text).split()))


def markdown(text: Any) -> str:
    """Text that cannot break a table of Markdown, start markup or HTML, or be a link."""
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", line(text))


def code(text: Any, *, table: bool = False) -> str:
    """A code span of Markdown around any text.

    Parameters
    ----------
    text
        What stands in it; line breaks become blanks.
    table
        It stands in a table, where a vertical bar needs a backslash.
    """
    said = line(text)
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", said)), default=0))
    room = " " if said.startswith("`") or said.endswith("`") or not said else ""
    said = said.replace("|", "\\|") if table else said
    return f"{marks}{room}{said}{room}{marks}"


def fence(text: str) -> str:
    """The line above and below a block of code that holds ``text``: more backticks than stand in it."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))


def place(text: Any) -> str:
    """The end of an address, for the round brackets of a link: nothing in it can close them or start another scheme."""
    return quote(line(text), safe="/.-_~")


def csv_cell(value: Any) -> Any:
    """A cell of CSV that no spreadsheet computes: text that looks like a formula gets an apostrophe, numbers stay."""
    if not isinstance(value, str):
        return value
    begin = value.lstrip(" \u00a0")[:1]
    said = printable(value)
    return f"'{said}" if begin and (begin in _FORMULA or begin in "\t\r\n\0") else said
