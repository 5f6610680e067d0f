"""Rewrite result files of an earlier version of the JSON as those of today, in place.

Numbers, intervals, details and names of files stay; what changes is said in scmf/results/schema.py. A file that is of
today's version is not touched, so that a second run changes nothing. From the root of the repository::

    python leaderboard/upgrade_results.py [FOLDER ...]        # leaderboard/results when none is given

Exit code 1: a number would have changed, or a file is no result; nothing is written then.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from scmf.core.errors import ScmfError
from scmf.core.files import write_json
from scmf.results.result import Result

KEPT = ("metrics", "intervals", "details", "seconds", "peak_memory_mb", "n_cells", "n_train", "recipe_digest", "seed")
"""Keys whose values are the same to the last digit."""


def upgraded(path: Path) -> Result | None:
    """The result in ``path`` as one of today; None where it is one.

    Raises
    ------
    ScmfError
        No result.
    ValueError
        A kept value would change, or the file would be called otherwise.
    """
    old = json.loads(path.read_text(encoding="utf-8"))
    result = Result.from_json(old, where=str(path))
    new = result.to_json()
    if new == old:
        return None
    moved = [key for key in KEPT if key in old and _text(old[key]) != _text(new[key])]
    if moved or not path.as_posix().endswith(result.path.as_posix()):
        raise ValueError(f"{path}: {', '.join(moved) or 'the name of the file'} would change")
    return result


def _text(value: Any) -> str:
    """The value as JSON: equal text is equal to the last digit."""
    return json.dumps(value, sort_keys=True)


def main(folders: list[str]) -> int:
    """Upgrade all results in ``folders``; the exit code."""
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*.json"))
    try:
        found = {path: result for path in paths if (result := upgraded(path)) is not None}
    except (ScmfError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path, result in found.items():
        write_json(path, result.to_json())
    sys.stdout.write(f"{len(found)} of {len(paths)} files rewritten\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or ["leaderboard/results"]))
