"""ParityCase: one comparison of our output with the output of the official code.

Lives here: what a comparison says. Lives elsewhere: the comparisons (recipes/<name>/parity_*.py), their table
(pages.parity).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ParityCase:
    """One comparison of our output with the output of the official code.

    Parameters
    ----------
    name
        Path-like name of the case, for example ``tok/adv_plain.V2``.
    compared
        What was compared, for example ``17 cells, 31,020 tokens`` or ``tensor logits (8, 120, 320)``.
    passed
        True when everything is within the tolerance.
    difference
        Largest difference in the unit of the tolerance; 0 for identical tokens.
    tolerance
        Largest difference allowed; 0 asks for identity.
    detail
        Where the first difference is, or a remark such as ``427 exact ties compared as sets``.
    """

    name: str
    compared: str
    passed: bool
    difference: float
    tolerance: float
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; a difference that is not a number (shapes differ, NaN) is null."""
        return {**asdict(self), "difference": self.difference if math.isfinite(self.difference) else None}
