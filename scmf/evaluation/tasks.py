"""The tasks of the leaderboard: which benchmark, on which cells and split, with which options. Frozen.

A task has a name, so that a page, a command and a training callback mean the same thing by it. Lives here: the keys of
``leaderboard/suite.yaml``, finding a task. Lives elsewhere: what is scored (subjects), the scoring (suite_run), the
metrics (eval), the cells (cards in datasets/).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from scmf.core import registry
from scmf.core.config.renamed import current_names, first_names
from scmf.core.config.run import DataConfig
from scmf.core.config.section import Section, known
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError
from scmf.core.files import load_yaml, sha256_json, shipped

ALL = "all"
"""Name that stands for every task."""


class Task(Section):
    """One line of the suite."""

    benchmark: Annotated[str, known("benchmarks")]
    """Which benchmark."""
    dataset: str
    """A dataset card, by name or path."""
    split: str
    """A frozen split of the card."""
    description: str
    """One line: what a good number means here."""
    protocols: tuple[str, ...] = ()
    """Protocols of the benchmark; its own choice when empty."""
    batch_key: str | None = None
    """Column of ``obs`` with the batch; that of the card when null."""
    label_key: str | None = None
    """Column of ``obs`` with labels; that of the card when null."""
    unseen: Literal["error", "report"] = "error"
    """``annotation``: what to do with test cells whose label has no training cell."""
    finetune: bool = False
    """``annotation``: fine-tune a head, too, as the recipe of the model says."""
    max_cells: int | None = Field(None, ge=100)
    """``integration``: score subsamples of so many cells when there are more."""
    truths: tuple[str, ...] = ()
    """``gene_network``: networks that edges are held against."""
    top_genes: int | None = Field(None, ge=10)
    """``gene_network``: most variable genes that take part, beside the regulators; ``perturbation``: the most variable
    genes of training cells, where a screen has too many to test each of them."""
    gene_set: str | None = None
    """Gene vocabulary that gene symbols are taken to before a model with Ensembl ids reads the cells."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_today(cls, raw: Any) -> Any:
        return current_names("task", raw)

    def digest(self, scored: str) -> str:
        """Sha256 of the task and of the digest of what is scored on it."""
        return sha256_json([scored, first_names("task", self.model_dump(mode="json"))])

    @field_validator("dataset", "split")
    @classmethod
    def _named(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("must not be empty")
        return name

    @model_validator(mode="after")
    def _options_of_the_benchmark(self) -> Task:
        of = {
            "unseen": ("annotation",), "finetune": ("annotation",), "max_cells": ("integration",),
            "truths": ("gene_network",), "top_genes": ("gene_network", "perturbation"),
        }  # fmt: skip
        for key, benchmarks in of.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.benchmark not in benchmarks:
                raise ValueError(f"`{key}` belongs to {' and '.join(benchmarks)}, not to {self.benchmark}")
        if self.benchmark == "gene_network" and not self.truths:
            raise ValueError("`truths` must name at least one network")
        return self


class Suite(Section):
    """Content of ``suite.yaml``."""

    tasks: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Task]
    """Name to task."""

    def chosen(self, names: Sequence[str] = (ALL,)) -> dict[str, Task]:
        """The tasks of these names, in the order of the file; ``all``, or a benchmark, stands for all of it.

        Raises
        ------
        ConfigError
            A name is unknown.
        """
        benchmarks = {task.benchmark for task in self.tasks.values()}
        for name in names:
            if name not in self.tasks and name not in benchmarks and name != ALL:
                choice = sorted([*self.tasks, *benchmarks, ALL])
                raise ConfigError(
                    f"task {name!r}",
                    wanted=f"one of {', '.join(choice)}",
                    where="leaderboard/suite.yaml",
                    fix=registry.did_you_mean(name, choice),
                )
        return {
            name: task for name, task in self.tasks.items() if ALL in names or name in names or task.benchmark in names
        }


def load_suite(path: Path | str | None = None) -> Suite:
    """Read the tasks.

    Parameters
    ----------
    path
        A file of your own; the shipped one when None.

    Raises
    ------
    ConfigError
        No such file, not YAML, an unknown key or benchmark.
    """
    path = Path(path) if path is not None else shipped("leaderboard") / "suite.yaml"
    suite: Suite = validate(Suite, load_yaml(path), where=str(path))
    return suite


def data_of(task: Task, *, gene_set: str | None = None) -> DataConfig:
    """The section ``data`` of a task."""
    keys = {"dataset": task.dataset, "split": task.split, "gene_set": gene_set}
    keys |= {"batch_key": task.batch_key, "label_key": task.label_key}
    section: DataConfig = validate(DataConfig, keys, where="leaderboard/suite.yaml")
    return section
