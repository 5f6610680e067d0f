"""The verbs ``evaluate`` and ``embed``: what a saved model is worth, and its vectors in an AnnData.

Lives here: from a folder and a file to scores or to a new file. Lives elsewhere: the engine that scores (run), what a
model gives to it (submissions.model).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from scmf.core.config.recipe import Recipe, load_recipe
from scmf.core.config.run import DataConfig, EvalConfig, validate
from scmf.core.errors import DataError
from scmf.core.files import atomic_path
from scmf.data.loading.load import load_cells, read_file
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.run import scores_of_recipe
from scmf.evaluation.submissions.baselines import BaselinesSubmission
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.models.checkpoint import load_run_model
from scmf.models.embed import embed_tokens
from scmf.models.run_folder import RunFolder
from scmf.results.score import Score
from scmf.tokenizers.build import tokenize
from scmf.training.data import Prepared

log = logging.getLogger(__name__)


def _recipe_of(folder: Path, config: str | None, variant: str | None, overrides: tuple[str, ...]) -> Recipe:
    """The recipe named by ``config``, else the one that the run in ``folder`` was made with."""
    if config is not None:
        return load_recipe(config, variant=variant, overrides=overrides)
    return RunFolder.at(folder).recipe(overrides)


def evaluate_folder(
    folder: Path, *, config: str | None = None, variant: str | None = None, overrides: tuple[str, ...] = ()
) -> list[Score]:
    """Run the benchmarks of a recipe on a saved model, its untrained self and the baselines.

    Parameters
    ----------
    folder
        Folder of a run (with ``run.json`` and ``model/``), or of a checkpoint when ``config`` is given.
    config, variant, overrides
        As in `scmf.core.config.recipe.load_recipe`; the run's own configuration when ``config`` is None.
    """
    folder = Path(folder)
    recipe = _recipe_of(folder, config, variant, overrides)
    model, tokenizer = load_run_model(folder)
    cells = load_cells(recipe.config.data)
    tokens = tokenize(tokenizer, cells, batch_names=getattr(model.config, "batch_names", None))
    prepared = Prepared(cells, tokenizer, tokens)
    if recipe.config.eval.finetune is not None and not (folder / "model").is_dir():
        evaluation = recipe.config.eval.model_copy(update={"finetune": None})
        recipe = replace(recipe, config=recipe.config.model_copy(update={"eval": evaluation}))
        log.info("the fine-tuned head is left out: it needs the folder of a run to work in")
    submissions = (BaselinesSubmission.of_recipe(), ModelSubmission.of_recipe(recipe, model, prepared, folder))
    return list(scores_of_recipe(recipe, submissions, TaskCells(cells)))


def embed_to_file(
    file: Path,
    model: Path,
    *,
    output: Path | None = None,
    key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    layer: int | None = None,
    pooling: str | None = None,
) -> dict[str, Any]:
    """Write a copy of an AnnData file with the embedding in ``obsm``.

    Parameters
    ----------
    file
        .h5ad with raw counts.
    model
        Folder of a run or of a checkpoint.
    output
        New file; ``<file>.<recipe>.h5ad`` when None. The input is never changed.
    key
        Key in ``obsm``; ``X_<recipe>`` when None.
    counts, gene_ids
        As in the ``data`` section.
    layer, pooling
        As ``embedding_layer`` and ``pooling`` in the ``eval`` section; None: those of the run that made the model, else
        what its family was published with.

    Returns
    -------
    dict
        ``file``, ``key``, ``cells``, ``dimensions``.

    Raises
    ------
    DataError
        If the output is the input, or the cells cannot be used.
    """
    recipe = _recipe_name(model)
    output = output or file.with_name(f"{file.stem}.{recipe}.h5ad")
    if output.resolve() == file.resolve():
        raise DataError("output is the input", wanted="another file", where=output, fix="choose another --output")
    log.info("loading model and cells")
    network, tokenizer = load_run_model(model)
    settings = _embedding_settings(model, network, layer=layer, pooling=pooling)
    section = validate(DataConfig, {"files": [file], "counts": counts, "gene_ids": gene_ids}, where="embed")
    tokens = tokenize(tokenizer, load_cells(section))
    log.info(f"embedding {len(tokens):,} cells")
    x_ND = embed_tokens(network, tokens, settings=settings)
    adata = read_file(file)
    key = key or f"X_{recipe}"
    adata.obsm[key] = x_ND
    with atomic_path(output) as temporary:
        adata.write_h5ad(temporary)
    return {"file": str(output), "key": key, "cells": len(x_ND), "dimensions": x_ND.shape[1]}


def _embedding_settings(model: Path, network: Any, *, layer: int | None, pooling: str | None) -> EvalConfig:
    """The layer and pooling that are asked for, else those of the run, else those the family was published with."""
    usual_layer, usual_pooling = network.embedding_defaults
    if (run := RunFolder.find(model)) is not None:
        of_run = run.config.eval
        usual_layer, usual_pooling = of_run.embedding_layer, of_run.pooling
    keys = {
        "embedding_layer": usual_layer if layer is None else layer,
        "pooling": usual_pooling if pooling is None else pooling,
    }
    settings: EvalConfig = validate(EvalConfig, keys, where="embed")
    return settings


def _recipe_name(model: Path) -> str:
    """Name of the recipe a run was made with, else the name of the folder."""
    run = RunFolder.find(model)
    return model.resolve().name if run is None else str(run.fact("recipe"))
