"""The verb ``predict``: labels of cells with their probabilities, by a fine-tuned classifier, in a copy of an AnnData.

Lives here: from a file to a new file. Lives elsewhere: the logits (scmf.models.embed), the classifier
(scmf.training.finetune), writing into a copy (scmf.data.stores.adata_added).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.config.run import DataConfig, EvalConfig, validate
from scmf.core.errors import ModelError
from scmf.core.outputs import try_file
from scmf.data.loading.load import load_cells
from scmf.data.stores.adata_added import add_predictions, check_obsm_key
from scmf.data.stores.adata_files import stored_bytes
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.open import one_store
from scmf.evaluation.as_in_run import as_in_run, batch_column
from scmf.evaluation.submissions.model import tokens_for
from scmf.models.checkpoint import class_names, is_classifier, load_run_model
from scmf.models.embed import classify_tokens, on_device
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.coverage import tell_known_share

log = logging.getLogger(__name__)


def predict_to_file(
    model: Path | str,
    file: Path | str,
    *,
    output: Path | None = None,
    key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    counts_rounding: Rounding = "error",
    batch_key: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    allow_low_coverage: bool = False,
) -> dict[str, Any]:
    """Write a copy of an AnnData file with the label of every cell.

    Parameters
    ----------
    model
        Folder of a run or of a checkpoint with a classifier, or a name; see `scmf.models.published.names.find_model`.
    file
        .h5ad file or zarr group with raw counts.
    output
        New file, or zarr group where the input is one; ``<file>.predicted.h5ad`` when None.
    key
        ``obs[key]`` gets the label, ``obs[key + "_probability"]`` its probability, ``obsm[key]`` the probabilities of
        all classes, ``uns[key]`` their names and the model; ``predicted_<label column of the run>`` when None.
    counts, gene_ids, counts_rounding, batch_key, batch_size, device, allow_low_coverage
        As in `scmf.evaluation.embed_file.embed_to_file`.

    Returns
    -------
    dict
        ``file``, ``key``, ``cells``, ``labels`` (class -> cells), ``coverage``.

    Raises
    ------
    ModelError
        The model is no classifier.
    """
    stored = one_store(str(file), verb="predict")
    found = find_model(model)
    run = RunFolder.find(found.folder)
    if key is None:
        key = f"predicted_{(None if run is None else run.config.data.label_key) or 'cell_type'}"
    check_obsm_key(key, where="--key")
    ending = ".zarr" if stored.is_dir() else ".h5ad"
    output = Path(output) if output is not None else stored.with_name(f"{stored.stem}.predicted{ending}")
    try_file(output, option="--out", endings=(ending,), inputs=[stored], need=stored_bytes(stored))
    log.info("loading model and cells")
    network, tokenizer = load_run_model(found.folder)
    if not is_classifier({"architectures": network.config.architectures}):
        raise ModelError(
            "a network without a classifier", wanted="one that was fine-tuned for cell types", where=found.word,
            fix="scmf finetune --base-model MODEL --data CELLS --task cell_type_annotation --out RUN",
        )  # fmt: skip
    network = on_device(network, device)
    keys: dict[str, Any] = {
        "files": [stored],
        "counts": counts,
        "gene_ids": gene_ids,
        "counts_rounding": counts_rounding,
    }
    keys |= as_in_run(stored, found.folder, tokenizer, keys)
    cells = load_cells(validate(DataConfig, keys, where="predict"))
    if output.exists():
        log.warning(f"{output} is there already and is replaced")
    share = tell_known_share(tokenizer, cells, allow=allow_low_coverage)
    column = batch_column(network, found.folder, batch_key, cells.obs.columns, where=cells.facts.dataset)
    if column is not None:
        cells = replace(cells, facts=replace(cells.facts, batch_key=column))
    tokens = tokens_for(network, tokenizer, cells)
    log.info(f"predicting {len(tokens):,} cells")
    usual = (EvalConfig() if run is None else run.config.eval).batch_size
    p_NC = probabilities(classify_tokens(network, tokens, batch_size=batch_size or usual))
    classes = class_names(network.config)
    best_N = p_NC.argmax(axis=1)
    columns = {
        key: pd.Categorical(np.array(classes)[best_N], categories=classes),
        f"{key}_probability": p_NC.max(axis=1),
    }
    facts = {"classes": np.array(classes, dtype=object), "model": found.word}
    if add_predictions(stored, output, key, columns=columns, x_NC=p_NC, facts=facts):
        log.warning(f"{stored}: the copy gets new values of {key!r} in place of those that are there")
    counted = np.bincount(best_N, minlength=len(classes))
    return {
        "file": str(output), "key": key, "cells": len(p_NC),
        "labels": dict(zip(classes, counted.tolist(), strict=True)),
        "coverage": str(share),
    }  # fmt: skip


def probabilities(logits_NC: np.ndarray) -> np.ndarray:
    """Softmax of logits, float32 (N, C)."""
    shifted_NC = logits_NC.astype(np.float64)
    shifted_NC -= shifted_NC.max(axis=1, keepdims=True)
    p_NC = np.exp(shifted_NC)
    return np.asarray(p_NC / p_NC.sum(axis=1, keepdims=True), np.float32)
