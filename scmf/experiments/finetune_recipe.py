"""The configuration of a fine-tuning: what was asked for, completed by what the base model is.

Lives here: a request as five sections; tokenizer, network, layer and pooling of the base in them. Lives elsewhere: what
the keys are (core.config), the cells (finetune_cells), the training (finetune).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from scmf.core import registry
from scmf.core.config.model import ModelConfig
from scmf.core.config.recipe import Recipe, load_recipe
from scmf.core.config.run import FinetuneConfig, RunConfig, apply_overrides, validate
from scmf.core.config.section import Section
from scmf.core.config.tokenizer import TokenizerConfig
from scmf.core.config.training import Task, TrainingConfig
from scmf.core.errors import ConfigError
from scmf.data.cards.card import list_cards
from scmf.models.checkpoint import is_classifier
from scmf.models.published.names import FoundModel
from scmf.models.run_folder import RunFolder

TASKS: tuple[str, ...] = get_args(Task)
ANNOTATION, PRETRAINING = "cell_type_annotation", "pretraining"
BENCHMARKS = ("annotation", "integration")
"""What a fine-tuned run can be scored by on its own cells."""

_START = {"eval": {"finetune": {"patience": 3}}}
"""What holds without a file."""

_POOLING = {"scmf_masked_autoencoder": "max", "scmf_autoregressive_transformer": "mean"}
"""Family -> what its published classifier reads, where that is not the first position."""


@dataclass(frozen=True)
class FinetuneRequest:
    """What `scmf finetune` was asked for; None where the file, or the default, says it.

    Parameters
    ----------
    base_model, data, task
        The model that the weights start from, the cells (a file or a dataset card), what is trained for.
    benchmarks
        What the run is scored by when it is trained.
    options
        Keys of ``eval.finetune``, or of ``training`` when pretraining goes on, by name.
    config, variant, overrides
        A YAML file with the five sections, and ``a.b=v`` texts, applied last.
    """

    base_model: str | None = None
    data: str | None = None
    task: str | None = None
    benchmarks: Sequence[str] = ()
    data_keys: tuple[tuple[str, Any], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    config: str | None = None
    variant: str | None = None
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        base_model: str | None,
        data: str | None,
        *,
        task: str | None = None,
        benchmarks: Sequence[str] = (),
        label_key: str | None = None,
        split: str | None = None,
        batch_key: str | None = None,
        method: str | None = None,
        freeze: int | None = None,
        class_weights: str | None = None,
        epochs: int | None = None,
        patience: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        config: str | None = None,
        variant: str | None = None,
        overrides: tuple[str, ...] = (),
    ) -> FinetuneRequest:
        """A request by the names that the command line and Python give to its parts."""
        return cls(
            base_model=base_model,
            data=data,
            task=task,
            benchmarks=benchmarks,
            data_keys=(("label_key", label_key), ("split", split), ("batch_key", batch_key)),
            options=(
                ("method", method), ("freeze_layers", freeze), ("class_weights", class_weights),
                ("max_epochs", epochs), ("patience", patience), ("lr", lr), ("batch_size", batch_size),
            ),
            config=config,
            variant=variant,
            overrides=overrides,
        )  # fmt: skip

    def recipe(self) -> Recipe:
        """The five sections as they were asked for.

        Raises
        ------
        ConfigError
            An unknown task, benchmark, key or value; no base model or no cells.
        """
        _refuse_unknown("task", [self.task] if self.task is not None else [], TASKS, option="--task")
        _refuse_unknown("benchmark", self.benchmarks, BENCHMARKS, option="--eval")
        if self.config is None and (self.base_model is None or self.data is None):
            lacking = "--base-model" if self.base_model is None else "--data"
            raise ConfigError(
                f"no {lacking}", wanted="a model and cells, or --config with both", where="scmf finetune",
                fix="scmf finetune --base-model geneformer@v2-104m --data cells.h5ad --out runs/tuned",
            )  # fmt: skip
        task = self.task or self._task_of_file()
        texts = ["eval.finetune={}"]
        texts += [] if self.task is None else [f"eval.finetune.task={self.task}"]
        texts += [] if self.base_model is None else [f"model.checkpoint={_text(self.base_model)}"]
        texts += [] if self.data is None else [_cells(self.data)]
        texts += [f"eval.benchmarks={_text(list(self.benchmarks))}"] if self.benchmarks else []
        texts += [f"data.{key}={_text(value)}" for key, value in self.data_keys if value is not None]
        given = {key: value for key, value in self.options if value is not None}
        texts += [_option(key, value, task) for key, value in given.items()]
        every = (*texts, *self.overrides)
        if self.config is not None:
            recipe = load_recipe(self.config, variant=self.variant, overrides=every)
        else:
            start = {} if task == PRETRAINING else _START
            config: RunConfig = validate(RunConfig, apply_overrides(start, every), where="scmf finetune")
            recipe = Recipe("finetuned", "custom", config, None, {}, Path(), every)
        if recipe.config.model.checkpoint is None:
            raise ConfigError(
                "no base model", wanted="model.checkpoint or --base-model", where=self.config,
                fix="--base-model, or `scmf train` to begin with random weights",
            )  # fmt: skip
        return recipe

    def _task_of_file(self) -> str:
        """What the file says is trained for, which decides where options go."""
        if self.config is None:
            told = apply_overrides({}, self.overrides).get("eval") or {}
            return str((told.get("finetune") or {}).get("task", ANNOTATION))
        found = load_recipe(self.config, variant=self.variant, overrides=self.overrides).config.eval.finetune
        return ANNOTATION if found is None else found.task


def _text(value: Any) -> str:
    """A value as YAML reads it."""
    return json.dumps(value, ensure_ascii=False)


def _option(key: str, value: Any, task: str) -> str:
    """An option of the command line as a text ``a.b=v``."""
    if task != PRETRAINING:
        return f"eval.finetune.{key}={_text(value)}"
    if key in TrainingConfig.model_fields:
        return f"training.{key}={_text(value)}"
    raise _not_for_pretraining(f"{key} {value}")


def _not_for_pretraining(found: str) -> ConfigError:
    return ConfigError(
        f"{found} with task {PRETRAINING}", wanted="all weights trained under the objective of the base model",
        where="scmf finetune", fix=f"leave it out, or use task {ANNOTATION}",
    )  # fmt: skip


def _refuse_unknown(what: str, names: Sequence[str], known: Sequence[str], *, option: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{what} {name!r}", wanted=f"one of {', '.join(known)}", where=option,
                fix=registry.did_you_mean(name, list(known)),
            )  # fmt: skip


def _cells(word: str) -> str:
    """The key of the section ``data`` for a file, or for the name or path of a dataset card."""
    is_card = not Path(word).exists() and word in {card.name for card in list_cards(kind="cells")}
    is_card = is_card or word.endswith((".yaml", ".yml"))
    return f"data.dataset={_text(word)}" if is_card else f"data.files={_text([word])}"


def completed(recipe: Recipe, base: FoundModel, network: Any, tokenizer: Any) -> Recipe:
    """The recipe with what the base model brings: its tokenizer, its network, the layer of its embedding.

    Parameters
    ----------
    recipe
        As asked for.
    base, network, tokenizer
        The model that the weights start from, loaded.

    Raises
    ------
    ConfigError
        The file says something else than the base, or sets keys of ``training`` that ``eval.finetune`` has.
    """
    config, run = recipe.config, RunFolder.find(base.folder)
    settings = config.eval.finetune or FinetuneConfig()
    tokens = _tokenizer_section(run, base, tokenizer)
    _refuse_other("tokenizer", config.tokenizer, tokens)
    model = _model_section(run, base, network)
    _refuse_other("model", config.model, model)
    layer, pooling = network.embedding_defaults
    if run is not None:
        layer, pooling = run.config.eval.embedding_layer, run.config.eval.pooling
    asked = config.eval.model_fields_set
    usual = {"embedding_layer": layer, "pooling": pooling}
    changes: dict[str, Any] = {key: value for key, value in usual.items() if key not in asked}
    training = config.training
    tuned = is_classifier({"architectures": network.config.architectures})
    if settings.task == PRETRAINING:
        if tuned:
            raise ConfigError(
                "a classifier, which has no pretraining head any more", wanted="a pretrained network",
                where="--base-model", fix="give the model that it was fine-tuned from",
            )  # fmt: skip
        if strange := sorted(settings.model_fields_set - {"task"}):
            raise _not_for_pretraining(f"eval.finetune.{strange[0]}")
        changes["finetune"] = None
        if recipe.identity is None and "pretraining_task" not in training.model_fields_set:
            training = _objective_of(training, run, network)
    else:
        if "pooling" not in settings.model_fields_set:
            settings = settings.model_copy(update={"pooling": _pooling_of(network)})
        changes["finetune"] = settings
        _refuse_training(training, settings)
        training = training.model_copy(update=settings.loop)
    sections = {
        "tokenizer": tokens, "model": model, "training": training, "eval": config.eval.model_copy(update=changes),
    }  # fmt: skip
    name, variant = _name(run, base)
    ending = "pretrained-further" if settings.task == PRETRAINING else "finetuned"
    return Recipe(name, f"{variant}-{ending}", config.model_copy(update=sections), None, {}, Path(), recipe.overrides)


def _name(run: RunFolder | None, base: FoundModel) -> tuple[str, str]:
    if run is not None:
        return Path(str(run.fact("recipe"))).name, str(run.fact("variant"))
    return base.recipe or base.folder.resolve().name, base.variant or "checkpoint"


def _tokenizer_section(run: RunFolder | None, base: FoundModel, tokenizer: Any) -> TokenizerConfig:
    """The tokenizer of the base, as saved beside its weights."""
    saved = {"vocabulary": str(RunFolder.weights_in(base.folder))}
    if run is not None:
        return run.config.tokenizer.model_copy(update=saved)
    strategies = {registry.class_name("tokenizers", name): name for name in registry.names("tokenizers")}
    keys = {
        "strategy": strategies[type(tokenizer).__name__], "max_length": tokenizer.max_length,
        "special_tokens": bool(tokenizer.special_tokens), "match_official": bool(tokenizer.match_official),
        "options": {key: value for key, value in tokenizer.options.items() if key != "vectors"},
    }  # fmt: skip
    section: TokenizerConfig = validate(TokenizerConfig, keys | saved, where=str(base.folder))
    return section


def _model_section(run: RunFolder | None, base: FoundModel, network: Any) -> ModelConfig:
    """The network of the base; its shape is that of the weights, whatever the keys of a checkpoint say."""
    if run is not None:
        return run.config.model.model_copy(update={"checkpoint": base.word})
    shape = network.config
    keys = {"architecture": shape.model_type.removeprefix("scmf_"), "checkpoint": base.word}
    names = {"hidden_dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    keys |= {key: found for key, name in names.items() if (found := getattr(shape, name, None)) is not None}
    section: ModelConfig = validate(ModelConfig, keys, where=str(base.folder))
    return section


def _refuse_other(name: str, given: Section, of_base: Section) -> None:
    """Refuse keys of a file that say something else than the base model is."""
    for key in sorted(given.model_fields_set - {"checkpoint", "vocabulary", "options"}):
        if (value := getattr(given, key)) not in (getattr(of_base, key), type(given).model_fields[key].default):
            raise ConfigError(
                f"{name}.{key}: {value}", wanted=f"{getattr(of_base, key)}, as the base model has it",
                where=f"section {name}", fix=f"leave out the section {name}: it is that of the base model",
            )  # fmt: skip


def _refuse_training(training: TrainingConfig, settings: FinetuneConfig) -> None:
    """Refuse keys of ``training`` that would not be used, ``eval.finetune`` having them too."""
    for key, used in settings.loop.items():
        given = getattr(training, key)
        if key in training.model_fields_set and given not in (used, TrainingConfig.model_fields[key].default):
            raise ConfigError(
                f"training.{key}: {given}, while eval.finetune.{key} is {used}", wanted="one value",
                where=f"training.{key}", fix=f"set eval.finetune.{key}",
            )  # fmt: skip


def _objective_of(training: TrainingConfig, run: RunFolder | None, network: Any) -> TrainingConfig:
    """The section ``training`` with the objective that the base was trained under, else the first of its family."""
    if run is not None and run.facts.get("finetuning") is None:
        found = {key: getattr(run.config.training, key) for key in ("pretraining_task", "mask_ratio", "options")}
        return training.model_copy(update=found)
    known = getattr(network.config, "objectives", network.objectives)
    section: TrainingConfig = validate(
        TrainingConfig,
        {key: getattr(training, key) for key in training.model_fields_set} | {"pretraining_task": known[0]},
        where="training",
    )
    return section


def _pooling_of(network: Any) -> str:
    """What a head reads where nothing is said: what it was trained on, else as published classifiers of the family."""
    if is_classifier({"architectures": network.config.architectures}):
        return str(
            getattr(network.config, "classifier_pooling", None) or _POOLING.get(network.config.model_type, "first")
        )
    return _POOLING.get(network.config.model_type, "first")
