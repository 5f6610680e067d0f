"""The calibration of a dataset card: its cells loaded, calibrated, written.

Lives elsewhere: the numbers (calibration), the rule and the JSON (calibration_rule).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scmf.core.config.run import DataConfig
from scmf.core.config.validation import validate
from scmf.core.errors import DataError
from scmf.core.files import write_json
from scmf.data.cards.card import load_card
from scmf.data.loading.load import load_cells
from scmf.data.splits.held_out import TEST
from scmf.evaluation.perturbation.calibration import calibrate
from scmf.evaluation.perturbation.calibration_rule import CardCalibration
from scmf.evaluation.perturbation.truth import PerturbationTruth


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
