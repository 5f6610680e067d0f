"""Uncertainty: where a number would lie if other cells, donors or perturbations had been drawn.

Lives here: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13) over units or over whole groups
of rows, two fast forms of it (means of values that each unit has, label metrics from counts), and the paired
bootstrap of the difference of two methods. Lives elsewhere: the metrics themselves; the spread over seeds of
training, which is another question and the business of `scmf.results.judge`.

A percentile interval is too narrow for few units: at 30 normal values the nominal 95 % cover about 93 %, at five about
83 %. The number of units therefore stands in each interval. Where all units agree (every cell right) the interval
has no width: no draw holds what was never seen. Cells of one donor are alike: an interval over cells
says nothing about another donor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.results.score import Interval

DRAWS, LEVEL = 1000, 0.95

_CHUNK = 100
"""Draws whose counts are in memory at once."""

Metrics = Callable[[np.ndarray], Mapping[str, float]]
"""From row indices, int (n,), to metrics of these rows; a row may stand there many times."""


@dataclass(frozen=True)
class Difference:
    """What one method has more than another of a metric, on the same units.

    Parameters
    ----------
    value
        First method minus second, on the units as they are.
    interval
        Of the difference.
    """

    value: float
    interval: Interval

    @property
    def distinguishable(self) -> bool:
        """True when the interval does not hold 0."""
        return self.interval.low > 0 or self.interval.high < 0


def draw_rows(units: int | np.ndarray, *, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Row indices of each draw with replacement, int (n,): as many units as there are.

    Parameters
    ----------
    units
        Number of rows, each a unit of its own; or the group of each row (N,): whole groups are drawn.
    """
    rng = np.random.default_rng(seed)
    if isinstance(units, int | np.integer):
        for _ in range(draws):
            yield rng.integers(units, size=units)
        return
    _, group_N = np.unique(units, return_inverse=True)
    rows = np.argsort(group_N, kind="stable")
    members = np.split(rows, np.cumsum(np.bincount(group_N))[:-1])
    for _ in range(draws):
        yield np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])


