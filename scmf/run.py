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

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf import plugins, provenance
from scmf.config import EvalConfig, RunConfig, TrainingConfig
from scmf.data.load import load_cells
from scmf.embedding import classify_tokens, embed_tokens
from scmf.errors import ConfigError, DataError, ModelError, from_value_error
from scmf.eval.annotation import HEAD, Annotation
from scmf.eval.baselines import baseline_representations
from scmf.eval.integration import Integration
from scmf.eval.score import Score, Truth
from scmf.files import sha256_json, write_json
from scmf.recipe import Recipe
from scmf.training.batches import TokenCells
from scmf.training.loop import EvaluationCallback, TrainingReport, train
from scmf.training.objectives import CellClassification

Note = Callable[[str], None]
"""Told in a few words what is going on."""


@dataclass(frozen=True)
class Prepared:
    """Cells and their tokens.

    Parameters
    ----------
    cells
        AnnData as `scmf.data.load.load_cells` returns it.
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
    def digest(self) -> str:
        """Digest of what the model is trained on: file, split and vocabulary."""
        facts = self.cells.uns["scmf"]
        return sha256_json([facts["sha256"], facts["split_sha256"], self.tokenizer.get_vocab()])


# --- cells and tokens -----------------------------------------------------------------------------


def prepare(config: RunConfig, *, progress: bool = True, note: Note = lambda _: None) -> Prepared:
    """Load the cells of ``config.data`` and tokenise them.

    Raises
    ------
    DataError
        For anything wrong with the cells; an empty cell is named.
    """
    note("loading cells")
    cells = load_cells(config.data, progress=progress)
    note(f"tokenising {cells.n_obs:,} cells")
    tokenizer = _tokenizer(config, cells)
    return Prepared(cells, tokenizer, tokenise(tokenizer, cells))


def tokenise(tokenizer: Any, cells: Any) -> TokenCells:
    """Tokens of all cells of an AnnData with raw counts."""
    try:
        ranked = tokenizer.rank(cells.X, cells.var_names)
    except ValueError as error:
        raise from_value_error(DataError, error, where=cells.uns["scmf"]["dataset"]) from error
    return TokenCells(ranked.ids, ranked.offsets)


def _tokenizer(config: RunConfig, cells: Any) -> Any:
    settings = config.tokenizer
    strategy = plugins.resolve("tokenizers", settings.strategy)
    shape = {
        "max_genes": settings.max_genes,
        "special_tokens": settings.special_tokens,
        "faithful": settings.faithful,
    }
    if settings.vocabulary != "fit":
        from scmf.data.vocabulary import load_vocabulary

        tables = load_vocabulary(settings.vocabulary)
        return strategy.from_tables(tables.token_ids, tables.medians, tables.aliases, **shape)
    training = cells[cells.obs["part"] == "train"] if "part" in cells.obs else cells
    try:
        return strategy.fit(training.X, cells.var_names, min_cells=settings.min_cells, **shape)
    except ValueError as error:
        raise from_value_error(DataError, error, where=cells.uns["scmf"]["dataset"]) from error


# --- models ---------------------------------------------------------------------------------------


def build_model(config: RunConfig, tokenizer: Any, *, seed: int) -> Any:
    """A model for the tokenizer: random weights from ``seed``, or those of ``model.checkpoint``.

    Raises
    ------
    ModelError
        If the model needs tensors that the tokenizer does not give, or the checkpoint does not fit.
    """
    family = plugins.resolve("models", config.model.architecture)
    if lacking := sorted(set(family.tensors_needed) - set(tokenizer.model_input_names)):
        raise ModelError(
            f"tokenizer {config.tokenizer.strategy!r} gives {', '.join(tokenizer.model_input_names)}",
            wanted=f"also {', '.join(lacking)} for model {config.model.architecture!r}",
            where="tokenizer.strategy, model.architecture",
            fix="choose another pair",
        )
    settings = config.model.model_dump(exclude={"architecture", "checkpoint"})
    torch.manual_seed(seed)
    if config.model.checkpoint is not None:
        model = load_weights(family, config.model.checkpoint)
        if model.config.vocab_size != len(tokenizer):
            raise ModelError(
                f"weights for {model.config.vocab_size} tokens",
                wanted=f"{len(tokenizer)} tokens, as the tokenizer has",
                where=config.model.checkpoint,
                fix="set tokenizer.vocabulary to the one the weights were trained with",
            )
        return model
    shape = family.config_class.from_settings(
        vocab_size=len(tokenizer),
        max_positions=config.tokenizer.max_genes,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **settings,
    )
    return family(shape)


def load_weights(family: Any, folder: Path | str, **kwargs: Any) -> Any:
    """``from_pretrained`` in float32 that refuses weights which do not fit instead of inventing them."""
    if not (Path(folder) / "config.json").is_file():
        raise ModelError(
            "no config.json", wanted="a folder written by save_pretrained", where=folder, fix="check the path"
        )
    _quiet()  # what it would print (bars, a coloured table) is judged below instead
    try:
        model, report = family.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, **kwargs
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(str(error), wanted="weights that fit the configuration", where=folder) from error
    wrong = {name: sorted(map(str, keys)) for name, keys in report.items() if keys and name.endswith("keys")}
    if kwargs:  # a new head has no weights yet and the pretraining head no place
        wrong = {name: keys for name, keys in wrong.items() if name == "mismatched_keys"}
    if wrong:
        name, keys = next(iter(wrong.items()))
        raise ModelError(
            f"{len(keys)} {name.replace('_', ' ')}, the first {keys[0]}",
            wanted="every weight of the model and no other",
            where=folder,
            fix="convert the checkpoint with the recipe's convert.py",
        )
    return model


def _quiet() -> None:
    """No progress bars of transformers for files of a few megabytes, no tables."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_run_model(folder: Path | str) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint folder, or of the folder of a run that holds ``model/``.

    Only built-in classes are used; code inside the folder is never run.
    """
    from transformers import AutoModelForMaskedLM

    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    for name in plugins.names("models"):
        plugins.resolve("models", name)  # importing a family registers it with the Auto classes
    model = load_weights(AutoModelForMaskedLM, folder)
    return model.eval(), _load_tokenizer(folder)


def _load_tokenizer(folder: Path) -> Any:
    classes = [plugins.resolve("tokenizers", name) for name in plugins.names("tokenizers")]
    named = {strategy.__name__: strategy for strategy in classes}
    note = folder / "tokenizer_config.json"
    name = json.loads(note.read_text(encoding="utf-8")).get("tokenizer_class") if note.is_file() else None
    if name not in named:
        raise ModelError(
            f"tokenizer class {name!r}" if name else "no tokenizer_config.json",
            wanted=f"one of {', '.join(sorted(named))} beside the weights",
            where=folder,
            fix="convert the checkpoint with the recipe's convert.py, which saves the tokenizer along",
        )
    try:
        return named[name].from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(str(error), wanted="a whole tokenizer", where=folder) from error


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights, configuration, code and tokenizer as one folder, whole or not at all."""
    _quiet()
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


