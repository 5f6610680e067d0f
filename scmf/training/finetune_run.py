"""A fine-tuned classifier as the folder of a run, which every command takes that takes a model.

Lives here: `finetune_run`. Lives elsewhere: the classifier and its training (finetune), what of the network is trained
(adapters), the cells and the configuration (scmf.experiments.finetune), a run that goes on pretraining (pretrain).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core import provenance
from scmf.core.config.recipe import Recipe
from scmf.core.distributed import is_main
from scmf.core.errors import ConfigError, from_value_error
from scmf.core.files import sha256_file, sha256_json, write_json
from scmf.data.loading.labels import CellLabels
from scmf.data.splits.split import Split
from scmf.models.checkpoint import save_model
from scmf.models.origin import RECORD, Checkpoint, training_record
from scmf.models.published.names import FoundModel
from scmf.models.run_folder import RunFolder
from scmf.training.adapters import save_adapter
from scmf.training.data import Prepared
from scmf.training.finetune import Classifier, Examples, fit
from scmf.training.loop import TrainingReport
from scmf.training.pretrain import held

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetunedRun:
    """What `finetune_run` made.

    Parameters
    ----------
    run
        Its folder.
    report
        What the loop did.
    facts
        Task, method, base, classes, cells, and the rule by which the weights were chosen.
    """

    run: RunFolder
    report: TrainingReport
    facts: dict[str, Any]


def finetune_run(
    recipe: Recipe, prepared: Prepared, base: FoundModel, out: Path, *, split: Split | None = None
) -> FinetunedRun:
    """Fine-tune a classifier of the labels of ``prepared`` on ``base``, and save it under ``out``.

    Parameters
    ----------
    recipe
        Its ``eval.finetune`` says how, its ``training`` the rest of the loop.
    prepared
        Cells, and their tokens by the tokenizer of ``base``.
    base
        What the weights start from; the recipe names it as ``model.checkpoint``.
    out
        Folder of the run; an interrupted run there resumes.
    split
        The split of the cells where it was made for this run, which keeps it.
    """
    settings, seed, run = recipe.config.eval.finetune, recipe.config.training.seed, RunFolder(out)
    if settings is None:
        raise ConfigError("eval.finetune is null", wanted="a section", where="eval.finetune", fix="set its keys")
    truth = CellLabels.of(prepared.cells)
    truth.say_left_out(prepared.facts)
    examples = Examples.of(truth)
    weights = RunFolder.weights_in(base.folder)
    classifier = Classifier.of(weights, examples.classes, settings, seed=seed)
    try:  # a head that its family refuses to load again is refused before it is trained
        type(classifier.model.config).from_dict(classifier.model.config.to_dict())
    except ValueError as error:
        raise from_value_error(ConfigError, error, where="eval.finetune") from error
    digest = sha256_json([recipe.digest, seed, prepared.digest, classifier.fingerprint])
    sums = {path.name: sha256_file(path) for path in sorted(weights.glob("*.safetensors"))}
    facts: dict[str, Any] = {
        "recipe": recipe.name,
        "variant": recipe.variant,
        "seed": seed,
        "recipe_digest": recipe.digest,
        "digest": digest,
        "config": recipe.config.model_dump(mode="json"),
        "parameters": sum(value.numel() for value in classifier.model.parameters()),
        "provenance": provenance.collect(data=prepared.provenance),
    }
    made: dict[str, Any] = {
        "task": settings.task,
        "method": settings.method,
        "base_model": {"name": base.word, "weights_sha256": sums},
        "trained_parameters": classifier.trained_parameters,
        "classes": dict(zip(examples.classes, np.bincount(examples.labels).tolist(), strict=True)),
        "class_weights": settings.class_weights,
        "cells": {
            "train": len(examples.train_rows),
            "valid": len(examples.valid_rows),
            "test": len(truth.rows("test")),
        },
        "left_out": examples.left_out,
    }
    with held(run, facts, what="scmf finetune"):
        if split is not None and is_main():
            split.write(run.split)
        log.info(f"fine-tuning on {len(examples.train_rows):,} cells of {len(examples.classes)} classes")
        report, rule = fit(
            classifier, prepared, examples,
            settings=settings, loop=recipe.config.training, out=run.pretraining, digest=digest,
        )  # fmt: skip
        made["selection"] = rule
        if is_main():
            if classifier.adapted is not None:
                save_adapter(classifier.adapted, run.adapter, base=made["base_model"])
            save_model(classifier.merged(), prepared.tokenizer, run.model, run=run.identity)
            write_json(run.model / RECORD, training_record(Checkpoint.at(out)))
            run.write({**facts, "finetuning": made})
    return FinetunedRun(run, report, made)
