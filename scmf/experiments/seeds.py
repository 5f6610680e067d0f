"""One seed of the mini tier: trained, evaluated, filed as results.

Lives here: from the scores of a run to results with provenance, and what the pictures need. Lives
elsewhere: the run itself (run), which seeds run and how they are judged (reproduce).
"""

from __future__ import annotations

import json
import logging
import re
import resource
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core import provenance, registry
from scmf.core.config.recipe import Recipe
from scmf.core.errors import EvaluationError
from scmf.core.files import shipped
from scmf.evaluation import own_cells
from scmf.evaluation.callbacks import callbacks_of
from scmf.evaluation.score import CellLabels, Score
from scmf.results.pages.reproduction_plots import ConfusionInput, EmbeddingInput
from scmf.results.result import Result
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
    """What all seeds share: cells, tokens and the vectors of the baselines."""

    prepared: Prepared
    baselines: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
    ) -> SharedInputs:
        """Load and tokenize the cells of ``recipe``; neither depends on the seed."""
        prepared = prepare(recipe.config)
        return cls(prepared, own_cells.baselines(prepared))


def run_seed(
    recipe: Recipe,
    seed: int,
    shared: SharedInputs,
    *,
    runs: Path,
    first: bool,
) -> SeedRun:
    """Pretrain and evaluate one seed; a killed run of the same code and configuration goes on.

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
    vectors = own_cells.representations(seeded, prepared, model)
    scores = [
        _pretraining_score(seeded, prepared, report),
        *own_cells.evaluate(
            seeded, prepared, vectors, baselines=shared.baselines, out=out, score_baselines=first,
            ),
    ]  # fmt: skip
    log.info(f"seed {seed} done in {time.perf_counter() - started:.0f} s")
    facts, truth = prepared.cells.uns["scmf"], CellLabels.of(prepared.cells)
    batches = truth.parts if truth.batches is None else truth.batches
    return SeedRun(
        seed,
        out,
        [_result(seeded, score, facts) for score in scores],
        EmbeddingInput(
            vectors["pretrained"], truth.labels.tolist(), batches.tolist(), f"{recipe.variant}, seed {seed}"
        ),
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
        definitions={"valid_loss": objective.definition},
        n_cells=len(prepared.part("valid")),
        n_train=len(prepared.part("train")),
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


def _result(recipe: Recipe, score: Score, facts: dict[str, Any]) -> Result:
    seed = None if score.method in DETERMINISTIC else recipe.config.training.seed
    data = {key: facts[key] for key in ("dataset", "sha256", "split", "split_sha256")}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Result(
        recipe=recipe.name,
        variant=recipe.variant,
        tier="mini",
        benchmark=score.benchmark,
        dataset=_name(facts["dataset"]),
        split=_name(str(facts["split"])),
        protocol=score.protocol,
        method=score.method,
        seed=seed,
        metrics=score.metrics,
        definitions=score.definitions,
        higher_is_better=score.higher_is_better,
        n_cells=score.n_cells,
        n_train=score.n_train,
        recipe_digest=recipe.digest,
        provenance=provenance.collect(data=data, seed=seed, overrides=list(recipe.overrides)),
        command=_command(recipe),
        seconds=round(score.seconds, 2),
        peak_memory_mb=round(rss, 1),
    )


def _confusion(scores: Sequence[Score]) -> ConfusionInput | None:
    """Of the fine-tuned head where there is one, else of the linear probe."""
    for protocol in ("finetuned_head", "linear_probe"):
        for score in scores:
            if score.method == "pretrained" and score.protocol == protocol:
                table = score.details["confusion"]
                title = f"{protocol.replace('_', ' ')}, {score.method}"
                return ConfusionInput(table["labels"], np.array(table["matrix"]), title)
    return None
