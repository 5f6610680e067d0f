"""TOML 1.0: the reader of configurations in TOML, with the errors of the YAML reader.

Lives here: `load_toml`. tomllib of the standard library parses. Dates are text, as in YAML files. TOML has no null: a
key whose default is not null gets it with ``--set section.key=null``. Lives elsewhere: YAML (yaml), what the files say
(config).
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from pathlib import Path
from typing import Any

from scmf.core.errors import ConfigError
from scmf.core.yaml import read_text, refuse_depth, too_deep


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ConfigError
        For what is not TOML and for a duplicate key, with the line.
    """
    where = str(path)
    text = read_text(path, kind="TOML").removeprefix("\ufeff")
    try:
        found = _dates_as_text(tomllib.loads(text))
    except RecursionError as error:
        raise too_deep(where) from error
    except ValueError as error:  # also of a number of 5,000 digits
        raise _said(str(error).splitlines()[0] if str(error) else "", text, where) from error
    refuse_depth(found, where)
    return found  # type: ignore[no-any-return]


def _dates_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _dates_as_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(inner) for inner in value]
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value


_TWICE = ("Cannot overwrite a value", "Cannot declare", "Cannot mutate immutable namespace")
"""What tomllib says of a key or table that is there already."""


def _said(problem: str, text: str, where: str) -> ConfigError:
    """What is wrong and where, without the value of the line, which may hold a password."""
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", problem)
    what = problem[: place.start()] if place else problem
    lines = text.splitlines()
    line = int(place[1]) if place and place[1] else max(len(lines), 1)
    if what.startswith(_TWICE):
        written = lines[line - 1] if line <= len(lines) else ""
        key = re.match(r"""\s*\[*\s*([\w."'-]+(?:\s*\.\s*[\w."'-]+)*)\s*(?:\]|=)""", written)
        return ConfigError(
            f"duplicate key {key[1] if key else ''!r}, line {line}", wanted="each key once", where=where,
            fix="remove one of the two",
        )  # fmt: skip
    at = f", line {line}" + (f", column {place[2]}" if place and place[2] else "") if place else ""
    return ConfigError(f"not TOML: {what}{at}", where=where, fix="correct the syntax at that line")
