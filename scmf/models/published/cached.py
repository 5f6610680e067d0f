"""Which published models are on this machine: folders in the cache whose checksums say what they were made of.

Lives here: the mark in ``checksums.json`` and reading it, without opening a large file. Lives elsewhere: making such a
folder (pull), what was published (cards).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core import manifest
from scmf.core.errors import ConfigError, ModelError
from scmf.models.published.cards import PublishedModel, published

MARK = "published"
"""Key in the facts of ``checksums.json``."""


@dataclass(frozen=True)
class Pulled:
    """A published model that is here.

    Parameters
    ----------
    model
        Which.
    folder
        Its converted folder.
    sha256, verified
        Of the official file, and whether that is a published sum.
    made
        Whether it was made just now.
    """

    model: PublishedModel
    folder: Path
    sha256: str
    verified: bool
    made: bool

    def to_json(self) -> dict[str, Any]:
        """What the command prints."""
        return {
            "name": self.model.name, "folder": str(self.folder), "made": self.made, "source_sha256": self.sha256,
            "verified": self.verified, "license": self.model.card.license,
        }  # fmt: skip


def here(model: PublishedModel) -> Pulled | None:
    """The folder in the cache, if it is there and made of what the card says; no large file is read."""
    try:
        found = manifest.read(model.folder)
    except ModelError:
        return None
    mark = mark_of(model.folder)
    if found is None or mark.get("digest") != model.digest:
        return None
    if not all((model.folder / name).is_file() for name in found["files"]):
        return None
    return Pulled(model, model.folder, str(mark["sha256"]), bool(mark["verified"]), made=False)


def how_to_remake(folder: Path) -> str | None:
    """The command that makes a folder of the cache anew; None for any other folder."""
    try:
        model = published(str(mark_of(folder).get("name", "")))
    except ConfigError:
        return None
    return f"{model.command} --again" if folder.resolve() == model.folder.resolve() else None


def mark_of(folder: Path) -> dict[str, Any]:
    """What a folder says of the published model it was made of; empty where it says nothing."""
    try:
        found = manifest.read(folder)
    except ModelError:
        return {}  # told where it is loaded
    mark = ((found or {}).get("facts") or {}).get(MARK)
    return mark if isinstance(mark, dict) else {}
