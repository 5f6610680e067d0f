"""Vectors of cells, piece by piece on disk: what a stopped embedding goes on from, and what several processes share.

Lives here: the folder with the finished pieces and what they are pieces of. Lives elsewhere: embedding a piece and
putting all of them together (embed_file).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.errors import ConfigError
from scmf.core.files import atomic_path, peek_object, sha256_json, write_json

log = logging.getLogger(__name__)

_NOTE = "embedding.json"


class Pieces:
    """Finished pieces, float32 (cells, D) each, in memory or as files of a folder.

    Parameters
    ----------
    n
        Number of pieces.
    folder
        Where they lie; None: in memory.
    """

    def __init__(self, n: int, folder: Path | None) -> None:
        self.n, self.folder = n, folder
        self._digest = ""
        self._held: dict[int, np.ndarray] = {}

    def open(self, facts: Mapping[str, Any], *, shared: bool) -> None:
        """Make the folder, or go on with the pieces in it.

        Parameters
        ----------
        facts
            What decides the vectors.
        shared
            Other processes write pieces into it: those of other vectors are refused instead of removed.
        """
        if self.folder is None:
            return
        note, self._digest = peek_object(self.folder / _NOTE), sha256_json(dict(facts))
        if note is not None and note.get("digest") == self._digest:
            log.info(f"going on: {len(self.done):,} of {self.n:,} pieces were embedded before")
            return
        if note is not None and shared:
            held: dict[str, Any] = note.get("facts") or {}
            differ = sorted(key for key in {*held, *facts} if held.get(key) != facts.get(key))
            raise ConfigError(
                f"parts of another embedding (other {', '.join(differ)})", wanted="the same cells, model and options",
                where=self.folder, fix="give every part the same options; or another --output; or remove that folder",
            )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        if not shared:  # names carry the digest: pieces of other vectors are never read
            for old in self.folder.glob("*.npy"):
                old.unlink()
        write_json(self.folder / _NOTE, {"digest": self._digest, "facts": dict(facts)})

    @property
    def are_all_done(self) -> bool:
        """Whether every piece is finished."""
        return len(self.done) == self.n

    @property
    def done(self) -> set[int]:
        """Numbers of the pieces that are finished."""
        if self.folder is None:
            return set(self._held)
        return {number for number in range(self.n) if self._path(number).is_file()}

    def put(self, number: int, x_BD: np.ndarray) -> None:
        """Keep a piece; a file appears whole or not at all."""
        if self.folder is None:
            self._held[number] = x_BD
            return
        with atomic_path(self._path(number)) as temporary:
            np.save(temporary, x_BD, allow_pickle=False)

    def read(self) -> Iterator[np.ndarray]:
        """All pieces in their order, one at a time in memory."""
        for number in range(self.n):
            yield self._held[number] if self.folder is None else np.load(self._path(number), allow_pickle=False)

    @property
    def width(self) -> int:
        """D."""
        return int(next(self.read()).shape[1])

    def clear(self) -> None:
        """Remove what was written here."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{number:07}.{self._digest[:16]}.npy"  # never taken for one of another embedding