# --- training -------------------------------------------------------------------------------------


def pretrain(
    recipe: Recipe, prepared: Prepared, out: Path, *, progress: bool = True, note: Note = lambda _: None
) -> tuple[Any, TrainingReport]:
    """Pretrain the model of ``recipe`` on the training cells and save it under ``out``."""
    config, tokenizer = recipe.config, prepared.tokenizer
    model = build_model(config, tokenizer, seed=config.training.seed)
    objective_class = plugins.resolve("objectives", config.training.pretraining_task)
    objective = objective_class(
        mask_ratio=config.training.mask_ratio,
        mask_token_id=tokenizer.mask_token_id,
        vocab_size=len(tokenizer),
        special_token_ids=tuple(sorted(tokenizer.all_special_ids)),
        faithful=config.tokenizer.faithful,
        pad_token_id=tokenizer.pad_token_id,
    )
    digest = sha256_json([recipe.digest, config.training.seed, prepared.digest])
    facts = {key: prepared.cells.uns["scmf"][key] for key in ("dataset", "sha256", "split", "split_sha256")}
    write_json(
        out / "run.json",
        {
            "recipe": recipe.name,
            "variant": recipe.variant,
            "seed": config.training.seed,
            "recipe_digest": recipe.digest,
            "config": config.model_dump(mode="json"),
            "provenance": provenance.collect(data=facts),
        },
    )
    note(f"pretraining on {len(prepared.part('train')):,} cells")
    report = train(
        model,
        prepared.tokens.select(prepared.part("train")),
        objective=objective,
        settings=config.training,
        out=out / "pretraining",
        digest=digest,
        pad_token_id=tokenizer.pad_token_id,
        valid=prepared.tokens.select(prepared.part("valid")),
        callbacks=_inline(config.eval, prepared),
        evaluate_every=config.eval.every_n_epochs,
        progress=progress,
    )
    save_model(model, tokenizer, out / "model")
    return model, report


