"""Files: where ours lie, how they are written, hashed and read.

Lives here: atomic writing, sha256, the YAML 1.2 reader and writer, the folders of shipped recipes and cards,
the cache. Lives elsewhere: what is in the files (config, recipe, data.cards, results).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scmf.core.config.renamed import warn_renamed
from scmf.core.errors import ConfigError

DISTRIBUTION = "scmodelforge"
"""The name on the package index, kept in this one place."""

_CHUNK = 1 << 20


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error.

    The temporary file has the same suffix (writers that look at it keep working), lies in the same
    folder (so that the rename is atomic) and is flushed to disk before it takes the name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> Path:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: Path | str, value: Any) -> Path:
    """Write ``value`` as JSON with sorted keys, so that equal content is an equal file."""
    return write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# --- YAML -----------------------------------------------------------------------------------------


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


# --- folders --------------------------------------------------------------------------------------


def shipped(kind: str) -> Path:
    """Folder of the recipes or the dataset cards that come with the package.

    In an editable install or a checkout this is the folder beside ``scmf/``, read live; in a wheel
    it is ``scmf/_shipped/<kind>``.

    Parameters
    ----------
    kind
        ``"recipes"`` or ``"datasets"``.
    """
    package = Path(__file__).parents[1]
    live = package.parent / kind
    if (package.parent / "pyproject.toml").is_file() and live.is_dir():
        return live
    return package / "_shipped" / kind


def cache_dir() -> Path:
    """Folder for fetched files: ``SCMF_CACHE_DIR``, else ``$XDG_CACHE_HOME/scmf``, else ``~/.cache/scmf``."""
    if found := os.environ.get("SCMF_CACHE_DIR"):
        return Path(found)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scmf"


def data_dir() -> Path | None:
    """Local mirror of public files (``SCMF_DATA_DIR``), or None."""
    found = os.environ.get("SCMF_DATA_DIR")
    return Path(found) if found else None


def reference_dir() -> Path | None:
    """Folder with outputs of the official codes (``SCMF_REFERENCE_DIR``), or None."""
    found = os.environ.get("SCMF_REFERENCE_DIR")
    if not found and (found := os.environ.get("SCMF_ORACLE_DIR")):
        warn_renamed("environment", "SCMF_ORACLE_DIR", "SCMF_REFERENCE_DIR")
    return Path(found) if found else None
