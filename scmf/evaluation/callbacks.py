"""What is scored during training: a probe of the run's own cells, and tasks of the leaderboard.

A callback is `scmf.training.validation.EvaluationCallback`; its values are logged with the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scmf.core.config.run import EvalConfig
from scmf.core.distributed import is_main
from scmf.core.errors import EvaluationError
from scmf.core.files import sha256_json
from scmf.data.loading.facts import DataFacts
from scmf.data.loading.labels import CellLabels
from scmf.data.splits.read import SPLITS
from scmf.data.stores.missing import known_text
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.run import cells_of, scores
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.evaluation.submissions.protocol import Origin
from scmf.evaluation.tasks import Task, load_suite
from scmf.training.data import Prepared
from scmf.training.stream_data import Streamed
from scmf.training.validation import EvaluationCallback

log = logging.getLogger(__name__)

PRETRAINED = ("pretrained",)


def callbacks_of(settings: EvalConfig, prepared: Prepared | Streamed) -> list[EvaluationCallback]:
    """What is scored during training: a probe of the run's own cells, and the tasks that are asked for.

    What cannot be scored, now or by `scmf evaluate` afterwards, is said before the first step.
    """
    callbacks: list[EvaluationCallback] = []
    truth = _labels_of(settings, prepared)
    if truth is not None:
        _say_untrained_labels(truth, prepared.facts)
        if isinstance(prepared, Prepared) and settings.every_n_epochs:
            callbacks = _probe_of(settings, prepared, truth)
    if settings.tasks and is_main():
        callbacks.append(inline(settings.tasks, prepared.tokenizer, settings))
    return callbacks


def _labels_of(settings: EvalConfig, prepared: Prepared | Streamed) -> CellLabels | None:
    """Labels of the run's own cells where annotation is asked for and possible; the log says why it is not."""
    facts = prepared.facts
    if "annotation" not in settings.benchmarks:
        return None
    if not facts.label_key:
        log.info("no data.label_key: nothing is scored during training")
        return None
    if isinstance(prepared, Prepared):
        if prepared.split is None:
            log.warning("no data.split: nothing is scored during training, and `scmf evaluate` needs train and test")
            return None
        truth = CellLabels.of(prepared.cells)
    else:
        codes = prepared.opened.split_codes
        if codes is None:
            log.warning("no data.split: `scmf evaluate` needs train and test")
            return None
        log.info("cells that are streamed are not probed during training")
        labels = known_text(prepared.opened.column(facts.label_key))
        truth = CellLabels(labels, None, np.where(labels == "", "", np.array(SPLITS)[codes]))
    truth.say_left_out(facts)
    return truth


def _say_untrained_labels(truth: CellLabels, facts: DataFacts) -> None:
    """What `scmf evaluate` would refuse after the training."""
    for part in ("train", "test"):
        if not len(truth.rows(part)):
            log.warning(f"{facts.dataset}: no labeled cells in split {part!r}: `scmf evaluate` cannot score annotation")
            return
    if unseen := truth.unseen():
        said = ", ".join(f"{name!r} ({n:,} test cells)" for name, n in unseen.items())
        log.warning(
            f"{facts.dataset}: no training cell has the label {said}: `scmf evaluate` will refuse to score annotation; "
            "choose another split, or merge or drop those labels"
        )


def _probe_of(settings: EvalConfig, prepared: Prepared, truth: CellLabels) -> list[EvaluationCallback]:
    """Probes of the run's own cells, from training to validation cells; the log says why there are none."""
    rows = np.flatnonzero(np.isin(truth.parts, ("train", "valid")))
    parts = np.where(truth.parts[rows] == "valid", "test", "train")
    inner = CellLabels(truth.labels[rows], None, parts)
    if reason := _no_probe(inner):
        log.warning(f"{prepared.facts.dataset}: {reason}: nothing is probed during training")
        return []
    seen = Prepared(prepared.cells[rows], prepared.tokenizer, prepared.tokens.select(rows))
    cells = TaskCells(seen.cells, known=inner)
    task = Task(
        benchmark="annotation",
        dataset="own",
        split="valid",
        description="validation cells, learnt from training cells",
        knn_neighbors=settings.knn_neighbors,
    )

    def probe(model: Any, epoch: int, step: int) -> dict[str, float]:
        submission = ModelSubmission(_ORIGIN, model, prepared.tokenizer, settings, methods=PRETRAINED, prepared=seen)
        try:
            found = list(scores(task, submission, cells))
        except EvaluationError as error:  # the network as it is cannot be scored: no reason to stop
            log.warning(f"nothing is probed after epoch {epoch + 1}: {error.found}")
            return {}
        return {f"valid_{s.protocol}_{name}": value for s in found for name, value in s.metrics.items()}

    return [probe]


def _no_probe(inner: CellLabels) -> str:
    """Why labels of validation cells (part test) cannot be learnt from training cells; empty when they can."""
    for part, words in (("train", "training"), ("test", "validation")):
        if not len(inner.rows(part)):
            return f"no {words} cell has a label"
    if len(names := np.unique(inner.labels[inner.rows("train")])) < 2:
        return f"all training cells have the label {str(names[0])!r}"
    if unseen := inner.unseen():
        return f"no training cell has the label of {sum(unseen.values()):,} validation cells ({', '.join(unseen)})"
    return ""


def inline(names: Sequence[str], tokenizer: Any, settings: EvalConfig) -> EvaluationCallback:
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
    origin = replace(_ORIGIN, digest=sha256_json(list(names)))

    def callback(model: Any, epoch: int, step: int) -> dict[str, float]:
        submission = ModelSubmission(
            origin, model, tokenizer, settings, methods=PRETRAINED, allow_low_coverage=True
        )  # fmt: skip
        values: dict[str, float] = {}
        for name, (task, cells) in held.items():
            try:
                found = list(scores(task, submission, cells))
            except EvaluationError as error:
                log.warning(f"{name} is not scored after epoch {epoch + 1}: {error.found}")
                continue
            for score in found:
                way = score.method.removeprefix("pretrained").removeprefix("-")
                head = "/".join(filter(None, (name, score.protocol, way)))
                values |= {f"{head}/{metric}": value for metric, value in score.metrics.items()}
        return values

    return callback


_ORIGIN = Origin("inline", "run", "mini", "", ())
"""Weights as they are during training; nothing of them is filed."""
