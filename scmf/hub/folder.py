"""The folder that is published: put together beside its final place, which it takes whole or not at all.

Lives here: which files of a checkpoint go along, the license text, checksums, the atomic change of names. Lives
elsewhere: the card (card), whether the folder loads (check), sending it (upload).
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scmf.core.errors import ModelError
from scmf.core.files import peek_object, sha256_file
from scmf.core.manifest import MANIFEST
from scmf.core.owned import new_folder
from scmf.core.provenance import DISTRIBUTION
from scmf.models.origin import RECORD, Checkpoint
from scmf.models.run_folder import NOTE

KEPT = (".safetensors", ".json", ".npz", ".py", ".txt", ".tsv")
"""Suffixes of what goes along; pickles and whatever else lies beside the weights stay behind."""

_OWN = (RECORD, NOTE, MANIFEST, "results.json", "README.md", "LICENSE", "training.yaml")
"""Files that are written anew."""

MADE_BY = "scmf publish"
_APACHE = "https://www.apache.org/licenses/LICENSE-2.0"


def copy_checkpoint(checkpoint: Checkpoint, target: Path) -> list[str]:
    """Copy weights, configuration, code and tokenizer into the new folder ``target``.

    Returns
    -------
    list of str
        Names of what stays behind.

    Raises
    ------
    ModelError
        If a part is missing.
    """
    model = checkpoint.model
    lacking = [
        what
        for what, pattern in (
            ("weights (*.safetensors)", "*.safetensors"),
            ("code (*.py)", "*.py"),
            ("a tokenizer (tokenizer_config.json)", "tokenizer_config.json"),
        )
        if not any(model.glob(pattern))
    ]
    if lacking:
        raise ModelError(
            f"no {lacking[0]}",
            wanted="weights, configuration, code and tokenizer in one folder",
            where=model,
            fix="save it with `scmf train`, or convert it with `scmf models pull` (without --no-tokenizer)",
        )
    target.mkdir(parents=True, exist_ok=True)
    behind = []
    for path in sorted(model.iterdir()):
        if path.is_file() and path.suffix in KEPT and path.name not in _OWN and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
        elif path.name not in _OWN:
            behind.append(path.name)
    return behind


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """Yield the place beside ``out`` in which to build; it becomes ``out`` when the block ends without an error.

    Files of others in a folder that was made here stay in it.

    Raises
    ------
    ModelError
        If ``out`` exists and was not made here.
    """
    with new_folder(out, ours=_made_here, what="scmf publish") as building:
        yield building


def _made_here(folder: Path) -> list[str] | None:
    """The files of a folder that `scmf publish` made; None for another one."""
    record = peek_object(folder / RECORD) or {}
    if not str(record.get("made_by", "")).startswith(MADE_BY):
        return None
    files = record.get("files")
    return [*(files if isinstance(files, dict) else ()), RECORD]


def checksums(folder: Path) -> dict[str, str]:
    """Sha256 of every file but the record itself, by name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != RECORD}


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def licence_note(license: str, *, title: str, source: dict[str, Any], cells: str, others: Sequence[str] = ()) -> str:
    """Content of ``LICENSE``: under what the weights, the code and the cells stand, and the text for the code.

    Files of code that are not of this installation (``others``) stand under the license that their authors gave them.
    """
    lines = [f"{title}", "", f"Weights: {license}."]
    if repository := source.get("source_repository"):
        revision = f" at {source['source_revision']}" if source.get("source_revision") else ""
        lines += [f"They are, or were trained from, weights of {repository}{revision}, converted to another format."]
    lines += [
        f"Code (*.py): Apache-2.0, copied from {DISTRIBUTION}"
        + (f"; not {', '.join(others)}, which stand under the license of their authors." if others else "."),
        f"Cells they were trained on, which are not in this repository: {cells}.",
        "",
        "The text of the Apache License 2.0 follows. It holds for the code, and for weights that are under it.",
        "",
    ]
    return "\n".join(lines) + "\n" + (_apache_text() or f"{_APACHE}\n")


def _apache_text() -> str:
    """The license text that came with this installation."""
    beside = Path(__file__).parents[2] / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    found = [file for file in files if file.name == "LICENSE"]
    return found[0].read_text(encoding="utf-8") if found else ""
