"""The baselines as a submission: everything that needs no foundation model.

Lives elsewhere: the baselines themselves (scmf.evaluation.baselines, perturbation.baselines, gene_network.baselines).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmf.core.files import sha256_json
from scmf.evaluation.annotation.benchmark import MAJORITY, SHUFFLED
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.gene_network.baselines import baseline_edges
from scmf.evaluation.perturbation.benchmark import CEILING, Perturbation
from scmf.evaluation.perturbation.own_references import own_baselines
from scmf.evaluation.submissions.protocol import EmptySubmission, Origin
from scmf.evaluation.tasks import Task

BASELINES = "baselines"
"""Word for what needs no model."""


@dataclass(frozen=True)
class BaselinesSubmission(EmptySubmission):
    """Everything that needs no foundation model."""

    references: tuple[str, ...] = (MAJORITY, SHUFFLED, CEILING)

    @classmethod
    def new(cls) -> BaselinesSubmission:
        """All of them, as tasks of the leaderboard have them."""
        return cls(Origin(BASELINES, "reference", "mini", sha256_json(BASELINES), (BASELINES,)))

    @classmethod
    def of_recipe(cls) -> BaselinesSubmission:
        """Those that stand beside the model of a recipe on its own cells."""
        return cls(cls.new().origin, references=(MAJORITY,))

    def vectors(self, task: Task, cells: TaskCells) -> Mapping[str, np.ndarray]:
        """``hvg`` and ``pca``, fitted on the training cells."""
        return cells.baselines

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """No change, means, additive, linear, nearest."""
        if task.options.get("controls") == "halves":
            return own_baselines(truth)
        return Perturbation().baselines(truth)

    def edges(self, task: Task, adata: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Correlation, GRNBoost2 and random weights."""
        return baseline_edges(adata, regulators=regulators, targets=targets)
