"""A split as it was made: parts of the cells, what is in them, and the two files it is written to.

Lives here: `Split`, the file beside a split and what it claims. Lives elsewhere: making one (make), the format of the
file of cells (read).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.files import write_text
from scmf.core.yaml import dump_yaml, load_yaml
from scmf.data.splits.groups import tabulate
from scmf.data.splits.read import SPLITS, write_split


@dataclass(frozen=True)
class Split:
    """A part for every cell, and how it came about.

    Parameters
    ----------
    codes
        Part of each cell, uint8 (n_cells,), index into `scmf.data.splits.read.SPLITS`.
    by
        Columns whose values were kept whole; empty for ``random``.
    strategy, seed, fractions
        As asked for.
    groups
        Part -> values of the first column of ``by`` in it, sorted.
    held_out
        Part -> names that were put there by hand.
    subgroups
        Perturbations: part -> ``unseen_single``, ``combo_seen0``… -> conditions.
    missing_labels
        Part -> values of ``stratify_by`` that have no cell in it.
    description
        How the split was made, in a sentence or two.
    conditions
        How conditions of perturbations were read: ``separator`` and ``controls``; empty where there were none.
    """

    codes: np.ndarray
    by: tuple[str, ...]
    strategy: str
    seed: int
    fractions: tuple[float, float, float]
    groups: dict[str, tuple[str, ...]]
    held_out: dict[str, tuple[str, ...]]
    subgroups: dict[str, dict[str, tuple[str, ...]]]
    missing_labels: dict[str, tuple[str, ...]]
    description: str
    conditions: dict[str, Any]
    _ids: Callable[[], Iterable[np.ndarray]] = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Part -> cells."""
        return dict(zip(SPLITS, tabulate(self.codes, len(SPLITS))[:, 0].tolist(), strict=True))

    @property
    def parts(self) -> pd.Series:
        """Cell id -> part, ordered categorical; for as many cells as there is memory for their names."""
        index = pd.Index(np.concatenate(list(self._ids())), name="cell_id")
        values = np.array(SPLITS, dtype=object)[self.codes]
        return pd.Series(pd.Categorical(values, categories=list(SPLITS), ordered=True), index=index, name="part")

    def write(self, path: Path | str) -> str:
        """Write the split and, beside it, ``<name>.yaml`` with what a card says about it; return the sha256."""
        path = Path(path)
        sha256 = write_split(path, self._blocks())
        write_text(side_file(path), dump_yaml(self.to_json(path.name, sha256), width=120))
        return sha256

    def _blocks(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        start = 0
        for ids in self._ids():
            yield ids, self.codes[start : start + len(ids)]
            start += len(ids)

    def card_block(self, file: str, sha256: str) -> dict[str, Any]:
        """What stands under ``splits: <name>:`` of a dataset card."""
        by = self.by[0] if self.by else "cell"
        block: dict[str, Any] = {"file": file, "sha256": sha256, "by": by, "description": self.description}
        if self.by:
            block["parts"] = {part: list(self.groups.get(part, ())) for part in SPLITS}
        return block

    def to_json(self, file: str | None = None, sha256: str | None = None) -> dict[str, Any]:
        """The split without its cells; with ``file`` and ``sha256`` the block for a card, too."""
        card = {} if file is None or sha256 is None else {"card": self.card_block(file, sha256)}
        return {
            **card,
            "strategy": self.strategy,
            "by": list(self.by),
            "seed": self.seed,
            "fractions": list(self.fractions),
            "cells": self.sizes,
            "held_out": {part: list(names) for part, names in self.held_out.items()},
            "subgroups": {part: {k: list(v) for k, v in kinds.items()} for part, kinds in self.subgroups.items()},
            "missing_labels": {part: list(labels) for part, labels in self.missing_labels.items()},
            **({"conditions": self.conditions} if self.conditions else {}),
        }


def side_file(path: Path) -> Path:
    """The file beside a split that says how it was made."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".tsv").removesuffix(".csv") + ".yaml")


def _said(path: Path) -> dict[str, Any]:
    side = side_file(path)
    said = load_yaml(side) if side.is_file() else {}
    return said if isinstance(said, dict) else {}


def claimed_columns(path: Path | str) -> tuple[str, ...]:
    """Columns that a split keeps whole, as the file that `Split.write` left beside it says; empty without one."""
    by = _said(Path(path)).get("by", ())
    return tuple(map(str, by)) if isinstance(by, list) else ()


def claimed_conditions(path: Path | str) -> dict[str, Any]:
    """``separator`` and ``controls`` with which the conditions of a split were read, as the same file says."""
    said = _said(Path(path)).get("conditions")
    if not isinstance(said, dict) or not isinstance(said.get("controls"), list):
        return {}
    return {"separator": str(said.get("separator", "")), "controls": tuple(map(str, said["controls"]))}
