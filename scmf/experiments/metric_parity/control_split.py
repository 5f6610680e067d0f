"""Cases of control splitting: Pearson of a predictor with shared and with own control cells (safedelta).

Lives here: the comparisons of one case. Lives elsewhere: the correlation (scmf.evaluation.perturbation.metrics).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scmf.evaluation.perturbation.metrics import pearson
from scmf.experiments.metric_parity.case import Found
from scmf.experiments.metric_parity.inputs import cells_of
from scmf.results.parity import ParityCase

_STRENGTH = {"train_mean": 1.0, "train_mean_half_strength": 0.5}
_FIRST = "first_training_perturbation"


def is_mine(found: Found) -> bool:
    """Whether a case is of this kind."""
    return {"control_half_a", "control_half_b", "expected"} <= found.expected.keys()


def cases(found: Found) -> Iterator[ParityCase]:
    """Every predictor of a case, in both folds, with shared and own controls."""
    golden, cells = found.expected, cells_of(found)
    control = [cells.mean(np.array(golden[f"control_half_{half}"])) for half in "ab"]
    truth = {name: cells.mean(cells.rows(name)) for name in (*golden["train"], *golden["test"])}
    for predictor, values in golden["expected"].items():
        if predictor not in _STRENGTH and predictor != _FIRST:
            yield found.failed(predictor, "a predictor that is not understood")
            continue
        names = golden["train"] if predictor in _STRENGTH else golden["train"][:1]
        mean = np.mean([truth[name] for name in names], axis=0)

        def change(fold: int, mean: np.ndarray = mean, strength: float = _STRENGTH.get(predictor, 1.0)) -> np.ndarray:
            return strength * (mean - control[fold])

        ours: dict[tuple[int, str, str], float] = {}
        inner: dict[tuple[int, str, str], float] = {}
        for fold in (0, 1):
            for regime, other in (("shared", fold), ("independent", 1 - fold)):
                for name in golden["test"]:
                    predicted, true = change(fold), truth[name] - control[other]
                    ours[fold, regime, name] = pearson(predicted, true)
                    inner[fold, regime, name] = float(_centered(predicted) @ _centered(true))
        keys = [(row["fold"], row["regime"], row["target"]) for row in values["rows"]]
        yield found.cases(f"{predictor}/pearson", [ours[key] for key in keys], [row["pcc"] for row in values["rows"]])
        yield found.cases(f"{predictor}/inner", [inner[key] for key in keys], [row["inner"] for row in values["rows"]])
        for regime, key in (("shared", "pearson_shared"), ("independent", "pearson_own_controls")):
            mine = np.mean([value for (_, one, _), value in ours.items() if one == regime])
            yield found.cases(f"{predictor}/{key}", mine, values[key])
        noise = _centered(control[0] - control[1])
        carried = -(_centered(change(0)) - _centered(change(1))) @ noise / (noise @ noise)
        yield found.cases(f"{predictor}/carriage", carried, values["carriage"])


def _centered(x_G: np.ndarray) -> np.ndarray:
    return x_G - x_G.mean()
