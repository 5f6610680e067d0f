"""YAML 1.2: the reader and the writer of every YAML file of ours.

Lives here: `load_yaml`, `dump_yaml`. Lives elsewhere: atomic writing (`core.files`), what the files say (config,
data.cards, results).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scmf.core.errors import ConfigError


def load_yaml(source: Path | str, *, where: str | None = None) -> Any:
    """Read YAML by the rules of version 1.2.

    PyYAML follows version 1.1, in which ``no`` is false, ``1e-4`` a string and ``012`` ten.
    Here only ``true`` and ``false`` are booleans and ``1e-4`` is a number.

    Parameters
    ----------
    source
        A path, or the text itself when it is a string.
    where
        How to call the text in an error.
    """
    import yaml

    if isinstance(source, Path):
        where = where or str(source)
        try:
            text = source.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ConfigError("no such file", where=where, fix="check the path") from error
        except (IsADirectoryError, UnicodeDecodeError) as error:
            found = "a folder" if isinstance(error, IsADirectoryError) else "a file that is not UTF-8 text"
            raise ConfigError(found, wanted="a YAML file", where=where, fix="check the path") from error
    else:
        text, where = source, where or "YAML text"
    try:
        return yaml.load(text, Loader=_yaml_loader())  # noqa: S506  (a SafeLoader subclass)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of 5,000 digits, or `!!int x`
        raise ConfigError(f"not YAML: {error}", where=where, fix="mend the syntax at that line") from error


_LOADER: Any = None


def _yaml_loader() -> Any:
    global _LOADER  # built once; yaml is imported only when it is needed
    if _LOADER is None:
        import yaml

        class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
            """SafeLoader with the scalars of YAML 1.2 and no silent duplicate keys."""

            def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
                keys = [self.construct_object(key, deep=True) for key, _ in node.value]
                for key in keys:
                    if keys.count(key) > 1:
                        raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", node.start_mark)
                return super().construct_mapping(node, deep=deep)

        def integer(loader: Any, node: Any) -> int:
            return _yaml_int(loader.construct_scalar(node))

        Loader.yaml_implicit_resolvers = {}
        for tag, pattern, first in (
            ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
            ("null", r"~|null|Null|NULL|", "~nN\0"),
            ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
            ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
            ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
        ):
            letters = ["" if c == "\0" else c for c in first]
            Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), letters)
        Loader.add_constructor("tag:yaml.org,2002:int", integer)
        _LOADER = Loader
    return _LOADER


def _yaml_int(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    body = text.lstrip("+-")
    base = {"0o": 8, "0x": 16}.get(body[:2], 10)
    return sign * int(body[2:] if base != 10 else body, base)


# A string that YAML 1.2 reads as a number although PyYAML, which knows 1.1, writes it bare: 1e5, 0o7, a digest.
_NUMBER_LIKE = re.compile(r"[-+.0-9][-+.\w]*")


def dump_yaml(value: Any, *, width: int = 100) -> str:
    """Plain dicts, lists and scalars as YAML that `load_yaml` reads back equal, in the order given.

    A dict that occurs several times as the same object is written once, with an anchor.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper with quotes for strings that YAML 1.2 takes for numbers, or that hold invisible characters."""

        def ignore_aliases(self, data: Any) -> bool:
            return not (isinstance(data, dict) and data)

        def generate_anchor(self, node: Any) -> str:
            return super().generate_anchor(node).replace("id", "same")

    def text(dumper: Any, string: str) -> Any:
        odd = _NUMBER_LIKE.fullmatch(string) or not string.replace("\n", "").isprintable()
        style = '"' if odd else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", string, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=width)
