"""Pretraining: the model of a recipe on prepared cells, saved as the folder of a run.

Lives here: `pretrain`. Lives elsewhere: the cells (data, stream_data), the loop (loop), evaluations during training
(callbacks, which the caller passes).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scmf.core import provenance, registry
from scmf.core.config.recipe import Recipe
from scmf.core.distributed import agreed
from scmf.core.files import sha256_json, write_json
from scmf.core.locks import one_writer
from scmf.models.build import build_model
from scmf.models.checkpoint import refuse_other_model, save_model
from scmf.models.origin import RECORD, Checkpoint, training_record
from scmf.models.run_folder import RunFolder
from scmf.training.checkpoints import newest_intact
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
    facts: dict[str, Any] = {
        "recipe": recipe.name,
        "variant": recipe.variant,
        "seed": config.training.seed,
        "recipe_digest": recipe.digest,
        "digest": digest,
        "config": config.model_dump(mode="json"),
        "parameters": sum(value.numel() for value in model.parameters()),
        "provenance": provenance.collect(data=prepared.provenance),
    }
    with held(run, facts):
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

        def save() -> None:
            save_model(model, tokenizer, run.model, run=run.identity)
            write_json(run.model / RECORD, training_record(Checkpoint.at(out)))

        agreed(save, share=False)
    return model, report


@contextmanager
def held(run: RunFolder, facts: Mapping[str, Any], *, what: str = "scmf train") -> Iterator[None]:
    """Hold the folder of a run alone, with ``run.json`` written; a folder that is not this run's is left as it is."""
    with ExitStack() as stack:

        def take() -> None:
            refuse_other_run(run, facts)
            stack.enter_context(one_writer(run.path, what))
            refuse_other_run(run, facts)
            newest_intact(run.pretraining / "checkpoints", digest=facts["digest"], warn=False)
            run.write(facts)

        agreed(take, share=False)
        yield


def refuse_other_run(run: RunFolder, facts: Mapping[str, Any]) -> None:
    """Raise when ``run`` holds another run or somebody else's files; cheap, so that it can be asked before the work."""
    run.claim({key: facts[key] for key in ("seed", "recipe_digest", "digest") if key in facts})
    refuse_other_model(run.model)
