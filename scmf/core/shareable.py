"""The form of records that others read: no secrets, no folders of this machine, no name of its user.

Lives here: `shareable` and `shareable_command` for results, pages and trackers, where a file keeps its place below the
current folder; `published` and `published_command` for what goes to a Hub, where it keeps its name alone. Lives
elsewhere: secrets (redact); which files are written where.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from scmf.core.redact import OPTIONS, file_name, hide, hide_address, hide_command, hide_override

_PLACE = r"(?:~[\w.-]*|[A-Za-z]:)?[\\/]"
_WHOLE = re.compile(rf"(?:file:/{{0,2}})?{_PLACE}[^\n]*")
"""A text that is one path from a root."""
_QUOTED = re.compile(rf"(['\"])({_PLACE}[^'\"\n]*)\1")
_INSIDE = re.compile(
    rf"(?<![\w.+~:/\\*\])-])(?:file:/{{2}})?{_PLACE}(?:[^\s\\/,;'\"()\[\]{{}}]+[\\/])+[^\s\\/,;:'\"()\[\]{{}}]*"
)
"""A path from a root, with a folder, within a text."""
_ADDRESS = re.compile(r"(~|\.{1,2})?[\\/].*|\S+://\S+|[^\s=]+[\\/]\S*")
_EVERYBODY = {"", "home", "root", "runner", "tmp", "ubuntu", "user", "users", "work"}
"""Names of accounts that say nothing about a person, and folders that are called like that everywhere."""


def shareable(value: Any, *, key: str = "") -> Any:
    """A JSON value without secrets, with paths from the current folder, or with names of files that lie elsewhere."""
    if isinstance(value, dict):
        return {name: shareable(item, key=str(name)) for name, item in hide(value, key=key).items() if name != OPTIONS}
    if isinstance(value, list | tuple):
        return [shareable(item, key=key) for item in value]
    if not isinstance(value, str) or not value:
        return value
    return shareable_command(value) if key == "command" else _near(hide(value, key=key))


def shareable_command(command: str) -> str:
    """A command line for others: files by their path from the current folder, without secrets."""
    return _command(command, _near)


def published(value: Any, *, key: str = "") -> Any:
    """A JSON value without secrets, and with names of files instead of their paths and addresses.

    Keys named ``storage_options`` are left out, below them and in texts such as overrides and commands.
    """
    if isinstance(value, dict):
        return {name: published(item, key=str(name)) for name, item in hide(value, key=key).items() if name != OPTIONS}
    if isinstance(value, list | tuple):
        return [published(item, key=key) for item in value if not (isinstance(item, str) and OPTIONS in item)]
    if not isinstance(value, str) or not value:
        return value
    return published_command(value) if key == "command" else _bare(hide(value, key=key))


def published_command(command: str) -> str:
    """A command line with names of files instead of paths, and without secrets."""
    return _command(command, _bare)


def _command(command: str, name: Callable[[str], str]) -> str:
    """``command`` with every word and value as ``name`` has it; overrides of storage options are left out."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    kept: list[str] = []
    for word, shown in zip(words, hide_command(words), strict=True):
        if OPTIONS in word:
            if kept and kept[-1] == "--set":
                kept.pop()
            continue
        before, equals, rest = shown.partition("=")
        kept.append(f"{before}={name(rest)}" if equals and "://" not in before else name(shown))
    again = shlex.join(kept)
    return command if kept == words else again


# --- paths ----------------------------------------------------------------------------------------


def _near(text: str) -> str:
    """``text`` with paths from a root as paths from the current folder, else as names; user names in paths left out."""
    text = hide_override(text) if OPTIONS in text and "=" in text else hide_address(text)
    if "/" not in text and "\\" not in text:
        return text
    parts = text.split(", ")
    if all(_WHOLE.fullmatch(part) for part in parts):
        return ", ".join(map(_relative, parts))
    text = _QUOTED.sub(lambda m: f"{m[1]}{_relative(m[2])}{m[1]}", text)
    text = _INSIDE.sub(lambda m: _relative(m[0]), text)
    for home in _homes():
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    for user in _users():
        text = re.sub(rf"(?:(?<=^)|(?<=[\s='\",(\[]))(?:[^\s='\",(\[]*[\\/])?{re.escape(user)}[\\/](?=\S)", "", text)
    return text


def _relative(path: str) -> str:
    """A path from a root as one from the current folder where it lies below that, else its last part."""
    path = re.sub(r"^file:/{0,2}(?=/)", "", path)
    bare = re.split(r"[?#]", path, maxsplit=1)[0].rstrip("\\/")
    with suppress(OSError, RuntimeError, ValueError):
        whole = Path(bare).expanduser()
        if whole.is_relative_to(Path.cwd()):
            return str(whole.relative_to(Path.cwd()))
    return _last(path)


def _last(path: str) -> str:
    """The name at the end of a path or an address, which may be that of the user's home folder."""
    last = file_name(re.split(r"[?#]", path, maxsplit=1)[0])
    return "~" if last in _users() else last


def _bare(text: str) -> str:
    """The last part of a path or an address; every other text as `_near` has it."""
    if text.startswith("[") and text.endswith("]"):
        return f"[{','.join(_bare(part.strip()) for part in text[1:-1].split(','))}]"
    if ", " in text and all(_ADDRESS.fullmatch(part) for part in text.split(", ")):
        return ", ".join(map(_bare, text.split(", ")))
    if not _ADDRESS.fullmatch(text):
        return _near(text)
    return _last(text)


def _homes() -> list[str]:
    """The home folder, however it is written."""
    found = {os.environ.get("HOME", ""), os.environ.get("USERPROFILE", "")}
    with suppress(OSError, RuntimeError):
        found |= {str(Path.home()), str(Path.home().resolve())}
    return sorted((home for home in found if home.count("/") + home.count("\\") > 1), key=len, reverse=True)


def _users() -> set[str]:
    """Names of the user as they stand in paths."""
    found = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    found |= {re.split(r"[\\/]", home)[-1] for home in _homes()}
    with suppress(OSError, KeyError, ImportError):
        found.add(getpass.getuser())
    return {name for name in found if name.lower() not in _EVERYBODY}
