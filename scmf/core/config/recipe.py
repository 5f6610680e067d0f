"""Recipe: the five sections of RunConfig with an identity, variants and expected values.

A recipe and a user's own file are the same format, in YAML or TOML: what a user's file lacks is the identity.
Found by name among the shipped recipes, or by path wherever a name works.

Lives here: finding, reading, choosing a variant, the digest. Lives elsewhere: the keys (run), the
expected values (scmf.results.expected).
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field

from scmf.core import registry
from scmf.core.config.renamed import current_file, first_names
from scmf.core.config.run import RunConfig, apply_overrides, deep_merge, json_schema, validate
from scmf.core.config.section import Section
from scmf.core.errors import ConfigError
from scmf.core.files import sha256_json
from scmf.core.paths import shipped
from scmf.core.redact import hide, hide_override
from scmf.core.toml import load_toml
from scmf.core.workspace import is_shipped
from scmf.core.yaml import load_yaml

_CAME_LATER = {
    "data": ("census", "tokens", "storage_options", "gene_set", "orthologs", "filter", "stream", "counts_rounding"),
    "tokenizer": ("options", "top_genes"),
    "model": ("options",),
    "training": ("options",),
    "eval": ("tasks",),
}
"""Keys that did not exist when the first expected values were recorded, by section."""

_MOVES_NO_NUMBER = (
    "seed", "trackers", "project", "keep_checkpoints", "checkpoint_every_n_steps", "strategy", "num_gpus",
    "num_processes", "num_nodes",
)  # fmt: skip
"""Keys of ``training`` that a digest leaves out: a run may go on with others. How many batches make a step is kept in
its checkpoints."""

_CAME_LATER_IN_FINETUNE = ("task", "method", "rank", "alpha", "adapter_dropout", "class_weights", "patience")
"""The same of ``eval.finetune``."""


class Identity(Section):
    """Who published the model and under which terms."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name of the recipe; also names its folder, its reports and its column in ``obsm``."""
    title: str
    """One line."""
    paper: str
    """Citation."""
    doi: str
    """DOI of the paper."""
    code: str
    """Official code, with the revision that was compared with."""
    license: str
    """License of code and weights."""
    default_variant: str
    """The variant that ``scmf reproduce`` runs."""


class Variant(Section):
    """A named set of overrides."""

    description: str
    """One line."""
    tier: str = Field("published", pattern="^(mini|published)$")
    """``mini``: trained and judged here; ``published``: the size of an official checkpoint."""
    source: str = "ours"
    """Where the hyperparameters come from; ``unknown`` where nothing was published."""
    overrides: dict[str, Any] = {}
    """Sections and keys that differ."""


class RecipeFile(Section):
    """A YAML file: identity and variants (a recipe has them, a user's file need not), then the sections."""

    identity: Identity | None = None
    """Name, paper, license."""
    variants: dict[str, Variant] = {}
    """Named sets of overrides."""
    data: dict[str, Any]
    """See DataConfig."""
    tokenizer: dict[str, Any] = {}
    """See TokenizerConfig."""
    model: dict[str, Any] = {}
    """See ModelConfig."""
    training: dict[str, Any] = {}
    """See TrainingConfig."""
    eval: dict[str, Any] = {}
    """See EvalConfig."""


