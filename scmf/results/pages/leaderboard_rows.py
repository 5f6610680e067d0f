"""From results to the rows of one table of the leaderboard: which methods are in it, with which numbers and marks.

Lives here: what a row is, how methods are called, merging of baselines, leak marks. Lives elsewhere: tables and the
sentences above them (leaderboard_tables), the test of differences (scmf.results.significance).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from scmf.results.judge import Verdict
from scmf.results.pages.table import METHODS, number
from scmf.results.result import ALL_CELLS, CellKey, Result
from scmf.results.score import Interval
from scmf.results.significance import Estimate, interval, marks

Leaks = Mapping[str, Mapping[str, tuple[str, str]]]
"""Data set -> corpus -> whether it holds these cells (``yes``, ``part``, ``no``, ``unknown``) and how that is known."""

Verdicts = Mapping[tuple[str, CellKey], Verdict]
"""(Recipe, cell) -> verdict of its reproduction."""

BASELINES = (
    "majority", "shuffled_labels", "hvg", "pca", "random", "correlation", "grnboost2", "no_change", "train_mean",
    "additive", "linear", "nearest",
)  # fmt: skip
"""Methods that need no foundation model."""

CEILING, CHANCE = "ceiling", ("random", "shuffled_labels", "majority")
"""Rows that compete with nobody: replicates of the truth, and chance."""

NAMES = {
    **METHODS, "majority": "majority class (chance)", "shuffled_labels": "shuffled labels (chance)",
    "random": "random scores (chance)", "ceiling": "replicates (ceiling)", "official": "official outputs",
    "correlation": "correlation", "grnboost2": "GRNBoost2", "no_change": "no change", "train_mean": "train mean",
    "additive": "additive", "linear": "linear model", "nearest": "nearest perturbation",
}  # fmt: skip
"""How methods are called."""

_WRITTEN = {
    word.lower(): word
    for word in (
        "kNN", "scIB", "scGPT", "TRRUST", "ENCODE", "DoRothEA", "CollecTRI", "ChIP",
    )
}  # fmt: skip

_WORST_FIRST = ("off_down", "off_up", "failed", "stale", "missing", "close", "match")


def words(name: str) -> str:
    """The name of a benchmark, protocol or method as prose: ``knn_probe`` is kNN probe. Metrics have labels."""
    return " ".join(_WRITTEN.get(part, part) for part in name.replace("_", " ").split(" "))


FOLDER = "folder"
"""Key in the provenance of a result, of the folder that it was read from."""

_SHOWN = 3
"""Most folders in the name of a row."""


@dataclass(frozen=True)
class Entry:
    """One number of a row: seed to value, what the interval is over, its mark and its verdict.

    ``each`` has the values of donors or perturbations that are too few for an interval, their mean over seeds.
    """

    estimate: Estimate
    seeds: dict[str, float]
    unit: str
    each: dict[str, float] = field(default_factory=dict)
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
    note: str = ""
    """What sets it apart from a row of the same name, for brackets behind the name."""

    @property
    def baseline(self) -> bool:
        """Whether it needs no foundation model."""
        return self.method in (*BASELINES, CEILING)

    @property
    def role(self) -> str:
        """``chance``, ``ceiling``, or "" for rows that compete."""
        return "ceiling" if self.method == CEILING else "chance" if self.method in CHANCE else ""

    @property
    def untrained(self) -> bool:
        """Whether it is a model with the weights it was born with."""
        return self.method.partition("-")[0] == "untrained"

    @property
    def name(self) -> str:
        """What pages call it."""
        base, _, way = self.method.partition("-")
        said = NAMES.get(base, words(base)) + (f" ({words(way)})" if way else "")
        full = said if self.baseline else f"{self.recipes[0]} {self.variant}, {said}"
        return full + (f" [{self.note}]" if self.note else "")

    @property
    def first(self) -> Result:
        """The result that stands for the row where one is enough."""
        return self.results[0]

    @property
    def coverage(self) -> str:
        """Of a gene network: which share of the pairs and edges has a weight, and the AUROC among those alone."""
        held = self.first.details.get("weighted")
        if not held:
            return ""
        auroc = held["metrics"].get("auroc")
        among = "" if auroc is None else f"; AUROC among those alone {number(auroc)}"
        return f"{held['pairs']:.1%} of the pairs and {held['edges']:.1%} of the edges have a weight{among}"

    @property
    def verdict(self) -> str:
        """The worst verdict of its numbers; "" where none was expected."""
        found = {entry.verdict for entry in self.entries.values()}
        return next((kind for kind in _WORST_FIRST if kind in found), "")

    @property
    def n_seeds(self) -> int:
        """How many seeds its numbers are over; 0 for a method without one."""
        return len({result.seed for result in self.results if result.seed is not None})

    def cost(self, key: str) -> float | None:
        """Mean of ``seconds`` or ``peak_memory_mb``, or ``parameters``; None where nobody said."""
        values = [value for result in self.results if (value := getattr(result, key)) is not None]
        return sum(values) / len(values) if values else None


def rows_of(
    results: Sequence[Result], *, known: Mapping[str, tuple[str, str]], verdicts: Verdicts, higher: Mapping[str, bool]
) -> list[Row]:
    """One row for each method of each recipe, with marks; equal baselines of several recipes are one.

    Parameters
    ----------
    results
        Those of one table.
    known
        What the card says of its cells in training corpora (a value of `Leaks`).
    verdicts
        Verdicts of reproductions.
    higher
        Metric to direction.
    """
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        # runs of one variant with other settings are other methods, not other seeds
        groups.setdefault((result.recipe, result.variant, result.method, result.recipe_digest), []).append(result)
    for key, mine in list(groups.items()):
        if len({result.seed for result in mine}) < len(mine):  # runs of one seed and settings, each its own row
            del groups[key]
            for result in mine:
                groups.setdefault((*key, folder_of(result)), []).append(result)
    rows: list[Row] = []
    for (recipe, variant, method, *_), mine in sorted(groups.items()):
        mine.sort(key=lambda result: -1 if result.seed is None else result.seed)
        absent = {
            ("" if result.seed is None else f"seed {result.seed}: ") + result.absence.reason: None
            for result in mine
            if result.absence is not None
        }
        # a mean over an incomplete set of seeds does not exist
        entries = {} if absent else _entries(recipe, mine, verdicts)
        row = Row((recipe,), variant, method, entries, tuple(mine), _leak(mine[0], known), "; ".join(absent))
        twin = next((i for i, other in enumerate(rows) if _same(other, row)), None)
        if twin is None:
            rows.append(row)
        else:
            rows[twin] = _merged(rows[twin], row)
    return _marked(_told_apart(rows), higher)


def _entries(recipe: str, results: Sequence[Result], verdicts: Verdicts) -> dict[str, Entry]:
    found = {}
    for name in results[0].metrics:
        if not all(name in result.metrics for result in results):
            continue
        samples = tuple(result.metrics[name] for result in results)
        drawn = _interval(results[0], name) if len(results) == 1 else None
        each = [_drawn(result, name) for result in results]
        estimate = each[0] if len(results) == 1 else Estimate(samples, units=_over_units(each))
        verdict = verdicts.get((recipe, results[0].key(name)))
        found[name] = Entry(
            estimate,
            {"none" if result.seed is None else str(result.seed): result.metrics[name] for result in results},
            "" if drawn is None else f"{drawn.n_units:,} {drawn.unit}, {drawn.draws} draws",
            _of_few(results, name),
            verdict=verdict.kind if verdict is not None and verdict.kind != "not_applicable" else "",
        )
    return found


def _interval(result: Result, metric: str) -> Interval | None:
    """The interval that was drawn, where it is over enough units to say something; earlier results have others, too."""
    found = result.intervals.get(metric)
    return found if found is not None and found.holds else None


def _of_few(results: Sequence[Result], metric: str) -> dict[str, float]:
    """Values of the units that are too few for an interval, the mean over seeds; only where every seed has them."""
    each = [result.details.get("units", {}).get("values", {}).get(metric, {}) for result in results]
    return {unit: fmean(values[unit] for values in each) for unit in each[0] if all(unit in values for values in each)}


def _drawn(result: Result, metric: str) -> Estimate:
    """The number of one seed, with its interval where one was drawn."""
    found = _interval(result, metric)
    value = (result.metrics[metric],)
    return Estimate(value) if found is None else Estimate(value, found.low, found.high, found.level)


def _over_units(seeds: Sequence[Estimate]) -> float:
    """Mean of the standard errors that the intervals of all seeds imply; 0 where one has none."""
    errors = [seed.error for seed in seeds if seed.error is not None]
    return sum(errors) / len(errors) if len(errors) == len(seeds) else 0.0


def _same(a: Row, b: Row) -> bool:
    """Whether two rows are one baseline, measured along with several recipes: same method, same numbers."""
    both = set(a.entries) & set(b.entries)
    if a.method != b.method or not a.baseline or not both or a.results[0].n_cells != b.results[0].n_cells:
        return False
    return all(abs(a.entries[name].estimate.value - b.entries[name].estimate.value) < 1e-9 for name in both)


def _merged(a: Row, b: Row) -> Row:
    """One row for two equal ones: of each number the entry that carries an interval, and the worst verdict."""
    entries = {}
    for name in {**a.entries, **b.entries}:
        found = [row.entries[name] for row in (a, b) if name in row.entries]
        kinds = {entry.verdict for entry in found}
        entry = next((entry for entry in found if entry.estimate.low is not None), found[0])
        entries[name] = replace(entry, verdict=next((kind for kind in _WORST_FIRST if kind in kinds), ""))
    recipes = tuple(dict.fromkeys((*a.recipes, *b.recipes)))
    return replace(a, recipes=recipes, entries=entries, results=a.results + b.results)


def folder_of(result: Result) -> str:
    """The folder of a run that a result was read from, as pages call it; "" for results of recipes."""
    return str(result.provenance.get(FOLDER, ""))


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Runs bear the name of their folder. Rows of one name get a note, too: whose a baseline is, or a run's digest."""
    notes = [_folders(row) for row in rows]
    names = [(row.name, note) for row, note in zip(rows, notes, strict=True)]
    found = []
    for row, note, name in zip(rows, notes, names, strict=True):
        if names.count(name) > 1:
            digest = row.first.recipe_digest[:8]
            note = "with " + ", ".join(row.recipes) if row.baseline else f"{note}, {digest}" if note else digest
        found.append(replace(row, note=note))
    return found