def _inline(settings: EvalConfig, prepared: Prepared) -> list[EvaluationCallback]:
    """The linear probe, from training to validation cells, as a callback during training."""
    facts = prepared.cells.uns["scmf"]
    if "annotation" not in settings.benchmarks or not facts.get("label_key") or "part" not in prepared.cells.obs:
        return []
    truth = Truth.of(prepared.cells)
    rows = np.flatnonzero(np.isin(truth.parts, ("train", "valid")))
    parts = np.where(truth.parts[rows] == "valid", "test", "train")
    inner = Truth(truth.labels[rows], None, parts)
    if not (parts == "test").any() or set(inner.labels[parts == "test"]) - set(inner.labels[parts == "train"]):
        return []
    tokens = prepared.tokens.select(rows)
    benchmark = Annotation(knn_neighbors=settings.knn_neighbors)

    def probe(model: Any, epoch: int, step: int) -> dict[str, float]:
        x_ND = embed_tokens(model, tokens, settings=settings, pad_token_id=prepared.tokenizer.pad_token_id)
        scores = benchmark.run({"pretrained": x_ND}, inner)
        return {f"valid_{s.protocol}_{name}": value for s in scores for name, value in s.metrics.items()}

    return [probe]


def finetune(
    recipe: Recipe, prepared: Prepared, folder: Path, out: Path, *, method: str, progress: bool = True
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
    truth, seed = Truth.of(prepared.cells), recipe.config.training.seed
    truth.check_trained_labels()
    rows, test = truth.rows("train"), truth.rows("test")
    classes, labels = np.unique(truth.labels[rows], return_inverse=True)
    torch.manual_seed(seed)
    model = _classifier(folder, classes.tolist(), pooling=settings.pooling, pretrained=method == "pretrained")
    model.freeze_first(settings.freeze_layers)
    loop = TrainingConfig(
        **settings.model_dump(exclude={"freeze_layers", "pooling"}),
        precision=recipe.config.training.precision,
        seed=seed,
    )
    weights = {name: value.double().sum().item() for name, value in model.state_dict().items()}
    train(
        model,
        prepared.tokens.select(rows).with_labels(labels),
        objective=CellClassification(),
        settings=loop,
        out=out / "finetuning" / method,
        digest=sha256_json([recipe.digest, seed, prepared.digest, weights]),
        pad_token_id=prepared.tokenizer.pad_token_id,
        evaluate_every=0,
        progress=progress,
    )
    logits_NC = classify_tokens(
        model,
        prepared.tokens.select(test),
        batch_size=recipe.config.eval.batch_size,
        pad_token_id=prepared.tokenizer.pad_token_id,
    )
    return classes[logits_NC.argmax(axis=1)]


def _classifier(folder: Path, classes: list[str], *, pooling: str, pretrained: bool) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    head = {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
        "classifier_pooling": pooling,
    }
    if pretrained:
        return load_weights(AutoModelForSequenceClassification, folder, **head)
    return AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder, **head))


# --- scores ---------------------------------------------------------------------------------------


def representations(recipe: Recipe, prepared: Prepared, model: Any, *, note: Note) -> dict[str, np.ndarray]:
    """Vectors of all cells under each method: pretrained, untrained, and the baselines."""
    config = recipe.config
    pad = prepared.tokenizer.pad_token_id
    note("embedding cells")
    # The same shape and seed, before any step; a checkpoint to start from does not count as untrained.
    blank = config.model_copy(update={"model": config.model.model_copy(update={"checkpoint": None})})
    untrained = build_model(blank, prepared.tokenizer, seed=config.training.seed)
    return {
        "pretrained": embed_tokens(model, prepared.tokens, settings=config.eval, pad_token_id=pad),
        "untrained": embed_tokens(untrained, prepared.tokens, settings=config.eval, pad_token_id=pad),
        **baseline_representations(prepared.cells, prepared.part("train")),
    }


def evaluate(
    recipe: Recipe,
    prepared: Prepared,
    vectors: dict[str, np.ndarray],
    *,
    out: Path,
    progress: bool = True,
    note: Note = lambda _: None,
) -> Iterator[Score]:
    """Run the benchmarks of ``recipe`` on ``vectors``; fine-tune from ``out/model`` if asked for."""
    settings = recipe.config.eval
    truth = Truth.of(prepared.cells)
    if "annotation" in settings.benchmarks:
        benchmark = Annotation(knn_neighbors=settings.knn_neighbors)
        note("annotation: probes")
        yield benchmark.majority(truth)
        yield from benchmark.run(vectors, truth)
        if settings.finetune is not None:
            for method in ("pretrained", "untrained"):
                note(f"annotation: fine-tuning a head, {method}")
                started = time.perf_counter()
                predicted = finetune(recipe, prepared, out / "model", out, method=method, progress=progress)
                yield benchmark.scored(predicted, truth, protocol=HEAD, method=method, started=started)
    if "integration" in settings.benchmarks:
        embeddings = {name: x_ND for name, x_ND in vectors.items() if name != "hvg"}
        yield from Integration().run(
            embeddings, truth, unintegrated=vectors["pca"], note=lambda text: note(f"integration: {text}")
        )
