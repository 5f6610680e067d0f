"""The verbs ``evaluate`` and ``embed``: what a saved model is worth, and its vectors in an AnnData.

Lives here: from a folder and a file to scores or to a new file. Lives elsewhere: the engine that scores (run), what a
model gives to it (submissions.model).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.config.recipe import Recipe, list_recipes, load_recipe
from scmf.core.config.run import DataConfig, EvalConfig, validate
from scmf.core.errors import DataError
from scmf.core.outputs import try_file, try_folder
from scmf.data.genes.ids import pick_ids
from scmf.data.loading.facts import LoadedCells
from scmf.data.loading.load import load_cells
from scmf.data.stores.adata_files import add_vectors, check_obsm_key, obsm_keys, places_of, stored_bytes
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.files.remote import is_remote
from scmf.data.stores.open import sources_of
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.run import cells_of, scores, scores_of_recipe
from scmf.evaluation.submissions.baselines import BaselinesSubmission
from scmf.evaluation.submissions.model import ModelSubmission, tokens_for, with_batch_size
from scmf.evaluation.tasks import is_own_task, load_suite
from scmf.models.checkpoint import load_run_model
from scmf.models.embed import embed_tokens, embeds_by_batch, on_device
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.results.score import Score
from scmf.tokenizers.coverage import known_columns, tell_known_share
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
    """
    found = find_model(folder)
    folder = found.folder
    if config is None and found.recipe is not None and _is_variant(found.recipe, found.variant):
        config, variant = found.recipe, found.variant if variant is None else variant
    recipe = _recipe_of(folder, config, variant, overrides)
    if recipe.config.eval.finetune is not None and (folder / "model").is_dir():
        try_folder(RunFolder(folder).path, option="the folder of the run, in which the head is fine-tuned:")
    others = [name for name in recipe.config.eval.tasks if is_own_task(name)]
    filed: list[Score] = []
    if recipe.config.eval.benchmarks or not others:
        filed += _of_own_cells(
            folder, recipe, own=config is None, device=device, batch_size=batch_size, allow=allow_low_coverage
        )
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
    folder: Path, recipe: Recipe, *, own: bool, device: str | None, batch_size: int | None, allow: bool
) -> list[Score]:
    """Scores on the cells of the section ``data``; ``own`` says that the configuration is that of the run."""
    model, tokenizer = load_run_model(folder)
    model = on_device(model, device)
    cells = load_cells(recipe.config.data)
    fitted = own and recipe.config.tokenizer.vocabulary == "fit" and recipe.config.data == _data_of(folder)
    tell_known_share(tokenizer, cells, allow=fitted or allow or recipe.config.data.allow_low_coverage)
    tokens = tokens_for(model, tokenizer, cells)
    prepared = Prepared(cells, tokenizer, tokens)
    if recipe.config.eval.finetune is not None and not (folder / "model").is_dir():
        evaluation = recipe.config.eval.model_copy(update={"finetune": None})
        recipe = replace(recipe, config=recipe.config.model_copy(update={"eval": evaluation}))
        log.info("the fine-tuned head is left out: it needs the folder of a run to work in")
    submission = ModelSubmission.of_recipe(recipe, model, prepared, folder)
    submission = replace(submission, settings=with_batch_size(submission.settings, batch_size))
    return list(scores_of_recipe(recipe, (BaselinesSubmission.of_recipe(), submission), TaskCells(cells)))


def embed_to_file(
    file: Path | str,
    model: Path | str,
    *,
    output: Path | None = None,
    key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    counts_rounding: Rounding = "error",
    batch_key: str | None = None,
    layer: int | None = None,
    pooling: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    allow_low_coverage: bool = False,
) -> dict[str, Any]:
    """Write a copy of an AnnData file with the embedding in ``obsm``.

    Parameters
    ----------
    file
        .h5ad file or zarr group with raw counts.
    model
        Folder of a run or of a checkpoint, or a name; see `scmf.models.published.names.find_model`.
    output
        New file, or zarr group where the input is one; ``<file>.<recipe>.h5ad`` when None. The input is never changed.
    key
        Key in ``obsm``; ``X_<recipe>`` when None. Vectors that the file has under it are replaced in the copy.
    counts, gene_ids, counts_rounding, allow_low_coverage
        As in the ``data`` section.
    batch_key
        Column of ``obs`` with the batch, for models whose embedding depends on it; that of the run when None.
    layer, pooling, batch_size
        As ``embedding_layer``, ``pooling`` and ``batch_size`` in the ``eval`` section; None: those of the run that made
        the model, else what its family was published with.
    device
        Where the network embeds; see `scmf.models.embed.on_device`.

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
    stored = one_store(str(file), verb="embed")
    found = find_model(model)
    model = found.folder
    recipe = found.recipe or _recipe_name(model)
    ending = ".zarr" if stored.is_dir() else ".h5ad"
    output = Path(output) if output is not None else stored.with_name(f"{stored.stem}.{recipe}{ending}")
    key = f"X_{recipe}" if key is None else key
    check_obsm_key(key, where="--key")
    try_file(output, option="--output", endings=(ending,), inputs=[stored], need=stored_bytes(stored))
    log.info("loading model and cells")
    network, tokenizer = load_run_model(model)
    network = on_device(network, device)
    settings = embedding_settings(model, network, layer=layer, pooling=pooling, batch_size=batch_size)
    keys = {"files": [stored], "counts": counts, "gene_ids": gene_ids, "counts_rounding": counts_rounding}
    cells = load_cells(validate(DataConfig, {**keys, **as_in_run(stored, model, tokenizer, keys)}, where="embed"))
    _say_replaced(stored, output, key)
    tell_known_share(tokenizer, cells, allow=allow_low_coverage)
    tokens = tokens_for(network, tokenizer, with_batches(cells, network, model, batch_key))
    log.info(f"embedding {len(tokens):,} cells")
    x_ND = embed_tokens(network, tokens, settings=settings)
    add_vectors(stored, output, key, x_ND)
    return {"file": str(output), "key": key, "cells": len(x_ND), "dimensions": x_ND.shape[1]}


def as_in_run(stored: Path, model: Path, tokenizer: Any, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The matrix and the ids that the run has read, where nothing is asked for and the file has them too."""
    data = _data_of(model)
    asked = () if data is None else ("counts", "gene_ids")
    wanted = {name: getattr(data, name) for name in asked if keys[name] == "auto" != getattr(data, name)}
    if not wanted:
        return {}
    matrices, tables = places_of(stored)
    if "counts" in wanted and wanted["counts"] not in matrices:
        del wanted["counts"]
    if "gene_ids" in wanted and not any(_read_as_well(tokenizer, var, wanted["gene_ids"]) for var in tables.values()):
        del wanted["gene_ids"]
    for name, value in wanted.items():
        log.info(f"{name} {value!r}, as in the run")
    return wanted


