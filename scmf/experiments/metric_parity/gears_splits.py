"""Cases of the split of GEARS: lists of conditions, and the part and subgroup of each by seed.

Lives here: the comparisons of one case. Lives elsewhere: the split (scmf.data.splits.perturbation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from scmf.data.splits.perturbation import gears_groups, gears_simulation
from scmf.experiments.metric_parity.case import Found
from scmf.results.parity import ParityCase

_PARTS = {"train": "train", "valid": "val", "test": "test"}
"""Our name of a part to that of GEARS."""

_CONTROL = "ctrl"


def is_mine(found: Found) -> bool:
    """Whether a case is of this kind."""
    return {"conditions", "splits"} <= found.expected.keys()


def cases(found: Found) -> Iterator[ParityCase]:
    """Parts and subgroups of every list and seed."""
    for split in found.expected["splits"]:
        name = f"{split['list']}/{split['split']}/seed{split['seed']}"
        if split["split"] != "simulation":
            yield found.failed(name, f"split {split['split']!r} is not offered")
            continue
        conditions = found.expected["conditions"][split["list"]]
        parts = gears_simulation([*conditions, _CONTROL], seed=int(split["seed"]))
        for ours, theirs in _PARTS.items():
            mine = {condition for condition, part in parts.items() if part == ours}
            yield _same(found, f"{name}/{theirs}", mine - {_CONTROL}, set(split["parts"][theirs]) - {_CONTROL})
        group_of = gears_groups([*conditions, _CONTROL], seed=int(split["seed"]))
        for part, theirs in (("valid", "val_subgroup"), ("test", "test_subgroup")):
            groups: dict[str, list[str]] = {}
            for condition, group in group_of.items():
                if parts[condition] == part:
                    groups.setdefault(group, []).append(condition)
            yield from _groups(found, f"{name}/{theirs}", groups, split.get(theirs, {}))


def _groups(
    found: Found, name: str, ours: Mapping[str, Sequence[str]], golden: Mapping[str, Sequence[str]]
) -> Iterator[ParityCase]:
    for group in sorted({*golden, *ours}):
        yield _same(found, f"{name}/{group}", set(ours.get(group, ())), set(golden.get(group, ())))


def _same(found: Found, name: str, ours: set[str], golden: set[str]) -> ParityCase:
    off = ours ^ golden
    detail = f"the first that differs is {min(off)!r}" if off else ""
    return ParityCase(f"{found.name}/{name}", f"{len(golden)} conditions", not off, len(off), 0.0, detail)
