"""The engine: submissions scored on tasks, those of the leaderboard and those of a recipe's own cells; results filed.

Lives here: from a task and a submission to scores, and from scores to results with provenance. Lives elsewhere: tasks,
submissions, the benchmarks, what is scored during training (callbacks), the pages (scmf.results.pages).
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from anndata import AnnData

from scmf.core import registry
from scmf.core.config.recipe import Recipe
from scmf.core.errors import ConfigError
from scmf.core.outputs import try_folder
from scmf.core.workspace import default_folder
from scmf.data.cards.card import list_cards, load_card
from scmf.data.loading.facts import LoadedCells
from scmf.data.loading.load import load_cells
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.protocol import Benchmark
from scmf.evaluation.submissions.baselines import BASELINES
from scmf.evaluation.submissions.find import find_submission
from scmf.evaluation.submissions.protocol import Submission
from scmf.evaluation.tasks import Task, data_of, load_suite, tasks_of
from scmf.models.run_folder import RunFolder
from scmf.results.ledger import write_result
from scmf.results.record import Measurement
from scmf.results.result import Result
from scmf.results.score import Score

log = logging.getLogger(__name__)


def evaluate_tasks(
    submission: str | AnnData,
    *,
    tasks: Sequence[str],
    suite: Path | None = None,
    obsm: str | None = None,
    by_order: bool = False,
    name: str | None = None,
    corpora: tuple[str, ...] = (),
    results_dir: Path | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    allow_low_coverage: bool = False,
) -> list[Result]:
    """Score a submission on tasks and file the results.

    Parameters
    ----------
    submission, obsm, by_order, name, corpora
        See `scmf.evaluation.submissions.find.find_submission`.
    tasks
        Names of tasks, of benchmarks, or ``all``.
    suite
        A suite of your own.
    device, batch_size, allow_low_coverage
        Of models: where they embed, cells in a forward pass, and whether cells of which the vocabulary knows less than
        a fifth are scored.
    results_dir
        Folder for result files; ``results`` in the folder of a run, else ``runs/evaluate/results``.

    Returns
    -------
    list of Result
        Also those that say why there is no number.
    """
    chosen = load_suite(suite).chosen(tasks)
    if not chosen:
        raise ConfigError("no task", wanted="at least one", where="--tasks", fix="`scmf tasks` lists them")
    who = find_submission(
        submission, tasks=chosen.values(), obsm=obsm, by_order=by_order, name=name, corpora=corpora, device=device,
        batch_size=batch_size, allow_low_coverage=allow_low_coverage,
    )  # fmt: skip
    folder = None if isinstance(submission, AnnData) else Path(submission)
    usual = default_folder("evaluate", "results")
    root = results_dir or (RunFolder(folder).results if folder is not None and folder.is_dir() else usual)
    try_folder(root, option="--results")
    results = []
    for title, task in chosen.items():
        log.info(f"{title}: {task.benchmark} on {task.dataset}.{task.split}")
        for result in run_task(title, task, who, suite=suite):
            write_result(root, result)
            results.append(result)
    return results


def run_task(name: str, task: Task, submission: Submission, *, suite: Path | None = None) -> Iterator[Result]:
    """Results of one submission on one task; one that says why when it gives nothing of what is asked for.

    ``suite`` is where the task comes from, if it is not of the shipped one: the command of a result says so.
    """
    started = time.perf_counter()
    cells = cells_of(task)
    count = 0
    for score in scores(task, submission, cells):
        count += 1
        yield _measurement(name, task, submission, cells.adata, suite).result(score)
    if not count:
        reason = f"it gives no {registry.resolve('benchmarks', task.benchmark).asks_for}"
        seconds = time.perf_counter() - started
        yield _measurement(name, task, submission, cells.adata, suite).absent(task.benchmark, reason, seconds=seconds)


def cells_of(task: Task) -> TaskCells:
    """The cells of a task, loaded."""
    benchmark: type[Benchmark] = registry.resolve("benchmarks", task.benchmark)
    return TaskCells(load_cells(data_of(task), log_expression=benchmark.log_expression))


def scores(task: Task, submission: Submission, cells: TaskCells) -> Iterator[Score]:
    """Scores of one submission on the loaded cells of a task."""
    benchmark: type[Benchmark] = registry.resolve("benchmarks", task.benchmark)
    yield from benchmark.score(task, submission, cells)


def scores_of_recipe(recipe: Recipe, submissions: Sequence[Submission], cells: TaskCells) -> Iterator[Score]:
    """Scores of submissions on the tasks that a recipe makes of its own cells.

    Parameters
    ----------
    recipe
        Its ``eval.benchmarks`` are the tasks.
    submissions
        Scored one after the other on each task.
    cells
        The recipe's cells, shared by all of them.
    """
    for name, task in tasks_of(recipe).items():
        for submission in submissions:
            log.info(f"{name}: {submission.origin.recipe}")
            yield from scores(task, submission, cells)


# --- from scores to results -----------------------------------------------------------------------


@cache
def _shipped_marks() -> dict[str, Any]:
    return {card.name: card.part_of for card in list_cards(kind="cells")}


def _own_marks(task: Task) -> dict[str, Any]:
    """What a user's own card says of the presence of its cells in training corpora; pages know the shipped cards."""
    card = load_card(task.dataset)
    if _shipped_marks().get(card.name, "unknown") == card.part_of:
        return {}
    marks = () if card.part_of == "unknown" else card.part_of
    return {"part_of": {mark.corpus: [mark.contains, mark.reason] for mark in marks}}


def _measurement(name: str, task: Task, submission: Submission, cells: LoadedCells, suite: Path | None) -> Measurement:
    """What every result of a task says beside its numbers."""
    origin, asked = submission.origin, () if suite is None else ("--suite", str(suite))
    return Measurement(
        recipe=origin.recipe,
        variant=origin.variant,
        tier=origin.tier,
        dataset=Path(task.dataset).stem,
        split=Path(task.split).stem,
        recipe_digest=task.digest(origin.digest) if origin.recipe == BASELINES else origin.digest,
        command=shlex.join(["scmf", "evaluate", *origin.words, "--tasks", name, *asked]),
        data=cells.facts.provenance,
        seed=origin.seed,
        parameters=origin.parameters,
        corpora=origin.corpora_beside(Path(task.dataset).stem, Path(task.split).stem, cells.facts),
        more={"task": name, **_own_marks(task)},
    )
