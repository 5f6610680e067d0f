"""Cases of the Virtual Cell Challenge 2025: scores of each perturbation, and of halves of the cells (cell-eval).

Lives here: the comparisons of one case. Lives elsewhere: the scores (scmf.evaluation.perturbation.ranks, metrics).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from scmf.evaluation.perturbation.metrics import pearson, spearman_brown
from scmf.evaluation.perturbation.midranks import DISTANCES, rank_ends
from scmf.evaluation.perturbation.ranks import differential_expression, expression_overlap
from scmf.experiments.metric_parity.case import Found, compared, within
from scmf.experiments.metric_parity.inputs import Cells, cells_of
from scmf.results.parity import ParityCase

_DISCRIMINATION = "discrimination_score_"


def is_mine(found: Found) -> bool:
    """Whether a case is of this kind."""
    return str(found.expected.get("package", "")).startswith("cell-eval") and "expected" in found.expected


def cases(found: Found) -> Iterator[ParityCase]:
    """Every prediction, and the halves with their Spearman-Brown correction."""
    cells = cells_of(found)
    for name, golden in found.expected["expected"].items():
        if name not in cells.predictions:
            yield found.failed(name, "no predicted cells of this name")
            continue
        yield from _scores(found, name, cells.predictions[name], cells, golden)
    ceiling = found.expected.get("ceiling")
    if ceiling is None:
        return
    halves = [_taken(cells, ceiling[key]) for key in ("half_pred", "half_real")]
    yield from _scores(found, "ceiling", halves[0], halves[1], ceiling["per_perturbation"])
    means: dict[str, list[float]] = {}
    for values in ceiling["per_perturbation"].values():
        for metric, value in values.items():
            means.setdefault(metric, []).append(np.nan if value is None else value)
    golden = {key: value for key, value in ceiling["spearman_brown"].items() if value is not None}
    ours = {key: spearman_brown(float(np.nanmean(means[key]))) for key in golden if key in means}
    # the package corrects ranks and overlaps as well, whose chance is not 0; here correlations alone are corrected
    yield found.cases("ceiling/pearson_delta/spearman_brown", ours["pearson_delta"], golden["pearson_delta"])
    found.left_out += [f"spearman_brown of {key}" for key in golden if key != "pearson_delta"]


def _taken(cells: Cells, rows: Sequence[int]) -> Cells:
    index = np.array(rows)
    return Cells(cells.x_NG[index], cells.labels[index], cells.genes, cells.control)


def _scores(
    found: Found, name: str, predicted: Cells, real: Cells, golden: Mapping[str, Mapping[str, Any]]
) -> Iterator[ParityCase]:
    names = sorted(golden)
    sides = [Cells(_single(side.x_NG), side.labels, side.genes, side.control) for side in (predicted, real)]
    own = sides[0] if len(sides[0].rows(real.control)) else sides[1]
    controls = [own.mean(own.rows(real.control)), sides[1].mean(sides[1].rows(real.control))]
    x, y = (np.stack([side.mean(side.rows(one)) for one in names]) for side in sides)
    changes = [x - controls[0], y - controls[1]]
    each: dict[str, np.ndarray] = {
        "pearson_delta": np.array([pearson(a, b) for a, b in zip(*changes, strict=True)]),
        "mse": ((x - y) ** 2).mean(axis=1),
        "mae": np.abs(x - y).mean(axis=1),
        "mse_delta": ((changes[0] - changes[1]) ** 2).mean(axis=1),
        "mae_delta": np.abs(changes[0] - changes[1]).mean(axis=1),
        "overlap_at_N": _overlaps(sides[0], own, sides[1], names),
    }
    for metric in sorted(next(iter(golden.values()))):
        theirs = [golden[one][metric] for one in names]
        if metric.startswith(_DISCRIMINATION):
            low, high = _ranks(changes[0], changes[1], metric.removeprefix(_DISCRIMINATION), real.genes, names)
            yield within(f"{found.name}/{name}/{metric}", low, theirs, high)
        elif metric in each:
            yield compared(f"{found.name}/{name}/{metric}", each[metric], theirs)
        else:
            found.left_out.append(metric)


def _ranks(
    x_PG: np.ndarray, y_PG: np.ndarray, distance: str, genes: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest score 1 - rank / P of each perturbation, without its own gene."""
    low, high = [], []
    for row, name in enumerate(names):
        kept = genes != name
        far = DISTANCES[distance](x_PG[row : row + 1, kept], y_PG[:, kept])
        ends = rank_ends(np.repeat(far, len(names), axis=0), scale=1.0 if distance == "cosine" else None)
        worst, best = (float(end[row]) for end in ends)
        low.append(1 - (1 - worst) * (len(names) - 1) / len(names))
        high.append(1 - (1 - best) * (len(names) - 1) / len(names))
    return np.array(low), np.array(high)


def _overlaps(predicted: Cells, own: Cells, real: Cells, names: Sequence[str]) -> np.ndarray:
    controls = [side.x_NG[side.rows(side.control)].toarray() for side in (own, real)]
    found = []
    for name in names:
        ours, truth = (
            differential_expression(side.x_NG[side.rows(name)].toarray(), control)
            for side, control in zip((predicted, real), controls, strict=True)
        )
        found.append(expression_overlap(ours, truth, real.genes))
    return np.array(found)


def _single(x_NG: sp.csr_matrix) -> sp.csr_matrix:
    """Values as float32 has them, computed with in float64."""
    return sp.csr_matrix(x_NG.astype(np.float32), dtype=np.float64)
