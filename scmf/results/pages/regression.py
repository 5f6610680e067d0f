"""What a regression check found: one line a number, worst first, as a table, JSON or a pull request comment.

Lives here: the lines and how they are written. Lives elsewhere: measuring and judging (scmf.experiments), the
pages of one recipe (reproduction).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scmf.results.judge import Verdict, VerdictKind
from scmf.results.pages.escape import markdown
from scmf.results.pages.table import VERDICTS, number
from scmf.results.parity import ParityCase
from scmf.results.result import CellKey

_WORST_FIRST: tuple[VerdictKind, ...] = (
    "off_up",
    "off_down",
    "failed",
    "missing",
    "stale",
    "close",
    "match",
    "not_applicable",
)
_COMMENT_LIMIT = 60_000
"""Characters of a pull request comment; GitHub takes 65,536."""


@dataclass(frozen=True)
class Line:
    """One number of one recipe.

    Parameters
    ----------
    recipe
        Name of the recipe.
    key
        Which number.
    committed, now
        Mean over the seeds of the committed and of the new results; None when there is none, or a seed lacks it.
    expected
        Mean of the expected samples.
    verdict
        From `scmf.experiments.reproduce.judged`.
    """

    recipe: str
    key: CellKey
    committed: float | None
    now: float | None
    expected: float | None
    verdict: Verdict

    @property
    def moved(self) -> float | None:
        """Now minus committed, in the unit of the metric."""
        return None if self.now is None or self.committed is None else self.now - self.committed

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorting key: the worst verdict first, then the furthest from the middle of its band."""
        share = 0.0
        if self.verdict.delta is not None and self.verdict.delta:
            share = abs(self.verdict.delta) / self.verdict.band if self.verdict.band else math.inf
        rank = _WORST_FIRST.index(self.verdict.kind)
        return max(rank, 1), -share, self.recipe, self.key

    def texts(self) -> tuple[str, ...]:
        """The cells of the table: recipe, number, committed, now, moved, band, verdict."""
        key, verdict = self.key, self.verdict
        what = f"{key.dataset}.{key.split} {key.benchmark}.{key.protocol}.{key.method} {key.metric}"
        within = "—" if self.expected is None else number(self.expected)
        within += "" if verdict.band is None else f" ± {number(verdict.band)}"
        moved = "same" if self.moved == 0 else number(self.moved, sign=True)
        said = VERDICTS[verdict.kind] + (f": {verdict.reason}" if verdict.reason else "")
        name = f"{self.recipe} {key.variant}"
        return name, what, number(self.committed), number(self.now), moved, within, said

    def to_json(self) -> dict[str, Any]:
        """The line as a JSON object."""
        verdict = self.verdict
        return {
            "recipe": self.recipe,
            **self.key._asdict(),
            "committed": self.committed,
            "now": self.now,
            "moved": self.moved,
            "expected": self.expected,
            "band": verdict.band,
            "delta": verdict.delta,
            "verdict": verdict.kind,
            "reason": verdict.reason,
            "ok": verdict.ok,
        }


COLUMNS = ("recipe", "number", "committed", "now", "moved", "expected", "verdict")
"""Heads of the table."""


@dataclass(frozen=True)
class Checked:
    """What the check of one recipe found.

    Parameters
    ----------
    recipe, variant
        What was checked.
    lines
        One a number.
    parity
        Comparisons with the official code; None when they were not made.
    absent
        Tier to the reason why it did not run.
    error
        Why the recipe could not be measured at all; empty when it was.
    """

    recipe: str
    variant: str
    lines: tuple[Line, ...] = ()
    parity: tuple[ParityCase, ...] | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def failed_cases(self) -> tuple[ParityCase, ...]:
        """Comparisons with the official code that failed."""
        return tuple(case for case in self.parity or () if not case.passed)

    @property
    def ok(self) -> bool:
        """True when something was compared and nothing failed: silence is no success."""
        compared = len(self.parity or ()) + sum(line.verdict.kind in ("match", "close") for line in self.lines)
        return bool(compared) and not self.error and not self.failed_cases and all(x.verdict.ok for x in self.lines)

    def said(self) -> str:
        """The verdicts counted, in words."""
        if self.error:
            return self.error
        counts = Counter(line.verdict.kind for line in self.lines)
        parts = [f"{counts[kind]} {VERDICTS[kind]}" for kind in _WORST_FIRST if counts[kind]]
        if self.parity is not None:
            parts.append(f"parity {len(self.parity) - len(self.failed_cases)} of {len(self.parity)}")
        return ", ".join([*parts, *(f"{tier}: — ({reason})" for tier, reason in sorted(self.absent.items()))])


