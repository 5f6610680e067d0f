"""Moves of numbers between two measurements, and how a page shows them.

Lives here: what a move and a change are, and their Markdown. Lives elsewhere: reading them out of git
(scmf.results.history).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scmf.results.pages.escape import code, markdown
from scmf.results.pages.table import number
from scmf.results.result import CellKey

SHOWN_COMMITS = 8
"""Subjects of commits that are listed with a change; the rest is counted."""


@dataclass(frozen=True)
class Move:
    """One number that differs between two measurements of the same cell and seed.

    Parameters
    ----------
    recipe, key, seed
        Which number.
    before, after
        The values; ``after`` is None when it is not measured any more.
    bands
        |after - before| in half-widths of the band of today's expected.yaml; None without an expectation.
    """

    recipe: str
    key: CellKey
    seed: int | None
    before: float
    after: float | None
    bands: float | None


@dataclass(frozen=True)
class Change:
    """Everything that moved between two measurements of one recipe.

    Parameters
    ----------
    recipe
        Name of the recipe.
    before, after
        Commits of the code that measured, with a mark when it had changes that were not committed.
    time
        When the last of the new numbers was measured.
    commits
        ``(hash, subject)`` of the commits between that touch the code or the recipe, newest first; None when one of
        the two is not in this repository.
    besides
        What else differs: recipe, cells, packages, processor.
    moves
        Furthest first.
    """

    recipe: str
    before: str
    after: str
    time: str
    commits: tuple[tuple[str, str], ...] | None
    besides: tuple[str, ...]
    moves: tuple[Move, ...]


def sections(found: Sequence[Change]) -> Iterator[str]:
    """Lines of the page: a heading a recipe, a section a change.

    Parameters
    ----------
    found
        Sorted by recipe, then newest first.
    """
    recipe = ""
    for change in found:
        if change.recipe != recipe:
            recipe = change.recipe
            yield from ("", f"## {markdown(recipe)}")
        yield ""
        yield from _section(change)


def _section(change: Change) -> Iterator[str]:
    yield f"### {change.time[:10]}: {code(change.before)} → {code(change.after)}"
    yield ""
    if change.commits is None:
        yield "Commits between: unknown, one of the two is not in this repository."
    elif not change.commits:
        yield "No commit between them touches the code or the recipe."
    else:
        yield f"Commits between that touch the code or {code(f'recipes/{change.recipe}')}:"
        yield ""
        yield from (f"* {code(commit)} {markdown(subject)}" for commit, subject in change.commits[:SHOWN_COMMITS])
        if (more := len(change.commits) - SHOWN_COMMITS) > 0:
            yield f"* and {more} more"
    yield ""
    if change.besides:
        yield f"Besides: {'; '.join(map(markdown, change.besides))}."
        yield ""
    yield "| number | seed | before | after | moved | bands |"
    yield "|---|---|---|---|---|---|"
    for move in change.moves:
        moved = "not measured" if move.after is None else number(move.after - move.before, sign=True)
        bands = "—" if move.bands is None else f"{move.bands:.2f}"
        seed = "—" if move.seed is None else str(move.seed)
        yield f"| {markdown(move.key)} | {seed} | {number(move.before)} | {number(move.after)} | {moved} | {bands} |"