def _read_as_well(tokenizer: Any, var: pd.DataFrame, column: str) -> bool:
    """Whether a file has this column of gene ids, and a tokenizer knows no fewer of them than of those found alone."""
    if column != "var_names" and column not in var:
        return False
    named, auto = (_n_known(tokenizer, pick_ids(var, where, path="var")[0]) for where in (column, "auto"))
    return named >= auto


def _n_known(tokenizer: Any, ids: np.ndarray) -> int:
    """Genes of its vocabulary that a tokenizer finds among gene ids."""
    try:
        return known_columns(tokenizer, ids.tolist(), where="var")[1]
    except DataError:  # none
        return 0


def _say_replaced(stored: Path, output: Path, key: str) -> None:
    """What of earlier work the output takes the place of, before the work."""
    if output.exists():
        log.warning(f"{output} is there already and is replaced")
    if key in obsm_keys(stored):
        log.warning(
            f"{stored}: the copy gets a new obsm[{key!r}] in place of the one that is there; --key names another"
        )


def one_store(file: str, *, verb: str) -> Path:
    """The one .h5ad file or zarr group that a word on the command line means, on this machine."""
    if is_remote(file):
        raise DataError(
            f"the address {file.partition('?')[0]}", wanted="an .h5ad file or zarr group of this machine",
            where=f"scmf {verb}", fix="copy it here first; the output is a copy of it with what is added",
        )  # fmt: skip
    sources = sources_of(file, None)
    for source in sources:
        source.close()
    if len(sources) > 1:
        raise DataError(
            f"{len(sources)} stores, the first {sources[0].root}", wanted="one .h5ad file or zarr group", where=file,
            fix=f"call `scmf {verb}` once for each of them",
        )  # fmt: skip
    return Path(sources[0].root)


def with_batches(cells: LoadedCells, network: Any, model: Path, batch_key: str | None) -> LoadedCells:
    """The cells with the column of their batch named, where the embedding depends on it."""
    if not embeds_by_batch(network):
        if batch_key is not None:
            log.warning("--batch-key is not used: what this model says of a cell does not depend on the batch")
        return cells
    run = RunFolder.find(model)
    key = batch_key or (None if run is None else run.config.data.batch_key)
    known = [str(column) for column in cells.obs.columns]
    if key is None or key not in known:
        raise DataError(
            "no column with the batch" if key is None else f"no column {key!r} in obs",
            wanted="the batch of each cell, which this model reads", where=cells.facts.dataset,
            fix=f"--batch-key COLUMN, one of {', '.join(known)}" if known else "add the column to obs",
        )  # fmt: skip
    return replace(cells, facts=replace(cells.facts, batch_key=key))


def embedding_settings(
    model: Path, network: Any, *, layer: int | None, pooling: str | None, batch_size: int | None
) -> EvalConfig:
    """The layer and pooling that are asked for, else those of the run, else those the family was published with."""
    usual_layer, usual_pooling = network.embedding_defaults
    if (run := RunFolder.find(model)) is not None:
        of_run = run.config.eval
        usual_layer, usual_pooling = of_run.embedding_layer, of_run.pooling
    keys = {
        "embedding_layer": usual_layer if layer is None else layer,
        "pooling": usual_pooling if pooling is None else pooling,
    }
    if batch_size is not None:
        keys["batch_size"] = batch_size
    settings: EvalConfig = validate(EvalConfig, keys, where="embed")
    return settings


def _recipe_name(model: Path) -> str:
    """Name of the recipe a run was made with, else the name of the folder."""
    run = RunFolder.find(model)
    return (model.resolve().name if run is None else Path(str(run.fact("recipe"))).name) or "model"
