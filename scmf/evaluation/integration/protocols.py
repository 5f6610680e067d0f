"""The benchmark ``integration`` as tasks run it: its two protocols, scib and scgpt, on the vectors of a submission.

Lives elsewhere: the protocols themselves (benchmark, composites).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scmf.core.config.run import EvalConfig
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.integration.benchmark import Integration
from scmf.evaluation.integration.composites import Composites
from scmf.evaluation.protocol import Benchmark
from scmf.evaluation.submissions.protocol import Submission
from scmf.evaluation.tasks import Task
from scmf.results.score import Score


class IntegrationBenchmark(Benchmark):
    """Benchmark ``integration``: the protocols that a task names; both when it names none."""

    name = Integration.name
    asks_for = "vectors of cells"
    task_options = ("max_cells",)

    @classmethod
    def recipe_options(cls, settings: EvalConfig) -> dict[str, Any]:
        """A recipe's own cells are scored by scib-metrics alone."""
        return {"protocols": (Integration.protocol,)}

    @classmethod
    def score(cls, task: Task, submission: Submission, cells: TaskCells) -> Iterator[Score]:
        """Scores of all vectors but those of highly variable genes, of which PCA is made."""
        truth = cells.labels
        vectors = {method: x_ND for method, x_ND in submission.vectors(task, cells).items() if method != "hvg"}
        if not vectors:
            return
        chosen = task.protocols or (Integration.protocol, Composites.protocol)
        unintegrated = cells.baselines["pca"]
        if Integration.protocol in chosen:
            yield from Integration().run(vectors, truth, unintegrated=unintegrated, max_cells=task.max_cells)
        if Composites.protocol in chosen:
            yield from Composites().run(vectors, truth, max_cells=task.max_cells)
