"""One run of a configuration: cells, tokens, a trained model, embeddings, scores.

This is where the rooms meet: data gives cells, the tokenizer tokens, the model weights, training a
loop, eval benchmarks. ``scmf train``, ``evaluate``, ``embed`` and ``reproduce`` are made of these
functions. Lives elsewhere: judging (results), seeds and tiers (reproduce), pages (report).

A run's folder::

    run.json               recipe, variant, seed, digest, configuration, provenance
    pretraining/           log.jsonl, checkpoints/
    model/                 weights, configuration, code and tokenizer: loads without scmf
    finetuning/<method>/   log.jsonl, checkpoints/, predictions
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf.core import provenance
from scmf.core import registry as plugins
from scmf.core.config.recipe import Recipe
from scmf.core.config.run import EvalConfig, RunConfig, TrainingConfig
from scmf.core.distributed import is_main
from scmf.core.errors import ConfigError, ModelError, from_value_error
from scmf.core.files import sha256_json, write_json
from scmf.data.loading.load import load_cells
from scmf.data.tokens.tokens import PerEpochTokens, TokenCells
from scmf.evaluation.annotation.benchmark import HEAD, Annotation
from scmf.evaluation.baselines import baseline_representations
from scmf.evaluation.integration.benchmark import Integration
from scmf.evaluation.score import CellLabels, Score
from scmf.hub.origin import RECORD, Checkpoint, training_record
from scmf.models.checkpoint import build_model, copy_frozen, load_weights, save_model
from scmf.models.embed import classify_tokens, embed_tokens
from scmf.tokenizers.build import (
    fitted_tokenizer,
    given_tokenizer,
    learn_columns,
    obs_columns,
    tokenize,
    training_tokens,
)
from scmf.training.loop import EvaluationCallback, TrainingReport, train
from scmf.training.objectives import CellClassification
from scmf.training.streaming import Streamed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Cells and their tokens.

    Parameters
    ----------
    cells
        AnnData as `scmf.data.loading.load.load_cells` returns it.
    tokenizer
        Fitted on the training cells or built from a published vocabulary.
    tokens
        Tokens of all cells, in their order.
    """

    cells: Any
    tokenizer: Any
    tokens: TokenCells

    def part(self, name: str) -> np.ndarray:
        """Indices of the cells of part ``name``; without a split all cells train."""
        if "part" not in self.cells.obs:
            return np.arange(self.cells.n_obs if name == "train" else 0)
        return np.flatnonzero(self.cells.obs["part"].to_numpy() == name)

    @property
    def facts(self) -> dict[str, Any]:
        """What the cells are, for provenance."""
        return {key: self.cells.uns["scmf"][key] for key in ("dataset", "sha256", "split", "split_sha256")}

    @property
    def n_training(self) -> int:
        """Training cells."""
        return len(self.part("train"))

    @property
    def batch_names(self) -> list[str]:
        """Batches of the cells, sorted: what ``batch_ids`` counts. Empty without a batch column."""
        key = self.cells.uns["scmf"].get("batch_key")
        return sorted(set(self.cells.obs[key].astype(str))) if key and key in self.cells.obs else []

    def batches(self, training: TrainingConfig) -> TokenCells | PerEpochTokens:
        """The training cells, in memory, drawn anew each epoch where the tokenizer draws."""
        return training_tokens(self.tokenizer, self.cells, self.tokens, self.part("train"))

    def valid_tokens(self) -> TokenCells:
        """The validation cells."""
        return self.tokens.select(self.part("valid"))

    @property
    def digest(self) -> str:
        """Digest of what the model is trained on: file, split and vocabulary."""
        facts = self.cells.uns["scmf"]
        return sha256_json([facts["sha256"], facts["split_sha256"], self.tokenizer.fingerprint])


# --- cells and tokens -----------------------------------------------------------------------------


def prepare(config: RunConfig) -> Prepared:
    """Load the cells of ``config.data`` and tokenize them.

    Raises
    ------
    DataError
        For anything wrong with the cells; an empty cell is named.
    """
    log.info("loading cells")
    cells = load_cells(config.data)
    log.info(f"tokenizing {cells.n_obs:,} cells")
    fit = config.tokenizer.vocabulary == "fit"
    tokenizer = fitted_tokenizer(config, cells) if fit else given_tokenizer(config.tokenizer)
    learn_columns(tokenizer, obs_columns(tokenizer, cells.obs))
    return Prepared(cells, tokenizer, tokenize(tokenizer, cells))


