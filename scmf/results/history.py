"""Which change moved which number: the history of the result files read from git, as ``reports/CHANGES.md``.

Lives here: the versions of every result file, what moved between two of them, the commits between. Lives
elsewhere: the page (pages.history), what a result is (result), whether a number is in its band (judge).

A move is dated by the result itself (when it was measured, by which commit of the code), never by the commit that
filed it: so that the page is the same before and after the results are committed. History is followed along first
parents, as the branch saw it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from scmf.core.errors import ConfigError
from scmf.core.files import write_text
from scmf.results.expected import ExpectedCell, load_expected
from scmf.results.judge import FIRST_ALPHA, band
from scmf.results.pages.escape import code, markdown
from scmf.results.pages.history import Change, Move, sections
from scmf.results.result import CellKey, Result
from scmf.results.schema import upgrade

RESULTS = "leaderboard/results"
"""Folder of the result files, relative to the root of the repository."""

_SHORT = 9
_NOTHING = "0" * 40


# --- git ------------------------------------------------------------------------------------------


def _git(root: Path, *arguments: str, bad: str | None = None) -> str | None:
    """Output of a git command; None when it fails and nothing is said in ``bad``."""
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, encoding="utf-8", check=False
        )
    except FileNotFoundError as error:
        raise ConfigError("git is not installed", wanted="git, to read the history", fix="install it") from error
    if run.returncode == 0:
        return run.stdout
    if bad is None:
        return None
    raise ConfigError(bad, wanted="a checkout with its history", where=root, fix=run.stderr.strip() or "git clone it")


def _check_history(root: Path) -> None:
    shallow = _git(root, "rev-parse", "--is-shallow-repository", bad="no git repository")
    if str(shallow).strip() == "true":
        raise ConfigError(
            "a shallow clone",
            wanted="the whole history: without it a number that moved would look as if it never had",
            where=root,
            fix="git fetch --unshallow (in a workflow: actions/checkout with fetch-depth: 0)",
        )


def versions(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Every result file with its distinct contents, oldest first; the working tree is the newest.

    Parameters
    ----------
    root
        Root of the repository.

    Returns
    -------
    dict
        Path below the folder -> JSON values, those of earlier versions of the schema as of today. Content that is no
        result is left out.

    Raises
    ------
    ConfigError
        No repository, or a shallow clone of one.
    """
    _check_history(root)
    log = _git(root, "log", "--first-parent", "-m", "--reverse", "--raw", "--no-abbrev", "--no-renames", "-z",
               "--format=", "--", RESULTS, bad="no history of the result files")  # fmt: skip
    fields = [field for field in str(log).replace("\n", "").split("\0") if field]
    blobs: dict[str, list[str]] = {}
    for facts, path in zip(fields[::2], fields[1::2], strict=True):
        blob = facts.split()[3]
        if blob != _NOTHING and path.endswith(".json"):
            blobs.setdefault(path, []).append(blob)
    texts = _contents(root, sorted({blob for seen in blobs.values() for blob in seen}))
    found = {path: [texts[blob] for blob in seen] for path, seen in blobs.items()}
    for file in (root / RESULTS).glob("*/*/*/*.json"):
        if not file.name.startswith("."):
            found.setdefault(file.relative_to(root).as_posix(), []).append(file.read_text(encoding="utf-8"))
    parsed = {}
    for path, contents in sorted(found.items()):
        values = [value for text in contents if (value := _result(text)) is not None]
        # a file that was rewritten for a new schema was not measured again
        if distinct := [value for i, value in enumerate(values) if not i or value != values[i - 1]]:
            parsed[path.removeprefix(f"{RESULTS}/")] = distinct
    return parsed


def _contents(root: Path, blobs: Sequence[str]) -> dict[str, str]:
    """Texts of blobs, from one git process."""
    if not blobs:
        return {}
    run = subprocess.run(["git", "-C", str(root), "cat-file", "--batch"], input="\n".join(blobs).encode() + b"\n",
                         capture_output=True, check=True)  # fmt: skip
    texts, at = {}, 0
    for blob in blobs:
        end = run.stdout.index(b"\n", at)
        size = int(run.stdout[at:end].split()[2])
        texts[blob] = run.stdout[end + 1 : end + 1 + size].decode("utf-8")
        at = end + size + 2
    return texts


def _result(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("metrics"), dict):
        return None
    try:
        return Result.from_json(value).to_json()
    except ConfigError:  # of a schema before 1, or edited by hand: what can be compared is compared
        upgraded: dict[str, Any] = upgrade(value)
        return upgraded


# --- what moved -----------------------------------------------------------------------------------


def find_changes(root: Path) -> list[Change]:
    """What moved, by recipe and then newest first.

    Raises
    ------
    ConfigError
        As `versions`.
    """
    return _changes(root, versions(root))


