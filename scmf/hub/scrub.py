"""What must not leave this machine with a checkpoint: credentials, and where files lie.

Lives here: the public form of configurations, commands and provenance. Lives elsewhere: which files are published
(folder).
"""

from __future__ import annotations

import re
import shlex
from typing import Any

_HIDDEN = "storage_options"
_ADDRESS = re.compile(r"(~|\.{1,2})?[\\/]\S*|\S+://\S+|[^\s=]+[\\/]\S*")


def public(value: Any, *, key: str = "") -> Any:
    """A JSON value without credentials, and with names of files instead of their paths and addresses.

    Keys named ``storage_options`` are left out, below them and in texts such as overrides and commands.
    """
    if isinstance(value, dict):
        return {name: public(item, key=str(name)) for name, item in value.items() if name != _HIDDEN}
    if isinstance(value, list | tuple):
        return [public(item, key=key) for item in value if not (isinstance(item, str) and _HIDDEN in item)]
    if isinstance(value, str):
        return public_command(value) if key == "command" else _name(value)
    return value


def public_command(command: str) -> str:
    """A command line with names of files instead of paths, and without overrides that hold credentials."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    kept: list[str] = []
    for word in words:
        if _HIDDEN in word:
            if kept and kept[-1] == "--set":
                kept.pop()
            continue
        name, equals, rest = word.partition("=")
        kept.append(f"{name}={_name(rest)}" if equals else _name(word))
    return shlex.join(kept)


def _name(text: str) -> str:
    """The last part of a path or an address; every other text as it is."""
    if not _ADDRESS.fullmatch(text):
        return text
    bare = re.split(r"[?#]", text, maxsplit=1)[0].rstrip("\\/")
    return re.split(r"[\\/]", bare)[-1]
