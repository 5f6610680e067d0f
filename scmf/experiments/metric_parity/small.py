"""Small cases: ties of ranks, Systema, hits, distances of pertpy, the published linear model; told apart by content.

Lives here: the comparisons of each. Lives elsewhere: the formulas (scmf.evaluation.perturbation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from scmf.evaluation.perturbation.energy_distance import energy_distance_pertpy
from scmf.evaluation.perturbation.hits import largest, recall_at
from scmf.evaluation.perturbation.linear_published import fit_published_linear
from scmf.evaluation.perturbation.metrics import cosine, pearson
from scmf.evaluation.perturbation.midranks import DISTANCES, midrank_scores, rank_ends, without_targets
from scmf.experiments.metric_parity.case import EXACT, Found, within
from scmf.results.parity import ParityCase


def is_mine(found: Found) -> bool:
    """Whether a case is of one of these kinds."""
    return _kind(found) is not None


def cases(found: Found) -> Iterator[ParityCase]:
    """Every golden value of a case."""
    kind = _kind(found)
    assert kind is not None
    yield from kind(found)


def _kind(found: Found) -> Callable[[Found], Iterator[ParityCase]] | None:
    expected, arrays = found.expected, found.arrays
    values = expected.get("expected", {})
    if "distance" in str(expected.get("key", "")):
        return _discrimination
    if "centroid_accuracy" in values:
        return _systema
    if "prioritization" in expected:
        return _hits
    if "edistance" in values:
        return _distances
    if {"training", "training_names", "prediction", "control"} <= arrays.keys():
        return _linear
    return None


def _discrimination(found: Found) -> Iterator[ParityCase]:
    """Ranks with exact ties; excluding the own gene alone is for the literature."""
    arrays, names = found.arrays, found.arrays["perturbations"].tolist()
    place = found.expected.get("control_row", "last")
    at = -1 if place == "last" else 0 if place == "first" else int(place)
    for key, golden in found.expected["expected"].items():
        real, prediction, distance, scope, denominator = key.split("|")
        x, y = arrays[f"pred.{prediction}"], arrays[f"real_{real}"]
        control = y[at]
        x, y = np.delete(x, at, axis=0) - control, np.delete(y, at, axis=0) - control
        mine = _scores(x, y, arrays["genes"], names, distance, row=scope == "row")
        n = len(names)
        if denominator == "n":
            mine = 1 - (1 - mine) * (n - 1) / n
        elif denominator != "n-1":
            yield found.failed(key, f"denominator {denominator!r} is not understood")
            continue
        yield found.cases(key, mine, golden, tolerance=EXACT)


def _scores(
    x_PG: np.ndarray, y_PG: np.ndarray, genes: np.ndarray, names: list[str], distance: str, *, row: bool
) -> np.ndarray:
    if not row:
        kept = without_targets(genes, [(name,) for name in names])
        return midrank_scores(DISTANCES[distance](x_PG[:, kept], y_PG[:, kept]))
    found = []
    for i, name in enumerate(names):
        kept = genes != name
        far = DISTANCES[distance](x_PG[:, kept], y_PG[:, kept])
        found.append(float(midrank_scores(far)[i]))
    return np.array(found)


def _systema(found: Found) -> Iterator[ParityCase]:
    """Centroid accuracy (a tie is lost there) and Pearson against the perturbed mean."""
    arrays, expected = found.arrays, found.expected["expected"]
    truth, reference = arrays["truth"], arrays["reference"]
    for name, golden in expected["centroid_accuracy"].items():
        lost, _ = rank_ends(DISTANCES["l2"](arrays[f"pred.{name}"], truth))
        yield found.cases(f"centroid_accuracy/{name}", lost, golden, tolerance=EXACT)
    for name, rows in expected["pearson_delta_perturbed_reference"].items():
        changes, wanted = arrays[f"pred.{name}"] - reference, truth - reference
        whole = [pearson(x, y) for x, y in zip(changes, wanted, strict=True)]
        tops = [np.argsort(-np.abs(y), kind="stable")[:20] for y in truth]  # of the profile, not of its change
        some = [pearson(x[top], y[top]) for x, y, top in zip(changes, wanted, tops, strict=True)]
        for key, mine in (("corr_all_allpert", whole), ("corr_20de_allpert", some)):
            yield found.cases(f"pearson_delta_perturbed/{name}/{key}", mine, [row[key] for row in rows])


def _hits(found: Found) -> Iterator[ParityCase]:
    """Hits, their recall at each budget, and ranks; equals are anywhere between two ends in the package."""
    arrays, expected = found.arrays, found.expected
    hits = largest(arrays["effect"]) if "tenth" in str(expected.get("hits", "")) else arrays["hit"]
    yield found.cases("hits", hits, arrays["hit"], tolerance=0.0)
    names = expected["phenotypes"]
    for pheno in names:
        rows = [row for row in expected["prioritization"] if row["pheno"] == pheno]
        column = names.index(pheno)
        budgets = [row["target_budget"] for row in rows]
        mine = recall_at(arrays["score"][:, column], arrays["hit"][:, column], budgets)
        yield found.cases(f"recall/{pheno}", mine, [row["recall"] for row in rows], tolerance=EXACT)
    for key, golden in expected.get("retrieval", {}).items():
        distance, among = key.split("|")
        far = DISTANCES[distance](arrays["score"], arrays["effect"])
        if distance == "cosine":  # a truth without effect has no direction, and is farther than all there
            far[:, ~arrays["effect"].any(axis=1)] = np.inf
        far = far if among == "label" else far.T
        low, high = rank_ends(far, scale=1.0 if distance == "cosine" else None)
        yield within(f"{found.name}/retrieval/{key}", low, golden, high)


def _distances(found: Found) -> Iterator[ParityCase]:
    """Distances of two sets of cells by their names in pertpy."""
    x, y = found.arrays["x"], found.arrays["y"]
    a, b = x.mean(axis=0), y.mean(axis=0)
    off = a - b
    ours = {
        "edistance": energy_distance_pertpy(x, y),
        "euclidean": float(np.linalg.norm(off)),
        "root_mean_squared_error": float(np.linalg.norm(off)),  # a sum of squares there, no mean
        "mmd": float(off @ off),  # the squared distance of the means: no maximum mean discrepancy
        "mse": float(np.mean(off**2)),
        "mean_absolute_error": float(np.mean(np.abs(off))),
        "cosine_distance": 1 - cosine(a, b),
        "pearson_distance": 1 - pearson(a, b),
    }
    golden = found.expected["expected"]
    for key, value in golden.items():
        if key in ours:
            yield found.cases(key, ours[key], value)
        else:
            found.left_out.append(key)


def _linear(found: Found) -> Iterator[ParityCase]:
    """Predictions for every condition, none where the program has none."""
    arrays = found.arrays
    genes, names = arrays["genes"].astype(str), arrays["training_names"].tolist()
    profiles = {_genes(name): arrays["training"][:, i] for i, name in enumerate(names)}
    model = fit_published_linear(profiles, arrays["control"], genes)
    rows = []
    for name in arrays["all_names"].tolist():
        predicted = model.predict(_genes(name))
        rows.append(np.full(len(genes), np.nan) if predicted is None else predicted)
    yield found.cases("prediction", np.stack(rows, axis=1), arrays["prediction"])
    yield found.cases("center", model.center_G, arrays["center"])
    used = sorted("ctrl" if name == "" else name for name in model.used)
    same = used == sorted(arrays["used"].tolist())
    yield found.cases("used", float(same), 1.0, tolerance=0.0)


def _genes(name: str) -> tuple[str, ...]:
    return tuple(gene for gene in name.split("+") if gene not in ("ctrl", "control"))