def _changes(root: Path, history: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Change]:
    groups: dict[tuple[str, str, str], list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for values in history.values():
        for old, new in zip(values, values[1:], strict=False):
            if any(old["metrics"][name] != new["metrics"].get(name) for name in old["metrics"]):
                groups.setdefault((old["recipe"], _measured_at(old), _measured_at(new)), []).append((old, new))
    expected = _expected(root, {recipe for recipe, _, _ in groups})
    found = []
    for (recipe, before, after), pairs in groups.items():
        moves = [move for old, new in pairs for move in _moves(recipe, old, new, expected.get(recipe, {}))]
        besides = sorted({text for old, new in pairs for text in _besides(old, new)})
        between = _between(root, _commit(pairs[0][0]), _commit(pairs[0][1]), recipe)
        time = max(str(new.get("provenance", {}).get("time", "")) for _, new in pairs)
        moves.sort(key=lambda m: (-(m.bands or 0), m.key, -1 if m.seed is None else m.seed))
        found.append(Change(recipe, before, after, time, between, tuple(besides), tuple(moves)))
    found.sort(key=lambda change: (change.time, change.after, change.before), reverse=True)
    return sorted(found, key=lambda change: change.recipe)


def _moves(
    recipe: str, old: Mapping[str, Any], new: Mapping[str, Any], expected: Mapping[CellKey, ExpectedCell]
) -> Iterator[Move]:
    for metric, before in sorted(old["metrics"].items()):
        after = new["metrics"].get(metric)
        if after != before:
            key = CellKey(**{name: old[name] for name in CellKey._fields[:-1]}, metric=metric)
            width = _width(expected[key]) if key in expected else None
            bands = abs(after - before) / width if width and after is not None else None
            yield Move(recipe, key, old["seed"], before, after, bands)


def _width(cell: ExpectedCell) -> float:
    """Half-width of the band for one seed, as `scmf.results.judge.judge` has it."""
    samples = list(cell.samples.values())
    enough = len(samples) > 1 and not cell.deterministic
    return band(samples, 1, min_band=cell.min_band, alpha=FIRST_ALPHA) if enough else cell.min_band


def _expected(root: Path, recipes: set[str]) -> dict[str, dict[CellKey, ExpectedCell]]:
    files = {recipe: root / "recipes" / recipe / "expected.yaml" for recipe in sorted(recipes)}
    return {recipe: load_expected(file).cells() for recipe, file in files.items() if file.is_file()}


def _commit(value: Mapping[str, Any]) -> str:
    return str(value.get("provenance", {}).get("git", {}).get("commit") or "")


def _measured_at(value: Mapping[str, Any]) -> str:
    dirty = value.get("provenance", {}).get("git", {}).get("dirty")
    return (_commit(value)[:_SHORT] or "an unknown commit") + (" with changes not committed" if dirty else "")


def _between(root: Path, before: str, after: str, recipe: str) -> tuple[tuple[str, str], ...] | None:
    return _log(root, before, after, recipe) if before and after else None


@cache
def _log(root: Path, before: str, after: str, recipe: str) -> tuple[tuple[str, str], ...] | None:
    said = _git(root, "log", "--format=%H%x09%s", f"{before}..{after}", "--", "scmf", f"recipes/{recipe}")
    if said is None:
        return None
    rows = (line.split("\t", 1) for line in said.splitlines())
    return tuple((commit[:_SHORT], subject) for commit, subject in rows)


def _besides(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two measurements besides the code."""
    first, last = old.get("provenance", {}), new.get("provenance", {})
    if old.get("recipe_digest") != new.get("recipe_digest"):
        yield f"the recipe: digest {str(old.get('recipe_digest'))[:8]} → {str(new.get('recipe_digest'))[:8]}"
    for name in ("sha256", "split_sha256"):
        if first.get("data", {}).get(name) != last.get("data", {}).get(name):
            yield f"the {'split' if name == 'split_sha256' else 'file'} of the cells"
    for name in ("python", "cpu"):
        if first.get(name) != last.get(name):
            yield f"{name}: {first.get(name)} → {last.get(name)}"
    ours, theirs = first.get("packages", {}), last.get("packages", {})
    for package in sorted({*ours, *theirs}):
        if ours.get(package) != theirs.get(package):
            yield f"{package}: {ours.get(package, '—')} → {theirs.get(package, '—')}"
    if old.get("command") != new.get("command"):
        yield f"the command: `{old.get('command')}` → `{new.get('command')}`"


# --- the page -------------------------------------------------------------------------------------


def write_history(root: Path | str, out: Path | str) -> Path:
    """Write the page; equal history and working tree give equal bytes.

    Parameters
    ----------
    root
        Root of the repository.
    out
        File to write, for example ``reports/CHANGES.md``.

    Raises
    ------
    ConfigError
        As `versions`.
    """
    root = Path(root)
    history = versions(root)
    found = _changes(root, history)
    lines = [
        "# Which change moved which number",
        "",
        f"Made from the history of `{RESULTS}`: every file with all its versions, along first parents. A first",
        "measurement is no move. Bands are those of today's `expected.yaml`, for one seed.",
        "",
        "| recipe | results | measured once | measured again, the same | moved | first measured by |",
        "|---|---|---|---|---|---|",
        *_overview(history),
        *sections(found),
    ]
    if not found:
        lines += ["", "No number has moved."]
    return write_text(out, "\n".join(lines) + "\n")


def _overview(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    for recipe in sorted({path.partition("/")[0] for path in history}):
        mine = [values for path, values in history.items() if path.partition("/")[0] == recipe]
        once = sum(len(values) == 1 for values in mine)
        moved = sum(any(old["metrics"] != new["metrics"] for old, new in zip(v, v[1:], strict=False)) for v in mine)
        first = sorted({_measured_at(values[0]) for values in mine})
        names = [code(name, table=True) for name in first[:3]] + (
            [f"{len(first) - 3} others"] if len(first) > 3 else []
        )
        counts = f"{len(mine)} | {once} | {len(mine) - once - moved} | {moved}"
        yield f"| {markdown(recipe)} | {counts} | {', '.join(names)} |"
