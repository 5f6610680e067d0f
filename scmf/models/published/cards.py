"""Cards of published models: which variants there are, whose, under which license, with which checksums.

Lives here: the keys of ``recipes/<name>/models.yaml``, reading them, names such as ``geneformer@v2-104m``. Nothing
heavy is imported. Lives elsewhere: what a word on the command line means (names), fetching and converting (pull), the
layout of each family's official files (the converters beside this file).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from scmf.core.config.section import Section, known
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError
from scmf.core.files import sha256_json
from scmf.core.paths import cache_dir, shipped
from scmf.core.yaml import load_yaml
from scmf.data.cards.card import HubSource, Sha256

SCHEMES = ("scmf://", "scModelForge://")
"""What may stand before a name, where a folder of the same name lies beside it."""

OWN = "own"
"""Variant that stands for a checkpoint of one's own in the official layout."""

_FORMAT = 1
"""Rises when converted folders change, so that those of before are made anew."""

_NAME = re.compile(r"([A-Za-z0-9][\w-]*)@([A-Za-z0-9][\w.-]*)")


class WeightFile(Section):
    """A file of weights, as its authors published it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """File name."""
    path: str | None = None
    """Path in the Hub repository at the pinned revision; null where it cannot be fetched from there."""
    sha256: Sha256 | None = None
    """Published checksum; null where none was published."""
    size: int | None = Field(None, ge=1)
    """Bytes; null where that is not known."""


class PublishedVariant(Section):
    """One published checkpoint."""

    title: str
    """One line for lists."""
    parameters: int | None = Field(None, ge=1)
    """Number of parameters that are trained; null where it is not known."""
    vocabulary: str | None = None
    """Card with the tables of its tokenizer; null where they come with the weights."""
    shape: dict[str, Any] = Field(default_factory=dict)
    """What its converter holds the weights against."""
    files: tuple[WeightFile, ...]
    """Its weights in one or several formats; the first one is fetched."""
    how: str | None = None
    """What to do where it cannot be fetched; that of the card when null."""


class ModelCard(Section):
    """The published checkpoints of one recipe."""

    recipe: str
    """Name of the recipe, and of the folder that the card lies in."""
    converter: Annotated[str, known("converters")]
    """Reads the official files."""
    license: str
    """License of the weights, an SPDX identifier or a text."""
    may_publish: bool | None = None
    """Whether the license lets others pass the weights on; null: what its identifier says, or not known."""
    allowed: str | None = None
    """What a license allows that forbids passing on."""
    repository: str
    """Where the authors publish: ``owner/name`` on the Hub, or an address."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit at which files are fetched; null where the weights are in no repository."""
    url: str
    """Page that leads to the weights."""
    how: str
    """What to do where nothing can be fetched."""
    own: str | None = None
    """What a checkpoint of one's own is (variant ``own``); null: there is no such variant."""
    variants: dict[str, PublishedVariant]
    """The checkpoints by name."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """Short names of variants, such as ``v2``."""

    @model_validator(mode="after")
    def _fetched_at_a_revision(self) -> ModelCard:
        if self.revision is None and any(file.path for variant in self.variants.values() for file in variant.files):
            raise ValueError("`files.path` needs the `revision` at which it is fetched")
        if OWN in self.variants:
            raise ValueError(f"`{OWN}` is the name of checkpoints of one's own")
        for short, variant in self.aliases.items():
            if short in self.variants or variant not in self.variants:
                raise ValueError(f"`aliases.{short}` must be another name of one of the `variants`")
        return self


@dataclass(frozen=True)
class PublishedModel:
    """One variant of one card.

    Parameters
    ----------
    card, variant
        Where it stands.
    facts
        What the card says of it.
    """

    card: ModelCard
    variant: str
    facts: PublishedVariant

    @property
    def name(self) -> str:
        """``recipe@variant``."""
        return f"{self.card.recipe}@{self.variant}"

    @property
    def sums(self) -> tuple[str, ...]:
        """Published checksums of the weights; none: nothing was published."""
        return tuple(file.sha256 for file in self.facts.files if file.sha256)

    @property
    def source(self) -> tuple[WeightFile, HubSource] | None:
        """The file that is fetched, and from where; None where it must be got by hand."""
        for file in self.facts.files:
            if file.path is not None and self.card.revision is not None:
                repo, revision = self.card.repository, self.card.revision
                return file, HubSource(kind="hub", repo=repo, path=file.path, revision=revision)
        return None

    @property
    def command(self) -> str:
        """The command that has it here."""
        by_hand = "" if self.source is not None else f" --source FOLDER{'' if self.sums else ' --unverified'}"
        return f"scmf models pull {self.name}{by_hand}{' --out NEW' if self.variant == OWN else ''}"

    @property
    def how(self) -> str:
        """What to do to have it here, as one sentence with the command."""
        return self.command if self.source is not None else f"{self.facts.how or self.card.how}; then: {self.command}"

    @property
    def digest(self) -> str:
        """Of what the card says and of the format of converted folders."""
        facts = self.facts.model_dump(mode="json")
        return sha256_json([_FORMAT, self.name, self.card.converter, self.card.license, self.card.may_publish, facts])

    @property
    def folder(self) -> Path:
        """Where it lies when it is here."""
        return cache_dir() / "models" / self.name

    def info(self) -> dict[str, Any]:
        """What `scmf models info` shows besides whether it is here."""
        source, card = self.source, self.card
        short = [f"{card.recipe}@{name}" for name, variant in card.aliases.items() if variant == self.variant]
        fetched = None if source is None else f"Hub {card.repository}@{card.revision}, {source[0].path}"
        return {
            "name": self.name, "also": short, "title": self.facts.title, "parameters": self.facts.parameters,
            "license": card.license, "may_publish": card.may_publish, "allowed": card.allowed,
            "repository": card.repository, "url": card.url, "fetched_from": fetched, "get": self.how,
            "vocabulary": self.facts.vocabulary,
            "files": [file.model_dump(mode="json") for file in self.facts.files],
        }  # fmt: skip


def load_model_card(recipe: str) -> ModelCard:
    """The card of a recipe that comes with the package.

    Raises
    ------
    ConfigError
        There is none, or a key or value is wrong.
    """
    path = shipped("recipes") / recipe / "models.yaml"
    if not path.is_file():
        raise _unknown(recipe)
    card: ModelCard = validate(ModelCard, load_yaml(path), where=str(path))
    if card.recipe != recipe:
        raise ConfigError(f"recipe: {card.recipe}", wanted=f"the name of the folder, {recipe!r}", where=path)
    return card


def list_models() -> list[PublishedModel]:
    """Every published variant, sorted by name."""
    cards = [load_model_card(path.parent.name) for path in sorted(shipped("recipes").glob("*/models.yaml"))]
    return [PublishedModel(card, name, facts) for card in cards for name, facts in card.variants.items()]


def has_scheme(word: str) -> bool:
    """Whether a word begins with one of the `SCHEMES`, in any case of letters."""
    return word.lower().startswith(tuple(scheme.lower() for scheme in SCHEMES))


def is_name(word: str) -> bool:
    """Whether a word can only be the name of a published model: ``recipe@variant``, or anything after a scheme."""
    return has_scheme(word) or _NAME.fullmatch(word) is not None


def _bare(name: str) -> str:
    """A name without its scheme; after one, ``recipe-variant`` is ``recipe@variant``."""
    if not has_scheme(name):
        return name
    bare = name.partition("://")[2]
    recipe, dash, variant = bare.partition("-")
    return f"{recipe}@{variant}" if dash and "@" not in bare else bare


def published(name: str) -> PublishedModel:
    """The published model of a name, or of a short one such as ``geneformer@v2``, with or without a scheme.

    Raises
    ------
    ConfigError
        No such model; the nearest names are told.
    """
    recipe, _, variant = _bare(name).partition("@")
    if not (shipped("recipes") / recipe / "models.yaml").is_file() or "/" in recipe or not recipe:
        raise _unknown(name)
    card = load_model_card(recipe)
    if variant == OWN and card.own is not None:
        weights = next(iter(card.variants.values())).files[0].name
        how = "give the folder that the official code wrote"
        return PublishedModel(card, OWN, PublishedVariant(title=card.own, files=(WeightFile(name=weights),), how=how))
    variant = card.aliases.get(variant, variant)
    if variant not in card.variants:
        raise _unknown(name)
    return PublishedModel(card, variant, card.variants[variant])


def nearest(name: str) -> str:
    """The names most like one that is unknown, or where all are listed."""
    names = [model.name for model in list_models()]
    bare = _bare(name).lower()
    recipe, at, variant = bare.partition("@")
    close = difflib.get_close_matches(bare, names, n=3, cutoff=0.7)
    if not close:
        recipes, variants = (sorted({one.partition("@")[part] for one in names}) for part in (0, 2))
        recipes = difflib.get_close_matches(recipe, recipes, n=1, cutoff=0.7)
        variants = difflib.get_close_matches(variant if at else bare, variants, n=1, cutoff=0.7)
        close = [one for one in names if one.partition("@")[0] in recipes or one.partition("@")[2] in variants]
    if not close:
        return "`scmf models ls` lists them"
    more = f" ({len(close) - 4} more: `scmf models ls`)" if len(close) > 4 else ""
    return f"did you mean {' or '.join(close[:4])}?{more}"


def _unknown(name: str) -> ConfigError:
    return ConfigError(
        f"no published model {name!r}",
        wanted="recipe@variant, as `scmf models ls` lists them",
        where="model",
        fix=nearest(name),
    )
