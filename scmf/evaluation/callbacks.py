"""What is scored during training: a probe of the run's own cells, and tasks of the leaderboard.

A callback is `scmf.training.loop.EvaluationCallback`; its values stand in the log and on the trackers beside the loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scmf.core.config.run import EvalConfig
from scmf.core.distributed import is_main
from scmf.evaluation.annotation.benchmark import Annotation
from scmf.evaluation.run import inline
from scmf.evaluation.score import CellLabels
from scmf.models.embed import embed_tokens
from scmf.training.data import Prepared
from scmf.training.loop import EvaluationCallback
from scmf.training.stream_data import Streamed


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
    tokens = prepared.tokens.select(rows)
    benchmark = Annotation(knn_neighbors=settings.knn_neighbors)

    def probe(model: Any, epoch: int, step: int) -> dict[str, float]:
        x_ND = embed_tokens(model, tokens, settings=settings)
        scores = benchmark.run({"pretrained": x_ND}, inner)
        return {f"valid_{s.protocol}_{name}": value for s in scores for name, value in s.metrics.items()}

    return [probe]
