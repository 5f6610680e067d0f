"""Checksums of a folder, written with it and held against it whenever it is read.

``checksums.json`` names every file of a saved model or a resumable checkpoint with its sha256, and says what the folder
belongs to. It is the mark by which a folder of ours is known (`scmf.core.owned`). Lives here: writing, reading and
comparing. Lives elsewhere: which folders have one (scmf.models.checkpoint, scmf.training.checkpoints, scmf.hub), what
is done about a damaged one (there).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from scmf.core.errors import ModelError
from scmf.core.files import sha256_file, sha256_json, write_json

log = logging.getLogger(__name__)

MANIFEST = "checksums.json"
"""Name of the file."""

_MADE_BY = "scmf"

NOT_SEALED = ("provenance.json", "results.json", "README.md", "LICENSE", "training.yaml")
"""Files that people may write beside the weights; they are bound to them in other ways or describe them."""

_PARTS = {
    "optimizer.safetensors": "optimizer state",
    "training_state.json": "schedule",
    "progress.json": "position",
    "config.json": "configuration of the network",
    "vocab.json": "vocabulary",
    "gene_medians.json": "gene medians",
    "gene_aliases.json": "gene aliases",
    "gene_orthologs.json": "orthologs of genes",
    "assays.json": "table of assays",
    "gene_vectors.npz": "gene vectors",
    "tokenizer_config.json": "configuration of the tokenizer",
    "*.safetensors": "weights",
    "*.py": "code",
}
"""What a file holds, for messages; the first pattern that fits."""

_READ_BY_OTHERS = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.py", "config.json", "*_config.json",
    "adapter_*", "added_tokens.json", "special_tokens_map.json", "tokenizer*.json", "chat_template*", "vocab.json",
    "merges.txt", "gene_*.json", "gene_*.npz", "assays.json",
)  # fmt: skip
"""Files that transformers or a tokenizer reads when they are there, so that an added one changes what is loaded."""


@dataclass(frozen=True)
class Damage:
    """One file that is not as it was saved.

    Parameters
    ----------
    file
        Its name in the folder.
    part
        What it holds, in words.
    found, wanted
        What it is like, and what was saved.
    """

    file: str
    part: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.part}{self.found}"


def part_of(name: str) -> str:
    """What the file ``name`` of a model or checkpoint holds, in words."""
    found = next((part for pattern, part in _PARTS.items() if fnmatchcase(name, pattern)), None)
    return f"{found} ({name})" if found else f"file {name}"


def is_read(name: str) -> bool:
    """Whether a file of this name beside the weights takes part when a model or tokenizer is loaded."""
    return any(fnmatchcase(name, pattern) for pattern in _READ_BY_OTHERS)


def seal(folder: Path, facts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Write ``checksums.json`` of all files in ``folder``, which are flushed to the disk.

    Parameters
    ----------
    folder
        A folder that nobody else can see yet; it takes its name after this.
    facts
        What it belongs to, as JSON.

    Returns
    -------
    dict
        File -> sha256.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (MANIFEST, *NOT_SEALED) and not path.name.startswith(".")
    )
    for name in names:
        with (folder / name).open("rb") as handle:
            os.fsync(handle.fileno())
    files = _sums(folder, names)
    body = {"made_by": _MADE_BY, "facts": dict(facts or {}), "files": files}
    write_json(folder / MANIFEST, {**body, "sha256": sha256_json(body)})
    return files


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder: ``made_by``, ``facts``, ``files``; None where there is none.

    Raises
    ------
    ModelError
        It is no manifest, or it was changed itself.
    """
    path = folder / MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _broken(path, f"cannot be read: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict) or value.get("made_by") != _MADE_BY:
        raise _broken(path, "is no list of checksums of ours")
    body = {key: value.get(key) for key in ("made_by", "facts", "files")}
    if value.get("sha256") != sha256_json(body):
        raise _broken(path, "was changed after it was written")
    return body


def damage(folder: Path) -> list[Damage]:
    """Files that are not as they were saved, missing ones, and added ones that would be read. Empty: all is whole.

    Raises
    ------
    ModelError
        There is no readable manifest.
    """
    manifest = read(folder)
    if manifest is None:
        raise _broken(folder / MANIFEST, "is missing")
    return _differences(folder, manifest["files"])


def _differences(folder: Path, files: Mapping[str, str]) -> list[Damage]:
    here = [name for name in files if (folder / name).is_file()]
    try:
        found = _sums(folder, here)
    except OSError as error:
        raise _broken(folder, f"cannot be read: {error}") from error
    bad = []
    for name, sha256 in files.items():
        if name not in found:
            bad.append(Damage(name, part_of(name), ": missing", f"sha256 {sha256[:12]}, as it was saved"))
        elif found[name] != sha256:
            what = f": changed since it was saved (sha256 {found[name][:12]})"
            bad.append(Damage(name, part_of(name), what, f"sha256 {sha256[:12]}, as it was saved"))
    for path in sorted(folder.iterdir()):
        if path.name not in files and path.name != MANIFEST and path.is_file() and is_read(path.name):
            found_ = ": added since the folder was saved"
            bad.append(Damage(path.name, part_of(path.name), found_, "only the files that were saved"))
    return bad


def verify(folder: Path, *, fix: str) -> dict[str, Any]:
    """Hold a folder with weights against its checksums, and return what it says it belongs to.

    A folder without ``checksums.json`` (saved before there were any) is read with a warning.

    Parameters
    ----------
    folder
        The folder of a model.
    fix
        What to do about a damaged one.

    Raises
    ------
    ModelError
        A file was changed, is missing or was added; the first is named with what it holds.
    """
    manifest = read(folder)
    if manifest is None:
        log.warning(f"{folder} has no {MANIFEST}: saved by an earlier version or another program, read unverified")
        return {}
    if bad := _differences(folder, manifest["files"]):
        more = f", and {len(bad) - 1} more files" if len(bad) > 1 else ""
        raise ModelError(f"{bad[0]}{more}", wanted=bad[0].wanted, where=folder / bad[0].file, fix=fix)
    facts: dict[str, Any] = manifest["facts"] or {}
    return facts


def _sums(folder: Path, names: list[str]) -> dict[str, str]:
    """Sha256 of files, several at once."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="sha256") as pool:
        return dict(zip(names, pool.map(lambda name: sha256_file(folder / name), names), strict=True))


def _broken(path: Path, found: str) -> ModelError:
    return ModelError(
        f"{path.name} {found}",
        wanted=f"a {MANIFEST} as it was written with the folder",
        where=path,
        fix="copy the folder again from where it is whole",
    )
