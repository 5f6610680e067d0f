"""Score: what a benchmark returns, and the interval around a number. No provenance, no verdict.

Lives here: both types. Lives elsewhere: the metrics of a benchmark (metric), how a score becomes a result (record), how
intervals are drawn (scmf.evaluation.uncertainty).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict

from scmf.core.config.section import Section

FEW_UNITS = 5
"""Of fewer donors, perturbations or regulators no interval is given: the values are listed."""


class Interval(Section):
    """Where a number would lie if other cells (donors, perturbations) had been drawn."""

    model_config = ConfigDict(strict=True)

    low: float
    """Lower end, in the unit of the metric."""
    high: float
    """Upper end."""
    level: float
    """Share of draws inside, for example 0.95; 1 for the range of a few draws."""
    unit: str
    """What was drawn anew: ``cells``, ``donors``, ``perturbations``, ``edges``, ``subsamples``."""
    n_units: int
    """How many of them there are."""
    draws: int
    """Draws made."""

    @property
    def holds(self) -> bool:
        """Whether it says how far a number scatters: a bootstrap over fewer than five units does not."""
        return self.level == 1 or self.n_units >= FEW_UNITS


@dataclass(frozen=True)
class Score:
    """Metrics of one method under one protocol.

    Parameters
    ----------
    benchmark, protocol, method
        For example ``annotation``, ``linear_probe``, ``pretrained``.
    metrics
        Metric to value.
    definitions
        Metric to one line that names the package and its version.
    n_cells
        Cells that were scored.
    n_train
        Cells that a probe was fitted on; None where nothing is fitted.
    seconds
        Wall time.
    details
        What plots need beside the numbers, as plain JSON values, for example a confusion matrix. Not judged.
    intervals
        Metric to its interval, where one was drawn.
    higher_is_better
        Metric to direction; a metric that is not named is better when higher.
    labels
        Metric to how pages call it, where that is not its name with spaces.
    columns, heads
        Metrics of the benchmark that are columns of a page, in order, and those that may decide which method is called
        best. `scmf.results.metric.MetricTable.facts` gives this and the three before.
    """

    benchmark: str
    protocol: str
    method: str
    metrics: dict[str, float]
    definitions: dict[str, str]
    n_cells: int
    n_train: int | None
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        directions = {name: self.higher_is_better.get(name, True) for name in self.metrics}
        object.__setattr__(self, "higher_is_better", directions)

    @property
    def lower_is_better(self) -> tuple[str, ...]:
        """Metrics that are better when lower."""
        return tuple(name for name, higher in self.higher_is_better.items() if not higher)

    def to_json(self) -> dict[str, Any]:
        """All but the details, as a JSON object."""
        keys = ("benchmark", "protocol", "method", "metrics", "definitions", "higher_is_better", "labels")
        return {
            **{key: getattr(self, key) for key in keys},
            "columns": list(self.columns),
            "heads": list(self.heads),
            "intervals": {name: interval.model_dump() for name, interval in self.intervals.items()},
            "n_cells": self.n_cells,
            "n_train": self.n_train,
            "seconds": round(self.seconds, 2),
        }
