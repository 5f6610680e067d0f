"""Make a split: train, valid and test, with whole donors, batches, studies, conditions or cell types on one side.

Cells are dealt out one by one only where that is asked for by name (``strategy="random"``): cells of one donor in
train and test make every number too good.

Lives here: which column is meant, what a group is, what is held out, the answer and its files. Lives elsewhere: the
search for whole groups (assign), conditions of perturbations (perturbation), the file format (read),
looking for leaks (leaks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.errors import ConfigError, DataError
from scmf.core.files import write_text
from scmf.core.yaml import dump_yaml, load_yaml
from scmf.data.splits import perturbation as perturbation_parts
from scmf.data.splits.assign import assign_groups
from scmf.data.splits.groups import ObsColumns, joined_groups, tabulate
from scmf.data.splits.read import SPLITS, write_split
from scmf.data.stores.corpus import Corpus

STRATEGIES = ("group", "random", *perturbation_parts.STRATEGIES)
"""``group``: values of ``by`` whole; ``random``: cells; the rest: see `scmf.data.splits.perturbation`."""


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
        write_text(_side_file(path), dump_yaml(self.to_json(path.name, sha256), width=120))
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
        }


def _side_file(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".tsv") + ".yaml")


def claimed_columns(path: Path | str) -> tuple[str, ...]:
    """Columns that a split keeps whole, as the file that `Split.write` left beside it says; empty without one."""
    side = _side_file(Path(path))
    said = load_yaml(side) if side.is_file() else {}
    by = said.get("by", ()) if isinstance(said, dict) else ()
    return tuple(map(str, by)) if isinstance(by, list) else ()


def make_split(
    cells: AnnData | Corpus,
    *,
    by: str | Sequence[str] | None = None,
    strategy: str = "group",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    hold_out: Mapping[str, Sequence[str]] | None = None,
    stratify_by: str | None = None,
    seed: int = 0,
    separator: str = "+",
    control: str | Sequence[str] = perturbation_parts.CONTROLS,
    train_genes: float = 0.75,
    keys: Mapping[str, str] | None = None,
) -> Split:
    """Assign every cell to train, valid or test.

    Parameters
    ----------
    cells
        An AnnData or a corpus; only ``obs`` is read. Some bytes a cell are held.
    by
        Column of ``obs``, or ``donor``, ``batch``, ``study``, ``perturbation``, ``cell_type`` for the column that
        holds it. Several columns: no value of any of them is cut, so cells that share one lie together.
    strategy
        ``group``: whole values of ``by``; with ``by="perturbation"`` controls are always in train. ``random``: single
        cells. ``unseen``, ``combinations``, ``simulation``: conditions of a perturbation screen, see
        `scmf.data.splits.perturbation`; controls are always in train.
    fractions
        Wanted shares of train, valid and test; sizes come as near as whole groups allow. 0 leaves a part empty.
    hold_out
        Part -> names that make it up: values of ``by``, perturbed genes for ``unseen`` and ``simulation``. A part
        that is named here gets nothing else; the others share the rest in the proportion of their fractions.
    stratify_by
        Column (or ``cell_type``…) whose values should have the same shares in every part.
    seed
        Draws order and ties. Equal arguments give an equal split.
    separator, control
        How conditions are written: ``A+B``; the names of the control.
    train_genes
        Share of train genes in ``simulation``.
    keys
        Which column holds the ``donor``, ``batch`` or ``cell_type``, where usual names do not say; of loaded cells
        ``facts.keys``.

    Raises
    ------
    ConfigError
        ``by`` is missing and cells were not asked for, or arguments contradict each other.
    DataError
        No such column or value, a cell without a value, fewer groups than parts.
    """
    obs = ObsColumns(cells, keys=keys)
    shares = _shares(fractions)
    _refuse_contradictions(by, strategy, obs, hold_out, stratify_by)
    label_codes, labels = (None, []) if stratify_by is None else obs.codes(stratify_by)
    rng = np.random.Generator(np.random.PCG64(seed))
    held = {part: tuple(map(str, names)) for part, names in (hold_out or {}).items()}
    if strategy == "random":
        codes = _random(obs.n_cells, shares, label_codes, rng)
        columns: tuple[str, ...] = ()
        groups: dict[str, tuple[str, ...]] = {}
        kinds: dict[str, dict[str, tuple[str, ...]]] = {}
        how = "Cells were drawn one by one: cells of one donor can lie in several parts"
    else:
        columns = tuple(obs.column(name) for name in ([by] if isinstance(by, str) else by or ()))
        controls = (control,) if isinstance(control, str) else tuple(control)
        screen = strategy in perturbation_parts.STRATEGIES or by == "perturbation"
        values, names = obs.codes(columns[0])
        placed = _placed(held)
        if strategy in perturbation_parts.STRATEGIES:
            sizes = dict(zip(names, tabulate(values, len(names))[:, 0].tolist(), strict=True))
            of_name = perturbation_parts.assign_conditions(
                sizes, strategy=strategy, shares=shares, hold_out=placed, separator=separator, controls=controls,
                train_genes=train_genes, rng=rng,
            )  # fmt: skip
            codes = np.array([of_name[name] for name in names], np.uint8)[values]
            how = f"Conditions ({columns[0]}) were assigned by the strategy {strategy}; controls are in train"
        else:
            if screen:
                placed |= {
                    name: 0
                    for name in names
                    if not perturbation_parts.genes_of(name, separator=separator, controls=controls)
                }
            codes = _whole(obs, columns, shares, placed, set(held), label_codes, len(labels), rng)
            how = f"Values of {' and '.join(columns)} are kept whole"
            how += "; controls are in train" if screen else ""
        part_of = _part_of_values(values, codes, len(names))
        groups = {
            part: tuple(sorted(name for name, at in zip(names, part_of, strict=True) if at == i))
            for i, part in enumerate(SPLITS)
        }
        of_value = dict(zip(names, part_of.tolist(), strict=True))
        kinds = perturbation_parts.subgroups(of_value, separator=separator, controls=controls) if screen else {}
    missing = {} if label_codes is None else _missing(codes, label_codes, labels)
    return Split(
        codes, columns, strategy, seed, shares, groups, held, kinds, missing,
        _describe(how, shares, held, stratify_by and obs.column(stratify_by), seed, missing), obs.ids,
    )  # fmt: skip


def _shares(fractions: Sequence[float]) -> tuple[float, float, float]:
    shares = tuple(float(share) for share in fractions)
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(
            f"fractions {', '.join(map(str, shares))}",
            wanted=f"{len(SPLITS)} numbers from 0 to 1 with the sum 1: {', '.join(SPLITS)}",
            where="fractions",
            fix="for example 0.8, 0.1, 0.1",
        )
    return shares[0], shares[1], shares[2]


def _refuse_contradictions(
    by: str | Sequence[str] | None,
    strategy: str,
    obs: ObsColumns,
    hold_out: Mapping[str, Sequence[str]] | None,
    stratify_by: str | None,
) -> None:
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy {strategy!r}", wanted=f"one of {', '.join(STRATEGIES)}", where="strategy")
    if strategy != "random" and not by:
        raise ConfigError(
            "no column whose values stay whole",
            wanted=f"by: donor, batch, study, perturbation, cell_type or one of {', '.join(obs.columns[:12])}",
            where=obs.name,
            fix="name it; strategy 'random' cuts through donors and has to be asked for",
        )
    if strategy == "random" and (by or hold_out):
        given = "by" if by else "hold_out"
        raise ConfigError(f"{given} with strategy 'random'", wanted="one or the other", fix=f"leave out {given}")
    if strategy in perturbation_parts.STRATEGIES and not isinstance(by, str):
        raise ConfigError(f"by {by}", wanted=f"one column with strategy {strategy!r}", where="by")
    if strategy in perturbation_parts.STRATEGIES and stratify_by:
        raise ConfigError(f"stratify_by with strategy {strategy!r}", wanted="one or the other", fix="leave it out")
    if strange := sorted(set(hold_out or ()) - set(SPLITS)):
        raise ConfigError(f"part {strange[0]!r}", wanted=f"one of {', '.join(SPLITS)}", where="hold_out")


def _placed(held: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Name -> part of what is held out."""
    placed: dict[str, int] = {}
    for part, names in held.items():
        for name in names:
            if placed.setdefault(name, SPLITS.index(part)) != SPLITS.index(part):
                raise ConfigError(f"{name!r} in two parts", wanted="one part", where="hold_out", fix="choose one")
    return placed