@dataclass(frozen=True)
class Check:
    """What the check of all recipes found."""

    recipes: tuple[Checked, ...]

    @property
    def ok(self) -> bool:
        """True when every recipe is."""
        return bool(self.recipes) and all(one.ok for one in self.recipes)

    @property
    def lines(self) -> list[Line]:
        """All numbers, worst first."""
        return sorted((line for one in self.recipes for line in one.lines), key=lambda line: line.order)

    def table(self, *, everything: bool = True) -> list[tuple[str, ...]]:
        """Lines of the printed table (heads: `COLUMNS`), worst first, what could not be measured on top.

        Parameters
        ----------
        everything
            False leaves out what is a match or was not judged.
        """
        top = [
            (f"{one.recipe} {one.variant}".strip(), "all of it", "—", "—", "—", "—", f"failed: {one.error}")
            for one in self.recipes
            if one.error
        ]
        top += [
            (one.recipe, f"parity {case.name}", "—", number(_finite(case.difference)), "—", number(case.tolerance),
             f"failed: {case.detail or case.compared}")
            for one in self.recipes for case in one.failed_cases
        ]  # fmt: skip
        shown = [line for line in self.lines if everything or line.verdict.kind not in ("match", "not_applicable")]
        return top + [line.texts() for line in shown]

    def summary(self) -> list[tuple[str, str, str]]:
        """One line a recipe: its name, ``ok`` or ``NOT ok``, the verdicts counted."""
        return [
            (f"{one.recipe} {one.variant}".strip(), "ok" if one.ok else "NOT ok", one.said()) for one in self.recipes
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        recipes = [
            {
                "recipe": one.recipe,
                "variant": one.variant,
                "ok": one.ok,
                "error": one.error or None,
                "absent": dict(one.absent),
                "parity": None
                if one.parity is None
                else {
                    "cases": len(one.parity),
                    "failed": [
                        {
                            "name": case.name,
                            "difference": _finite(case.difference),
                            "tolerance": case.tolerance,
                            "detail": case.detail,
                        }
                        for case in one.failed_cases
                    ],
                },
            }
            for one in self.recipes
        ]
        rows = [line.to_json() for line in self.lines]
        return {"ok": self.ok, "recipes": recipes, "rows": rows, "markdown": self.markdown()}

    def markdown(self) -> str:
        """The check as a comment: a line a recipe, what is not a match, and all numbers folded away.

        Numbers that would make the comment longer than GitHub takes are counted instead.
        """
        fine = "every number lies in its band" if self.lines else "every comparison with the official code passed"
        said = fine if self.ok else "**a number left its band, or was not measured**"
        text = [f"### Regression check: {said}", ""]
        text += _markdown_table(("recipe", "", "verdicts"), self.summary())
        if worth := self.table(everything=False):
            text += ["", "Not a match, worst first:", "", *_markdown_table(COLUMNS, worth)]
        rows = self.table()
        if not rows:
            return "\n".join(text) + "\n"
        head, folded = ["", f"<details><summary>All {len(rows)} numbers</summary>", ""], _markdown_table(COLUMNS, rows)
        room = _COMMENT_LIMIT - len("\n".join(text))
        kept = 0
        while kept < len(folded) and room > len(folded[kept]):
            room -= len(folded[kept]) + 1
            kept += 1
        more = [] if kept == len(folded) else ["", f"and {len(folded) - kept} more in the JSON of the check"]
        return "\n".join([*text, *head, *folded[:kept], *more, "", "</details>"]) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
