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
from scmf.core.outputs import try_file, try_folder
from scmf.data.loading.load import load_cells
from scmf.data.stores.adata_files import add_vectors, check_obsm_key, stored_bytes
from scmf.data.stores.files.remote import is_remote
from scmf.data.stores.open import sources_of
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
    if recipe.config.eval.finetune is not None and (folder / "model").is_dir():
        try_folder(RunFolder(folder).path, option="the folder of the run, in which the head is fine-tuned:")
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
    file: Path | str,
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
        .h5ad file or zarr group with raw counts.
    model
        Folder of a run or of a checkpoint.
    output
        New file, or zarr group where the input is one; ``<file>.<recipe>.h5ad`` when None. The input is never changed.
    key
        Key in ``obsm``; ``X_<recipe>`` when None. Vectors that the file has under it are replaced in the copy.
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
    ConfigError, ResourceError
        The output cannot be written, or is the input.
    DataError
        The cells cannot be used.
    """
    stored = _one_store(str(file))
    model = Path(model)
    recipe = _recipe_name(model)
    ending = ".zarr" if stored.is_dir() else ".h5ad"
    output = Path(output) if output is not None else stored.with_name(f"{stored.stem}.{recipe}{ending}")
    key = f"X_{recipe}" if key is None else key
    check_obsm_key(key, where="--key")
    try_file(output, option="--output", endings=(ending,), inputs=[stored], need=stored_bytes(stored))
    log.info("loading model and cells")
    network, tokenizer = load_run_model(model)
    settings = _embedding_settings(model, network, layer=layer, pooling=pooling)
    section = validate(DataConfig, {"files": [stored], "counts": counts, "gene_ids": gene_ids}, where="embed")
    tokens = tokenize(tokenizer, load_cells(section))
    log.info(f"embedding {len(tokens):,} cells")
    x_ND = embed_tokens(network, tokens, settings=settings)
    if add_vectors(stored, output, key, x_ND):
        log.info(f"{output}: obsm[{key!r}] of {stored} was replaced")
    return {"file": str(output), "key": key, "cells": len(x_ND), "dimensions": x_ND.shape[1]}


def _one_store(file: str) -> Path:
    """The one .h5ad file or zarr group that a word on the command line means, on this machine."""
    if is_remote(file):
        raise DataError(
            f"the address {file.partition('?')[0]}", wanted="an .h5ad file or zarr group of this machine",
            where="scmf embed", fix="copy it here first; the output is a copy of it with the vectors",
        )  # fmt: skip
    sources = sources_of(file, None)
    for source in sources:
        source.close()
    if len(sources) > 1:
        raise DataError(
            f"{len(sources)} stores, the first {sources[0].root}", wanted="one .h5ad file or zarr group", where=file,
            fix="call `scmf embed` once for each of them",
        )  # fmt: skip
    return Path(sources[0].root)


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
    return (model.resolve().name if run is None else Path(str(run.fact("recipe"))).name) or "model"
