"""The folder of result files: one JSON file a result, named after what is in it.

Lives here: writing and reading. Lives elsewhere: what a result is (result), its history in git (history).
"""

from __future__ import annotations

import json
from pathlib import Path

from scmf.core.errors import ConfigError
from scmf.core.files import write_json
from scmf.results.result import Result


def write_result(results_dir: Path | str, result: Result) -> Path:
    """File ``result`` under ``results_dir`` (atomically, replacing the earlier one of the same cell and seed)."""
    return write_json(Path(results_dir) / result.path, result.to_json())


def read_results(results_dir: Path | str, recipe: str | None = None, *, variant: str | None = None) -> list[Result]:
    """All results under ``results_dir``, sorted by cell and seed.

    Parameters
    ----------
    results_dir
        Folder of result files; an absent folder holds none.
    recipe, variant
        Read only these.

    Raises
    ------
    ConfigError
        A file is broken, or its content belongs under another name.
    """
    root = Path(results_dir)
    pattern = f"{recipe or '*'}/{variant or '*'}/*/*.json"
    found = [_read(root, path) for path in root.glob(pattern) if not path.name.startswith(".")]
    return sorted(found, key=lambda result: (*result.key(""), -1 if result.seed is None else result.seed))


def _read(root: Path, path: Path) -> Result:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"not JSON: {error}", wanted="one result", where=path, fix="delete the file and measure it again"
        ) from error
    result = Result.from_json(value, where=str(path))
    if root / result.path != path:
        raise ConfigError(
            f"the content belongs to {result.path}",
            wanted="a file name that says what is in it",
            where=path,
            fix="move the file, or delete it and measure again",
        )
    return result
