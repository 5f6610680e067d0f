"""RunConfig: the five sections of every YAML file, and how a file plus overrides becomes one.

Lives here: the section ``eval``, ``--set a.b=v``, the JSON schema for editors.
Lives elsewhere: the keys of the other sections (data, tokenizer, model, training), what is said of a
wrong key (validation), identity and variants of a recipe (recipe), expected values (scmf.results.expected).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

from pydantic import Field, model_validator

from scmf.core.config.data import DataConfig as DataConfig  # sections are imported from here
from scmf.core.config.model import ModelConfig as ModelConfig
from scmf.core.config.renamed import current_sections
from scmf.core.config.section import Section
from scmf.core.config.spellings import schema_values
from scmf.core.config.tokenizer import TokenizerConfig as TokenizerConfig
from scmf.core.config.training import FinetuneConfig as FinetuneConfig
from scmf.core.config.training import TrainingConfig as TrainingConfig
from scmf.core.config.validation import validate as validate
from scmf.core.errors import ConfigError
from scmf.core.redact import hide_override, hide_text
from scmf.core.yaml import load_yaml


class EvalConfig(Section):
    """What is measured, how often, and on which embedding."""

    every_n_epochs: int = Field(1, ge=0)
    """Evaluate during training every so many epochs; 0 never does."""
    benchmarks: tuple[Literal["annotation", "integration"], ...] = ("annotation",)
    """Benchmarks to run on the cells of ``data``."""
    tasks: tuple[str, ...] = ()
    """Tasks of the leaderboard (`scmf tasks`) to score the weights on at each evaluation during training."""
    embedding_layer: int = Field(-1, le=0)
    """Counted from the last layer: 0 is the last layer's output, -1 the one before (official default)."""
    pooling: Literal["cell", "cls", "max", "all"] = "cell"
    """``cell``: a family's own embedding, mostly the mean over genes; ``cls``: the ``<cls>`` position; ``max``: maximum
    over positions; ``all``: depth tokens, maximum and mean side by side. A model says which of them it has."""
    batch_size: int = Field(64, ge=1)
    """Cells in a forward pass of the embedding."""
    knn_neighbors: int = Field(15, ge=1)
    """Neighbors that vote in the kNN probe."""
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

    @model_validator(mode="before")
    @classmethod
    def _names_of_today(cls, raw: Any) -> Any:
        return schema_values(current_sections(raw)) if isinstance(raw, Mapping) else raw


# --- from a file and overrides to a config --------------------------------------------------------


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split ``a.b=v`` into its keys and its value, read by the YAML rules of the files."""
    key, sign, value = text.partition("=")
    keys = key.strip().split(".")
    if not sign or not all(keys):
        shown = hide_override(text) if sign else hide_text(text)
        raise ConfigError(f"--set {shown}", wanted="section.key=value", fix="for example --set training.lr=1e-4")
    return keys, load_yaml(value, where=f"--set {hide_override(text)}")


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
        source = "census" if keys[:2] == ["data", "source"] else keys[1] if keys[0] == "data" and len(keys) > 1 else ""
        if source in _SOURCES and value:
            raw = deep_merge(raw, {"data": {key: empty for key, empty in _SOURCES.items() if key != source}})
        for key in reversed(keys):
            value = {key: value}
        raw = deep_merge(raw, current_sections(value))
    return raw


def json_schema(model: type[Section] = RunConfig) -> dict[str, Any]:
    """JSON schema for editors (``# yaml-language-server: $schema=...``)."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
