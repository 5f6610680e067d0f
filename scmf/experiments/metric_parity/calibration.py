"""Cases of calibration: values of metrics for a duplicate and for other perturbations, and what follows (scperteval).

Lives here: the comparisons of one case. Lives elsewhere: what its controls are (calibration_controls), the metrics
(scmf.evaluation.perturbation).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scmf.evaluation.perturbation.calibration import drf_scperteval, wins
from scmf.evaluation.perturbation.energy_distance import energy_unbiased
from scmf.evaluation.perturbation.metrics import pearson
from scmf.evaluation.perturbation.midranks import euclidean_distances, rank_ends
from scmf.evaluation.perturbation.space import median_distance, mmd_unbiased
from scmf.evaluation.perturbation.weighted import weighted_mse, weighted_pearson, weighted_r2
from scmf.evaluation.perturbation.welch import gene_weights
from scmf.experiments.metric_parity.calibration_controls import Controls
from scmf.experiments.metric_parity.case import Found, compared, within
from scmf.experiments.metric_parity.inputs import cells_of
from scmf.results.parity import ParityCase

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Truth, prediction, weights of genes."""


def _flat(x_G: np.ndarray) -> np.ndarray:
    return np.full(len(x_G), 1 / len(x_G))


_PROFILE: Mapping[str, tuple[Formula, bool]] = {
    "pearson": (lambda y, x, w: pearson(x, y), True),
    "mse": (lambda y, x, w: weighted_mse(x, y, _flat(x)) if len(x) else float("nan"), False),
    "l2": (lambda y, x, w: float(np.sqrt(((x - y) ** 2).sum())), False),
    "r2": (lambda y, x, w: weighted_r2(x, y, _flat(x)), True),
    "wmse": (lambda y, x, w: weighted_mse(x, y, w), False),
    "weighted_pearson": (lambda y, x, w: weighted_pearson(x, y, w), True),
    "weighted_r2": (lambda y, x, w: weighted_r2(x, y, w), True),
}
"""Formula of a profile, and whether larger is better."""

_NAME = re.compile(
    r"(?P<formula>weighted_pearson|weighted_r2|pearson|wmse|mse|r2|l2)(_(?P<center>ctrl|pert))?(_exp(?P<exponent>\d+))?"
    r"(_(?P<subset>top_k|degs_padj|heg_k)=(?P<value>[\d.]+))?"
)
_SETS = re.compile(r"(?P<formula>unbiased_mmd_median|energy_distance)_(?P<space>top_k|pca_k)=(?P<value>\d+)")
_RANKS = {"rank": (False, False), "transpose_rank": (True, False), "nir": (True, True)}
"""Whether a prediction is ranked among truths, and whether 1 is best."""


@dataclass(frozen=True)
class _Protocol:
    """One protocol of the package: values of all perturbations for a source of predictions."""

    kind: Literal["profile", "set", "rank"]
    fields: Mapping[str, str]
    higher: bool

    @property
    def perfect(self) -> float:
        return 1.0 if self.higher else 0.0


def is_mine(found: Found) -> bool:
    """Whether a case is of this kind."""
    return {"calibrate", "perturbations", "subsample"} <= found.expected.keys()


def protocol(name: str) -> _Protocol | None:
    """What a name of the package stands for; None where nothing here is like it."""
    if name in _RANKS:
        return _Protocol("rank", {"formula": name}, _RANKS[name][1])
    if match := _SETS.fullmatch(name):
        return _Protocol("set", match.groupdict(), False)
    if match := _NAME.fullmatch(name):
        return _Protocol("profile", match.groupdict(), _PROFILE[match["formula"]][1])
    return None


def cases(found: Found) -> Iterator[ParityCase]:
    """Intermediates, raw values of both controls, DRF and BDS of each protocol, values of predictions."""
    cells = cells_of(found)
    halves = {name: (np.array(a), np.array(b)) for name, (a, b) in found.json("halves.json").items()}
    controls = Controls.of(cells, found.expected, halves)
    yield from _intermediates(found, controls)
    for method, protocols in found.expected["calibrate"].items():
        for name, golden in protocols.items():
            known = protocol(name)
            if known is None or method != "t-test":
                found.left_out.append(f"{method} {name}")
            else:
                yield from _calibrated(found, controls, name, known, golden)
    for method, predictions in found.expected["score"].items():
        for predicted, protocols in predictions.items():
            for name, golden in protocols.items():
                known = protocol(name)
                if known is None or method != "t-test":
                    found.left_out.append(f"{method} {name}")
                    continue
                mine = _values(controls.scoring(predicted), known, "prediction")
                yield from _equal(found, f"score/{predicted}/{name}", known, mine, golden["per_perturbation"])
                if known.kind != "rank":
                    ends = {"mean": float(np.nanmean(mine[0])), "median": float(np.nanmedian(mine[0]))}
                    yield found.cases(f"score/{predicted}/{name}/aggregate", ends, golden["aggregate"])


