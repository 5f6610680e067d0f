"""Results and expected values as one long list of rows: the single source of every page.

Lives here: what a row holds, which row is best, one sentence a metric, how numbers are written.
Lives elsewhere: the verdicts (judge), files (reproduction), pictures (reproduction_plots).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from scmf.results.expected import Expected, ExpectedCell, PublishedValue
from scmf.results.judge import Verdict
from scmf.results.parity import ParityCase
from scmf.results.result import CellKey, Result

Row = dict[str, Any]

OURS = ("pretrained", "finetuned")
"""Methods that are the recipe itself; every other method is a baseline."""

METHODS = {
    "pretrained": "pretrained",
    "finetuned": "fine-tuned",
    "untrained": "untrained",
    "majority": "majority class",
    "shuffled_labels": "shuffled labels",
    "hvg": "HVG",
    "pca": "PCA",
    "hvg_logreg": "HVG + logistic regression",
    "pca_logreg": "PCA + logistic regression",
    "pca_knn": "PCA + kNN",
    "mean": "mean expression",
    "linear_perturbation": "linear perturbation model",
}
"""How methods are called on pages; a method that is not here is called by its own name."""

VERDICTS = {
    "match": "match",
    "close": "close",
    "off_up": "off ↑",
    "off_down": "off ↓",
    "missing": "missing",
    "failed": "failed",
    "not_applicable": "not applicable",
    "stale": "stale",
}
"""How verdicts are written."""

NO_PAPER = "no published value on these cells"


def table_rows(*, results: Sequence[Result], expected: Expected, verdicts: Mapping[CellKey, Verdict]) -> list[Row]:
    """One row for every number that is expected or was measured, sorted; numbers stay unrounded.

    Parameters
    ----------
    results
        What was measured.
    expected
        What was expected, and what papers say.
    verdicts
        From `scmf.results.expected.judge_results`; its keys decide which rows there are.

    Returns
    -------
    Rows as plain JSON values. A mean over an incomplete set does not exist: it is None, and ``reason``
    says why.
    """
    cells = expected.cells()
    rows = []
    for key, verdict in verdicts.items():
        mine = [result for result in results if _is_about(result, key)]
        rows.append(_row(key, verdict, cells.get(key), mine, _published(expected.published, key)))
    rows.sort(key=_order)
    _mark_best(rows)
    return rows


def _is_about(result: Result, key: CellKey) -> bool:
    return result.key(key.metric) == key


def _published(values: Sequence[PublishedValue], key: CellKey) -> PublishedValue | None:
    if key.method not in OURS:
        return None
    here = (key.dataset, key.split, key.metric)
    same = [value for value in values if (value.dataset, value.split, value.metric) == here]
    return same[0] if len(same) == 1 else None


def _row(
    key: CellKey, verdict: Verdict, cell: ExpectedCell | None, results: list[Result], paper: PublishedValue | None
) -> Row:
    expected = {} if cell is None else {_seed(seed): value for seed, value in cell.samples.items()}
    observed = {_seed(result.seed): result.metrics[key.metric] for result in results if key.metric in result.metrics}
    complete = bool(results) and len(observed) == len(results)
    first = results[0] if results else None
    better = cell.higher_is_better if cell else first.higher_is_better.get(key.metric, True) if first else True
    return {
        **key._asdict(),
        "label": METHODS.get(key.method, key.method.replace("_", " ")),
        "baseline": key.method not in OURS,
        "best": False,
        "higher_is_better": better,
        "paper": None if paper is None else paper.value,
        "paper_level": None if paper is None else paper.level,
        "paper_source": None if paper is None else paper.source,
        "expected_mean": statistics.mean(expected.values()) if expected else None,
        "expected_sd": statistics.stdev(expected.values()) if len(expected) > 1 else None,
        "expected_samples": expected,
        "observed_mean": statistics.mean(observed.values()) if complete else None,
        "observed_sd": statistics.stdev(observed.values()) if complete and len(observed) > 1 else None,
        "observed_samples": observed,
        "min_band": None if cell is None else cell.min_band,
        "delta": verdict.delta,
        "band": verdict.band,
        "alpha": verdict.alpha,
        "verdict": verdict.kind,
        "ok": verdict.ok,
        "undecided": verdict.undecided,
        "reason": verdict.reason,
        "command": first.command if first else "",
        "definition": first.definitions.get(key.metric, "") if first else "",
        "n_cells": first.n_cells if first else None,
        "n_train": first.n_train if first else None,
        "seconds": sum(result.seconds or 0.0 for result in results) if results else None,
        "peak_memory_mb": max((result.peak_memory_mb or 0.0 for result in results), default=0.0) or None,
        "recipe_digest": first.recipe_digest if first else None,
        "provenance": first.provenance if first else {},
        "measured_with": cell.measured_with.model_dump(exclude_none=True) if cell else {},
    }


def _seed(seed: int | None) -> str:
    return "none" if seed is None else str(seed)


def _order(row: Row) -> tuple[Any, ...]:
    ranks = list(METHODS)
    rank = ranks.index(row["method"]) if row["method"] in ranks else len(ranks)
    return (*group_of(row), row["metric"], row["baseline"], rank, row["method"], row["protocol"])


def group_of(row: Row) -> tuple[str, str, str, str]:
    """What stands under one heading: variant, dataset, split, benchmark."""
    return row["variant"], row["dataset"], row["split"], row["benchmark"]


# --- which is best, in words ----------------------------------------------------------------------


def _metric_groups(rows: Sequence[Row]) -> list[list[Row]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: (*group_of(row), row["metric"]))]


def _gain(row: Row, other: Row) -> float:
    """How much better ``row`` is than ``other``, in the unit of the metric."""
    difference: float = row["observed_mean"] - other["observed_mean"]
    return difference if row["higher_is_better"] else -difference


def _mark_best(rows: Sequence[Row]) -> None:
    for group in _metric_groups(rows):
        measured = [row for row in group if row["observed_mean"] is not None]
        if len(measured) > 1:
            for row in measured:
                row["best"] = all(_gain(row, other) >= 0 for other in measured)


def sentences(rows: Sequence[Row]) -> list[str]:
    """One sentence a metric: does pretraining help, and which baselines are better all the same.

    Parameters
    ----------
    rows
        Rows of one or more groups, sorted as by `table_rows`.
    """
    return [text for group in _metric_groups(rows) if (text := _sentence(group))]


def _sentence(group: Sequence[Row]) -> str:
    ours = [row for row in group if not row["baseline"]]
    if len(ours) == len(group):
        return ""
    measured = [row for row in ours if row["observed_mean"] is not None]
    metric = group[0]["metric"]
    if not measured:
        return f"{metric}: — ({ours[0]['reason'] if ours else 'the recipe itself was not measured'})."
    best = max(measured, key=lambda row: _gain(row, measured[0]))
    return f"{metric}: {_name(best)} {_against_untrained(best, group)}; {_against_baselines(best, group)}."


def _name(row: Row) -> str:
    bare = row["baseline"] and row["protocol"] in ("baseline", "constant")
    return row["label"] if bare else f"{row['label']} ({row['protocol'].replace('_', ' ')})"


def _against_untrained(best: Row, group: Sequence[Row]) -> str:
    twins = [row for row in group if row["method"] == "untrained" and row["observed_mean"] is not None]
    twins = [row for row in twins if row["protocol"] == best["protocol"]] or twins
    if not twins:
        return "has no untrained model to stand against"
    gain = _gain(best, max(twins, key=lambda row: _gain(row, twins[0])))
    if gain == 0:
        return "equals untrained"
    return f"{'beats' if gain > 0 else 'loses to'} untrained by {number(abs(gain))}"


def _against_baselines(best: Row, group: Sequence[Row]) -> str:
    others: dict[str, Row] = {}  # the best protocol of each baseline
    for row in group:
        if row["baseline"] and row["method"] != "untrained" and row["observed_mean"] is not None:
            kept = others.setdefault(row["method"], row)
            others[row["method"]] = row if _gain(row, kept) > 0 else kept
    if not others:
        return "no other baseline was measured"
    gains = sorted(((_gain(row, best), row) for row in others.values()), key=lambda pair: -pair[0])
    better = [f"{_name(row)} by {number(gain)}" for gain, row in gains if gain > 0]
    word = "higher" if best["higher_is_better"] else "lower"
    if better:
        verb = "is" if len(better) == 1 else "are"
        return f"{word} still {verb} {' and '.join([', '.join(better[:-1]), better[-1]] if better[1:] else better)}"
    gain, nearest = gains[0]
    return f"no other baseline is {word} (nearest: {_name(nearest)}, {number(abs(gain))} behind)"


# --- numbers and verdicts as text -----------------------------------------------------------------


def number(value: float | None, *, sign: bool = False) -> str:
    """A number for a page: four decimals, fewer when it is large; ``—`` for None."""
    if value is None:
        return "—"
    decimals = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def spread(mean: float | None, sd: float | None, n: int) -> str:
    """``mean ± sd (n seeds)``; a single value stands alone."""
    if mean is None:
        return "—"
    return number(mean) if sd is None else f"{number(mean)} ± {number(sd)} ({n} seeds)"


def verdict_text(row: Row) -> str:
    """The verdict of a row in words, without its reason."""
    return VERDICTS[row["verdict"]] + (" (undecided)" if row["undecided"] else "")


def tally(rows: Sequence[Row]) -> dict[str, int]:
    """Verdict kind to number of rows, in the order of `VERDICTS`, without zeros."""
    counts = {kind: sum(row["verdict"] == kind for row in rows) for kind in VERDICTS}
    return {kind: count for kind, count in counts.items() if count}


def parity_rows(cases: Sequence[ParityCase]) -> list[Row]:
    """Parity cases summed up by the first part of their name: passed, compared, largest difference.

    Differences are compared with their own tolerance: ``worst`` is the case that is nearest to or
    furthest beyond it.
    """
    rows = []
    ordered = sorted(cases, key=lambda case: case.name)
    for part, items in groupby(ordered, key=lambda case: case.name.partition("/")[0]):
        group = list(items)
        worst = max(group, key=_severity)
        failed = [{"name": c.name, "compared": c.compared, "detail": c.detail} for c in group if not c.passed]
        rows.append(
            {
                "part": part,
                "passed": sum(case.passed for case in group),
                "cases": len(group),
                "worst": worst.name,
                "difference": worst.difference,
                "tolerance": worst.tolerance,
                "failed": failed,
            }
        )
    return rows


def _severity(case: ParityCase) -> tuple[bool, float, float]:
    share = case.difference / case.tolerance if case.tolerance else case.difference
    return not case.passed, share, case.difference
