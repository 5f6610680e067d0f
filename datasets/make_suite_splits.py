"""Make the frozen splits of the leaderboard's cards beside pancreas, and print what their cards must say.

Run from the root of a checkout: ``python datasets/make_suite_splits.py``. Cells are drawn by the sha256 of their id,
conditions by numpy's generator with the seed that stands here, so that another run gives the same files. A split that
is in use is never changed; a better one gets a new name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from make_splits import by_cell

from scmf.core.config.run import DataConfig
from scmf.data.loading.load import load_cells
from scmf.data.splits.held_out import all_doubles, cell_parts, held_out_conditions
from scmf.data.splits.perturbation import gears_simulation
from scmf.data.splits.read import write_split

FOLDER = Path(__file__).parent / "splits"


def write(name: str, parts: pd.Series, *columns: pd.Series) -> None:
    """Write one split and print its checksum and what lies where."""
    sha256 = write_split(FOLDER / f"{name}.tsv.gz", parts.to_dict(), column="part")
    print(f"{name}.tsv.gz\n  sha256: {sha256}\n  {parts.value_counts().to_dict()}")
    for column in columns:
        print(pd.crosstab(column, parts).to_string())


def screen_splits(
    card: str, splits: dict[str, dict[str, dict[str, str]]], *, key: str, kind: str, control: str
) -> None:
    """Splits of one screen; each is given by ``condition_parts`` or ``held_covariates``."""
    obs = load_cells(DataConfig(dataset=card), log_expression=True).obs
    kinds = obs[kind].astype(str) if kind else pd.Series("all", index=obs.index)
    for name, rule in splits.items():
        parts = cell_parts(obs[key].astype(str).tolist(), kinds.tolist(), control=control, **rule)
        write(f"{card}.{name}", pd.Series(parts, index=obs.index), obs[key].astype(str), kinds)


def main() -> None:
    """Make all of them."""
    lung = load_cells(DataConfig(dataset="lung")).obs
    parts = pd.Series(np.where(lung["atlas"] == "Krasnow", "test", "train"), index=lung.index)
    write("lung.krasnow", parts, lung["label"].astype(str))

    nuclei = load_cells(DataConfig(dataset="sinoatrial")).obs
    shares = {"train": 0.6, "valid": 0.15, "test": 0.25}
    write("sinoatrial.random", by_cell(nuclei["cell_type"], shares=shares), nuclei["cell_type"].astype(str))

    kang = load_cells(DataConfig(dataset="kang_ifnb")).obs
    within = by_cell(kang["cell_type"], shares={"train": 0.85, "valid": 0.15})
    condition = within.where(kang["condition"] == "control", "test")
    write("kang_ifnb.condition", condition, kang["cell_type"].astype(str))
    held = {"CD4 T cells": "test", "CD14+ Monocytes": "test", "NK cells": "valid"}
    screen_splits(
        "kang_ifnb", {"cell_type": {"held_covariates": held}}, key="condition", kind="cell_type", control="control"
    )

    norman = load_cells(DataConfig(dataset="norman"), log_expression=True).obs["condition"].astype(str)
    names = sorted(set(norman) - {"control"})
    rules = {
        "combinations": {"condition_parts": all_doubles(names)},
        "gears": {"condition_parts": gears_simulation(names, controls=(), seed=1, draws="rounded")},
    }
    screen_splits("norman", rules, key="condition", kind="", control="control")

    mcfaline = load_cells(DataConfig(dataset="mcfaline"), log_expression=True).obs["condition"].astype(str)
    names = sorted(set(mcfaline) - {"control"})
    rules = {
        "cell_line": {"held_covariates": {"U87MG": "test"}},
        "perturbation": {"condition_parts": held_out_conditions(names, seed=1)},
    }
    screen_splits("mcfaline", rules, key="condition", kind="cell_type", control="control")

    vcc = load_cells(DataConfig(dataset="vcc_h1")).obs["target_gene"].astype(str)
    names = sorted(set(vcc) - {"non-targeting"})
    rules = {"perturbation": {"condition_parts": held_out_conditions(names, seed=1, valid_share=0.0, test_share=0.4)}}
    screen_splits("vcc_h1", rules, key="target_gene", kind="", control="non-targeting")


if __name__ == "__main__":
    main()
