"""Found: one case of golden values, and how a value of ours is held against one of it.

Lives here: what a case brings, one comparison. Lives elsewhere: which comparisons a case of each kind has (the other
files of this package), finding cases (walk).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.results.parity import ParityCase

TOLERANCE = 1e-6
"""Largest difference of a value, relative to the golden one where that is above 1."""

EXACT = 1e-12
"""Largest difference of p values and ranks: the rounding of a float64."""

Values = Mapping[str, Any]


@dataclass
class Found:
    """One case.

    Parameters
    ----------
    name
        Path-like, below the folder of all cases.
    root
        Folder of all cases.
    folder
        Folder that the case is; None for a pair of files.
    files
        Its files.
    left_out
        Golden values that have no counterpart here; the comparisons add to it.
    """

    name: str
    root: Path
    folder: Path | None
    files: tuple[Path, ...]
    left_out: list[str] = field(default_factory=list)

    @cached_property
    def expected(self) -> dict[str, Any]:
        """Content of the JSON of the case (``expected.json`` of a folder); empty where there is none."""
        for path in self.files:
            if path.suffix == ".json" and (self.folder is None or path.name == "expected.json"):
                found = json.loads(path.read_text(encoding="utf-8"))
                return found if isinstance(found, dict) else {}
        return {}

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays of the case; empty where there are none."""
        for path in self.files:
            if path.suffix == ".npz":
                return read_arrays(path)
        return {}

    def json(self, name: str) -> Any:
        """Content of another JSON file of the folder."""
        if self.folder is None or not (self.folder / name).is_file():
            raise EvaluationError(f"no {name}", wanted="it beside expected.json", where=self.name)
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def cases(self, what: str, ours: Any, golden: Any, *, tolerance: float = TOLERANCE) -> ParityCase:
        """One comparison of numbers, lists or mappings of them; null is NaN."""
        return compared(f"{self.name}/{what}", ours, golden, tolerance=tolerance)

    def failed(self, what: str, why: str) -> ParityCase:
        """A comparison that could not be made."""
        return ParityCase(f"{self.name}/{what}", "", passed=False, difference=1.0, tolerance=0.0, detail=why)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an npz file; lists of names may be objects, nothing else is unpickled."""
    found: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as saved:
        for name in saved.files:
            try:
                found[name] = saved[name]
            except ValueError:
                continue  # an array of objects, which the comparisons do without
    return found


def compared(name: str, ours: Any, golden: Any, *, tolerance: float = TOLERANCE) -> ParityCase:
    """Largest difference of two sets of numbers, relative to golden ones above 1; NaN equals null."""
    if isinstance(golden, Mapping):
        if lost := [key for key in golden if key not in ours]:
            return ParityCase(name, f"{len(golden)} values", False, math.inf, tolerance, f"no value of {lost[0]!r}")
        keys = list(golden)
        x, y = _numbers([ours[key] for key in keys]), _numbers([golden[key] for key in keys])
    else:
        x, y = _numbers(ours), _numbers(golden)
    said = f"{y.size} value{'s' * (y.size != 1)}"
    if x.shape != y.shape:
        return ParityCase(name, said, False, math.inf, tolerance, f"ours has the shape {x.shape}, golden {y.shape}")
    lonely = np.isnan(x) != np.isnan(y)
    if lonely.any():
        return ParityCase(name, said, False, math.inf, tolerance, f"{int(lonely.sum())} are NaN on one side alone")
    kept = ~np.isnan(y) & (x != y)
    if not kept.any():
        return ParityCase(name, said, True, 0.0, tolerance)
    with np.errstate(invalid="ignore"):
        off = np.abs(x[kept] - y[kept]) / np.maximum(np.abs(y[kept]), 1)
    difference = float(np.nan_to_num(off, nan=np.inf).max())
    return ParityCase(name, said, difference <= tolerance, difference, tolerance)


def within(name: str, low: Iterable[float], golden: Iterable[float], high: Iterable[float]) -> ParityCase:
    """Ranks among equals, which another rule for ties puts anywhere between two ends."""
    a, x, b = (np.asarray(list(values), np.float64) for values in (low, golden, high))
    off = float(np.maximum(np.maximum(a - x, x - b), 0).max(initial=0.0))
    tied = int((b - a > EXACT).sum())
    return ParityCase(name, f"{x.size} ranks", off <= EXACT, off, EXACT, f"{tied} among equals" if tied else "")


def _numbers(values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    if isinstance(values, Sequence) and not isinstance(values, str):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array([np.nan if values is None else values], np.float64)
