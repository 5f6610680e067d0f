"""What a check says: a list of findings and the facts they rest on.

Lives here: the shape of the answer. Lives elsewhere: the checks (check), printing them (cli).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "ok"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    level
        ``error``: a recipe would refuse it; ``warning``: it runs, but look; ``ok``.
    what
        What was looked at, in two or three words.
    found
        What was found, with numbers.
    do
        What to do; empty when there is nothing to do.
    """

    level: Level
    what: str
    found: str
    do: str = ""


@dataclass
class CheckReport:
    """Findings about a file or a card.

    Parameters
    ----------
    subject
        Path of the file or name of the card.
    findings
        In the order in which they were made.
    facts
        Numbers and names behind the findings, as JSON values.
    """

    subject: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, what: str, found: str, *, do: str = "") -> None:
        """Append a finding."""
        self.findings.append(Finding(level, what, found, do))

    @property
    def ok(self) -> bool:
        """Whether nothing was found that a recipe would refuse."""
        return not any(finding.level == "error" for finding in self.findings)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Findings as rows (level, what, found, do) for a table."""
        return [(finding.level, finding.what, finding.found, finding.do) for finding in self.findings]

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        findings = [asdict(finding) for finding in self.findings]
        return {"subject": self.subject, "ok": self.ok, "findings": findings, "facts": self.facts}
