"""What is scored during training: a probe of the run's own cells, and tasks of the leaderboard.

A callback is `scmf.training.validation.EvaluationCallback`; its values are logged with the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scmf.core.config.run import EvalConfig
from scmf.core.distributed import is_main
from scmf.core.files import sha256_json
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.run import cells_of, scores
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.evaluation.submissions.protocol import Origin
from scmf.evaluation.tasks import Task, load_suite
from scmf.training.data import Prepared
from scmf.training.stream_data import Streamed
from scmf.training.validation import EvaluationCallback

PRETRAINED = ("pretrained",)


def callbacks_of(settings: EvalConfig, prepared: Prepared | Streamed) -> list[EvaluationCallback]:
    """What is scored during training: a probe of the run's own cells, and the tasks that are asked for."""
    callbacks = _probe_of(settings, prepared) if isinstance(prepared, Prepared) else []
    if settings.tasks and is_main():
        callbacks.append(inline(settings.tasks, prepared.tokenizer, settings))
    return callbacks


def _probe_of(settings: EvalConfig, prepared: Prepared) -> list[EvaluationCallback]:
    """Probes of the run's own cells, from training to validation cells."""
    facts = prepared.facts
    if "annotation" not in settings.benchmarks or not facts.label_key or prepared.split is None:
        return []
    truth = CellLabels.of(prepared.cells)
    rows = np.flatnonzero(np.isin(truth.parts, ("train", "valid")))
    parts = np.where(truth.parts[rows] == "valid", "test", "train")
    inner = CellLabels(truth.labels[rows], None, parts)
    if not (parts == "test").any() or set(inner.labels[parts == "test"]) - set(inner.labels[parts == "train"]):
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
        found = scores(task, submission, cells)
        return {f"valid_{s.protocol}_{name}": value for s in found for name, value in s.metrics.items()}

    return [probe]


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
        submission = ModelSubmission(origin, model, tokenizer, settings, methods=PRETRAINED)
        values: dict[str, float] = {}
        for name, (task, cells) in held.items():
            for score in scores(task, submission, cells):
                way = score.method.removeprefix("pretrained").removeprefix("-")
                head = "/".join(filter(None, (name, score.protocol, way)))
                values |= {f"{head}/{metric}": value for metric, value in score.metrics.items()}
        return values

    return callback


_ORIGIN = Origin("inline", "run", "mini", "", ())
"""Weights as they are during training; nothing of them is filed."""
