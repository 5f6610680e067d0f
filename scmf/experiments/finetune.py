"""`scmf finetune`: a model trained further on a user's cells, kept as the folder of a run, and scored.

Lives here: the order of the steps; what costs nothing is refused first. Lives elsewhere: each step (finetune_recipe,
finetune_cells, training.finetune_run, training.pretrain, evaluation.evaluate_run).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.config.recipe import Recipe
from scmf.core.distributed import agreed, is_main
from scmf.core.errors import ConfigError
from scmf.core.outputs import try_folder
from scmf.core.workspace import new_run_folder
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.callbacks import callbacks_of
from scmf.evaluation.evaluate_run import evaluate_folder
from scmf.evaluation.tasks import check_tasks
from scmf.experiments.finetune_cells import finetune_cells
from scmf.experiments.finetune_recipe import PRETRAINING, FinetuneRequest, completed
from scmf.models.checkpoint import load_run_model
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.results.score import Score
from scmf.training.data import Prepared, prepare
from scmf.training.finetune_run import finetune_run
from scmf.training.loop import TrainingReport
from scmf.training.pretrain import pretrain, refuse_other_run
from scmf.training.processes import refuse_several
from scmf.training.stream_data import Streamed, prepare_stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning made.

    Parameters
    ----------
    folder
        The folder of the run, which every verb takes that takes a model.
    answer
        Weights, steps, classes, cells, the rule by which the weights were chosen.
    scores
        What was asked for by ``benchmarks``, baselines included.
    """

    folder: Path
    answer: dict[str, Any]
    scores: list[Score]


def finetune(request: FinetuneRequest, out: Path | None = None, *, split_key: str | None = None) -> Finetuned:
    """Train a model further and keep it under ``out``; an interrupted run there resumes.

    Parameters
    ----------
    request
        Model, cells, task and settings.
    out
        Folder of the run; a new one below ``runs/`` if not given.
    split_key
        Column whose values lie whole in train, valid or test, where no split is named.
    """
    recipe = request.recipe()
    refuse_several(recipe.config.training, "finetune")
    if request.benchmarks:
        check_tasks(recipe.config.eval)
    if out is None:
        out = agreed(lambda: new_run_folder("finetuned"))
        if is_main():
            log.info(f"the run is written to {out}; with --out {out} it resumes where it was interrupted")
    run = RunFolder(out)
    try_folder(out, option="--out")
    base = find_model(str(recipe.config.model.checkpoint))
    network, tokenizer = load_run_model(base.folder)
    recipe = completed(recipe, base, network, tokenizer)
    if is_main():
        refuse_other_run(run, {"seed": recipe.config.training.seed})
    if recipe.config.eval.finetune is None:
        del network
        if split_key is not None:
            raise ConfigError(
                f"--split-key {split_key} with task {PRETRAINING}", wanted="a split that is there",
                where="--split-key", fix=f"scmf data split CELLS --by {split_key} --out split.tsv, then --split it",
            )  # fmt: skip
        return _pretrained_further(recipe, out, scored=bool(request.benchmarks))
    recipe, prepared, split = finetune_cells(recipe, network, tokenizer, run, split_key=split_key)
    if "annotation" in request.benchmarks:
        CellLabels.of(prepared.cells).check_trained_labels()
    if "integration" in request.benchmarks and prepared.facts.batch_key is None:
        raise ConfigError(
            "cells without batches", wanted="the batch of each cell, which integration is about", where="--eval",
            fix="--batch-key COLUMN",
        )  # fmt: skip
    del network
    made = finetune_run(recipe, prepared, base, out, split=split)
    facts = made.facts
    answer = _answer(out, made.report) | {
        "task": facts["task"], "method": facts["method"], "base_model": facts["base_model"]["name"],
        **({"adapter": str(run.adapter)} if run.adapter.is_dir() else {}),
        "trained_parameters": facts["trained_parameters"], "classes": facts["classes"], "cells": facts["cells"],
        "left_out": facts["left_out"], "selection": facts["selection"],
    }  # fmt: skip
    return Finetuned(out, answer, evaluate_folder(out) if request.benchmarks and is_main() else [])


def _pretrained_further(recipe: Recipe, out: Path, *, scored: bool) -> Finetuned:
    """As `scmf train` with ``model.checkpoint`` does."""
    prepared: Prepared | Streamed
    prepared = prepare_stream(recipe.config) if recipe.config.data.streamed else prepare(recipe.config)
    if scored and "annotation" in recipe.config.eval.benchmarks and isinstance(prepared, Prepared):
        CellLabels.of(prepared.cells).check_trained_labels()
    _, report = pretrain(recipe, prepared, out, callbacks=callbacks_of(recipe.config.eval, prepared))
    answer = _answer(out, report) | {"task": PRETRAINING, "base_model": recipe.config.model.checkpoint}
    return Finetuned(out, answer, evaluate_folder(out) if scored and is_main() else [])


def _answer(out: Path, report: TrainingReport) -> dict[str, Any]:
    return {
        "model": str(out / "model"), "log": str(report.log), "steps": report.steps,
        "resumed_from": report.resumed_from, "seconds": round(report.seconds, 2),
    }  # fmt: skip
