"""The verb ``predict``: labels of cells with their probabilities, by a fine-tuned classifier, in a copy of an AnnData.

Lives here: from a file to a new file, and from an AnnData to another. Lives elsewhere: the logits (scmf.models.embed),
the classifier (scmf.training.finetune), writing into a copy (scmf.data.stores.adata_added, adata_memory).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.config.run import DataConfig, EvalConfig, validate
from scmf.core.errors import ModelError
from scmf.core.outputs import try_file
from scmf.core.python_words import for_python
from scmf.data.loading.load import load_cells
from scmf.data.stores.adata_added import add_predictions, check_obsm_key
from scmf.data.stores.adata_files import stored_bytes
from scmf.data.stores.adata_memory import IN_MEMORY, check_target, in_memory, put, target_of
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.open import one_store
from scmf.evaluation.as_in_run import as_in_run, batch_column
from scmf.evaluation.made_by import made_by
from scmf.evaluation.submissions.model import tokens_for, with_batch_size
from scmf.models.checkpoint import class_names, is_classifier, load_run_model
from scmf.models.embed import classify_tokens, on_device
from scmf.models.published.names import FoundModel, find_model
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
    asked = _Asked.of(model, key)
    ending = ".zarr" if stored.is_dir() else ".h5ad"
    output = Path(output) if output is not None else stored.with_name(f"{stored.stem}.predicted{ending}")
    try_file(output, option="--out", endings=(ending,), inputs=[stored], need=stored_bytes(stored))
    made = asked.predict(
        stored, counts=counts, gene_ids=gene_ids, counts_rounding=counts_rounding, batch_key=batch_key,
        batch_size=batch_size, device=device, allow_low_coverage=allow_low_coverage, before=lambda: _say(output),
    )  # fmt: skip
    if add_predictions(
        stored, output, made.key, columns=made.columns, x_NC=made.p_NC, facts=made.facts, record=made.record
    ):
        log.warning(f"{stored}: the copy gets new values of {made.key!r} in place of those that are there")
    return {
        "file": str(output), "key": made.key, "cells": len(made.p_NC), "labels": made.n_cells,
        "coverage": made.coverage,
    }  # fmt: skip


@for_python
def predict(
    adata: AnnData,
    model: Path | str,
    *,
    inplace: bool = False,
    key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    counts_rounding: Rounding = "error",
    batch_key: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    allow_low_coverage: bool = False,
) -> AnnData:
    """Label the cells of an AnnData with a fine-tuned classifier, as `predict_to_file` does those of a file.

    Parameters
    ----------
    adata
        Cells with raw counts: in memory, a view, or backed by a file.
    model, key, counts, gene_ids, counts_rounding, batch_key, batch_size, device, allow_low_coverage
        See `predict_to_file`.
    inplace
        Add the labels to ``adata`` itself instead of a copy.

    Returns
    -------
    AnnData
        With what `predict_to_file` writes: a copy in memory, or ``adata``.
    """
    held = in_memory(adata)
    asked = _Asked.of(model, key)
    check_target(adata, inplace=inplace, columns=(asked.key, f"{asked.key}_probability"))
    made = asked.predict(
        held, counts=counts, gene_ids=gene_ids, counts_rounding=counts_rounding, batch_key=batch_key,
        batch_size=batch_size, device=device, allow_low_coverage=allow_low_coverage,
    )  # fmt: skip
    result = target_of(adata, held, inplace=inplace)
    if put(result, made.key, made.p_NC, columns=made.columns, facts=made.facts, record=made.record):
        log.warning(f"new values of {made.key!r} in place of those that are there")
    return result


def _say(output: Path) -> None:
    if output.exists():
        log.warning(f"{output} is there already and is replaced")


@dataclass(frozen=True)
class _Predicted:
    """Probabilities of classes for some cells."""

    key: str
    p_NC: np.ndarray
    classes: list[str]
    model: FoundModel
    coverage: str

    @property
    def columns(self) -> dict[str, Any]:
        """What ``obs`` gets."""
        labels = np.array(self.classes)[self.p_NC.argmax(axis=1)]
        return {
            self.key: pd.Categorical(labels, categories=self.classes),
            f"{self.key}_probability": self.p_NC.max(axis=1),
        }

    @property
    def facts(self) -> dict[str, Any]:
        """What ``uns`` gets."""
        return {"classes": np.array(self.classes, dtype=object), "model": self.model.word}

    @property
    def record(self) -> dict[str, Any]:
        """What made them, as ``uns["scmf"]`` says it."""
        return made_by(self.model, coverage=self.coverage)

    @property
    def n_cells(self) -> dict[str, int]:
        """Class -> cells."""
        counted = np.bincount(self.p_NC.argmax(axis=1), minlength=len(self.classes))
        return dict(zip(self.classes, counted.tolist(), strict=True))


@dataclass(frozen=True)
class _Asked:
    """A classifier, and the key of its labels."""

    model: FoundModel
    key: str

    @classmethod
    def of(cls, model: Path | str, key: str | None) -> _Asked:
        """Find the model; nothing is loaded."""
        found = find_model(model)
        run = RunFolder.find(found.folder)
        if key is None:
            key = f"predicted_{(None if run is None else run.config.data.label_key) or 'cell_type'}"
        check_obsm_key(key, where="--key")
        return cls(found, key)

    def predict(
        self, stored: Path | AnnData, *, counts: str, gene_ids: str, counts_rounding: Rounding, batch_key: str | None,
        batch_size: int | None, device: str | None, allow_low_coverage: bool, before: Callable[[], None] | None = None,
    ) -> _Predicted:  # fmt: skip
        """Label the cells of a file or in memory; ``before`` is called when they are known to be usable."""
        found, run = self.model, RunFolder.find(self.model.folder)
        log.info("loading model and cells")
        network, tokenizer = load_run_model(found.folder)
        if not is_classifier({"architectures": network.config.architectures}):
            raise ModelError(
                "a network without a classifier", wanted="one that was fine-tuned for cell types", where=found.word,
                fix="scmf finetune --base-model MODEL --data CELLS --task cell_type_annotation --out RUN",
            )  # fmt: skip
        network = on_device(network, device)
        adata = stored if isinstance(stored, AnnData) else None
        keys: dict[str, Any] = {
            "files": [IN_MEMORY if adata is not None else stored],
            "counts": counts,
            "gene_ids": gene_ids,
            "counts_rounding": counts_rounding,
        }
        keys |= as_in_run(stored, found.folder, tokenizer, keys)
        cells = load_cells(validate(DataConfig, keys, where="predict"), adata=adata)
        if before is not None:
            before()
        share = tell_known_share(tokenizer, cells, allow=allow_low_coverage)
        column = batch_column(network, found.folder, batch_key, cells.obs.columns, where=cells.facts.dataset)
        if column is not None:
            cells = replace(cells, facts=replace(cells.facts, batch_key=column))
        tokens = tokens_for(network, tokenizer, cells)
        log.info(f"predicting {len(tokens):,} cells")
        settings = with_batch_size(EvalConfig() if run is None else run.config.eval, batch_size)
        p_NC = probabilities(classify_tokens(network, tokens, batch_size=settings.batch_size))
        return _Predicted(self.key, p_NC, class_names(network.config), found, str(share))


def probabilities(logits_NC: np.ndarray) -> np.ndarray:
    """Softmax of logits, float32 (N, C)."""
    shifted_NC = logits_NC.astype(np.float64)
    shifted_NC -= shifted_NC.max(axis=1, keepdims=True)
    p_NC = np.exp(shifted_NC)
    return np.asarray(p_NC / p_NC.sum(axis=1, keepdims=True), np.float32)
