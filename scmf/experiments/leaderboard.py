"""The verb ``compare``: recipes or runs -> results -> the leaderboard. No torch.

Lives here: which results belong to what was named, their verdicts, where the pages go. Lives elsewhere: tables and
pages (scmf.results.pages), training under several tokenizers (tokenizer_grid).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.core.config.recipe import Recipe, find_recipe, list_recipes, load_recipe
from scmf.core.errors import ConfigError
from scmf.core.workspace import committed_results, default_folder
from scmf.data.cards.card import list_cards
from scmf.models.run_folder import RunFolder
from scmf.results.expected import Expected, judge_results, load_expected
from scmf.results.judge import Verdict
from scmf.results.ledger import read_results
from scmf.results.pages.leaderboard import MARKS, Leaderboard, build_leaderboard, write_leaderboard
from scmf.results.pages.leaderboard_rows import FOLDER, folder_of
from scmf.results.pages.table import number
from scmf.results.result import CellKey, Result

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenLeaderboard:
    """A leaderboard and the files it was written to."""

    leaderboard: Leaderboard
    pages: list[Path]
    whole: bool
    """Whether every shipped recipe takes part."""

    def to_json(self) -> dict[str, Any]:
        """All numbers, and the files."""
        return {**self.leaderboard.to_json(), "pages": [str(page) for page in self.pages]}

    def terminal_tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Title, heads and lines of each table, for a terminal."""
        for table in self.leaderboard.tables:
            heads = ["method", *(f"{name} {'↑' if table.higher[name] else '↓'}" for name in table.metrics), "seconds"]
            lines = []
            for row in table.rows:
                line = [row.name]
                for name in table.metrics:
                    entry = row.entries.get(name)
                    line.append("—" if entry is None else f"{number(entry.estimate.value)}{MARKS.get(entry.mark, ' ')}")
                seconds = row.cost("seconds")
                lines.append([*line, "" if seconds is None else f"{seconds:.1f}"])
            yield f"{table.title}. {table.sentence}".rstrip(), heads, lines


def compare_measured(
    what: Sequence[str], *, results_dir: Path | None = None, out: Path | None = None
) -> WrittenLeaderboard:
    """The leaderboard of recipes or runs.

    Parameters
    ----------
    what
        Names or folders of recipes, folders that hold ``results/``: runs that `scmf evaluate RUN --tasks …` has
        scored, reproductions (``runs/reproduce/<recipe>``). With every shipped recipe all results of ``results_dir``
        take part: baselines and whatever else is filed there.
    results_dir
        Folder of result files of the recipes; those that come with the package when None.
    out
        Folder for the pages; ``runs/compare`` when None.

    Raises
    ------
    ConfigError
        A name means nothing, a run has no results, or there is no result at all.
    """
    results_dir = results_dir or committed_results()
    recipes: dict[str, Recipe] = {}
    results: list[Result] = []
    runs: list[Path] = []
    for word in what:
        folder = Path(word)
        if folder.is_file() and folder.suffix not in (".yaml", ".toml"):
            continue  # a README beside the recipes: recipes/* names it, too
        if RunFolder(folder).note.is_file() or RunFolder(folder).results.is_dir():
            runs.append(folder)
            continue
        find_recipe(word)
        recipe = load_recipe(word)
        recipes[recipe.name] = recipe
    whole = set(list_recipes()) <= set(recipes)
    if whole:
        results += read_results(results_dir)
    else:
        for name in (*recipes, *(("baselines",) if recipes or runs else ())):
            results += read_results(results_dir, name)
    for folder, name in zip(runs, _names_of(runs), strict=True):
        results += _of_run(folder, name)
    keyed = {(result.path, result.recipe_digest, folder_of(result)): result for result in reversed(results)}
    results = list(keyed.values())
    if not any(result.recipe != "baselines" for result in results):
        raise ConfigError(
            f"no result of {', '.join(what)} in {results_dir}", wanted="result files", where="scmf compare",
            fix="`scmf reproduce RECIPE` measures a recipe, `scmf evaluate RUN --tasks all` a run",
        )  # fmt: skip
    log.info(f"{len(results)} results of {len({result.recipe for result in results})} recipes")
    expected, verdicts = _verdicts(recipes, results)
    leaderboard = build_leaderboard(results, leaks=known_leaks(), expected=expected, verdicts=verdicts)
    return WrittenLeaderboard(leaderboard, write_leaderboard(out or default_folder("compare"), leaderboard), whole)


def known_leaks() -> dict[str, dict[str, tuple[str, str]]]:
    """What the shipped cards say of the presence of their cells in training corpora."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for card in list_cards(kind="cells"):
        marks = () if card.part_of == "unknown" else card.part_of
        found[card.name] = {mark.corpus: (mark.contains, mark.reason) for mark in marks}
    return found


def _names_of(folders: Sequence[Path]) -> list[str]:
    """What pages call the folders of runs: the last part of the path, or as many as tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for parts in range(1, max((len(path.parts) for path in paths), default=1)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names if paths else []


def _of_run(folder: Path, name: str) -> list[Result]:
    found = read_results(RunFolder(folder).results)
    if not found:
        raise ConfigError(
            "a run without results", wanted="result files", where=RunFolder(folder).results,
            fix=f"scmf evaluate {folder} --tasks all",
        )  # fmt: skip
    return [result.model_copy(update={"provenance": {**result.provenance, FOLDER: name}}) for result in found]


def _verdicts(
    recipes: dict[str, Recipe], results: Sequence[Result]
) -> tuple[dict[str, Expected], dict[tuple[str, CellKey], Verdict]]:
    """Expected values of each recipe, and the verdict on every number that one is expected of."""
    expected: dict[str, Expected] = {}
    verdicts: dict[tuple[str, CellKey], Verdict] = {}
    for name, recipe in recipes.items():
        path = recipe.folder / "expected.yaml"
        if not path.is_file():
            continue
        expected[name] = load_expected(path)
        cells = expected[name].cells(recipe.variant)
        mine = [r for r in results if r.recipe == name and any(r.key(metric) in cells for metric in r.metrics)]
        if mine:
            judged = judge_results(expected[name], mine, variant=recipe.variant, recipe_digest=recipe.digest)
            verdicts |= {(name, key): verdict for key, verdict in judged.items() if key in cells}
    return expected, verdicts