def _random(
    n_cells: int, shares: Sequence[float], label_codes: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Cells in random order, cut at the shares; within each label where there are labels."""
    codes = np.empty(n_cells, np.uint8)
    ends = np.cumsum(shares)
    for label in range(1 if label_codes is None else int(label_codes.max()) + 1):
        inside = np.ones(n_cells, bool) if label_codes is None else label_codes == label
        edges = np.rint(ends * int(inside.sum())).astype(int)
        drawn = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), np.diff(edges, prepend=0))
        rng.shuffle(drawn)
        codes[inside] = drawn
    return codes


def _whole(
    obs: ObsColumns,
    columns: Sequence[str],
    shares: Sequence[float],
    placed: Mapping[str, int],
    filled: set[str],
    label_codes: np.ndarray | None,
    n_labels: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Part of each cell, groups whole."""
    group_of, values = joined_groups([obs.codes(column) for column in columns])
    n_groups = int(group_of.max()) + 1
    if strange := [name for name in placed if name not in values]:
        raise DataError(
            f"no {' or '.join(columns)} {strange[0]!r}",
            wanted=f"one of {', '.join(sorted(values)[:12])}",
            where="hold_out",
            fix="correct the name",
        )
    fixed = np.full(n_groups, -1)
    for name, part in placed.items():
        if fixed[values[name]] not in (-1, part):
            raise DataError(f"{name!r} shares cells with what another part holds", wanted="one part", where="hold_out")
        fixed[values[name]] = part
    sizes = tabulate(group_of, n_groups, label_codes, n_labels)
    rest = np.array([0.0 if part in filled else share for part, share in zip(SPLITS, shares, strict=True)])
    if not rest.any():
        rest[0] = 1.0
    try:
        parts = assign_groups(sizes, rest, rng=rng, fixed_G=fixed)
    except ValueError as error:
        raise DataError(
            f"{error} of {' and '.join(columns)}", wanted="at least one for each part", where=obs.name,
            fix="ask for fewer parts (a fraction of 0), or another column",
        ) from error  # fmt: skip
    return parts.astype(np.uint8)[group_of]


def _part_of_values(values: np.ndarray, codes: np.ndarray, n_values: int) -> np.ndarray:
    part = np.full(n_values, -1)
    part[values] = codes
    return part


def _missing(codes: np.ndarray, label_codes: np.ndarray, labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Labels without a cell in a part that has cells."""
    counts = tabulate(codes, len(SPLITS), label_codes, len(labels))
    lost = {part: tuple(np.array(labels)[row == 0].tolist()) for part, row in zip(SPLITS, counts, strict=True)}
    return {part: names for (part, names), row in zip(lost.items(), counts, strict=True) if names and row.any()}


def _describe(
    how: str,
    shares: Sequence[float],
    held: Mapping[str, Sequence[str]],
    stratified: str | None,
    seed: int,
    missing: Mapping[str, Sequence[str]],
) -> str:
    words = [how, "wanted shares " + " / ".join(f"{share:.0%}" for share in shares) + f", seed {seed}"]
    words += [f"held out by hand as {part}: {', '.join(names)}" for part, names in held.items()]
    words += [f"as even over {stratified} as whole groups allow"] if stratified else []
    words += [f"{part} has no {', '.join(labels)}" for part, labels in missing.items()]
    return "; ".join(words) + "."
