"""Every case of golden values of a set of metrics: found, told apart by what it holds, compared.

Lives here: which metrics have such cases, the walk. Lives elsewhere: the comparisons of each kind (the other files of
this package), recipes (scmf.experiments.reproduce). No name of a case is known here: a case whose kind is not
understood, or whose comparison fails, is a failed comparison and never left out.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from scmf.core.errors import EvaluationError, ScmfError
from scmf.core.paths import reference_dir
from scmf.experiments.metric_parity import (
    calibration,
    challenge_2025,
    challenge_2026,
    control_split,
    gears_splits,
    small,
)
from scmf.experiments.metric_parity.case import Found
from scmf.results.parity import ParityCase

METRIC_SETS = {"perturbation-metrics": "perturbation"}
"""Name for ``scmf reproduce`` to the folder of its cases below SCMF_REFERENCE_DIR."""

KINDS: tuple[ModuleType, ...] = (challenge_2026, challenge_2025, calibration, control_split, gears_splits, small)
"""Each has ``is_mine`` and ``cases``; the first that knows a case compares it."""

_BROKEN = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, zipfile.BadZipFile)


@dataclass
class MetricOutcome:
    """What the walk found: as `scmf.experiments.reproduce.Outcome`, for a set of metrics.

    Parameters
    ----------
    name
        The set.
    parity
        Every comparison.
    not_offered
        Case to golden values without a counterpart here, in words.
    """

    name: str
    parity: list[ParityCase] = field(default_factory=list)
    not_offered: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, Any] = field(default_factory=dict)
    pages: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when something was compared and nothing differs."""
        return bool(self.parity) and all(case.passed for case in self.parity)

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object, with the keys of a recipe's."""
        return {
            "recipe": self.name,
            "variant": None,
            "ok": self.ok,
            "absent": self.absent,
            "parity": [case.to_json() for case in self.parity],
            "not_offered": self.not_offered,
            "verdicts": [],
            "results": [],
            "pages": [],
        }


def reproduce_metrics(name: str, *, on_case: Callable[[ParityCase], None] = lambda _: None) -> MetricOutcome:
    """Compare every case of a set of metrics.

    Raises
    ------
    EvaluationError
        No folder of cases, or nothing in it.
    """
    root = reference_dir()
    if root is None:
        raise EvaluationError(
            "SCMF_REFERENCE_DIR is not set", wanted="a folder with outputs of the official packages", fix="set it"
        )
    outcome = MetricOutcome(name)
    for case, left_out in metric_cases(root / METRIC_SETS[name]):
        if case is not None:
            outcome.parity.append(case)
            on_case(case)
        for path, values in left_out.items():
            outcome.not_offered[path] = values
    return outcome


def metric_cases(folder: Path) -> Iterator[tuple[ParityCase | None, dict[str, list[str]]]]:
    """Walk over every case below a folder; with the last of each comes what has no counterpart."""
    if not folder.is_dir():
        raise EvaluationError(
            "no such folder", wanted="outputs of the official packages", where=folder, fix="check SCMF_REFERENCE_DIR"
        )
    count = 0
    for found in find_cases(folder):
        for case in _compared(found):
            count += 1
            yield case, {}
        if found.left_out:
            yield None, {found.name: sorted(set(found.left_out))}
    if not count:
        raise EvaluationError("no case", wanted="golden values", where=folder, fix="check SCMF_REFERENCE_DIR")


def find_cases(folder: Path) -> list[Found]:
    """Every folder with ``expected.json``, and every other file or pair of files of one name; notes are no cases."""
    walked = os.walk(folder, followlinks=True)
    files = sorted(Path(top, name) for top, _, names in walked for name in names if not name.endswith(".md"))
    whole = {path.parent for path in files if path.name == "expected.json"}
    cases: list[Found] = []
    alone: dict[Path, list[Path]] = {}
    for path in files:
        if not any(parent in whole for parent in path.parents):
            alone.setdefault(path.with_suffix(""), []).append(path)
    for case in sorted(whole):
        mine = tuple(path for path in files if case in path.parents)
        cases.append(Found(case.relative_to(folder).as_posix(), folder, case, mine))
    cases += [Found(stem.relative_to(folder).as_posix(), folder, None, tuple(paths)) for stem, paths in alone.items()]
    return sorted(cases, key=lambda one: one.name)


def _compared(found: Found) -> Iterator[ParityCase]:
    count = 0
    try:
        kind = next((kind for kind in KINDS if kind.is_mine(found)), None)
        if kind is None:
            yield found.failed("kind", f"not understood: {', '.join(path.name for path in found.files)}")
            return
        for case in kind.cases(found):
            count += 1
            yield case
        if not count:
            yield found.failed("kind", "nothing of it could be compared")
    except (ScmfError, *_BROKEN) as error:
        yield found.failed("read", f"{type(error).__name__}: {error}")