def bootstrap(
    metrics: Metrics, units: int | np.ndarray, *, unit: str, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Percentile interval of each metric.

    Parameters
    ----------
    metrics
        Called once a draw with row indices.
    units
        Number of rows, or the group of each row (N,), of which whole ones are drawn.
    unit
        What is drawn: ``cells``, ``donors``, ``perturbations``, ``edges``.
    draws, level, seed
        Number of draws, share of them inside, seed of the draws.

    Returns
    -------
    dict
        Metric to interval, whose ``draws`` counts the draws in which the metric was a number. A metric that
        has a value in fewer than half of the draws has no interval.

    Raises
    ------
    EvaluationError
        If there are fewer than two units, or the level does not lie between 0 and 1.
    """
    n_units = _count(units, draws, level, unit)
    found: dict[str, list[float]] = {}
    for rows in draw_rows(units, draws=draws, seed=seed):
        for name, value in metrics(rows).items():
            found.setdefault(name, []).append(float(value))
    return _intervals({name: np.array(values) for name, values in found.items()}, draws, level, unit, n_units)


def bootstrap_means(
    values: Mapping[str, Sequence[float] | np.ndarray],
    *,
    unit: str,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """`bootstrap` of means over units, each of which has one value: fast, by weights.

    Parameters
    ----------
    values
        Metric to the value of each unit (U,); NaN where a unit has none: it then counts in no mean.
    """
    sizes = {len(column) for column in values.values()}
    if len(sizes) != 1:
        raise EvaluationError(
            f"metrics of {sorted(sizes)} units",
            wanted="one value a unit",
            where=unit,
            fix="put NaN where there is none",
        )
    n_units = _count(sizes.pop(), draws, level, unit)
    x_UM = np.stack([np.asarray(column, dtype=float) for column in values.values()], axis=1)
    known_UM = np.isfinite(x_UM)
    rng, chance, parts = np.random.default_rng(seed), np.full(n_units, 1 / n_units), []
    for start in range(0, draws, _CHUNK):
        weights = rng.multinomial(n_units, chance, size=min(_CHUNK, draws - start)).astype(float)
        with np.errstate(invalid="ignore"):
            parts.append((weights @ np.where(known_UM, x_UM, 0.0)) / (weights @ known_UM))
    drawn = dict(zip(values, np.concatenate(parts).T, strict=True))
    return _intervals(drawn, draws, level, unit, n_units)


def bootstrap_ratios(
    terms: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    unit: str,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """`bootstrap` of ratios of sums over units: numerator and denominator are drawn together.

    Parameters
    ----------
    terms
        Metric to numerator and denominator of each unit, (U,) each.
    """
    found: dict[str, Interval] = {}
    for name, (numerator_U, denominator_U) in terms.items():
        n_units = _count(len(numerator_U), draws, level, unit)
        weights = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), size=draws)
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = (weights @ numerator_U) / (weights @ denominator_U)
        found |= _intervals({name: drawn}, draws, level, unit, n_units)
    return found


def bootstrap_labels(
    predicted: np.ndarray,
    truth: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    unit: str = "cells",
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """`bootstrap` of accuracy and macro F1, by counts of label pairs and therefore fast.

    The metrics are those of `scmf.evaluation.annotation.benchmark.score`.

    Cells with the same true and predicted label are the same, so that a draw is a multinomial one of the pairs.

    Parameters
    ----------
    predicted, truth
        Labels (N,).
    groups
        Donor or other group of each cell (N,), of which whole ones are drawn; None draws cells.
    """
    drawn, n_units = _label_draws([predicted], truth, groups, unit=unit, draws=draws, level=level, seed=seed)
    return _intervals(drawn[0], draws, level, unit, n_units)


def differs(
    a: Metrics,
    b: Metrics,
    units: int | np.ndarray,
    *,
    unit: str,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """Paired bootstrap of the difference ``a`` minus ``b``: both methods see the same rows in each draw.

    Parameters are those of `bootstrap`. Metrics that only one of the two has are left out.
    """

    def minus(rows: np.ndarray) -> dict[str, float]:
        one, other = a(rows), b(rows)
        return {name: one[name] - other[name] for name in one if name in other}

    intervals = bootstrap(minus, units, unit=unit, draws=draws, level=level, seed=seed)
    value = minus(np.arange(units if isinstance(units, int | np.integer) else len(units)))
    return {name: Difference(float(value[name]), interval) for name, interval in intervals.items()}


def differs_means(
    a: Mapping[str, Sequence[float] | np.ndarray],
    b: Mapping[str, Sequence[float] | np.ndarray],
    *,
    unit: str,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """`differs` of means over units: metric to the value of each unit (U,), units in the same order in both.

    A unit that lacks a value (NaN) with one of the two methods counts for neither.
    """
    both = {name: np.asarray(a[name], float) - np.asarray(b[name], float) for name in a if name in b}
    intervals = bootstrap_means(both, unit=unit, draws=draws, level=level, seed=seed) if both else {}
    return {name: Difference(float(np.nanmean(both[name])), interval) for name, interval in intervals.items()}


def differs_labels(
    a: np.ndarray,
    b: np.ndarray,
    truth: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    unit: str = "cells",
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """`differs` of accuracy and macro F1 from the labels (N,) that two methods predict for the same cells."""
    (of_a, of_b), n_units = _label_draws([a, b], truth, groups, unit=unit, draws=draws, level=level, seed=seed)
    drawn = {name: of_a[name] - of_b[name] for name in of_a}
    true_N, (a_N, b_N), n_labels = _codes(truth, [a, b])
    ones = np.ones((1, len(true_N)))
    value_a, value_b = _rates(ones, true_N, a_N, n_labels), _rates(ones, true_N, b_N, n_labels)
    return {
        name: Difference(float(value_a[name][0] - value_b[name][0]), interval)
        for name, interval in _intervals(drawn, draws, level, unit, n_units).items()
    }


# --- the parts ------------------------------------------------------------------------------------


def _count(units: int | np.ndarray, draws: int, level: float, unit: str) -> int:
    """Number of units; raises `EvaluationError` for what cannot be drawn."""
    n_units = int(units) if isinstance(units, int | np.integer) else len(np.unique(units))
    if n_units < 2:
        raise EvaluationError(
            f"{n_units} of {unit}", wanted="two or more, to draw among", where="bootstrap", fix="draw another unit"
        )
    if draws < 1 or not 0 < level < 1:
        raise EvaluationError(
            f"{draws} draws, level {level}", wanted="a draw or more, and a level between 0 and 1", where="bootstrap"
        )
    return n_units


def _intervals(
    drawn: Mapping[str, np.ndarray], draws: int, level: float, unit: str, n_units: int
) -> dict[str, Interval]:
    """Percentiles of the finite values of each metric, in draws (D,) or fewer."""
    found = {}
    for name, values in drawn.items():
        known = values[np.isfinite(values)]
        if 2 * len(known) >= draws:
            low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
            found[name] = Interval(
                low=float(low), high=float(high), level=level, unit=unit, n_units=n_units, draws=len(known)
            )
    return found


def _codes(truth: np.ndarray, predictions: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Labels as numbers, the same ones in all arrays, and how many there are."""
    names, codes = np.unique(np.concatenate([truth, *predictions]), return_inverse=True)
    true_N, *predicted = np.split(codes, len(predictions) + 1)
    return true_N, predicted, len(names)


def _rates(counts_DP: np.ndarray, true_P: np.ndarray, predicted_P: np.ndarray, n_labels: int) -> dict[str, np.ndarray]:
    """Accuracy and macro F1 (D,) of D draws of P kinds of cells; F1 is averaged over labels that are true of a cell."""
    kinds, shape = np.arange(len(true_P)), (len(true_P), n_labels)
    is_true_PK, is_predicted_PK = np.zeros(shape), np.zeros(shape)
    is_true_PK[kinds, true_P] = 1
    is_predicted_PK[kinds, predicted_P] = 1
    support_DK = counts_DP @ is_true_PK
    right_DK = counts_DP @ (is_true_PK * is_predicted_PK)
    f1_DK = 2 * right_DK / np.maximum(support_DK + counts_DP @ is_predicted_PK, 1)
    present_DK = support_DK > 0
    return {
        "accuracy": right_DK.sum(axis=1) / support_DK.sum(axis=1),
        "macro_f1": (f1_DK * present_DK).sum(axis=1) / present_DK.sum(axis=1),
    }


def _label_draws(
    predictions: Sequence[np.ndarray],
    truth: np.ndarray,
    groups: np.ndarray | None,
    *,
    unit: str,
    draws: int,
    level: float,
    seed: int,
) -> tuple[list[dict[str, np.ndarray]], int]:
    """Metrics (D,) of each prediction in the same draws, and the number of units."""
    n_units = _count(len(truth) if groups is None else groups, draws, level, unit)
    true_N, predicted, n_labels = _codes(truth, predictions)
    kinds_P, kind_N, count_P = np.unique(
        np.stack([true_N, *predicted], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    rng = np.random.default_rng(seed)
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in predictions]
    if groups is None:
        counts_UP, chance = None, count_P / len(truth)
    else:
        group_N = np.unique(groups, return_inverse=True)[1]
        counts_UP = np.zeros((n_units, len(kinds_P)))
        np.add.at(counts_UP, (group_N, kind_N.ravel()), 1)
        chance = np.full(n_units, 1 / n_units)
    for start in range(0, draws, _CHUNK):
        weights = rng.multinomial(n_units, chance, size=min(_CHUNK, draws - start)).astype(float)
        counts_DP = weights if counts_UP is None else weights @ counts_UP
        for column, parts in enumerate(found, start=1):
            parts.append(_rates(counts_DP, kinds_P[:, 0], kinds_P[:, column], n_labels))
    return [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in found], n_units
