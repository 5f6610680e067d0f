"""What a submission must offer, and who it is.

A submission gives what a benchmark asks for: vectors of cells, labels, predicted cells of a perturbation, edges between
genes. Lives here: the protocol, and a submission that gives nothing, from which the kinds are derived. Lives elsewhere:
the kinds (one file each), finding the one that a word on the command line means (find).

Array legend: N cells, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from scmf.data.loading.facts import DataFacts
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.tasks import Task
from scmf.results.result import ALL_CELLS


@dataclass(frozen=True)
class TrainingCells:
    """What a run was trained on, told apart by content and not by name.

    Parameters
    ----------
    name
        Of the card or of the files.
    sha256
        Checksum of the cells; a fingerprint of the stores where they were streamed.
    split, split_sha256
        The split scheme and its checksum; None: all cells.
    card
        Whether ``name`` is that of a card.
    streamed
        Whether ``sha256`` is a fingerprint, which says nothing beside that of a file.
    """

    name: str
    sha256: str
    split: str | None
    split_sha256: str | None
    card: bool
    streamed: bool

    def corpora(self, dataset: str, split: str, facts: DataFacts) -> tuple[str, ...]:
        """What `Origin.corpora` is beside the cells of a task, filed as ``<dataset>.<split>``."""
        scheme = ALL_CELLS if self.split is None else Path(self.split).stem
        by_name = self.streamed and self.card and self.name == facts.dataset
        if not by_name and self.sha256 != facts.sha256:
            other = self.name if self.name.partition(".")[0] != dataset else f"other {self.name} ({self.sha256[:12]})"
            return (f"{other}.{scheme}",)
        if self.split is None:
            return (f"{dataset}.{ALL_CELLS}",)
        if self.split_sha256 == facts.split_sha256:
            return (f"{dataset}.{split}",)
        return (f"{dataset}.{scheme}" + (" of the run" if scheme == split else ""),)


@dataclass(frozen=True)
class Origin:
    """Who was scored, as results say it.

    Parameters
    ----------
    recipe, variant, tier
        Under which the results are filed.
    digest
        Ties a result to what was scored: the recipe's digest, or the checksum of a file.
    words
        What names the submission on the command line.
    seed, parameters
        Seed of the training and parameters of the network; None without one.
    corpora
        What it was trained on, as ``part_of`` of cards names corpora, or ``<dataset>.<split>`` for the training part of
        a split.
    trained_on
        The cells of the run that made the weights; None where nobody wrote them down.
    """

    recipe: str
    variant: str
    tier: Literal["parity", "mini", "published"]
    digest: str
    words: tuple[str, ...]
    seed: int | None = None
    parameters: int | None = None
    corpora: tuple[str, ...] = ()
    trained_on: TrainingCells | None = None

    def corpora_beside(self, dataset: str, split: str, facts: DataFacts) -> tuple[str, ...]:
        """What it was trained on, held against the cells of a task that is filed as ``<dataset>.<split>``."""
        return self.corpora if self.trained_on is None else self.trained_on.corpora(dataset, split, facts)


class Submission(Protocol):
    """Whatever is scored. A method that has nothing to give returns nothing."""

    @property
    def origin(self) -> Origin:
        """Who is scored."""

    @property
    def references(self) -> tuple[str, ...]:
        """Methods that a benchmark computes of the cells alone (majority class, ceiling) and scores with this one."""

    def vectors(self, task: Task, cells: TaskCells) -> Mapping[str, np.ndarray]:
        """Method to vectors of the cells, (N, D)."""

    def labels(self, task: Task, cells: TaskCells) -> Iterator[tuple[str, np.ndarray]]:
        """Method and labels of the test cells by a fine-tuned head, str (n_test,), one method after the other."""

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """Method to predicted cells, as `scmf.evaluation.perturbation.benchmark` takes them."""

    def edges(self, task: Task, adata: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Method to a table ``regulator, target, weight``."""


@dataclass(frozen=True)
class EmptySubmission:
    """Gives nothing; the kinds say what they give instead."""

    origin: Origin

    @property
    def references(self) -> tuple[str, ...]:
        """None."""
        return ()

    def vectors(self, task: Task, cells: TaskCells) -> Mapping[str, np.ndarray]:
        """Nothing."""
        return {}

    def labels(self, task: Task, cells: TaskCells) -> Iterator[tuple[str, np.ndarray]]:
        """Nothing."""
        return iter(())

    def predictions(self, task: Task, truth: Any) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def edges(self, task: Task, adata: Any, regulators: list[str], targets: list[str]) -> Mapping[str, Any]:
        """Nothing."""
        return {}
