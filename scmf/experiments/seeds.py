"""One seed of the mini tier: trained, evaluated, filed as results.

Lives here: from the scores of a run to results with provenance, and what the pictures need. Lives
elsewhere: the run itself (scmf.training.pretrain), which seeds run and how they are judged (reproduce).
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scmf.core import provenance, registry
from scmf.core.config.recipe import Recipe
from scmf.core.errors import EvaluationError
from scmf.core.paths import shipped
from scmf.data.loading.facts import DataFacts
from scmf.evaluation.callbacks import callbacks_of
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.pretraining_metrics import METRICS
from scmf.evaluation.run import scores_of_recipe
from scmf.evaluation.submissions.baselines import BaselinesSubmission
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.evaluation.tasks import check_tasks
from scmf.results.pages.reproduction_plots import ConfusionInput, EmbeddingInput
from scmf.results.record import Measurement
from scmf.results.result import Result
from scmf.results.score import Score
from scmf.training.data import Prepared, prepare
from scmf.training.loop import TrainingReport
from scmf.training.pretrain import pretrain

log = logging.getLogger(__name__)

DETERMINISTIC = ("majority", "hvg", "pca")
"""Methods without a seed."""


@dataclass(frozen=True)
class SeedRun:
    """One seed of the mini tier: its results, and what the pictures need."""

    seed: int
    folder: Path
    results: list[Result]
    embedding: EmbeddingInput
    confusion: ConfusionInput | None


@dataclass(frozen=True)
class SharedInputs:
    """What all seeds share: cells with the vectors of the baselines, and tokens."""

    prepared: Prepared
    cells: TaskCells

    @classmethod
    def of(cls, recipe: Recipe) -> SharedInputs:
        """Load and tokenize the cells of ``recipe``; neither depends on the seed."""
        check_tasks(recipe.config.eval)
        prepared = prepare(recipe.config)
        return cls(prepared, TaskCells(prepared.cells).with_baselines())


def run_seed(recipe: Recipe, seed: int, shared: SharedInputs, *, runs: Path, first: bool) -> SeedRun:
    """Pretrain and evaluate one seed; an interrupted run of the same code and configuration resumes.

    Parameters
    ----------
    runs
        Folder that holds the folder of the run. Weights of other code must never be taken for ours:
        its name says which code made it.
    first
        Score the methods without a seed too.
    """
    seeded, prepared = _with_seed(recipe, seed), shared.prepared
    name = f"{recipe.digest[:8]}-{provenance.code_digest()[:8]}-seed{seed}"
    out = runs / f"{recipe.name}-{recipe.variant}" / name
    started = time.perf_counter()
    model, report = pretrain(seeded, prepared, out, callbacks=callbacks_of(seeded.config.eval, prepared))
    submission = ModelSubmission.of_recipe(seeded, model, prepared, out)
    log.info("embedding cells")
    vectors = submission.own_vectors
    scored = (BaselinesSubmission.of_recipe(), submission) if first else (submission,)
    scores = [
        _pretraining_score(seeded, prepared, report),
        *scores_of_recipe(seeded, scored, shared.cells),
    ]
    log.info(f"seed {seed} done in {time.perf_counter() - started:.0f} s")
    facts, truth = prepared.facts, shared.cells.labels
    batches = np.asarray(prepared.split) if truth.batches is None else truth.batches
    shown = [np.where(names == "", "(none)", names).tolist() for names in (truth.labels, batches)]
    return SeedRun(
        seed,
        out,
        [_result(seeded, score, facts) for score in scores],
        EmbeddingInput(vectors["pretrained"], shown[0], shown[1], f"{recipe.variant}, seed {seed}"),
        _confusion(scores),
    )


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    config = recipe.config
    training = config.training.model_copy(update={"seed": seed})
    return replace(recipe, config=config.model_copy(update={"training": training}))


def _pretraining_score(recipe: Recipe, prepared: Prepared, report: TrainingReport) -> Score:
    """The last validation loss of the log."""
    lines = [json.loads(line) for line in report.log.read_text(encoding="utf-8").splitlines()]
    losses = [line["valid_loss"] for line in lines if "valid_loss" in line]
    if not losses:
        raise EvaluationError(
            "no validation loss", wanted="cells in part 'valid'", where=report.log, fix="choose a split that has them"
        )
    training = recipe.config.training
    family = registry.resolve("objectives", training.pretraining_task)
    objective = family.from_settings(
        training, prepared.tokenizer, match_official=recipe.config.tokenizer.match_official
    )
    return Score(
        benchmark="pretraining",
        protocol=training.pretraining_task,
        method="pretrained",
        metrics={"valid_loss": losses[-1]},
        **METRICS.facts(("valid_loss",), objective=objective.definition),
        n_cells=len(prepared.rows("valid")),
        n_train=len(prepared.rows("train")),
        seconds=report.seconds,
    )


def _command(recipe: Recipe) -> str:
    """What to type to measure one seed again."""
    where = recipe.name if recipe.folder == shipped("recipes") / recipe.name else str(recipe.folder)
    words = ["scmf", "reproduce", where, "--variant", recipe.variant, "--tier", "mini"]
    words += ["--seeds", str(recipe.config.training.seed)]
    return shlex.join([*words, *(word for text in recipe.overrides for word in ("--set", text))])


def _name(text: str) -> str:
    """A name for files of results: that of a card as it is, of your own files without what a file name cannot hold."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(text).name if "/" in text else text).strip("-") or "cells"


def _result(recipe: Recipe, score: Score, facts: DataFacts) -> Result:
    measurement = Measurement(
        recipe=recipe.name,
        variant=recipe.variant,
        tier="mini",
        dataset=_name(facts.dataset),
        split=_name(str(facts.split)),
        recipe_digest=recipe.digest,
        command=_command(recipe),
        data=facts.provenance,
        seed=None if score.method in DETERMINISTIC else recipe.config.training.seed,
        more={"overrides": list(recipe.overrides)},
    )
    return measurement.result(score, detailed=False)


def _confusion(scores: Sequence[Score]) -> ConfusionInput | None:
    """Of the fine-tuned head where there is one, else of the linear probe."""
    for protocol in ("finetuned_head", "linear_probe"):
        for score in scores:
            if score.method == "pretrained" and score.protocol == protocol:
                table = score.details["confusion"]
                title = f"{protocol.replace('_', ' ')}, {score.method}"
                return ConfusionInput(table["labels"], np.array(table["matrix"]), title)
    return None