# --- training -------------------------------------------------------------------------------------


def pretrain(
    recipe: Recipe,
    prepared: Prepared | Streamed,
    out: Path,
) -> tuple[Any, TrainingReport]:
    """Pretrain the model of ``recipe`` on the training cells, in memory or streamed, and save it under ``out``."""
    config, tokenizer = recipe.config, prepared.tokenizer
    model = build_model(config, tokenizer, seed=config.training.seed, batch_names=prepared.batch_names)
    objective_class = plugins.resolve("objectives", config.training.pretraining_task)
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
        "provenance": provenance.collect(data=prepared.facts),
    }
    if is_main():
        write_json(out / "run.json", facts)
    log.info(f"pretraining on {prepared.n_training:,} cells")
    report = train(
        model,
        prepared.batches(config.training),
        objective=objective,
        settings=config.training,
        out=out / "pretraining",
        digest=digest,
        valid=prepared.valid_tokens(),
        callbacks=_inline(config.eval, prepared),
        evaluate_every=config.eval.every_n_epochs,
    )
    if is_main():
        save_model(model, tokenizer, out / "model")
        write_json(out / "model" / RECORD, training_record(Checkpoint.at(out)))
    return model, report


def _inline(
    settings: EvalConfig,
    prepared: Prepared | Streamed,
) -> list[EvaluationCallback]:
    """What is scored during training: a probe of the run's own cells, and the tasks that are asked for."""
    callbacks = _inline_probe(settings, prepared) if isinstance(prepared, Prepared) else []
    if settings.tasks and is_main():
        from scmf.evaluation.run import inline

        callbacks.append(inline(settings.tasks, prepared.tokenizer, settings))
    return callbacks


def _inline_probe(settings: EvalConfig, prepared: Prepared) -> list[EvaluationCallback]:
    """Probes of the run's own cells, from training to validation cells."""
    facts = prepared.cells.uns["scmf"]
    if "annotation" not in settings.benchmarks or not facts.get("label_key") or "part" not in prepared.cells.obs:
        return []
    truth = CellLabels.of(prepared.cells)
    rows = np.flatnonzero(np.isin(truth.parts, ("train", "valid")))
    parts = np.where(truth.parts[rows] == "valid", "test", "train")
    inner = CellLabels(truth.labels[rows], None, parts)
    if not (parts == "test").any() or set(inner.labels[parts == "test"]) - set(inner.labels[parts == "train"]):
        return []
    tokens = prepared.tokens.select(rows)
    benchmark = Annotation(knn_neighbors=settings.knn_neighbors)

    def probe(model: Any, epoch: int, step: int) -> dict[str, float]:
        x_ND = embed_tokens(model, tokens, settings=settings)
        scores = benchmark.run({"pretrained": x_ND}, inner)
        return {f"valid_{s.protocol}_{name}": value for s in scores for name, value in s.metrics.items()}

    return [probe]


def finetune(
    recipe: Recipe,
    prepared: Prepared,
    folder: Path,
    out: Path,
    *,
    method: str,
) -> np.ndarray:
    """Fine-tune a cell-type head and predict labels.

    Parameters
    ----------
    folder
        Weights that give the shape and, for ``pretrained``, the start.
    method
        ``pretrained``, or ``untrained``: the same network and budget from random weights, which says
        how much of the score is due to pretraining.

    Returns
    -------
    numpy.ndarray
        Labels of the test cells, str (n_test,).
    """
    settings = recipe.config.eval.finetune
    if settings is None:
        raise ConfigError("eval.finetune is null", wanted="a section", where="eval.finetune", fix="give its keys")
    truth, seed = CellLabels.of(prepared.cells), recipe.config.training.seed
    truth.check_trained_labels()
    rows, test = truth.rows("train"), truth.rows("test")
    classes, labels = np.unique(truth.labels[rows], return_inverse=True)
    torch.manual_seed(seed)
    model = _classifier(
        folder, classes.tolist(), pooling=settings.pooling, pretrained=method == "pretrained", seed=seed
    )
    model.freeze_first(settings.freeze_layers)
    loop = TrainingConfig(
        **settings.model_dump(exclude={"freeze_layers", "pooling"}),
        precision=recipe.config.training.precision,
        seed=seed,
    )
    weights = {name: value.double().sum().item() for name, value in model.state_dict().items()}
    train(
        model,
        _with_labels(prepared, rows, labels),
        objective=CellClassification(),
        settings=loop,
        out=out / "finetuning" / method,
        digest=sha256_json([recipe.digest, seed, prepared.digest, weights]),
        evaluate_every=0,
    )
    logits_NC = classify_tokens(
        model,
        prepared.tokens.select(test),
        batch_size=recipe.config.eval.batch_size,
    )
    return classes[logits_NC.argmax(axis=1)]