@dataclass(frozen=True)
class Recipe:
    """A recipe with one variant chosen.

    Parameters
    ----------
    name, variant
        Names; a user's own file is called by its stem and has the variant ``custom``.
    config
        The five sections with the variant and all overrides applied.
    identity
        None for a user's own file.
    variants
        All variants of the file.
    folder
        Folder of the file.
    overrides
        The ``--set`` overrides in it.
    """

    name: str
    variant: str
    config: RunConfig
    identity: Identity | None
    variants: dict[str, Variant]
    folder: Path
    overrides: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Sha256 of the five sections without the seed: runs of one digest differ by the seed alone.

        Trackers and the project name do not move a number and are left out too, and so are keys that came after
        the first expected values were recorded, as long as they hold their default; a key that was renamed since is
        hashed with its first name. So old digests stay true. Secrets are left out as well: a run resumes with others,
        or with those of the environment. Nor does it hold where own files lie: a copy is the same.
        """
        sections = hide(self.config.model_dump(mode="json"), known=False)
        for section, keys in _CAME_LATER.items():
            plain = type(getattr(self.config, section)).model_fields
            for key in keys:
                default = plain[key].get_default(call_default_factory=True)
                if getattr(getattr(self.config, section), key) == default or sections[section][key] == {}:
                    del sections[section][key]
        if (settings := self.config.eval.finetune) is not None:
            for key in _CAME_LATER_IN_FINETUNE:
                if getattr(settings, key) == type(settings).model_fields[key].default:
                    del sections["eval"]["finetune"][key]
        del sections["data"]["allow_low_coverage"]  # it refuses or does not, and moves no number
        for key in _MOVES_NO_NUMBER:
            del sections["training"][key]
        if sections["data"]["files"]:  # own files are known by what they hold, which the digest of a run has
            sections["data"] |= {"files": len(sections["data"]["files"]), "split": bool(sections["data"]["split"])}
        for section in ("data", "tokenizer"):
            sections[section] = first_names(section, sections[section])
        if "options" in sections["model"]:
            sections["model"]["options"] = first_names("model.options", sections["model"]["options"])
        return sha256_json(sections)

    @property
    def tier(self) -> str:
        """Tier of the variant: ``mini`` or ``published``."""
        return self.variants[self.variant].tier if self.variant in self.variants else "mini"

    def module(self, stem: str) -> ModuleType:
        """Import ``<stem>.py`` of the recipe's folder (parity checks).

        Raises
        ------
        ConfigError
            There is no such file; or it did not come with scmf and `scmf.core.registry.trust` was not called.
        """
        path = self.folder / f"{stem}.py"
        if not path.is_file():
            raise ConfigError(f"recipe {self.name!r} has no {stem}.py", where=self.folder, fix="use a shipped recipe")
        if not is_shipped(path):
            registry.require_trust(str(path), where=f"recipe {self.name!r} in {self.folder}")
        spec = importlib.util.spec_from_file_location(f"scmf_recipe_{self.name}_{stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up by name
        spec.loader.exec_module(module)
        return module


def file_schema() -> dict[str, Any]:
    """JSON schema of a YAML file: the five sections, and the identity and variants that a recipe has besides."""
    schema = json_schema(RunConfig)
    for key, model in (("identity", Identity), ("variants", Variant)):
        part = json_schema(model)
        del part["$schema"]
        is_map = key == "variants"
        schema["properties"][key] = {"type": "object", "additionalProperties": part} if is_map else part
    return schema


def list_recipes() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.parent.name for path in shipped("recipes").glob("*/recipe.yaml"))


def find_recipe(name_or_path: str | Path) -> Path:
    """Path of a recipe's YAML or TOML file, from its name, its folder or the file."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    inside = [path / name for name in ("recipe.yaml", "recipe.toml") if (path / name).is_file()]
    if len(inside) > 1:
        raise ConfigError(
            "both recipe.yaml and recipe.toml", wanted="one of them", where=path, fix="name the file that is meant"
        )
    if inside:
        return inside[0]
    known = list_recipes()
    if str(name_or_path) in known:
        return shipped("recipes") / str(name_or_path) / "recipe.yaml"
    raise ConfigError(
        f"recipe {str(name_or_path)!r}",
        wanted="the name of a shipped recipe or the path of a YAML or TOML file",
        fix=registry.did_you_mean(str(name_or_path), known),
    )


def load_recipe(name_or_path: str | Path, *, variant: str | None = None, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe or a user's own file, YAML or (``.toml``) TOML.

    Parameters
    ----------
    name_or_path
        ``geneformer``, a folder, or a YAML or TOML file.
    variant
        One of the file's variants; the recipe's default when None.
    overrides
        ``section.key=value`` texts, applied last, in order.

    Raises
    ------
    ConfigError
        For an unknown name, variant, key or value, with a hint.
    """
    path = find_recipe(name_or_path)
    raw = load_toml(path) if path.suffix.lower() == ".toml" else load_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(
            f"a {type(raw).__name__}",
            wanted="sections data, tokenizer, model, training, eval",
            where=path,
            fix="see `scmf schema`",
        )
    file: RecipeFile = validate(RecipeFile, current_file(raw), where=str(path))
    if variant is None and file.identity is not None:
        variant = file.identity.default_variant
    if variant is not None and variant not in file.variants:
        raise ConfigError(
            f"variant {variant!r}",
            wanted=f"one of {', '.join(file.variants) or '(the file has none)'}",
            where=path,
            fix=registry.did_you_mean(variant, sorted(file.variants)),
        )
    sections = {key: getattr(file, key) for key in ("data", "tokenizer", "model", "training", "eval")}
    where = str(path)
    if variant is not None:
        sections = deep_merge(sections, file.variants[variant].overrides)
        where += f", variant {variant}"
    sections = apply_overrides(sections, overrides)
    if overrides:
        where += "".join(f", --set {hide_override(text)}" for text in overrides)
    return Recipe(
        name=file.identity.name if file.identity else path.stem.replace(".", "-"),
        variant=variant or "custom",
        config=validate(RunConfig, sections, where=where),
        identity=file.identity,
        variants=file.variants,
        folder=path.parent,
        overrides=tuple(overrides),
    )
