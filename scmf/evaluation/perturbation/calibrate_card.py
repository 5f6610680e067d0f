"""The calibration of a dataset card: its cells loaded and calibrated, as JSON and as rows of a table.

Lives elsewhere: the numbers (calibration), the rule (calibration_rule).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.config.run import DataConfig
from scmf.core.config.validation import validate
from scmf.core.errors import DataError
from scmf.core.files import write_json
from scmf.data.cards.card import load_card
from scmf.data.loading.load import load_cells
from scmf.data.splits.held_out import TEST
from scmf.evaluation.perturbation.calibration import SPLITS, Calibrated, calibrate
from scmf.evaluation.perturbation.calibration_rule import (
    CONFIDENCE,
    LEAST_BDS,
    LEAST_DRF,
    LEAST_SWAP,
    LEAST_UNITS,
    MOST_TRIVIAL,
    Verdict,
    swap_bound,
    verdict_of,
    why_not,
)
from scmf.evaluation.perturbation.truth import PerturbationTruth

COLUMNS = ("metric", "DRF", "BDS", "swap", "no change", "units", "head of a table")
"""Of `CardCalibration.rows`."""


@dataclass(frozen=True)
class CardCalibration:
    """The calibration of a card.

    Parameters
    ----------
    card, files
        Name of the card, and the sha256 of each of its files.
    metrics
        What each metric can tell.
    """

    card: str
    files: Mapping[str, str]
    metrics: Mapping[str, Calibrated]

    @property
    def verdict(self) -> Verdict:
        """Which metric heads."""
        return verdict_of(self.metrics)

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object; what is not a number is null."""
        rows = {}
        for name, metric in self.metrics.items():
            values = {key: _finite(value) for key, value in asdict(metric).items() if key != "name"}
            reasons = why_not(metric)
            rows[name] = values | {
                "swap_bound": _finite(swap_bound(metric.swap_units, metric.units)),
                "no_change_scaled": _finite(metric.no_change_scaled),
                "may_head": not reasons,
                "why_not": reasons,
            }
        verdict = self.verdict
        return {
            "card": self.card,
            "files": dict(self.files),
            "splits": SPLITS,
            "thresholds": {
                "units": LEAST_UNITS, "drf": LEAST_DRF, "bds": LEAST_BDS, "swap": LEAST_SWAP,
                "no_change": MOST_TRIVIAL, "confidence": CONFIDENCE,
            },
            "metrics": rows,
            "verdict": asdict(verdict),
        }  # fmt: skip

    def rows(self) -> list[tuple[str, ...]]:
        """One row a metric, for a terminal."""
        return [
            (name, f"{m.drf:.2f}", f"{m.bds:.2f}", f"{m.swap:.2f}", f"{m.no_change_scaled:.2f}", str(m.units),
             "may head" if not (reasons := why_not(m)) else "; ".join(reasons))
            for name, m in self.metrics.items()
        ]  # fmt: skip


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def calibrate_card(name: str) -> CardCalibration:
    """Calibrate every metric on all perturbations of a card, whatever its splits are.

    Raises
    ------
    ConfigError, DataError, EvaluationError
        No such card; it is no perturbation screen; too few perturbations or control cells.
    """
    card = load_card(name)
    if card.perturbation is None:
        raise DataError(
            f"card {card.name!r} is no perturbation screen", wanted="a card with `perturbation`: key and control",
            where="scmf evaluate calibrate", fix="name the screen, or add the section to your card",
        )  # fmt: skip
    cells = load_cells(validate(DataConfig, {"dataset": name}, where="scmf evaluate calibrate"), log_expression=True)
    every = replace(cells, split=np.full(cells.n_obs, TEST))
    metrics = calibrate(PerturbationTruth.of(every))
    return CardCalibration(card.name, {file.name: file.sha256 for file in card.files}, metrics)


def write_calibration(found: CardCalibration, folder: Path) -> Path:
    """Write ``<card>.json`` into a folder."""
    path = folder / f"{found.card}.json"
    write_json(path, found.to_json())
    return path