def _with_labels(prepared: Prepared, rows: np.ndarray, labels: np.ndarray) -> TokenCells | PerEpochTokens:
    """The cells ``rows`` with their classes, drawn anew each epoch where the tokenizer draws."""
    tokens = training_tokens(prepared.tokenizer, prepared.cells, prepared.tokens, rows)
    labels = np.asarray(labels, np.int64)
    if isinstance(tokens, TokenCells):
        return tokens.with_cells(labels=labels)
    draw = tokens.draw
    return PerEpochTokens(lambda epoch: draw(epoch).with_cells(labels=labels))


def _classifier(folder: Path, classes: list[str], *, pooling: str, pretrained: bool, seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    head = {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
        "classifier_pooling": pooling,
    }
    try:
        trained = load_weights(AutoModelForSequenceClassification, folder, **head)
    except ValueError as error:
        raise from_value_error(ModelError, error, where="eval.finetune") from error
    if pretrained:
        return trained
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder, **head))
    copy_frozen(trained, model)
    return model


# --- scores ---------------------------------------------------------------------------------------


def baselines(prepared: Prepared) -> dict[str, np.ndarray]:
    """Vectors of all cells without a model; they depend on the cells and the split alone."""
    log.info("baselines: highly variable genes, principal components")
    threads = torch.get_num_threads()
    vectors = baseline_representations(prepared.cells, prepared.part("train"))
    torch.set_num_threads(threads)  # thread pools are limited and let go on the way, torch's with them
    return vectors


def representations(
    recipe: Recipe,
    prepared: Prepared,
    model: Any,
) -> dict[str, np.ndarray]:
    """Vectors of all cells by the model: pretrained, and untrained."""
    config = recipe.config
    log.info("embedding cells")
    # The same shape, before any step: for weights trained here, those that training began with.
    torch.manual_seed(config.training.seed)
    untrained = type(model)(deepcopy(model.config))
    copy_frozen(model, untrained)
    return {
        "pretrained": embed_tokens(model, prepared.tokens, settings=config.eval),
        "untrained": embed_tokens(untrained, prepared.tokens, settings=config.eval),
    }


def evaluate(
    recipe: Recipe,
    prepared: Prepared,
    vectors: dict[str, np.ndarray],
    *,
    baselines: dict[str, np.ndarray],
    out: Path,
    score_baselines: bool = True,
) -> Iterator[Score]:
    """Run the benchmarks of ``recipe``; fine-tune from ``out/model`` if the recipe asks for it.

    Parameters
    ----------
    vectors, baselines
        From `representations` and `baselines`.
    out
        Folder of the run.
    score_baselines
        Score the methods without a seed too; once is enough for many seeds.
    """
    scored = {**vectors, **(baselines if score_baselines else {})}
    settings = recipe.config.eval
    truth = CellLabels.of(prepared.cells)
    if "annotation" in settings.benchmarks:
        benchmark = Annotation(knn_neighbors=settings.knn_neighbors)
        log.info("annotation: probes")
        if score_baselines:
            yield benchmark.majority(truth)
        yield from benchmark.run(scored, truth)
        if settings.finetune is not None:
            for method in ("pretrained", "untrained"):
                log.info(f"annotation: fine-tuning a head, {method}")
                started = time.perf_counter()
                predicted = finetune(recipe, prepared, out / "model", out, method=method)
                yield benchmark.scored(predicted, truth, protocol=HEAD, method=method, started=started)
    if "integration" in settings.benchmarks:
        embeddings = {name: x_ND for name, x_ND in scored.items() if name != "hvg"}
        yield from Integration().run(embeddings, truth, unintegrated=baselines["pca"])
