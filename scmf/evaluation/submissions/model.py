"""A trained model as a submission: its weights with their tokenizer, beside the same network before training.

Lives here: what a network gives to each benchmark. Lives elsewhere: embedding (scmf.models.embed), fine-tuning
(scmf.training.finetune), edges and gene vectors of a network (gene_network.model_edges).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf.core.config.recipe import Recipe
from scmf.core.config.run import EvalConfig, validate
from scmf.core.errors import DataError
from scmf.core.files import sha256_file
from scmf.data.loading.facts import LoadedCells
from scmf.data.loading.load import load_cells
from scmf.data.stores.ragged import Ragged
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.gene_network.model_edges import gene_vectors, model_edges
from scmf.evaluation.perturbation.baselines import linear
from scmf.evaluation.submissions.protocol import EmptySubmission, Origin, TrainingCells
from scmf.evaluation.tasks import Task, data_of
from scmf.models.checkpoint import class_names, copy_frozen, is_classifier, load_run_model
from scmf.models.embed import classify_tokens, embed_tokens, embeds_by_batch, on_device
from scmf.models.published.names import find_model
from scmf.models.run_folder import RunFolder
from scmf.results.result import ALL_CELLS
from scmf.tokenizers.build import BATCH_IDS, refuse_missing_batches, tokenize
from scmf.tokenizers.coverage import tell_known_share
from scmf.training.data import Prepared
from scmf.training.finetune import finetune

log = logging.getLogger(__name__)

KNOWN_GENES = 5
"""Perturbed training genes that a model must have vectors for: those of two genes are all alike but for a sign."""


def tokens_for(model: Any, tokenizer: Any, cells: LoadedCells, *, draw: int = 0) -> Ragged:
    """Tokens of cells for a model, with their batch only where the embedding depends on it.

    ``draw`` is the number of the draw of a tokenizer that draws at random.

    Raises
    ------
    DataError
        The model needs the batch, and a cell has none or one that the model does not know.
    """
    if not embeds_by_batch(model):
        return tokenize(tokenizer, cells.without_batches(), draw=draw)
    if cells.facts.batch_key is None:
        raise DataError(
            "cells without batches", wanted="the batch of each cell, which this model reads",
            where=cells.facts.dataset, fix="name the column: data.batch_key, or --batch-key of `scmf embed`",
        )  # fmt: skip
    tokens = tokenize(tokenizer, cells, draw=draw, batch_names=getattr(model.config, "batch_names", None))
    refuse_missing_batches(tokens.cell_tensors[BATCH_IDS], key=cells.facts.batch_key, where=cells.facts.dataset)
    return tokens


def with_batch_size(settings: EvalConfig, batch_size: int | None) -> EvalConfig:
    """The settings with another number of cells in a forward pass; as they are for None."""
    if batch_size is None:
        return settings
    return validate(EvalConfig, {**settings.model_dump(), "batch_size": batch_size}, where="batch_size")


@dataclass(frozen=True)
class ModelSubmission(EmptySubmission):
    """Weights with their tokenizer, and the same network before training.

    Parameters
    ----------
    model, tokenizer
        The network and what its tokens are made by.
    settings
        Layer, pooling and batch size of the embedding.
    recipe
        What the model was trained by; None for a bare checkpoint, which cannot be fine-tuned.
    folder
        Folder of the run.
    methods
        Which of the two networks are scored.
    prepared
        The run's own cells and their tokens, which are taken as they are; other cells are tokenized first.
    allow_low_coverage
        Score cells of which the tokenizer knows less than a fifth, too.
    """

    model: Any
    tokenizer: Any
    settings: EvalConfig
    recipe: Recipe | None = None
    folder: Path | None = None
    methods: tuple[str, ...] = ("pretrained", "untrained")
    prepared: Prepared | None = None
    allow_low_coverage: bool = False

    @classmethod
    def of_recipe(cls, recipe: Recipe, model: Any, prepared: Prepared, folder: Path) -> ModelSubmission:
        """The model of a recipe on its own cells, with the folder of its run."""
        origin = Origin(
            recipe.name, recipe.variant, "mini", recipe.digest, (str(folder),), seed=recipe.config.training.seed,
            parameters=sum(value.numel() for value in model.parameters()),
        )  # fmt: skip
        return cls(origin, model, prepared.tokenizer, recipe.config.eval, recipe, folder, prepared=prepared)

    @classmethod
    def of_folder(
        cls, word: Path | str, *, device: str | None = None, batch_size: int | None = None,
        allow_low_coverage: bool = False,
    ) -> ModelSubmission:  # fmt: skip
        """The model of a run's folder (with ``run.json``), of a checkpoint, or of a name."""
        found = find_model(word)
        folder = found.folder
        model, tokenizer = load_run_model(folder)
        model = on_device(model, device)
        run = RunFolder.find(folder)
        parameters = sum(value.numel() for value in model.parameters())
        layer, pooling = model.embedding_defaults
        if run is None:
            weights = folder / "model.safetensors"
            origin = Origin(
                found.recipe or folder.resolve().name, found.variant or "checkpoint", "published",
                sha256_file(weights), (found.word,), parameters=parameters,
            )  # fmt: skip
            settings = with_batch_size(EvalConfig(embedding_layer=layer, pooling=pooling), batch_size)
            return cls(
                origin, model, tokenizer, settings, folder=folder, allow_low_coverage=allow_low_coverage
            )  # fmt: skip
        config = run.config
        corpus = config.data.dataset or ", ".join(config.data.file_names) or "streamed"
        held = (run.facts.get("provenance") or {}).get("data") or {}
        cells = None
        if held.get("sha256"):
            cells = TrainingCells(
                str(held.get("dataset", corpus)), str(held["sha256"]), config.data.split, held.get("split_sha256"),
                card=config.data.dataset is not None, streamed=config.data.streamed,
            )  # fmt: skip
        origin = Origin(
            run.fact("recipe"), run.fact("variant"), "mini", run.fact("recipe_digest"), (str(folder),),
            seed=run.fact("seed"), parameters=parameters, corpora=(f"{corpus}.{config.data.split or ALL_CELLS}",),
            trained_on=cells,
        )  # fmt: skip
        settings = with_batch_size(config.eval, batch_size)
        return cls(
            origin, model, tokenizer, settings, run.recipe(), run.path, allow_low_coverage=allow_low_coverage
        )  # fmt: skip

    @cached_property
    def untrained(self) -> Any:
        """The same shape, before any step: for weights trained by a recipe, those that training began with."""
        torch.manual_seed(self.origin.seed or 0)
        network = type(self.model)(deepcopy(self.model.config)).eval().to(next(self.model.parameters()).device)
        copy_frozen(self.model, network)
        return network

    @property
    def networks(self) -> dict[str, Any]:
        """Method to network."""
        return {method: self.model if method == "pretrained" else self.untrained for method in self.methods}

    def read(self, task: Task, adata: LoadedCells) -> LoadedCells:
        """The cells as this model reads them: symbols taken to Ensembl ids where its tokenizer knows only those."""
        kind = adata.facts.gene_ids
        ensembl = any(str(token).startswith("ENSG") for token in self.tokenizer.get_vocab())
        if kind == "symbol" and ensembl and task.gene_set is not None:
            adata = load_cells(data_of(task, gene_set=task.gene_set))
        return adata

    def prepare(self, task: Task, cells: TaskCells) -> Prepared:
        """Cells and tokens: those of the run for its own cells.

        Of other cells the batch is read only where the embedding depends on it.
        """
        if self.prepared is not None and cells.adata is self.prepared.cells:
            return self.prepared
        adata = self.read(task, cells.adata)
        tell_known_share(self.tokenizer, adata, allow=self.allow_low_coverage)
        return Prepared(adata, self.tokenizer, tokens_for(self.model, self.tokenizer, adata))

    def embed(self, tokens: Ragged) -> dict[str, np.ndarray]:
        """Method to embeddings (N, D) by the layer and pooling of the run."""
        return {name: embed_tokens(network, tokens, settings=self.settings) for name, network in self.networks.items()}

    @cached_property
    def own_vectors(self) -> dict[str, np.ndarray]:
        """Method to embeddings (N, D) of the run's own cells, computed once."""
        assert self.prepared is not None
        return self.embed(self.prepared.tokens)

    def vectors(self, task: Task, cells: TaskCells) -> Mapping[str, np.ndarray]:
        """Embeddings by the layer and pooling of the run."""
        try:
            prepared = self.prepare(task, cells)
        except DataError as error:
            if not embeds_by_batch(self.model):
                raise
            log.warning(f"no vectors of {task.dataset}.{task.split}, the model reads the batch: {error.found}")
            return {}
        return self.own_vectors if prepared is self.prepared else self.embed(prepared.tokens)

    def labels(self, task: Task, cells: TaskCells) -> Iterator[tuple[str, np.ndarray]]:
        """Labels by the head of a classifier, else by one that is fine-tuned as the run's recipe says, else nothing."""
        if is_classifier({"architectures": self.model.config.architectures}):
            yield from self._own_labels(task, cells)
            return
        if self.recipe is None or self.folder is None or self.settings.finetune is None:
            return
        prepared = self.prepare(task, cells)
        own = prepared is self.prepared
        out = self.folder if own else self.folder / "tasks" / f"{task.dataset}.{task.split}"
        for method in self.methods:
            log.info(f"fine-tuning a head, {method}")
            yield method, finetune(self.recipe, prepared, RunFolder(self.folder).model, out, method=method)

    def _own_labels(self, task: Task, cells: TaskCells) -> Iterator[tuple[str, np.ndarray]]:
        """Labels of the test cells by the classifier that the model is, where it was trained for those of the task."""
        classes, truth = class_names(self.model.config), cells.labels
        if strange := sorted(set(truth.labels[truth.rows("train")]) - set(classes)):
            log.warning(f"{task.dataset}: no labels: the classifier was not trained for {', '.join(strange[:6])}")
            return
        tokens = self.prepare(task, cells).tokens.select(truth.rows("test"))
        logits_NC = classify_tokens(self.model, tokens, batch_size=self.settings.batch_size)
        yield "pretrained", np.array(classes)[logits_NC.argmax(axis=1)]

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """The linear model of Ahlmann-Eltze et al. with the gene vectors of the network."""
        pairs = [*truth.pairs, *truth.training_pairs]
        perturbed = sorted({gene for _, condition in pairs for gene in truth.genes_of(condition)})
        found = {name: gene_vectors(network, self.tokenizer, perturbed) for name, network in self.networks.items()}
        trained = {gene for _, condition in truth.training_pairs for gene in truth.genes_of(condition)}
        enough = {name: table for name, table in found.items() if len(trained & set(table)) >= KNOWN_GENES}
        return {f"{name}-linear": linear(truth, gene_embeddings=table) for name, table in enough.items()}

    def edges(self, task: Task, adata: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Edges from attention, gene vectors and in-silico knock-out, where the network can."""
        mine = self.read(task, adata)
        found: dict[str, Any] = {}
        for name, network in self.networks.items():
            for kind, edges in model_edges(
                network, self.tokenizer, mine, regulators=regulators, targets=targets
            ).items():
                found[f"{name}-{kind}"] = edges
        return found
