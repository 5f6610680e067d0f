"""A subject scored on tasks of the leaderboard, and the results filed.

Lives here: from a task and a subject to scores, and from scores to results with provenance. Lives elsewhere: tasks
(suite), subjects, the benchmarks (eval), the pages (report.leaderboard).
"""

from __future__ import annotations

import logging
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core import provenance
from scmf.core.config.run import EvalConfig
from scmf.core.errors import ConfigError
from scmf.core.files import sha256_json
from scmf.data.loading.load import load_cells
from scmf.evaluation.annotation.benchmark import HEAD, Annotation
from scmf.evaluation.baselines import baseline_representations
from scmf.evaluation.integration.benchmark import Integration
from scmf.evaluation.score import CellLabels, Score
from scmf.evaluation.submissions import BASELINES, Baselines, Model, Origin, Subject, find_subject
from scmf.evaluation.tasks import Task, data_of, load_suite
from scmf.models.run_folder import RunFolder
from scmf.results.result import Absence, Result, ResultInterval, write_result
from scmf.training.loop import EvaluationCallback

log = logging.getLogger(__name__)


GIVES = {
    "annotation": "vectors of cells",
    "integration": "vectors of cells",
    "perturbation": "predicted cells",
    "gene_network": "edges between genes",
}
"""What a benchmark asks a subject for."""


def evaluate_tasks(
    subject: str,
    *,
    tasks: Sequence[str],
    suite: Path | None = None,
    obsm: str | None = None,
    name: str | None = None,
    corpora: tuple[str, ...] = (),
    ledger: Path | None = None,
) -> list[Result]:
    """Score a subject on tasks and file the results.

    Parameters
    ----------
    subject, obsm, name, corpora
        See `scmf.evaluation.submissions.find_subject`.
    tasks
        Names of tasks, of benchmarks, or ``all``.
    suite
        A suite of your own.
    ledger
        Folder for result files; ``results`` in the folder of a run, else ``leaderboard/results``.

    Returns
    -------
    list of Result
        Also those that say why there is no number.
    """
    chosen = load_suite(suite).chosen(tasks)
    if not chosen:
        raise ConfigError("no task", wanted="at least one", where="--tasks", fix="`scmf evaluate ls` lists them")
    who = find_subject(subject, tasks=chosen.values(), obsm=obsm, name=name, corpora=corpora)
    folder = Path(subject)
    root = ledger or (RunFolder(folder).results if folder.is_dir() else Path("leaderboard/results"))
    results = []
    for title, task in chosen.items():
        log.info(f"{title}: {task.benchmark} on {task.dataset}.{task.split}")
        for result in run_task(title, task, who):
            write_result(root, result)
            results.append(result)
    return results


def run_task(
    name: str,
    task: Task,
    subject: Subject,
) -> Iterator[Result]:
    """Results of one subject on one task; one that says why when the subject gives nothing of what is asked for."""
    started = time.perf_counter()
    cells = cells_of(task)
    count = 0
    for score in scores(task, subject, cells):
        count += 1
        yield _result(name, task, subject, score, cells)
    if not count:
        reason = f"it gives no {GIVES[task.benchmark]}"
        yield _absent(name, task, subject, cells, reason, time.perf_counter() - started)


def cells_of(task: Task) -> Any:
    """The cells of a task; a perturbation task also takes log-normalized expression without counts."""
    return load_cells(data_of(task), log_expression=task.benchmark == "perturbation")


def scores(
    task: Task,
    subject: Subject,
    cells: Any,
) -> Iterator[Score]:
    """Scores of one subject on the loaded cells of a task."""
    yield from _SCORERS[task.benchmark](task, subject, cells)


def _annotation(
    task: Task,
    subject: Subject,
    cells: Any,
) -> Iterator[Score]:
    benchmark, truth = Annotation(), CellLabels.of(cells)
    vectors = subject.vectors(task, cells)
    yield from benchmark.run(vectors, truth, unseen=task.unseen, protocols=task.protocols or None)
    if isinstance(subject, Baselines):
        yield benchmark.majority(truth, unseen=task.unseen)
        yield from benchmark.shuffled_labels(vectors["pca"], truth, unseen=task.unseen)
    if task.finetune:
        started = time.perf_counter()
        for method, predicted in subject.labels(task, cells).items():
            log.info(f"fine-tuned head, {method}")
            yield benchmark.scored(predicted, truth, protocol=HEAD, method=method, started=started, unseen=task.unseen)
            started = time.perf_counter()


def _integration(
    task: Task,
    subject: Subject,
    cells: Any,
) -> Iterator[Score]:
    from scmf.evaluation.integration.composites import Composites

    truth = CellLabels.of(cells)
    vectors = {method: x_ND for method, x_ND in subject.vectors(task, cells).items() if method != "hvg"}
    if not vectors:
        return
    train = np.flatnonzero(cells.obs["part"].to_numpy() == "train")
    pca = vectors["pca"] if "pca" in vectors else baseline_representations(cells, train)["pca"]
    if not task.protocols or "scib" in task.protocols:
        yield from Integration().run(vectors, truth, unintegrated=pca, max_cells=task.max_cells)
    if not task.protocols or "scgpt" in task.protocols:
        yield from Composites().run(vectors, truth, max_cells=task.max_cells)


