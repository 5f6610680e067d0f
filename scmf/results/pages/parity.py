"""Parity with the official code as one table in the README of a recipe.

Lives here: cases put together, the table as Markdown, its place between two marks. Lives elsewhere: the comparisons
(recipes/<name>/parity_*.py), who runs them (reproduce).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from scmf.core.errors import EvaluationError
from scmf.core.files import write_text
from scmf.results.pages.escape import markdown
from scmf.results.parity import ParityCase

BEGIN, END = "<!-- parity:begin -->", "<!-- parity:end -->"
"""Marks in a README; what stands between them is generated."""

_COLUMNS = ("case", "official", "ours", "largest difference", "allowed")


def case_rows(cases: Sequence[ParityCase]) -> list[dict[str, str]]:
    """One row for all comparisons of one case, in the order of their names.

    Parameters
    ----------
    cases
        Comparisons; ``<kind>/<case>/...`` and ``<kind>/<case>`` belong to one case.

    Returns
    -------
    list of dict
        ``case``, ``official`` (what was compared), ``ours`` (how many agree), ``largest difference`` (the one
        closest to what is allowed, or beyond it) and ``allowed``.
    """
    rows = []
    for name, group in groupby(sorted(cases, key=_case_of), key=_case_of):
        mine = list(group)
        worst = max(mine, key=_strain)
        passed = sum(case.passed for case in mine)
        rows.append(
            {
                "case": name,
                "official": worst.compared if len(mine) == 1 else f"{len(mine)} outputs",
                "ours": ("equal" if passed == 1 == len(mine) else f"{passed} of {len(mine)} equal")
                + (f"; {worst.detail}" if worst.detail and len(mine) == 1 else ""),
                "largest difference": "0" if worst.difference == 0 else f"{worst.difference:.1e}",
                "allowed": "identical" if worst.tolerance == 0 else f"{worst.tolerance:.0e}",
            }
        )
    return rows


def parity_table(cases: Sequence[ParityCase]) -> str:
    """`case_rows` as a Markdown table with a line that sums it up."""
    rows = case_rows(cases)
    passed = sum(case.passed for case in cases)
    lines = [f"{passed:,} of {len(cases):,} comparisons with the official code agree.", ""]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(markdown(row[column]) for column in _COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def write_parity_table(readme: Path, cases: Sequence[ParityCase]) -> None:
    """Put the table between the marks of a README.

    Raises
    ------
    EvaluationError
        The marks are not there.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise EvaluationError(
            "no place for the parity table",
            wanted=f"a line {BEGIN} and below it a line {END}",
            where=readme,
            fix="write both lines where the table is to stand",
        )
    write_text(readme, f"{before}{BEGIN}\n\n{parity_table(cases)}\n\n{END}{after}")


def _case_of(case: ParityCase) -> str:
    return "/".join(case.name.split("/")[:2])


def _strain(case: ParityCase) -> float:
    """How much of what is allowed a comparison uses up; a failed one is worst."""
    if not case.passed:
        return float("inf")
    return case.difference / case.tolerance if case.tolerance else case.difference
