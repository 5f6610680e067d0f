"""What a word for a model means: a folder, the name of a published model, or a repository on the Hub.

Every command that takes a model asks here (`find_model`). Lives elsewhere: published models (cards, pull), loading what
is found (scmf.models.checkpoint), which refuses what is not as it was saved and never runs code of the folder.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scmf.core.errors import ConfigError, ModelError
from scmf.core.files import peek_object
from scmf.core.progress import hub_bar
from scmf.data.cards.downloads import hub_errors
from scmf.models.published.cached import here, mark_of
from scmf.models.published.cards import has_scheme, is_name, list_models, nearest, published
from scmf.models.published.pull import pull

log = logging.getLogger(__name__)

HUB = "hf://"
"""May stand before the id of a repository on the Hub."""

_REPO = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*?)(?:@([\w.-]+))?", re.ASCII)
_FILES = (".h5ad", ".zarr", ".tsv", ".csv", ".json", ".yaml", ".yml", ".gz")
"""Endings of names that mean files."""
_TAKEN = (
    "*.safetensors", "*.safetensors.index.json", "*.json", "*.py", "*.npz", "*.txt", "LICENSE", "README.md",
    "training.yaml",
)  # fmt: skip
"""Files of a repository that are fetched: no pickle among them."""


@dataclass(frozen=True)
class FoundModel:
    """A model that is on this machine.

    Parameters
    ----------
    folder
        Of a run or of a checkpoint.
    word
        How a command names it again: the name, or the folder.
    recipe, variant
        What it is called; None for a folder.
    """

    folder: Path
    word: str
    recipe: str | None = None
    variant: str | None = None


def find_model(word: Path | str) -> FoundModel:
    """The model that a word means; a published one that is not here is pulled, one on the Hub is fetched.

    Parameters
    ----------
    word
        A folder; ``geneformer@v2-104m``, also with ``scmf://`` or ``scModelForge://``; ``owner/name`` or
        ``hf://owner/name``, also with ``@revision``. A folder that exists comes first.

    Raises
    ------
    ConfigError
        It is no name of a published model; the nearest are told.
    ModelError
        There is nothing of that name, or it cannot be had without doing something by hand.
    """
    text = str(word)
    folder = Path(text).expanduser()
    if not _is_address(text) and _exists(folder):
        return _known(folder)
    if is_name(text):
        pulled = pull(text)
        return FoundModel(pulled.folder, pulled.model.name, pulled.model.card.recipe, pulled.model.variant)
    if (repository := _repository(text)) is not None:
        return _from_hub(*repository)
    raise ModelError(
        f"no such folder, and no published model of that name: {text!r}",
        wanted="the folder of a run or checkpoint, a name such as geneformer@v2-104m, or owner/name on the Hub",
        where=text,
        fix=f"check the path; {nearest(text)}",
    )


def means_model(word: str) -> bool:
    """Whether a word that is no file here can be a model: a name, or an id on the Hub."""
    return is_name(word) or _repository(word) is not None


def find_here(word: Path | str) -> Path | None:
    """The folder of a word as far as it is on this machine; nothing is fetched."""
    text = str(word)
    folder = Path(text).expanduser()
    if not _is_address(text) and _exists(folder):
        return folder
    if is_name(text):
        try:
            found = here(published(text))
        except ConfigError:
            return None
        return None if found is None else found.folder
    if (repository := _repository(text)) is None:
        return None
    try:
        return _snapshot(*repository, local=True)
    except ModelError:
        return None


def _is_address(text: str) -> bool:
    return has_scheme(text) or text.startswith(HUB)


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except (OSError, ValueError):  # a name that is none
        return False


def _known(folder: Path) -> FoundModel:
    """A folder; one that `pull` made says what it is."""
    recipe, _, variant = str(mark_of(folder).get("name", "")).partition("@")
    return FoundModel(folder, str(folder), recipe or None, variant or None)


def _repository(text: str) -> tuple[str, str | None] | None:
    """Id and revision of a repository; None where a folder is meant, as the one above it is there."""
    match = _REPO.fullmatch(text.removeprefix(HUB))
    if match is None or match[2].endswith(_FILES) or (not text.startswith(HUB) and _exists(Path(match[1]))):
        return None
    return f"{match[1]}/{match[2]}", match[3]


def _from_hub(repo: str, revision: str | None) -> FoundModel:
    official = [model.name for model in list_models() if model.card.repository == repo]
    if official:
        raise ConfigError(
            f"{repo}, which holds official files in their own layout", wanted="the name of one of its models",
            where="model", fix=f"one of {', '.join(official)}",
        )  # fmt: skip
    folder = _snapshot(repo, revision, files=("config.json",))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"no config.json in {repo}", wanted="a model as `scmf publish` pushes it", where=f"the Hub, {repo}",
            fix="check the name",
        )  # fmt: skip
    kind = (peek_object(folder / "config.json") or {}).get("model_type")
    if not str(kind).startswith("scmf_"):
        raise ModelError(
            f"model_type {kind!r} in {repo}", wanted="a model as `scmf publish` pushes it", where=f"the Hub, {repo}",
            fix="check the name; `scmf models ls` lists the published models that can be converted",
        )  # fmt: skip
    commit = folder.name
    folder = _snapshot(repo, commit)
    log.info(f"{repo} at {commit}")
    return FoundModel(folder, f"{repo}@{commit}", repo.partition("/")[2], commit[:12])


def _snapshot(repo: str, revision: str | None, *, files: Sequence[str] = _TAKEN, local: bool = False) -> Path:
    """The folder of a repository in the cache of the Hub's own library, which fetches the files that are not there."""
    from huggingface_hub import snapshot_download

    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(files),
                endpoint=endpoint,
                tqdm_class=hub_bar(),
                local_files_only=local,
            )  # fmt: skip
        )
    except hub_errors() as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"no folder {repo} here, and the Hub did not deliver it: {lines[0]}",
            wanted="the folder of a run or checkpoint, or a repository that exists and may be read (HF_TOKEN)",
            where=f"{endpoint}/{repo}" + (f" at {revision}" if revision else ""),
            fix="check the name or path, and the network",
        ) from error
