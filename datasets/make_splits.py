"""Make the frozen splits of the shipped cards and print what their cards must say.

Run from the root of a checkout: ``python datasets/make_splits.py``. No random numbers: donors are
assigned by trying every assignment within a study, cells by the sha256 of their id, so another run
gives the same files. A split that is in use is never changed; a better one gets a new name.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from scmf.core.config.run import DataConfig
from scmf.data.cards.card import load_card
from scmf.data.loading.load import load_cells
from scmf.data.splits.read import SPLITS, write_split

FOLDER = Path(__file__).parent / "splits"


def assign_donors(donors: pd.Series, labels: pd.Series, *, shares: dict[str, float]) -> dict[str, str]:
    """Donor -> part within one study: every part gets a donor, label by label as near to ``shares`` as can be."""
    table = pd.crosstab(donors, labels)
    total = table.sum()
    best: tuple[float, tuple[str, ...]] | None = None
    for assignment in itertools.product(shares, repeat=len(table)):
        if set(assignment) != set(shares):
            continue
        by_part = table.groupby(np.array(assignment)).sum()
        miss = sum(float((by_part.loc[part] - share * total).abs().sum()) for part, share in shares.items())
        if best is None or (miss, assignment) < best:
            best = (miss, assignment)
    if best is None:
        raise SystemExit(f"{len(table)} donors cannot fill {len(shares)} parts")
    return dict(zip(table.index, best[1], strict=True))


def by_donor(obs: pd.DataFrame, *, shares: dict[str, float]) -> pd.Series:
    """Part of each cell; donors are kept whole and each study (`batch`) fills every part."""
    part_of: dict[str, str] = {}
    for _, study in obs.groupby("batch", observed=True):
        part_of |= assign_donors(study["donor"].astype(str), study["label"].astype(str), shares=shares)
    return obs["donor"].astype(str).map(part_of)


def by_study(obs: pd.DataFrame, *, test: str) -> pd.Series:
    """Part of each cell; one study is the test, and of the others about a sixth of the donors validates."""
    parts = pd.Series("test", index=obs.index)
    rest = obs["batch"].astype(str) != test
    parts[rest] = by_donor(obs[rest], shares={"train": 0.85, "valid": 0.15})
    return parts


def by_cell(labels: pd.Series, *, shares: dict[str, float]) -> pd.Series:
    """Part of each cell, within each label in the order of the sha256 of the cell id."""
    parts = pd.Series("", index=labels.index)
    for _, cells in labels.groupby(labels.astype(str)):
        ids = sorted(cells.index, key=lambda cell: hashlib.sha256(str(cell).encode()).hexdigest())
        start, reached = 0, 0.0
        for part, share in shares.items():
            reached += share
            stop = round(reached * len(ids))
            parts[ids[start:stop]] = part
            start = stop
    return parts


def report(name: str, parts: pd.Series, obs: pd.DataFrame) -> None:
    """Write the split and print its checksum and what lies where."""
    path = FOLDER / f"{name}.tsv.gz"
    sha256 = write_split(path, parts.to_dict(), column="part")
    print(f"{path.name}\n  sha256: {sha256}")
    print(pd.crosstab(obs["label"], parts)[list(SPLITS)].to_string())
    for column in ("donor", "batch"):
        if column in obs:
            for part in SPLITS:
                print(f"  {column} {part}: {sorted(obs.loc[parts == part, column].astype(str).unique())}")


def main() -> None:
    """Make all splits."""
    shares = {"train": 0.6, "valid": 0.15, "test": 0.25}
    card = load_card("pancreas")
    cells = load_cells(DataConfig(dataset="pancreas"))
    obs = cells.obs[[card.label_key, card.batch_key, card.donor_key]].set_axis(["label", "batch", "donor"], axis=1)
    report("pancreas.donor", by_donor(obs, shares=shares), obs)
    report("pancreas.study", by_study(obs, test="Fasolino et al. 2022"), obs)

    card = load_card("pbmc68k_reduced")
    cells = load_cells(DataConfig(dataset="pbmc68k_reduced"))
    obs = cells.obs[[card.label_key]].set_axis(["label"], axis=1)
    report("pbmc68k_reduced.random", by_cell(obs["label"], shares=shares), obs)


if __name__ == "__main__":
    main()
