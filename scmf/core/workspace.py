"""Where commands write unless told otherwise, and where the committed files are.

A user's command writes below ``./runs`` only::

    runs/<config>-<time>/      one training (under srun: <config>-job<job>.<step>)
    runs/reproduce/<recipe>/   runs, results and report pages of a reproduction
    runs/evaluate/results/     results of a submission that is not a run of ours (a run keeps its own: <run>/results)
    runs/sweep/                one architecture under several tokenizers
    runs/compare/              leaderboard pages
    runs/check/                what `scmf reproduce all --check` measured

Committed files (``leaderboard/``, ``reports/``, ``recipes/*/expected.yaml``) belong to the checkout and are written
only when a maintainer asks for it. Lives elsewhere: folders inside a run (scmf.models), caches (scmf.core.files).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from scmf.core import slurm
from scmf.core.paths import shipped

RUNS = Path("runs")
"""Root of everything that commands write by default, relative to the current folder; ignored by git."""


def default_folder(verb: str, *names: str) -> Path:
    """Folder that ``verb`` writes to when no option names another."""
    return RUNS.joinpath(verb, *names)


def new_run_folder(name: str) -> Path:
    """A folder for a run of the configuration ``name`` that nothing has: ``runs/<name>-<time>``, time in UTC.

    Under srun it is ``runs/<name>-job<job>.<step>``: the same on all nodes, and again in a job that is requeued.
    """
    if "SLURM_PTY_PORT" not in os.environ and (task := slurm.step()) is not None:  # a shell runs many commands
        return RUNS / f"{name}-job{task.name}"
    first = RUNS / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    numbers = (first.with_name(f"{first.name}-{i}") for i in count(2))
    return next(folder for folder in chain([first], numbers) if not folder.exists())


def checkout() -> Path | None:
    """Root of the checkout that the package runs from; None when it was installed from a wheel."""
    root = Path(__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "recipes").is_dir() else None


def committed_results() -> Path:
    """Results that come with the package: ``leaderboard/results`` of the checkout, or the copy in a wheel."""
    return shipped("leaderboard") / "results"


def is_shipped(folder: Path) -> bool:
    """Whether ``folder`` lies among the recipes that come with the package."""
    return folder.resolve().is_relative_to(shipped("recipes").resolve())
