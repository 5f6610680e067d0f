"""What the files of a checkpoint would make transformers fetch or run from elsewhere.

Lives here: references to code and weights outside the folder. Lives elsewhere: code inside it (scmf.hub.check), the
question whether it may run (scmf.core.registry).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_OWN_CLASS = re.compile(r"([A-Za-z_]\w*)\.[A-Za-z_]\w*")
_ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation")


def other_weights(folder: Path) -> list[str]:
    """Files by which any ``from_pretrained`` would load weights or kernels of others: adapters, attention kernels."""
    found = [path.name for path in sorted(folder.glob("adapter_*"))]
    for name, value in _saved(folder):
        for key in _ATTENTION:
            text = value.get(key)
            for one in text.values() if isinstance(text, dict) else [text]:
                if isinstance(one, str) and "/" in one:
                    found.append(f"{name}: {key} {one!r}")
    return found


def other_code(folder: Path) -> list[str]:
    """References in the JSON files to code that does not lie in the folder: ``auto_map`` to another repository."""
    found = []
    for name, value in _saved(folder):
        for key in ("auto_map", "custom_pipelines"):
            for reference in _texts(value.get(key)):
                match = _OWN_CLASS.fullmatch(reference)
                if key == "custom_pipelines" or match is None or not (folder / f"{match[1]}.py").is_file():
                    found.append(f"{name}: {key} {reference!r}")
    return found


def _saved(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects in a folder; a large table of a vocabulary cannot name code and is small enough to read."""
    for path in sorted(folder.glob("*.json")):
        try:  # not by core.files: this file travels with checkpoints
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # told where it is read
        if isinstance(value, dict):
            yield path.name, value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
