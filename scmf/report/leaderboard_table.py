"""From results to the tables of the leaderboard: who stands in which table, with which numbers and marks.

Lives here: what a table and a row are, merging of baselines, leak marks, the sentence above a table. Lives elsewhere:
the tests of differences (standing), files (leaderboard), pictures (leaderboard_plots). No torch, no anndata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scmf.report.standing import BEST, EQUAL, Estimate, interval, marks
from scmf.report.table import METHODS
from scmf.results import CellKey, Result, Verdict

Leaks = Mapping[str, Mapping[str, tuple[str, str]]]
"""Data set -> corpus -> whether it holds these cells (``yes``, ``part``, ``no``, ``unknown``) and how that is known."""

BASELINES = (
    "majority", "shuffled_labels", "hvg", "pca", "random", "correlation", "grnboost2", "no_change", "train_mean",
    "additive", "linear", "nearest",
)  # fmt: skip
"""Methods that need no foundation model."""

CEILING, CHANCE = "ceiling", ("random", "shuffled_labels", "majority")
"""Rows that compete with nobody: replicates of the truth, and chance."""

CONSTANT, ON_TEST_CELLS = "constant", ("linear_probe", "knn_probe", "knn_transfer", "finetuned_head")
"""Protocol of the majority class, and the protocols that score the same test cells."""

MAIN: dict[tuple[str, str], tuple[str, ...]] = {
    ("annotation", "cross_validated"): ("accuracy", "f1", "accuracy_lr", "accuracy_knn", "accuracy_rf", "auroc"),
    ("annotation", ""): ("accuracy", "macro_f1", "accuracy_all", "unseen_share", "unseen_detection_auroc"),
    ("integration", "scib"): (
        "overall", "bio_conservation", "batch_correction", "kmeans_nmi", "kmeans_ari", "silhouette_label", "ilisi",
        "kbet",
    ),
    ("integration", "scgpt"): ("overall", "avg_bio", "avg_batch", "nmi", "ari", "asw_label", "asw_batch", "graph_conn"),
    ("perturbation", ""): (
        "pearson_delta", "pearson_delta_top20", "mse_top20", "l2_top1000", "rank_cosine_logfc", "pds", "des",
        "energy_distance_pertpy",
    ),
    ("gene_network", ""): ("epr", "auroc", "average_precision", "auprc_trapezoid", "auprc_ratio"),
    ("pretraining", ""): ("valid_loss",),
}  # fmt: skip
"""Columns by benchmark and protocol; the first decides which method is called best. The others stand in the unfolded
row, the CSV and the JSON."""

BENCHMARKS = ("annotation", "integration", "perturbation", "gene_network", "pretraining")
"""Order of the page."""

NAMES = {
    **METHODS, "official": "official outputs", "ceiling": "replicates (ceiling)", "random": "random weights",
    "correlation": "correlation", "grnboost2": "GRNBoost2", "no_change": "no change", "train_mean": "train mean",
    "additive": "additive", "linear": "linear model", "nearest": "nearest perturbation",
}  # fmt: skip
"""How methods are called."""


@dataclass(frozen=True)
class Entry:
    """One number of a row."""

    estimate: Estimate
    seeds: dict[str, float]
    unit: str
    mark: str = ""
    verdict: str = ""

    @property
    def span(self) -> tuple[float, float, str] | None:
        """Interval and what it is over."""
        found = interval(self.estimate)
        return None if found is None else (found[0], found[1], self.unit if found[2] == "drawn" else found[2])


@dataclass(frozen=True)
class Row:
    """A method in a table."""

    recipes: tuple[str, ...]
    variant: str
    method: str
    entries: dict[str, Entry]
    results: tuple[Result, ...]
    leak: tuple[str, str]
    """``leak``, ``unknown``, ``own`` or "", and one sentence."""
    absence: str = ""

    @property
    def baseline(self) -> bool:
        """Whether it needs no foundation model."""
        return self.method in (*BASELINES, CEILING)

    @property
    def name(self) -> str:
        """What pages call it."""
        base, _, way = self.method.partition("-")
        said = NAMES.get(base, base.replace("_", " ")) + (f", {way.replace('_', ' ')}" if way else "")
        return said if self.baseline else f"{self.recipes[0]} {self.variant}, {said}"

    @property
    def first(self) -> Result:
        """The result that stands for the row where one is enough."""
        return self.results[0]

    def cost(self, key: str) -> float | None:
        """Mean of ``seconds`` or ``peak_memory_mb``, or ``parameters``; None where nobody said."""
        values = [value for result in self.results if (value := getattr(result, key)) is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Table:
    """All methods on the same cells under the same protocol."""

    benchmark: str
    dataset: str
    split: str
    protocol: str
    metrics: tuple[str, ...]
    higher: dict[str, bool]
    definitions: dict[str, str]
    rows: tuple[Row, ...] = field(default=())

    @property
    def id(self) -> str:
        """Name for links."""
        return f"{self.benchmark}.{self.dataset}.{self.split}.{self.protocol}"

    @property
    def title(self) -> str:
        """What pages call it."""
        words = self.protocol.replace("_", " ")
        return f"{self.benchmark.replace('_', ' ').capitalize()} on {self.dataset}, split {self.split}: {words}"

    @property
    def first(self) -> str:
        """The metric that decides which method is called best."""
        return self.metrics[0]

    @property
    def sentence(self) -> str:
        """Whether a simple baseline does as well as the best model."""
        ours = [row for row in self.rows if not row.baseline and self.first in row.entries]
        base = [row for row in self.rows if row.baseline and row.method != CEILING and self.first in row.entries]
        if not ours or not base or self.benchmark == "pretraining":
            return ""
        top = [row for row in (*ours, *base) if row.entries[self.first].mark == BEST]
        if not top:
            return ""
        if top[0].baseline:
            near = [row.name for row in ours if row.entries[self.first].mark == EQUAL]
            said = f"A simple baseline wins: {top[0].name} has the best {self.first.replace('_', ' ')}"
            return said + (f"; not distinguishable from it: {', '.join(near)}." if near else ", above every model.")
        near = [row.name for row in base if row.entries[self.first].mark == EQUAL]
        if near:
            return f"{top[0].name} is best, and not distinguishable from the baseline {', '.join(near)}."
        return f"{top[0].name} is best, above every baseline."


def tables(results: Sequence[Result], *, leaks: Leaks, verdicts: Mapping[tuple[str, CellKey], Verdict]) -> list[Table]:
    """One table for each benchmark, split and protocol, in the order of the page.

    Parameters
    ----------
    results
        What was measured.
    leaks
        What the cards say of the presence of their cells in training corpora.
    verdicts
        (Recipe, cell) to verdict of its reproduction.
    """
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.benchmark, result.dataset, result.split, result.protocol), []).append(result)
    _spread_constant(groups)
    order = {name: i for i, name in enumerate(BENCHMARKS)}
    keys = sorted(groups, key=lambda key: (order.get(key[0], len(order)), *key))
    found = [_table(key, groups[key], leaks, verdicts) for key in keys if key[3] != "any"]
    return [table for table in found if table.rows]


def _spread_constant(groups: dict[tuple[str, str, str, str], list[Result]]) -> None:
    """The majority class has no protocol of its own: it stands in every table of labels of the same test cells."""
    for key in [key for key in groups if key[3] == CONSTANT]:
        others = [other for other in groups if other[:3] == key[:3] and other[3] in ON_TEST_CELLS]
        for other in others:
            groups[other] += groups[key]
        if others:
            del groups[key]


def _table(
    key: tuple[str, str, str, str],
    results: Sequence[Result],
    leaks: Leaks,
    verdicts: Mapping[tuple[str, CellKey], Verdict],
) -> Table:
    benchmark, dataset, split, protocol = key
    seen = {name: None for result in results for name in result.metrics}
    wanted = MAIN.get((benchmark, protocol)) or MAIN.get((benchmark, ""), ())
    metrics = tuple(name for name in wanted if name in seen) or tuple(list(seen)[:8])
    higher = {name: value for result in results for name, value in result.higher_is_better.items()}
    said = {name: text for result in results for name, text in result.definitions.items()}
    rows = _marked(_rows(results, leaks.get(dataset, {}), verdicts), tuple(seen), higher)
    first = metrics[0] if metrics else ""
    sign = -1 if higher.get(first, True) else 1

    def place(row: Row) -> tuple[Any, ...]:
        entry = row.entries.get(first)
        return (row.method == CEILING, entry is None, 0.0 if entry is None else sign * entry.estimate.value, row.name)

    return Table(benchmark, dataset, split, protocol, metrics, higher, said, tuple(sorted(rows, key=place)))


def _rows(
    results: Sequence[Result], known: Mapping[str, tuple[str, str]], verdicts: Mapping[tuple[str, CellKey], Verdict]
) -> list[Row]:
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.recipe, result.variant, result.method), []).append(result)
    rows: list[Row] = []
    for (recipe, variant, method), mine in sorted(groups.items()):
        mine.sort(key=lambda result: -1 if result.seed is None else result.seed)
        absent = [result.absence.reason for result in mine if result.absence is not None]
        # a mean over an incomplete set of seeds does not exist
        entries = {} if absent else _entries(recipe, mine, verdicts)
        row = Row(
            (recipe,), variant, method, entries, tuple(mine), _leak(mine[0], known), "; ".join(dict.fromkeys(absent))
        )
        twin = next((other for other in rows if _same(other, row)), None)
        if twin is None:
            rows.append(row)
        else:
            # the same baseline on the same cells, measured along with several recipes
            both = Row(
                (*twin.recipes, recipe), twin.variant, method, _richer(twin, row), twin.results + row.results, twin.leak
            )
            rows[rows.index(twin)] = both
    return rows


def _richer(a: Row, b: Row) -> dict[str, Entry]:
    """Of two equal rows the entries that carry an interval."""
    return {name: entry if entry.estimate.low is not None else b.entries[name] for name, entry in a.entries.items()}


def _same(a: Row, b: Row) -> bool:
    """Whether two rows are one baseline: same method, same numbers."""
    if a.method != b.method or not a.baseline or set(a.entries) != set(b.entries) or not a.entries:
        return False
    return all(abs(a.entries[name].estimate.value - b.entries[name].estimate.value) < 1e-9 for name in a.entries)


def _entries(
    recipe: str, results: Sequence[Result], verdicts: Mapping[tuple[str, CellKey], Verdict]
) -> dict[str, Entry]:
    found = {}
    for name in results[0].metrics:
        if not all(name in result.metrics for result in results):
            continue
        samples = tuple(result.metrics[name] for result in results)
        drawn = results[0].intervals.get(name) if len(results) == 1 else None
        estimate = Estimate(samples) if drawn is None else Estimate(samples, drawn.low, drawn.high, drawn.level)
        verdict = verdicts.get((recipe, results[0].key(name)))
        found[name] = Entry(
            estimate,
            {"none" if result.seed is None else str(result.seed): result.metrics[name] for result in results},
            "" if drawn is None else f"{drawn.n_units} {drawn.unit}",
            verdict=verdict.kind if verdict is not None and verdict.kind != "not_applicable" else "",
        )
    return found


def _marked(rows: Sequence[Row], metrics: Sequence[str], higher: Mapping[str, bool]) -> list[Row]:
    ranked = [row.method not in (CEILING, *CHANCE) for row in rows]
    for name in metrics:
        column = [row.entries[name].estimate if name in row.entries else None for row in rows]
        for row, mark in zip(rows, marks(column, higher=higher.get(name, True), ranked=ranked), strict=True):
            if name in row.entries:
                entry = row.entries[name]
                row.entries[name] = Entry(entry.estimate, entry.seeds, entry.unit, mark, entry.verdict)
    return list(rows)


def _leak(result: Result, known: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """What is known of the presence of the test cells in what a method was trained on."""
    base = result.method.partition("-")[0]
    if base not in ("pretrained", "finetuned", "official", "embedded", "predicted"):
        return "", ""
    here = f"{result.dataset}.{result.split}"
    corpora = result.corpora or ((here,) if result.tier == "embedded" else ())
    if not corpora:
        return "unknown", "nobody said what it was trained on"
    worst = ("", "")
    for corpus in corpora:
        if corpus == here:
            worst = worst if worst[0] else ("own", "trained on the training part of this split")
        elif corpus.split(".")[0] == result.dataset:
            return (
                "leak",
                f"trained on cells of this data set under another split ({corpus}): test cells may be among them",
            )
        elif corpus in known and known[corpus][0] in ("yes", "part"):
            return "leak", f"{corpus}: {known[corpus][1]}"
        elif corpus in known and known[corpus][0] == "unknown":
            worst = ("unknown", f"{corpus}: {known[corpus][1]}")
        elif "." not in corpus and corpus not in known:
            worst = ("unknown", f"{corpus}: the card does not say")
    return worst
