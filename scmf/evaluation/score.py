"""Score: what a benchmark returns. No provenance, no verdict: those come later (scmf.results.result)."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scmf.core.errors import EvaluationError, MissingExtraError

HVG_GENES = 2000
"""Highly variable genes of the HVG and PCA baselines."""


@dataclass(frozen=True)
class Interval:
    """Where a number would lie if other cells (donors, perturbations) had been drawn.

    Parameters
    ----------
    low, high
        Ends, in the unit of the metric.
    level
        Share of draws inside, for example 0.95.
    unit
        What was drawn anew: ``cells``, ``donors``, ``perturbations``, ``edges``, ``subsamples``.
    n_units
        How many of them there are.
    draws
        Draws made.
    """

    low: float
    high: float
    level: float
    unit: str
    n_units: int
    draws: int


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
    lower_is_better
        Metrics that are better when lower, beside those whose name ends in ``loss``.
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
    lower_is_better: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Direction of each metric: losses and those in ``lower_is_better`` fall, all else rises."""
        return {name: not name.endswith("loss") and name not in self.lower_is_better for name in self.metrics}

    def to_json(self) -> dict[str, Any]:
        """All but the details, as a JSON object."""
        value = {key: getattr(self, key) for key in ("benchmark", "protocol", "method", "metrics", "definitions")}
        value["intervals"] = {name: asdict(interval) for name, interval in self.intervals.items()}
        return {**value, "n_cells": self.n_cells, "n_train": self.n_train, "seconds": round(self.seconds, 2)}


def package(name: str, extra: str = "eval") -> str:
    """``name version`` for definitions; raises `MissingExtraError` when it is not installed."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(name, extra, needed_for="this benchmark") from error


def check_vectors(x_ND: np.ndarray, method: str, *, where: str) -> None:
    """Raise `EvaluationError` when a representation (N, D) of ``method`` says nothing, or is not finite."""
    if not np.isfinite(x_ND).all():
        found = f"vectors of {method} that are not finite"
    elif len(x_ND) > 1 and (x_ND == x_ND[:1]).all():
        found = f"{method} gives every cell the same vector"
    else:
        return
    raise EvaluationError(
        found,
        wanted="a representation in which cells differ",
        where=where,
        fix="check the weights of the model, or leave this benchmark out",
    )


@dataclass(frozen=True)
class CellLabels:
    """What is known of N cells: their labels, batches, parts and donors.

    Parameters
    ----------
    labels
        Cell types, str (N,).
    batches
        Studies or other batches, str (N,), or None.
    parts
        ``train``, ``valid`` or ``test`` of each cell, str (N,).
    donors
        Whom each cell is from, str (N,), or None.
    """

    labels: np.ndarray
    batches: np.ndarray | None
    parts: np.ndarray
    donors: np.ndarray | None = None

    @classmethod
    def of(cls, cells: Any) -> CellLabels:
        """Read the truth from cells as `scmf.data.loading.load.load_cells` returns them.

        Raises
        ------
        EvaluationError
            If the cells have no labels or no split.
        """
        facts = cells.facts
        if not facts.label_key:
            raise EvaluationError(
                "cells without labels", wanted="a column of obs", where="data.label_key", fix="name the column"
            )
        if cells.split is None:
            raise EvaluationError(
                "cells without a split", wanted="train and test parts", where="data.split", fix="name a split"
            )

        def column(key: str | None) -> np.ndarray | None:
            return cells.obs[key].astype(str).to_numpy() if key else None

        return cls(
            labels=cells.obs[facts.label_key].astype(str).to_numpy(),
            batches=column(facts.batch_key),
            parts=cells.split,
            donors=column(facts.donor_key),
        )

    def take(self, rows: np.ndarray) -> CellLabels:
        """What is known of the cells ``rows``."""
        return CellLabels(
            labels=self.labels[rows],
            batches=None if self.batches is None else self.batches[rows],
            parts=self.parts[rows],
            donors=None if self.donors is None else self.donors[rows],
        )

    def rows(self, part: str) -> np.ndarray:
        """Indices of the cells of ``part``."""
        return np.flatnonzero(self.parts == part)

    def check_parts(self) -> None:
        """Raise `EvaluationError` unless there are training cells and test cells."""
        for part in ("train", "test"):
            if not len(self.rows(part)):
                raise EvaluationError(
                    f"no cells in part {part!r}",
                    wanted="train and test cells",
                    where="data.split",
                    fix="choose another split",
                )

    def unseen(self) -> dict[str, int]:
        """Labels of test cells that no training cell has, with the number of test cells."""
        test = self.labels[self.rows("test")]
        labels, counts = np.unique(test[~np.isin(test, self.labels[self.rows("train")])], return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    def check_trained_labels(self) -> None:
        """Raise `EvaluationError` unless every label of the test cells occurs among the training cells."""
        self.check_parts()
        if unseen := self.unseen():
            raise EvaluationError(
                f"label missing in the training split: {', '.join(unseen)} ({sum(unseen.values())} test cells)",
                wanted="every label of the test cells among the training cells",
                where="data.split, data.label_key",
                fix="choose another split, merge or drop those labels, or report them (`unseen: report`)",
            )
