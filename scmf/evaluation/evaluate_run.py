"""The verb ``evaluate``: what a saved model is worth.

Lives here: from a folder to scores. Lives elsewhere: the engine that scores (run), what a
model gives to it (submissions.model).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from anndata import AnnData

from scmf.core.config.recipe import Recipe, list_recipes, load_recipe
from scmf.core.config.run import DataConfig
from scmf.core.outputs import try_folder
from scmf.data.loading.load import load_cells
from scmf.evaluation.as_in_run import as_in_run
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.run import cells_of, scores, scores_of_recipe
from scmf.evaluation.submissions.baselines import BaselinesSubmission
from scmf.evaluation.submissions.model import ModelSubmission, tokens_for, with_batch_size
from scmf.evaluation.tasks import is_own_task, load_suite
from scmf.models.checkpoint import is_classifier, load_run_model
from scmf.models.embed import on_device
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.results.score import Score
from scmf.tokenizers.coverage import tell_known_share
from scmf.training.data import Prepared

log = logging.getLogger(__name__)


def _recipe_of(folder: Path, config: str | None, variant: str | None, overrides: tuple[str, ...]) -> Recipe:
    """The recipe named by ``config``, else the one that the run in ``folder`` was made with."""
    if config is not None:
        return load_recipe(config, variant=variant, overrides=overrides)
    return RunFolder.at(folder).recipe(overrides)


def _is_variant(recipe: str, variant: str | None) -> bool:
    """Whether a published model is a variant of a recipe."""
    return recipe in list_recipes() and variant in load_recipe(recipe).variants


def _data_of(folder: Path) -> DataConfig | None:
    """The section ``data`` of the run in a folder; None for a checkpoint."""
    run = RunFolder.find(folder)
    return None if run is None else run.config.data


def evaluate_folder(
    folder: Path | str,
    *,
    config: str | None = None,
    variant: str | None = None,
    overrides: tuple[str, ...] = (),
    device: str | None = None,
    batch_size: int | None = None,
    allow_low_coverage: bool = False,
    adata: AnnData | None = None,
) -> list[Score]:
    """Run the benchmarks of a recipe on a saved model, its untrained self and the baselines.

    Those that name a dataset (``eval.benchmarks: [cell_type_annotation: {dataset: ...}]``) are scored on its cells, the
    others on the cells of the recipe.

    Parameters
    ----------
    folder
        Folder of a run (with ``run.json`` and ``model/``), or of a checkpoint when ``config`` is given; or the name of
        a published model, by default on the cells and benchmarks of its recipe.
    config, variant, overrides
        As in `scmf.core.config.recipe.load_recipe`; the run's own configuration when ``config`` is None.
    device, batch_size
        Where the network embeds (see `scmf.models.embed.on_device`), cells in a forward pass.
    allow_low_coverage
        Take cells of which the vocabulary knows less than a fifth.
    adata
        The cells, as `scmf.data.stores.adata_memory.in_memory` returns them, in place of those of the recipe; nothing
        is scored on other datasets.
    """
    found = find_model(folder)
    folder = found.folder
    if config is None and found.recipe is not None and _is_variant(found.recipe, found.variant):
        config, variant = found.recipe, found.variant if variant is None else variant
    recipe = _recipe_of(folder, config, variant, overrides)
    if recipe.config.eval.finetune is not None and (folder / "model").is_dir() and adata is None:
        try_folder(RunFolder(folder).path, option="the folder of the run, in which the head is fine-tuned:")
    others = [name for name in recipe.config.eval.tasks if is_own_task(name) and adata is None]
    filed: list[Score] = []
    if recipe.config.eval.benchmarks or not others:
        filed += _of_own_cells(
            folder, recipe, own=config is None, device=device, batch_size=batch_size, allow=allow_low_coverage,
            adata=adata,
        )  # fmt: skip
    if others:
        submission = ModelSubmission.of_folder(folder, device=device, allow_low_coverage=allow_low_coverage)
        submission = replace(submission, settings=with_batch_size(recipe.config.eval, batch_size))
        for name, task in load_suite().chosen(others).items():
            cells = cells_of(task)
            for who in (BaselinesSubmission.of_recipe(), submission):
                log.info(f"{name}: {who.origin.recipe}")
                filed += [replace(score, benchmark=name) for score in scores(task, who, cells)]
    return filed


def _of_own_cells(
    folder: Path, recipe: Recipe, *, own: bool, device: str | None, batch_size: int | None, allow: bool,
    adata: AnnData | None = None,
) -> list[Score]:  # fmt: skip
    """Scores on the cells of the section ``data``; ``own`` says that the configuration is that of the run."""
    model, tokenizer = load_run_model(folder)
    model = on_device(model, device)
    data = recipe.config.data
    if adata is not None:
        found = as_in_run(adata, folder, tokenizer, {"counts": data.counts, "gene_ids": data.gene_ids})
        data = data.model_copy(update=found)
    cells = load_cells(data, adata=adata)
    fitted = own and recipe.config.tokenizer.vocabulary == "fit" and recipe.config.data == _data_of(folder)
    tell_known_share(tokenizer, cells, allow=fitted or allow or recipe.config.data.allow_low_coverage)
    tokens = tokens_for(model, tokenizer, cells)
    prepared = Prepared(cells, tokenizer, tokens)
    has_head = is_classifier({"architectures": model.config.architectures})
    elsewhere = not (folder / "model").is_dir() or (adata is not None and not has_head)
    if recipe.config.eval.finetune is not None and elsewhere:
        evaluation = recipe.config.eval.model_copy(update={"finetune": None})
        recipe = replace(recipe, config=recipe.config.model_copy(update={"eval": evaluation}))
        log.info("the fine-tuned head is left out: it needs the folder of a run, and the cells of that run")
    submission = ModelSubmission.of_recipe(recipe, model, prepared, folder)
    submission = replace(submission, settings=with_batch_size(submission.settings, batch_size))
    return list(scores_of_recipe(recipe, (BaselinesSubmission.of_recipe(), submission), TaskCells(cells)))
