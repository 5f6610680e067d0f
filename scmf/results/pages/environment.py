"""The jinja2 environment of the pages: templates, escaping of HTML and control characters, no undefined name.

Lives here: what all pages share. Lives elsewhere: the filters of a page (reproduction, leaderboard), the templates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scmf.core.errors import MissingExtraError
from scmf.core.printable import printable

_TEMPLATES = Path(__file__).parent / "templates"


def _finished(value: Any) -> Any:
    """What stands on the page: no control characters, escaped HTML stays marked as such."""
    return type(value)(printable(value)) if isinstance(value, str) else value


def make_environment(*, needed_for: str) -> Any:
    """An environment of the templates beside this file.

    Parameters
    ----------
    needed_for
        What is being made, for the error.

    Raises
    ------
    MissingExtraError
        jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("jinja2", "report", needed_for=needed_for) from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finished,
    )
