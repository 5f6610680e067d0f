"""Errors of the command line in the words of Python.

A verb is one function, whether the command line or a notebook calls it, and its messages name options: ``--batch-key
COLUMN``. Lives here: ``batch_key=COLUMN`` in its place. Lives elsewhere: the errors (errors).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from scmf.core.errors import ScmfError

P = ParamSpec("P")
R = TypeVar("R")

_FLAGS = {"allow-low-coverage", "by-order", "in-place"}
"""Options without a value."""

_OTHER_NAMES = {"as": "name", "model": "model", "base-model": "model", "in-place": "inplace", "eval": "benchmarks"}
"""Option -> parameter, where these differ."""

_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)[ =]?(?=([A-Za-z_0-9.…]?))")


def python_words(text: str) -> str:
    """A message with options of the command line as parameters; commands that are spelled out stay as they are."""
    if "scmf " in text:
        return text

    def parameter(match: re.Match[str]) -> str:
        option = match[1]
        name = _OTHER_NAMES.get(option, option.replace("-", "_"))
        if option in _FLAGS:
            return f"{name}=True" + (" " if match[0].endswith(" ") else "")
        takes = match[0].endswith((" ", "=")) and (match[2].isupper() or match[0].endswith("="))
        return f"{name}=" if takes else name + (" " if match[0].endswith(" ") else "")

    return _OPTION.sub(parameter, text)


def for_python(verb: Callable[P, R]) -> Callable[P, R]:
    """Let the errors of a function name its parameters instead of options."""

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except ScmfError as error:
            for part in ("found", "wanted", "where", "fix"):
                if isinstance(text := getattr(error, part), str):
                    setattr(error, part, python_words(text))
            error.args = (error._message(),)
            raise

    return call
