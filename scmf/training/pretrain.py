"""Pretraining: the model of a recipe on prepared cells, saved as the folder of a run.

Lives here: `pretrain`. Lives elsewhere: the cells (data, stream_data), the loop (loop), evaluations during training
(callbacks, which the caller passes).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scmf.core import provenance, registry
from scmf.core.config.recipe import Recipe
from scmf.core.distributed import is_main
from scmf.core.files import sha256_json, write_json
from scmf.models.build import build_model
from scmf.models.checkpoint import save_model
from scmf.models.origin import RECORD, Checkpoint, training_record
from scmf.models.run_folder import RunFolder
from scmf.training.data import Prepared
from scmf.training.loop import TrainingReport, train
from scmf.training.stream_data import Streamed
from scmf.training.validation import EvaluationCallback

log = logging.getLogger(__name__)


def pretrain(
    recipe: Recipe, prepared: Prepared | Streamed, out: Path, *, callbacks: Sequence[EvaluationCallback] = ()
) -> tuple[Any, TrainingReport]:
    """Pretrain the model of ``recipe`` on the training cells, in memory or streamed, and save it under ``out``."""
    config, tokenizer, run = recipe.config, prepared.tokenizer, RunFolder(out)
    model = build_model(config, tokenizer, seed=config.training.seed, batch_names=prepared.batch_names)
    if getattr(model.config, "reads_batches", False):
        prepared.refuse_missing_batches()
    objective_class = registry.resolve("objectives", config.training.pretraining_task)
    objective = objective_class.from_settings(
        config.training, tokenizer, match_official=config.tokenizer.match_official
    )
    digest = sha256_json([recipe.digest, config.training.seed, prepared.digest])
    facts = {
        "recipe": recipe.name,
        "variant": recipe.variant,
        "seed": config.training.seed,
        "recipe_digest": recipe.digest,
        "config": config.model_dump(mode="json"),
        "parameters": sum(value.numel() for value in model.parameters()),
        "provenance": provenance.collect(data=prepared.provenance),
    }
    if is_main():
        run.write(facts)
    log.info(f"pretraining on {prepared.n_training:,} cells")
    report = train(
        model,
        prepared.batches(config.training),
        objective=objective,
        settings=config.training,
        out=run.pretraining,
        digest=digest,
        valid=prepared.valid_tokens(),
        callbacks=callbacks,
        evaluate_every=config.eval.every_n_epochs,
    )
    if is_main():
        save_model(model, tokenizer, run.model)
        write_json(run.model / RECORD, training_record(Checkpoint.at(out)))
    return model, report