def _intermediates(found: Found, controls: Controls) -> Iterator[ParityCase]:
    arrays, names = found.arrays, controls.names
    if not arrays:
        return
    rows = [names.index(name) for name in arrays["perturbations"].tolist()]
    ours: dict[str, np.ndarray] = {
        "first_half_t": np.stack([controls.truth_test(names[row]).t for row in rows]),
        "first_half_padj": np.stack([controls.truth_test(names[row]).adjusted for row in rows]),
        "weights_exp2": np.stack([gene_weights(controls.truth_test(names[row]).t) for row in rows]),
        "interpolated": np.stack([controls.profile("interpolated", names[row]) for row in rows]),
        "other_perturbations_mean": np.stack([controls.profile("all_perturbed_mean", names[row]) for row in rows]),
        "control_mean": controls.profile("control_mean", names[0]),
    }
    for key in arrays:
        if key in ours:
            yield found.cases(f"intermediates/{key}", ours[key], arrays[key])
        elif key not in ("genes", "perturbations"):
            yield found.failed(f"intermediates/{key}", "an array that is not understood")


def _calibrated(
    found: Found, controls: Controls, name: str, known: _Protocol, golden: Mapping[str, Any]
) -> Iterator[ParityCase]:
    sides = {side: _values(controls, known, source)
             for side, source in zip(("positive", "negative"), golden["controls"], strict=True)}  # fmt: skip
    rows = golden["per_perturbation_drf"]
    for side, mine in sides.items():
        values = {key: row[f"raw_{side}"] for key, row in rows.items()}
        yield from _equal(found, f"{name}/{side}", known, mine, values)
    positive, negative = sides["positive"], sides["negative"]
    if (negative[1] != negative[2]).any() or (positive[1] != positive[2]).any():
        found.left_out.append(f"{name}: DRF and BDS of ranks that a draw decides among equals")
        return
    drf = drf_scperteval(positive[0], negative[0], perfect=known.perfect, higher_is_better=known.higher)
    keys = controls.names
    yield found.cases(f"{name}/drf", dict(zip(keys, drf, strict=True)), {key: row["drf"] for key, row in rows.items()})
    ends = {"mean": float(np.nanmean(drf)), "median": float(np.nanmedian(drf))}
    yield found.cases(f"{name}/drf/aggregate", ends, golden["drf"])
    won = wins(positive[0], negative[0], higher_is_better=known.higher, tie=0.0, rounding=0.0)
    yield found.cases(f"{name}/bds", {"bds": float(np.nanmean(won))}, golden["bds"])


def _values(controls: Controls, known: _Protocol, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value of each perturbation (P,), and the ends between which it lies where equals are ranked."""
    if known.kind == "rank":
        return _ranks(controls, known, source)
    one = _of_profile if known.kind == "profile" else _of_set
    values = np.array([one(controls, known.fields, source, name) for name in controls.names])
    return values, values, values


def _of_profile(controls: Controls, fields: Mapping[str, Any], source: str, name: str) -> float:
    truth, predicted = controls.profile("truth", name), controls.profile(source, name)
    if fields["center"]:
        center = controls.profile("control_mean" if fields["center"] == "ctrl" else "all_perturbed_mean", name)
        truth, predicted = truth - center, predicted - center
    test = controls.truth_test(name)
    weights = gene_weights(test.t, exponent=float(fields["exponent"] or 2))
    kept = controls.subset(fields["subset"], fields["value"], name)
    return _PROFILE[fields["formula"]][0](truth[kept], predicted[kept], weights[kept])


def _of_set(controls: Controls, fields: Mapping[str, Any], source: str, name: str) -> float:
    truth, predicted = (controls.cells_in(fields["space"], fields["value"], one, name) for one in ("truth", source))
    if fields["formula"] == "energy_distance":
        return energy_unbiased(truth, predicted)
    # the package takes the width from both sets together; `mmd_pca` takes it from true cells alone
    return mmd_unbiased(truth, predicted, width=median_distance(np.vstack([truth, predicted])))


def _ranks(controls: Controls, known: _Protocol, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    among_truths, best_is_one = _RANKS[known.fields["formula"]]
    truth, predicted = (np.stack([controls.profile(one, name) for name in controls.names]) for one in ("truth", source))
    far = euclidean_distances(predicted, truth)
    far = far if among_truths else far.T
    low, high = rank_ends(far)
    low, high = (low, high) if best_is_one else (1 - high, 1 - low)
    return (low + high) / 2, low, high


def _equal(
    found: Found,
    name: str,
    known: _Protocol,
    mine: tuple[np.ndarray, np.ndarray, np.ndarray],
    golden: Mapping[str, Any],
) -> Iterator[ParityCase]:
    values = list(golden.values())
    rows = [found.expected["perturbations"].index(key) for key in golden]
    if known.kind == "rank":
        yield within(f"{found.name}/{name}", mine[1][rows], values, mine[2][rows])
        return
    yield compared(f"{found.name}/{name}", mine[0][rows], values)
