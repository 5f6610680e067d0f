"""RunConfig: the five sections of every YAML file, and how a file plus overrides becomes one.

Lives here: the keys, their units and defaults, ``--set a.b=v``, the JSON schema for editors.
Lives elsewhere: the keys of ``data`` (config_data), identity and variants of a recipe (recipe), expected values
(expectations), what a key does (the room that the section is named after).
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from scmf import plugins
from scmf.config_data import DataConfig as DataConfig  # sections are imported from here
from scmf.errors import ConfigError
from scmf.files import load_yaml
from scmf.section import Section, known


class TokenizerConfig(Section):
    """How a cell becomes a sequence."""

    strategy: Annotated[str, known("tokenizers")] = "rank_value"
    """Name of the tokenizer."""
    vocabulary: str = "fit"
    """``fit``: genes and non-zero medians of the training split; a card, ``geneformer-v2``; a saved tokenizer."""
    max_genes: int = Field(2048, ge=3)
    """Longest sequence, special tokens included (the official ``model_input_size``)."""
    special_tokens: bool = False
    """Put ``<cls>`` before and ``<eos>`` after the genes (V2)."""
    min_cells: int = Field(10, ge=1)
    """With ``vocabulary: fit``: a gene enters when at least this many training cells express it."""
    faithful: bool = False
    """Reproduce the known quirks of the official code instead of correcting them."""


class ModelConfig(Section):
    """The network."""

    architecture: Annotated[str, known("models")] = "transformer_encoder"
    """Name of the model family."""
    hidden_dim: int = Field(256, ge=1)
    """Width of the residual stream."""
    num_layers: int = Field(6, ge=1)
    """Number of transformer layers."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; must divide ``hidden_dim``."""
    ffn_dim: int = Field(512, ge=1)
    """Width of the feed-forward layer."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation of the feed-forward layer and of the prediction head."""
    dropout: float = Field(0.02, ge=0, lt=1)
    """Dropout on the residual stream."""
    attention_dropout: float = Field(0.02, ge=0, lt=1)
    """Dropout on attention probabilities."""
    layer_norm_eps: float = Field(1e-12, gt=0)
    """Epsilon of layer normalisation."""
    initializer_range: float = Field(0.02, gt=0)
    """Standard deviation of the normal initialisation."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel."""
    checkpoint: Path | None = None
    """Folder of weights to start from; null starts from random weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_dim={self.hidden_dim}")
        return self


class TrainingConfig(Section):
    """The loop."""

    pretraining_task: Annotated[str, known("objectives")] = "masked_gene_prediction"
    """Name of the objective."""
    mask_ratio: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are to be predicted."""
    batch_size: int = Field(12, ge=1)
    """Cells in a batch, on each device, before gradient accumulation."""
    gradient_accumulation: int = Field(1, ge=1)
    """Batches summed into one optimiser step."""
    max_epochs: int = Field(3, ge=1)
    """Passes over the training cells."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimiser steps, whatever ``max_epochs`` says."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic of forward and backward pass; ``16-mixed`` needs a GPU."""
    optimizer: Literal["adamw"] = "adamw"
    """Optimiser (torch.optim.AdamW)."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "linear"
    """Learning rate after the warm-up (transformers.get_scheduler)."""
    warmup_steps: int = Field(0, ge=0)
    """Optimiser steps in which the learning rate rises linearly from 0."""
    weight_decay: float = Field(0.001, ge=0)
    """AdamW weight decay; not applied to biases and layer norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW betas."""
    eps: float = Field(1e-8, gt=0)
    """AdamW epsilon."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Clip the gradient to this 2-norm; null does not clip."""
    group_by_length: bool = True
    """Batch cells of similar length (less padding)."""
    seed: int = Field(0, ge=0)
    """Seed of weights, order, masks and dropout."""
    checkpoint_every_n_steps: int | None = Field(None, ge=1)
    """Write a resumable checkpoint every so many optimiser steps, besides the one at each epoch's end."""
    keep_checkpoints: int = Field(2, ge=1)
    """Resumable checkpoints to keep."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Dashboards, through accelerate. A JSON-lines log is always written."""
    project: str = "scmf"
    """Project name for the trackers."""


class FinetuneConfig(Section):
    """A classification head fine-tuned together with the pretrained model."""

    max_epochs: int = Field(10, ge=1)
    """Passes over the labelled training cells (official default 10)."""
    batch_size: int = Field(12, ge=1)
    """Cells in a batch."""
    lr: float = Field(5e-5, gt=0)
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "linear"
    """Learning rate after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Optimiser steps of warm-up."""
    weight_decay: float = Field(0.001, ge=0)
    """AdamW weight decay."""
    freeze_layers: int = Field(0, ge=0)
    """Number of first layers whose weights stay as pretrained; embeddings are trained, as in the official code."""
    pooling: Literal["first", "mean"] = "first"
    """What the head reads: the first position (official) or the mean over genes."""


