"""The tasks of the leaderboard: which benchmark, on which cells and split, with which options. Frozen.

A task has a name, so that a page, a command and a training callback mean the same thing by it. Lives here: the keys of
``leaderboard/suite.yaml``, finding a task, the tasks that a recipe makes of its own cells. Lives elsewhere: what is
scored (submissions), the scoring (run), which options a benchmark knows (its class), the cells (cards in datasets/).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from scmf.core import registry
from scmf.core.config.options import check_options
from scmf.core.config.recipe import Recipe
from scmf.core.config.renamed import current_names, first_names
from scmf.core.config.run import DataConfig, EvalConfig
from scmf.core.config.section import Section, known
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError, ScmfError
from scmf.core.files import sha256_json
from scmf.core.paths import shipped
from scmf.core.yaml import load_yaml
from scmf.data.cards.card import load_card
from scmf.data.cards.sources import fetch

ALL = "all"
"""Name that stands for every task."""


COMMON = ("benchmark", "dataset", "split", "description", "protocols", "batch_key", "label_key", "gene_set", "options")
"""Keys of every task; the others are options that a benchmark must know (its ``task_options``)."""

LATER = ("knn_neighbors", "options")
"""Keys that came after the first results were filed."""

_CELLS = re.compile(r"(.*?\.ya?ml|[^.]*)(?:\.(.+))?", re.DOTALL)
"""A card, by name or path, and behind a dot its split."""


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
    knn_neighbors: int = Field(15, ge=1)
    """``annotation``: neighbors that vote in the kNN probe."""
    max_cells: int | None = Field(None, ge=100)
    """``integration``: score subsamples of so many cells when there are more."""
    truths: tuple[str, ...] = ()
    """``gene_network``: networks that edges are held against."""
    top_genes: int | None = Field(None, ge=10)
    """``gene_network``: most variable genes that take part, beside the regulators; ``perturbation``: the most variable
    genes of training cells, where a screen has too many to test each of them."""
    options: dict[str, Any] = {}
    """What only this benchmark knows, checked by its ``Options``; for benchmarks from outside."""
    gene_set: str | None = None
    """Gene vocabulary that gene symbols are taken to before a model with Ensembl ids reads the cells."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_today(cls, raw: Any) -> Any:
        return current_names("task", raw)

    def digest(self, scored: str) -> str:
        """Sha256 of the task and of the digest of what is scored on it."""
        return sha256_json([scored, first_names("task", self._written())])

    @field_validator("dataset", "split")
    @classmethod
    def _named(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("must not be empty")
        return name

    @model_validator(mode="after")
    def _options_of_the_benchmark(self) -> Task:
        benchmark = registry.resolve("benchmarks", self.benchmark)
        for key, field in type(self).model_fields.items():
            given = key not in COMMON and getattr(self, key) != field.default
            if given and key not in benchmark.task_options:
                every = registry.names("benchmarks")
                owners = [name for name in every if key in registry.resolve("benchmarks", name).task_options]
                raise ValueError(f"`{key}` belongs to {' and '.join(owners)}, not to {self.benchmark}")
        check_options("benchmarks", self.benchmark, self.options)
        for key, said in benchmark.required_options.items():
            if not getattr(self, key):
                raise ValueError(f"`{key}` {said}")
        return self

    def _written(self) -> dict[str, Any]:
        """What a digest of the task is made of: keys of `LATER` only where they are set, so that old digests hold."""
        keys = type(self).model_fields
        whole = self.model_dump(mode="json")
        return {
            key: value for key, value in whole.items() if key not in LATER or getattr(self, key) != keys[key].default
        }


class Suite(Section):
    """Content of ``suite.yaml``."""

    tasks: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Task]
    """Name to task."""

    def chosen(self, names: Sequence[str] = (ALL,)) -> dict[str, Task]:
        """The tasks of these names, in the order of the file; ``all``, or a benchmark, stands for all of it.

        ``benchmark:card.split`` is a task that no suite has (`task_on_card`); these come last.

        Raises
        ------
        ConfigError
            A name is unknown.
        """
        benchmarks = {task.benchmark for task in self.tasks.values()}
        own = {name: task_on_card(name) for name in names if is_own_task(name)}
        for name in names:
            if name in own:
                continue
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
        } | own


def is_own_task(name: str) -> bool:
    """Whether a name stands for a task that no suite has: ``benchmark:card``."""
    return ":" in name


def check_tasks(settings: EvalConfig) -> None:
    """Raise one error for all benchmarks and tasks of a configuration whose cells are not to be had.

    Raises
    ------
    ConfigError, SourceError
        With the override that leaves them out.
    """
    suite, failed = load_suite(), {}
    for name in settings.tasks:
        try:
            suite.chosen([name])
        except ScmfError as error:
            failed[name] = error
    if not failed:
        return
    kept = {"benchmarks": settings.benchmarks, "tasks": [name for name in settings.tasks if name not in failed]}
    without = " ".join(f"--set 'eval.{key}=[{', '.join(names)}]'" for key, names in kept.items())
    first = next(iter(failed.values()))
    kind = type(first) if all(type(error) is type(first) for error in failed.values()) else ConfigError
    hints = dict.fromkeys(f"{name}: {error.fix}" for name, error in failed.items() if error.fix)
    raise kind(
        "\n  ".join(f"{name}: {error.found}" for name, error in failed.items()),
        wanted="benchmarks whose cells can be had (`scmf data ls`), or a card of your own by its path",
        where="eval.benchmarks and eval.tasks",
        fix=f"without them: {without}" + "".join(f"\n  {hint}" for hint in hints),
    )


def task_on_card(name: str) -> Task:
    """A benchmark on the cells of a card, with the choices of the benchmark: ``annotation:pancreas.donor``.

    Parameters
    ----------
    name
        ``benchmark:card.split``; the split may be left out where the card has one alone.

    Raises
    ------
    ConfigError
        The benchmark, card or split is unknown, or the split has to be named.
    SourceError
        The cells need a download by hand; it says which.
    """
    benchmark, _, cells = name.partition(":")
    match = _CELLS.fullmatch(cells)
    dataset, split = (match[1], match[2]) if match else (cells, None)
    card = load_card(dataset)
    if not card.files:
        fetch(card)  # says what to download by hand
    if not split and len(card.splits) != 1:
        known = [f"{benchmark}:{dataset}.{one}" for one in sorted(card.splits)]
        raise ConfigError(
            f"task {name!r} without a split",
            wanted=f"one of {', '.join(known) or '(the card has no split)'}",
            where=f"card {card.name!r}",
            fix="name the split behind a dot",
        )
    keys = {"benchmark": benchmark, "dataset": dataset, "split": split or next(iter(card.splits))}
    card.split(keys["split"])
    said = f"{benchmark} on the cells of {card.title}"
    task: Task = validate(Task, {**keys, "description": said}, where=f"task {name!r}")
    return task


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


def tasks_of(recipe: Recipe) -> dict[str, Task]:
    """Benchmark to the task that a recipe's ``eval.benchmarks`` makes of its own cells, sorted by benchmark."""
    data, settings = recipe.config.data, recipe.config.eval
    cells = data.dataset or ", ".join(data.file_names) or "cells"
    return {
        name: Task(
            benchmark=name,
            dataset=str(cells),
            split=str(data.split or "all"),
            description=f"the cells of {recipe.name}",
            batch_key=data.batch_key,
            label_key=data.label_key,
            **registry.resolve("benchmarks", name).recipe_options(settings),
        )
        for name in sorted(settings.benchmarks)
    }
