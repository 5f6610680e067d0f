"""What a benchmark must offer. A class derived from `Benchmark` is found by its name (scmf.core.registry).

Lives elsewhere: the benchmarks (annotation, integration, perturbation, gene_network), the keys of a task (tasks), the
engine that runs them (run).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from scmf.core.config.run import EvalConfig
from scmf.core.config.section import Section
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.submissions.protocol import Submission
from scmf.evaluation.tasks import Task
from scmf.results.score import Score


class Benchmark(Protocol):
    """A pure function from what a submission gives, and cells, to metrics. Importing one needs no torch and no anndata.

    Parameters
    ----------
    name
        Under which tasks and results name it.
    asks_for
        What it asks of a submission, in words.
    task_options
        Keys of `scmf.evaluation.tasks.Task` that a task of this benchmark may carry beside those of every task.
    required_options
        Key that every task must carry, to what is said where it is lacking.
    Options
        Section that checks ``options`` of a task, which only this benchmark knows.
    log_expression
        Cells may come as log-normalized expression without counts.
    """

    name: ClassVar[str]
    asks_for: ClassVar[str]
    task_options: ClassVar[tuple[str, ...]] = ()
    required_options: ClassVar[Mapping[str, str]] = {}
    Options: ClassVar[type[Section]] = Section
    log_expression: ClassVar[bool] = False

    @classmethod
    def recipe_options(cls, settings: EvalConfig) -> dict[str, Any]:
        """Keys of the task that a recipe's ``eval`` section makes of this benchmark."""
        return {}

    @classmethod
    def score(cls, task: Task, submission: Submission, cells: TaskCells) -> Iterator[Score]:
        """Scores of one submission on the cells of a task; none where it gives nothing of what is asked for."""
        ...
