"""Score: what a benchmark returns. No provenance, no verdict: those come later (scmf.results)."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scmf.errors import EvaluationError, MissingExtraError

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
    falling
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
    falling: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Direction of each metric: losses and those in ``falling`` fall, all else rises."""
        return {name: not name.endswith("loss") and name not in self.falling for name in self.metrics}

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


@dataclass(frozen=True)
class Truth:
    """What is known of N cells: their labels, batches and parts.

    Parameters
    ----------
    labels
        Cell types, str (N,).
    batches
        Studies or other batches, str (N,), or None.
    parts
        ``train``, ``valid`` or ``test`` of each cell, str (N,).
    """

    labels: np.ndarray
    batches: np.ndarray | None
    parts: np.ndarray

    @classmethod
    def of(cls, cells: Any) -> Truth:
        """Read the truth from an AnnData as `scmf.data.load.load_cells` returns it.

        Raises
        ------
        EvaluationError
            If the cells have no labels or no split.
        """
        facts = cells.uns["scmf"]
        if not facts.get("label_key"):
            raise EvaluationError(
                "cells without labels", wanted="a column of obs", where="data.label_key", fix="name the column"
            )
        if "part" not in cells.obs:
            raise EvaluationError(
                "cells without a split", wanted="train and test parts", where="data.split", fix="name a split"
            )
        batch_key = facts.get("batch_key")
        return cls(
            labels=cells.obs[facts["label_key"]].astype(str).to_numpy(),
            batches=cells.obs[batch_key].astype(str).to_numpy() if batch_key else None,
            parts=cells.obs["part"].astype(str).to_numpy(),
        )

    def rows(self, part: str) -> np.ndarray:
        """Indices of the cells of ``part``."""
        return np.flatnonzero(self.parts == part)

    def check_trained_labels(self) -> None:
        """Raise `EvaluationError` unless every label of the test cells occurs among the training cells."""
        train, test = set(self.labels[self.rows("train")]), set(self.labels[self.rows("test")])
        if not train or not test:
            empty = "train" if not train else "test"
            raise EvaluationError(
                f"no cells in part {empty!r}",
                wanted="train and test cells",
                where="data.split",
                fix="choose another split",
            )
        if unseen := sorted(test - train):
            count = int(np.isin(self.labels[self.rows("test")], unseen).sum())
            raise EvaluationError(
                f"label missing in the training split: {', '.join(unseen)} ({count} test cells)",
                wanted="every label of the test cells among the training cells",
                where="data.split, data.label_key",
                fix="choose another split, or merge or drop those labels",
            )