def _folders(row: Row) -> str:
    """Folders of the runs that a row is the mean of; "" for a baseline."""
    every = [] if row.baseline else list(dict.fromkeys(filter(None, map(folder_of, row.results))))
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _marked(rows: Sequence[Row], higher: Mapping[str, bool]) -> list[Row]:
    entries: list[dict[str, Entry]] = [dict(row.entries) for row in rows]
    for name in {name: None for row in rows for name in row.entries}:
        column = [row.entries[name].estimate if name in row.entries else None for row in rows]
        found = marks(column, higher=higher.get(name, True), ranked=[not row.role for row in rows])
        for mine, mark in zip(entries, found, strict=True):
            if name in mine:
                mine[name] = replace(mine[name], mark=mark)
    return [replace(row, entries=mine) for row, mine in zip(rows, entries, strict=True)]


_FILES = ("h5ad", "zarr", "h5mu", "h5", "loom", "tsv", "csv", "gz")
"""Endings of names that are files and no cards."""


def _part_of_card(corpus: str, dataset: str) -> bool:
    """Whether a corpus is the card of this data set, whole or a split of it; a file of the same name is not."""
    name, dot, scheme = corpus.partition(".")
    return name == dataset and (not dot or scheme.partition(".")[0] not in _FILES)


def _leak(result: Result, known: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """What is known of the presence of the test cells in what a method was trained on."""
    if result.method.partition("-")[0] not in ("pretrained", "finetuned", "official", "mini", "predicted"):
        return "", ""
    here = f"{result.dataset}.{result.split}"
    corpora = result.corpora or ((here,) if result.tier == "mini" else ())
    if not corpora:
        return "unknown", "nobody said what it was trained on"
    if (of_own_card := result.provenance.get("part_of")) is not None:
        known = {corpus: (said[0], said[1]) for corpus, said in of_own_card.items()}
    worst = ("", "")
    for corpus in corpora:
        contains, reason = known.get(corpus, ("unknown", "the card of these cells does not say"))
        if corpus == here:
            all_cells = result.benchmark in ("integration", "gene_network") or result.protocol == "cross_validated"
            here_too = "; these are among the cells scored here" if all_cells else ""
            worst = worst if worst[0] else ("own", f"trained on the training part of this split{here_too}")
        elif corpus in (result.dataset, f"{result.dataset}.{ALL_CELLS}"):
            return "leak", f"trained on all cells of this data set ({corpus}): the test cells are among them"
        elif _part_of_card(corpus, result.dataset):
            said = f"trained on cells of this data set under another split ({corpus}): test cells may be among them"
            return "leak", said
        elif contains in ("yes", "part"):
            return "leak", f"{corpus}: {reason}"
        elif contains == "unknown" and (corpus in known or "." not in corpus):
            worst = ("unknown", f"{corpus}: {reason}")
    return worst
