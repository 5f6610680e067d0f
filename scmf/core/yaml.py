"""YAML 1.2: the reader and the writer of every YAML file of ours.

Lives here: `load_yaml`, `dump_yaml`, and the scalars of the core schema of YAML 1.2. ruamel.yaml parses and writes.
Lives elsewhere: atomic writing (`core.files`), what the files say (config, data.cards, results).
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.serializer import Serializer

from scmf.core.errors import ConfigError


class _CoreSchema(VersionedResolver):
    """Plain scalars by the core schema of YAML 1.2, section 10.3.2.

    The resolver of ruamel.yaml adds to it dates, merge keys, ``0b11`` and ``1_000``, which are text here.
    """

    versioned_resolver: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    for _character in _first:
        _entry = (f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"))
        _CoreSchema.versioned_resolver.setdefault(_character, []).append(_entry)


class _BothVersions(VersionedResolver):
    """For writing: what YAML 1.1 takes for something else than text gets quotes, so that any reader reads the same."""

    processing_version = (1, 1)


class _Anchors(Serializer):
    """Anchors are called same001, same002, …."""

    ANCHOR_TEMPLATE = "same{:03d}"


class _Plain(SafeRepresenter):
    """Plain dicts, lists and scalars."""

    def ignore_aliases(self, data: Any) -> bool:
        """Only a dict that holds something is written once and referred to."""
        return not (isinstance(data, dict) and data)

    def text(self, data: str) -> Any:
        """A string; quoted where it looks like a number (1e5, 0o7, a version) or has invisible characters."""
        odd = re.fullmatch(r"[-+.0-9][-+.\w]*", data) or not data.replace("\n", "").isprintable()
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if odd else None)

    def number(self, data: float) -> Any:
        """A float; 1.0e-05, as YAML 1.1 wants it, not 1e-05."""
        node = self.represent_float(data)
        node.value = re.sub(r"^(-?\d+)e", r"\1.0e", node.value)
        return node


_Plain.add_representer(str, _Plain.text)
_Plain.add_representer(float, _Plain.number)


def load_yaml(source: Path | str, *, where: str | None = None) -> Any:
    """Read YAML by the rules of version 1.2: ``no`` is text, ``1e-4`` a number, ``012`` twelve.

    Parameters
    ----------
    source
        A path, or the text itself when it is a string.
    where
        How to call the text in an error.

    Raises
    ------
    ConfigError
        For what is not YAML and for a duplicate key, with the line.
    """
    if isinstance(source, Path):
        where = where or str(source)
        text = read_text(source, kind="YAML", where=where)
    else:
        text, where = source, where or "YAML text"
    if _looks_deep(text):  # the parser of ruamel.yaml.clib ends the process for such a text
        raise too_deep(where)
    reader = YAML(typ="safe")  # the parser of ruamel.yaml.clib where it is installed
    reader.Resolver = _CoreSchema
    try:
        found = reader.load(text)
    except DuplicateKeyError as error:
        key = re.match(r'found duplicate key "(.*?)" with value', error.problem, re.DOTALL)
        found = f"duplicate key {key[1] if key else ''!r}, line {error.problem_mark.line + 1}"
        raise ConfigError(found, wanted="each key once", where=where, fix="remove one of the two") from error
    except RecursionError as error:
        raise too_deep(where) from error
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        # besides its own errors, for a number of 5,000 digits, `!!int x`, `!!bool x`, a list as a key
        raise ConfigError(_said(error), where=where, fix="correct the syntax at that line") from error
    refuse_depth(found, where)
    return found


def read_text(path: Path, *, kind: str, where: str | None = None) -> str:
    """The text of a file that a person writes; ``kind`` says in errors what it should be."""
    where = where or str(path)
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("no such file", where=where, fix="check the path") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        found = "a folder" if isinstance(error, IsADirectoryError) else "a file that is not UTF-8 text"
        raise ConfigError(found, wanted=f"a {kind} file", where=where, fix="check the path") from error


_DEEPEST, _MOST = 64, 1_000_000
_DEEP_LINE = re.compile(r"^(?: {500}| *(?:[-?:] +){200})", re.MULTILINE)


def _looks_deep(text: str) -> bool:
    """Whether brackets, indentation or marks of a text may nest hundreds deep."""
    brackets = re.sub(r"[^][{}]", "", text)
    depth = deepest = 0
    for bracket in brackets:
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest > 500 or _DEEP_LINE.search(text) is not None


def refuse_depth(value: Any, where: str) -> None:
    """Refuse a tree that no program of ours can walk: too deep, an alias within itself, aliases of aliases."""
    level, seen = [value], 0
    for _ in range(_DEEPEST):
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
        if (seen := seen + len(level)) > _MOST:
            break
    raise too_deep(where)


def too_deep(where: str) -> ConfigError:
    """The error for a tree that no program of ours can walk."""
    return ConfigError(
        f"lists or mappings nested more than {_DEEPEST} deep, or repeated through aliases without end",
        wanted="a plain tree",
        where=where,
        fix="see `scmf schema`",
    )


def _said(error: Exception) -> str:
    """What is wrong and where, without the text of the line, which may hold a password."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    return f"not YAML: {problem or next(iter(str(error).splitlines()), type(error).__name__)}{place}"


def dump_yaml(value: Any, *, width: int = 100) -> str:
    """Plain dicts, lists and scalars as YAML that `load_yaml` reads back equal, in the order given.

    A dict that occurs several times as the same object is written once, with an anchor.
    """
    writer: Any = YAML(typ="safe", pure=True)
    writer.Resolver, writer.Representer, writer.Serializer = _BothVersions, _Plain, _Anchors
    writer.default_flow_style, writer.width = False, width
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    writer.dump(value, text)
    return re.sub(r" +\n", "\n", text.getvalue())  # a folded line ends in a blank that means nothing