def _perturbation(
    task: Task,
    subject: Subject,
    cells: Any,
) -> Iterator[Score]:
    from scmf.evaluation.perturbation.baselines import train_mean
    from scmf.evaluation.perturbation.benchmark import Perturbation
    from scmf.evaluation.perturbation.truth import PerturbationTruth

    truth = PerturbationTruth.of(cells)
    if task.top_genes is not None:
        truth = truth.on_variable_genes(task.top_genes)
    if predictions := subject.predictions(task, truth):
        # the score of the challenge starts from the train mean, whoever is scored
        base = {} if "train_mean" in predictions else {"train_mean": train_mean(truth)}
        for score in Perturbation().run(truth, {**base, **predictions}):
            if score.method in predictions:
                yield score
        if isinstance(subject, Baselines):
            yield Perturbation().ceiling(truth)


def _gene_network(
    task: Task,
    subject: Subject,
    cells: Any,
) -> Iterator[Score]:
    from scmf.evaluation.gene_network.benchmark import GeneNetwork, network_genes
    from scmf.evaluation.gene_network.truth import read_truth

    truths = [read_truth(name) for name in task.truths]
    chosen, regulators, targets = network_genes(cells, truths, top_genes=task.top_genes)
    if len(edges := subject.edges(task, chosen, regulators, targets)):
        log.info(f"gene networks: {', '.join(edges)}")
        for truth in truths:
            yield from GeneNetwork().run(edges, truth, targets, regulators=regulators)


def inline(
    names: Sequence[str],
    tokenizer: Any,
    settings: EvalConfig,
) -> EvaluationCallback:
    """A training callback that scores the weights as they are on tasks of the leaderboard.

    Values are called ``<task>/<protocol>[/<way>]/<metric>``, so that a tracker shows them beside the loss. A task for
    which the model has nothing to give has no values.

    Parameters
    ----------
    names
        Tasks, as `scmf.evaluation.tasks.Suite.chosen` takes them. Their cells are loaded once, now.
    tokenizer, settings
        Those of the run.
    """
    held = {name: (task, cells_of(task)) for name, task in load_suite().chosen(names).items()}
    origin = Origin("inline", "run", "mini", sha256_json(list(names)), ())

    def callback(model: Any, epoch: int, step: int) -> dict[str, float]:
        subject = Model(origin, model, tokenizer, settings, methods=("pretrained",))
        values: dict[str, float] = {}
        for name, (task, cells) in held.items():
            for score in scores(task, subject, cells):
                way = score.method.removeprefix("pretrained").removeprefix("-")
                head = "/".join(filter(None, (name, score.protocol, way)))
                values |= {f"{head}/{metric}": value for metric, value in score.metrics.items()}
        return values

    return callback


_SCORERS: dict[str, Callable[[Task, Subject, Any], Iterator[Score]]] = {
    "annotation": _annotation,
    "integration": _integration,
    "perturbation": _perturbation,
    "gene_network": _gene_network,
}


# --- from scores to results -----------------------------------------------------------------------


def _result(name: str, task: Task, subject: Subject, score: Score, cells: Any) -> Result:
    return Result(
        **_facts(name, task, subject, cells),
        protocol=score.protocol,
        method=score.method,
        seed=subject.origin.seed,
        metrics=score.metrics,
        definitions=score.definitions,
        higher_is_better=score.higher_is_better,
        n_cells=score.n_cells,
        n_train=score.n_train,
        seconds=round(score.seconds, 2),
        intervals={metric: ResultInterval(**asdict(interval)) for metric, interval in score.intervals.items()},
        details=score.details,
    )


def _absent(name: str, task: Task, subject: Subject, cells: Any, reason: str, seconds: float) -> Result:
    return Result(
        **_facts(name, task, subject, cells),
        protocol="any",
        method="any",
        seed=subject.origin.seed,
        metrics={},
        definitions={},
        higher_is_better={},
        seconds=round(seconds, 2),
        absence=Absence(kind="not_applicable", reason=reason),
    )


def _facts(name: str, task: Task, subject: Subject, cells: Any) -> dict[str, Any]:
    """What every result of a task says beside its numbers."""
    origin, held = subject.origin, cells.uns["scmf"]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    data = {key: held[key] for key in ("dataset", "sha256", "split", "split_sha256")}
    return {
        "recipe": origin.recipe,
        "variant": origin.variant,
        "tier": origin.tier,
        "benchmark": task.benchmark,
        "dataset": Path(task.dataset).stem,
        "split": Path(task.split).stem,
        "recipe_digest": task.digest(origin.digest) if origin.recipe == BASELINES else origin.digest,
        "provenance": provenance.collect(data=data, seed=origin.seed, task=name),
        "command": shlex.join(["scmf", "evaluate", *origin.words, "--tasks", name]),
        "peak_memory_mb": round(rss, 1),
        "parameters": origin.parameters,
        "corpora": origin.corpora,
    }
