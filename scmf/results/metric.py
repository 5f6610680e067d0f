"""Metric: everything that is known of one metric, and the table of the metrics of a benchmark.

Lives here: both types. Lives elsewhere: the tables, one a benchmark (``metric_table.py`` in its package of
scmf.evaluation). Definitions, directions, labels, smallest bands and the columns of a page all derive from the table,
and travel in every result: a new metric is one entry of one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from scmf.core.errors import EvaluationError

Place = Literal["head", "column", "detail"]
"""Where pages show a metric: a column that may decide which method is called best, a column, or among the details."""


@dataclass(frozen=True)
class Metric:
    """One metric of a benchmark.

    Parameters
    ----------
    name
        Key in scores and results; letters, digits and underscores.
    definition
        One line: what is computed, by which package. Fields in braces are filled in by `MetricTable.facts`.
    label
        How pages call it; the name with spaces when empty.
    higher_is_better
        False for losses, errors, distances.
    min_band
        Smallest half-width of the band that judges it, in its unit; None for a metric that is shown and not judged.
    place
        Where pages show it; columns stand in the order of the table.
    part_of
        The metric that is the mean of this one and others; a part is shown and the mean is judged.
    """

    name: str
    definition: str
    label: str = ""
    higher_is_better: bool = True
    min_band: float | None = None
    place: Place = "detail"
    part_of: str = ""


class MetricTable:
    """The metrics of a benchmark, in the order of pages.

    Parameters
    ----------
    metrics
        Entries; names are unique.

    Raises
    ------
    EvaluationError
        Two entries have the same name.
    """

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = {metric.name: metric for metric in metrics}
        if len(self._metrics) != len(metrics):
            names = [metric.name for metric in metrics]
            raise EvaluationError(
                f"two metrics called {next(name for name in names if names.count(name) > 1)!r}",
                wanted="one entry for each metric",
                where="MetricTable",
                fix="rename or remove one of them",
            )

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def __getitem__(self, name: str) -> Metric:
        """The metric ``name``; a subgroup such as ``mse.seen1`` is the metric before the point."""
        return self._metrics[name.partition(".")[0]]

    def extended(self, *metrics: Metric) -> MetricTable:
        """A table with further entries behind those of this one."""
        return MetricTable(*self, *metrics)

    def parts(self, mean: str) -> tuple[str, ...]:
        """Names of the metrics that ``mean`` is the mean of, in the order of the table."""
        return tuple(metric.name for metric in self if metric.part_of == mean)

    @property
    def min_bands(self) -> dict[str, float]:
        """Name to smallest half-width of the band, of the metrics that are judged."""
        return {metric.name: metric.min_band for metric in self if metric.min_band is not None}

    def definitions(self, names: Iterable[str], *, subgroup: str = "", **fields: str) -> dict[str, str]:
        """Name to definition, with ``fields`` filled in.

        Parameters
        ----------
        names
            Metrics, or subgroups of them (``mse.seen1``).
        subgroup
            What is added for a subgroup; its name takes the place of ``{group}``.
        fields
            Values of the fields in braces, such as versions of packages.
        """
        found = {}
        for name in names:
            group = name.partition(".")[2]
            found[name] = self[name].definition.format(**fields) + (subgroup.format(group=group) if group else "")
        return found

    def facts(self, names: Iterable[str], *, subgroup: str = "", **fields: str) -> dict[str, Any]:
        """What a score says of its metrics: keyword arguments of `scmf.results.score.Score`.

        Parameters
        ----------
        names, subgroup, fields
            As in `definitions`.

        Returns
        -------
        dict
            ``definitions``, ``higher_is_better``, ``labels`` (where the label is not the name with spaces), ``columns``
            and ``heads``: those of the whole table, since the columns of a page are those of all its results.
        """
        names = list(names)
        labels = {name: label for name in names if (label := self._label(name)) != plain_label(name)}
        return {
            "definitions": self.definitions(names, subgroup=subgroup, **fields),
            "higher_is_better": {name: self[name].higher_is_better for name in names},
            "labels": labels,
            "columns": tuple(metric.name for metric in self if metric.place != "detail"),
            "heads": tuple(metric.name for metric in self if metric.place == "head"),
        }

    def _label(self, name: str) -> str:
        _, point, group = name.partition(".")
        metric = self[name]
        return (metric.label or plain_label(metric.name)) + point + plain_label(group)


def plain_label(name: str) -> str:
    """The label of a metric that has no other: its name with spaces."""
    return name.replace("_", " ")