class EvalConfig(Section):
    """What is measured, how often, and on which embedding."""

    every_n_epochs: int = Field(1, ge=0)
    """Evaluate during training every so many epochs; 0 never does."""
    benchmarks: tuple[Annotated[str, known("benchmarks")], ...] = ("annotation",)
    """Benchmarks to run."""
    embedding_layer: int = Field(-1, le=0)
    """Counted from the last layer: 0 is the last layer's output, -1 the one before (official default)."""
    pooling: Literal["cell", "cls"] = "cell"
    """``cell``: mean over gene positions; ``cls``: the ``<cls>`` position."""
    batch_size: int = Field(64, ge=1)
    """Cells in a forward pass of the embedding."""
    knn_neighbors: int = Field(15, ge=1)
    """Neighbours that vote in the kNN probe."""
    finetune: FinetuneConfig | None = None
    """Fine-tune a cell-type head; null leaves it out."""


class RunConfig(Section):
    """The five sections. A recipe has the same ones."""

    data: DataConfig
    """Cells."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Cells to sequences."""
    model: ModelConfig = ModelConfig()
    """Network."""
    training: TrainingConfig = TrainingConfig()
    """Loop."""
    eval: EvalConfig = EvalConfig()
    """Measurements."""


# --- from a file and overrides to a config --------------------------------------------------------


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split ``a.b=v`` into its keys and its value, read by the YAML rules of the files."""
    key, sign, value = text.partition("=")
    keys = key.strip().split(".")
    if not sign or not all(keys):
        raise ConfigError(f"--set {text}", wanted="section.key=value", fix="for example --set training.lr=1e-4")
    return keys, load_yaml(value, where=f"--set {text}")


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A new dict: ``base`` with the values of ``over``, section by section."""
    merged = deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged


_SOURCES: dict[str, Any] = {"dataset": None, "files": [], "census": None, "tokens": None}
"""Keys of ``data`` that say where cells come from, and their empty values."""


def apply_overrides(raw: dict[str, Any], overrides: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """``raw`` with each ``a.b=v`` applied, in order.

    Choosing one of ``data.dataset``, ``files``, ``census`` and ``tokens`` drops an inherited other one, since only
    one of them may be given.
    """
    for text in overrides:
        keys, value = parse_override(text)
        if keys[0] == "data" and len(keys) > 1 and keys[1] in _SOURCES and value:
            raw = deep_merge(raw, {"data": {key: empty for key, empty in _SOURCES.items() if key != keys[1]}})
        for key in reversed(keys):
            value = {key: value}
        raw = deep_merge(raw, value)
    return raw


def validate(model: type[Section], raw: object, *, where: str) -> Any:
    """Build ``model`` from ``raw``, turning pydantic's errors into one `ConfigError` with hints."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            "\n  ".join(_explain(model, item) for item in error.errors(include_url=False)),
            wanted=f"the keys of {model.__name__} (see `scmf schema`)",
            where=where,
            fix="correct the key or value",
        ) from error


def _explain(model: type[BaseModel], item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path) or "the file"
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, path[:-1])
        return f"unknown key {name!r}: {plugins.did_you_mean(path[-1], known)}"
    if item["type"] == "missing":
        return f"key {name!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        known = [part.strip().strip("'") for part in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        message += f"; {plugins.did_you_mean(item['input'], known)}"
    shown = f" (got {item['input']!r})" if not isinstance(item["input"], dict) else ""
    return f"{name}: {message}{shown}"


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Keys allowed below ``path``, whose parts are keys, positions in a list, names in a dict and tags of a union."""
    models = [model]
    for part in path:
        if any(part in option.model_fields for option in models):
            fields = [option.model_fields[part] for option in models if part in option.model_fields]
            models = [inner for field in fields for inner in _models_in(field.annotation)]
        elif not part.isdigit():
            kinds = [(option, option.model_fields.get("kind")) for option in models]
            tagged = [option for option, kind in kinds if kind is not None and part in get_args(kind.annotation)]
            models = tagged or models  # else a name in a dict, such as that of a variant
    return sorted({key for option in models for key in option.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]


def json_schema(model: type[Section] = RunConfig) -> dict[str, Any]:
    """JSON schema for editors (``# yaml-language-server: $schema=...``)."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
