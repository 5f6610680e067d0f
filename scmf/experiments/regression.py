"""The regression check: every shipped recipe measured again, judged, and held beside the committed results.

Lives here: which recipes run, into which scratch folders, and the judging of results measured before. Lives elsewhere:
running and judging one recipe (reproduce), the rule of judging (results), the table (results.pages.regression), which
commit moved which number (results.history). Nothing here writes into the committed folders.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from scmf.core.config.recipe import Recipe, list_recipes, load_recipe
from scmf.core.errors import ConfigError, ScmfError
from scmf.core.workspace import checkout, committed_results, default_folder
from scmf.experiments import reproduce as reproduction
from scmf.results.expected import load_expected
from scmf.results.judge import Verdict
from scmf.results.ledger import read_results
from scmf.results.pages.regression import Check, Checked, Line
from scmf.results.result import CellKey, Result

log = logging.getLogger(__name__)

SCRATCH = default_folder("check")
"""Where a check writes its runs, result files and pages."""


def check_all(
    recipes: Sequence[str] | None = None,
    *,
    tiers: Sequence[str] = ("parity", "mini"),
    measured: Path | None = None,
    committed: Path | None = None,
    runs: Path = SCRATCH / "runs",
    results_dir: Path = SCRATCH / "results",
    reports: Path = SCRATCH / "reports",
) -> Check:
    """Measure every recipe again and judge it; one that cannot run is a line of the table and does not stop the others.

    Parameters
    ----------
    recipes
        Names or paths; all shipped recipes when None.
    tiers
        Tiers to run, see `scmf.experiments.reproduce.TIERS`.
    measured
        A folder of results measured before, judged in place of a run; the tiers do not matter then.
    committed
        The committed results, only read; those that come with the package when None.
    runs, results_dir, reports
        Scratch folders.

    Raises
    ------
    ConfigError
        ``results_dir`` or ``reports`` is a folder of the repository that a check must not touch, ``measured`` does not
        exist, or a recipe is unknown.
    """
    committed = committed or committed_results()
    for folder, kept in ((results_dir, committed), (reports, (checkout() or Path()) / "reports")):
        if measured is None and folder.resolve() == kept.resolve():
            raise ConfigError(
                f"the check would write into {folder}", wanted="a scratch folder", where="--results, --reports",
                fix=f"leave them out, or name another, for example {SCRATCH / 'results'}",
            )  # fmt: skip
    if measured is not None and not measured.is_dir():
        raise ConfigError("no such folder", wanted="a folder of results", where=measured, fix="measure first")
    checked = []
    for name in list_recipes() if recipes is None else recipes:
        recipe = load_recipe(name)
        log.info(f"check of {recipe.name}")
        try:
            if measured is not None:
                checked.append(_judge(recipe, measured, committed))
            else:
                again = partial(
                    reproduction.reproduce, name, tiers=tiers, runs=runs, results_dir=results_dir, reports=reports
                )
                checked.append(_run(recipe, partial(again), committed))
        except ScmfError as error:
            # One recipe that cannot be measured must not hide what the others have to say.
            log.info(f"{recipe.name}: {error}")
            checked.append(Checked(recipe.name, recipe.variant, error=error.found))
    return Check(tuple(checked))


def _run(recipe: Recipe, again: Callable[[], reproduction.Outcome], committed: Path) -> Checked:
    outcome = again()
    lines = _lines(recipe, outcome.results, outcome.verdicts, committed)
    parity = None if outcome.parity is None else tuple(outcome.parity)
    return Checked(recipe.name, recipe.variant, lines, parity, outcome.absent)


def _judge(recipe: Recipe, measured: Path, committed: Path) -> Checked:
    """Judge what lies in ``measured``; results of cells that the recipe does not expect are others' business."""
    expected = load_expected(recipe.folder / "expected.yaml")
    ours = {key[:-1] for key in expected.cells(recipe.variant)}
    results = [r for r in read_results(measured, recipe.name, variant=recipe.variant) if r.key("")[:-1] in ours]
    if not results:
        return Checked(recipe.name, recipe.variant, error=f"no results of it in {measured}")
    several = len({result.seed for result in results} - {None}) > 1
    verdicts = reproduction.judged(expected, results, recipe, first_seed=reproduction.FIRST_SEED if several else None)
    absent = {"parity": "results of earlier runs were judged"}
    return Checked(recipe.name, recipe.variant, _lines(recipe, results, verdicts, committed), None, absent)


def _lines(
    recipe: Recipe, results: Sequence[Result], verdicts: Mapping[CellKey, Verdict], committed: Path
) -> tuple[Line, ...]:
    cells = load_expected(recipe.folder / "expected.yaml").cells(recipe.variant)
    before = read_results(committed, recipe.name, variant=recipe.variant)
    return tuple(
        Line(
            recipe.name,
            key,
            _mean(before, key),
            _mean(results, key),
            statistics.mean(cells[key].samples.values()) if key in cells else None,
            verdict,
        )
        for key, verdict in verdicts.items()
    )


def _mean(results: Sequence[Result], key: CellKey) -> float | None:
    """Mean over seeds; None over an incomplete set."""
    mine = [result for result in results if result.key(key.metric) == key]
    values = [result.metrics[key.metric] for result in mine if key.metric in result.metrics]
    return statistics.mean(values) if mine and len(values) == len(mine) else None
