"""Reproduce a recipe: parity with the official code, the mini tier from scratch, the verdict.

Two tiers::

    parity      our tokens and tensors against those of the official code       (needs SCMF_REFERENCE_DIR)
    mini        a small variant trained and evaluated on real cells, judged against our own seeds

Lives here: which seeds run, which numbers are judged, the outcome. Lives elsewhere: one run (run),
the rule of judging (results), pages (report).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scmf.core.config.recipe import Recipe, load_recipe
from scmf.core.errors import ConfigError, EvaluationError
from scmf.core.paths import data_dir, reference_dir
from scmf.core.progress import quiet_transformers
from scmf.evaluation.annotation.metric_table import METRICS as ANNOTATION
from scmf.evaluation.integration.metric_table import BATCH, BIO, SCIB_METRICS
from scmf.evaluation.pretraining_metrics import METRICS as PRETRAINING
from scmf.experiments.folders import Folders
from scmf.experiments.seeds import SeedRun, SharedInputs, run_seed
from scmf.models.run_folder import RunFolder
from scmf.results.expected import Expected, expected_cells, judge_results, load_expected, write_expected
from scmf.results.judge import MIN_OBSERVED, Verdict
from scmf.results.ledger import write_result
from scmf.results.pages.parity import write_parity_table
from scmf.results.pages.reproduction import refuse_other_report, write_report
from scmf.results.pages.reproduction_plots import FigureInputs
from scmf.results.parity import ParityCase
from scmf.results.result import CellKey, Result
from scmf.training.processes import refuse_several

log = logging.getLogger(__name__)

TIERS = ("parity", "mini")

FIRST_SEED = 0
MORE_SEEDS = (100, 101, 102)
"""Seeds that decide, two of them, when the first lies outside its band. None may be an expected sample."""

MIN_BANDS = {**ANNOTATION.min_bands, **SCIB_METRICS.min_bands, **PRETRAINING.min_bands}
"""Smallest half-width of a band, in the unit of the metric, of every metric that is judged: two or three test cells,
and what other processors round differently. A metric that is not here is shown and not judged."""


@dataclass
class Outcome:
    """What a reproduction found.

    Parameters
    ----------
    recipe
        The recipe with its variant.
    parity
        Comparisons with the official code; None when the tier was not asked for.
    absent
        Tier to the reason why it could not run.
    results
        Every measured fact.
    verdicts
        One for every expected or measured number.
    pages
        Files written by the report.
    """

    recipe: Recipe
    parity: list[ParityCase] | None = None
    absent: dict[str, str] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    verdicts: dict[CellKey, Verdict] = field(default_factory=dict)
    pages: list[Path] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when something was judged and nothing failed."""
        cases = self.parity or []
        judged = len(cases) + len(self.verdicts)
        return bool(judged) and all(c.passed for c in cases) and all(v.ok for v in self.verdicts.values())

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        verdicts = [{**key._asdict(), **asdict(v), "ok": v.ok} for key, v in self.verdicts.items()]
        return {
            "recipe": self.recipe.name,
            "variant": self.recipe.variant,
            "ok": self.ok,
            "absent": self.absent,
            "parity": None if self.parity is None else [case.to_json() for case in self.parity],
            "verdicts": verdicts,
            "results": [result.to_json() for result in self.results],
            "pages": [str(path) for path in self.pages],
        }


# --- parity ---------------------------------------------------------------------------------------


def parity_cases(recipe: Recipe, folder: Path) -> Iterator[ParityCase]:
    """Walk over every case found under ``folder``.

    Raises
    ------
    EvaluationError
        If there is none: silence must not look like success.
    """
    if not folder.is_dir():
        raise EvaluationError(
            "no such folder", wanted="outputs of the official code", where=folder, fix="check SCMF_REFERENCE_DIR"
        )
    stems = sorted(path.stem for path in recipe.folder.glob("parity_*.py"))
    if not stems:
        raise ConfigError(
            f"recipe {recipe.name!r} has no parity checks",
            wanted="a file parity_*.py",
            where=recipe.folder,
            fix="run another tier with --tier mini",
        )
    quiet_transformers()
    found = 0
    for stem in stems:
        for case in recipe.module(stem).cases(folder, data_dir=data_dir()):
            found += 1
            yield case
    if not found:
        raise EvaluationError(
            "no case",
            wanted=f"files of the official code of {recipe.name}",
            where=folder,
            fix="check SCMF_REFERENCE_DIR",
        )


# --- the mini tier ----------------------------------------------------------------------------


def judged(
    expected: Expected, results: Sequence[Result], recipe: Recipe, *, first_seed: int | None = None
) -> dict[CellKey, Verdict]:
    """Verdicts; parts of a mean that is judged itself are shown and not judged.

    Parameters
    ----------
    first_seed
        The seed that was asked for, when the others were run because of what it left open.
    """
    verdicts = judge_results(
        expected, results, variant=recipe.variant, recipe_digest=recipe.digest, first_seed=first_seed
    )
    shown = Verdict("not_applicable", "part of a mean that is judged", n_obs=1)
    return {key: shown if key.metric in (*BIO, *BATCH) else verdict for key, verdict in verdicts.items()}


def reproduce(
    name: str,
    *,
    tiers: Sequence[str] = TIERS,
    variant: str | None = None,
    overrides: tuple[str, ...] = (),
    seeds: Sequence[int] = (FIRST_SEED,),
    record: bool = False,
    runs: Path | None = None,
    results_dir: Path | None = None,
    reports: Path | None = None,
    on_case: Callable[[ParityCase], None] = lambda _: None,
) -> Outcome:
    """Reproduce a recipe and judge it.

    Parameters
    ----------
    name
        Recipe, by name or path.
    tiers
        Which of `TIERS` to run. Parity without outputs of the official code is absent with a reason when other tiers
        run, and an error when it was asked for alone.
    variant
        A variant of the mini tier; the recipe's default when None.
    overrides
        ``section.key=value`` texts. They change the digest, so expected values become stale.
    seeds
        Seeds to run. With a single one, two more run when a number lies outside its band. At most one may be
        an expected sample, which is then left out of the band.
    record
        Write the results as expected values into the recipe's ``expected.yaml`` instead of judging them; comparisons
        with the official code into the table of its README.
    runs, results_dir, reports
        Folders for runs, result files and pages; `scmf.experiments.folders.Folders.of` chooses those not given.
    """
    recipe = load_recipe(name, variant=variant, overrides=overrides)
    refuse_several(recipe.config.training, "reproduce")
    folders = Folders.of(recipe, record=record, runs=runs, results_dir=results_dir, reports=reports)
    if "mini" in tiers:
        folders.try_all()
        refuse_other_report(folders.reports, recipe.name)
    outcome = Outcome(recipe)
    if "parity" in tiers:
        folder = reference_dir()
        if folder is None and tuple(tiers) == ("parity",):
            raise EvaluationError(
                "SCMF_REFERENCE_DIR is not set", wanted="a folder with outputs of the official code", fix="set it"
            )
        if folder is None:
            outcome.absent["parity"] = "SCMF_REFERENCE_DIR is not set: no outputs of the official code at hand"
        else:
            log.info("parity with the official code")
            outcome.parity = []
            for case in parity_cases(recipe, folder):
                outcome.parity.append(case)
                on_case(case)
            if record:
                write_parity_table(recipe.folder / "README.md", outcome.parity)
                log.info(f"wrote the parity table into {recipe.folder / 'README.md'}")
    if "mini" in tiers:
        _mini(outcome, seeds, record=record, folders=folders)
    return outcome


def _mini(outcome: Outcome, seeds: Sequence[int], *, record: bool, folders: Folders) -> None:
    recipe = outcome.recipe
    if recipe.tier != "mini":
        raise ConfigError(
            f"variant {recipe.variant!r} is not of the mini tier",
            wanted="a variant with tier: mini",
            where=recipe.folder / "recipe.yaml",
            fix="choose one, or train it with `scmf train`",
        )
    path = recipe.folder / "expected.yaml"
    _check_before_training(recipe, path, seeds, record=record)
    shared = SharedInputs.of(recipe)
    done: list[SeedRun] = []

    def one(seed: int) -> None:
        first = not done
        done.append(run_seed(recipe, seed, shared, runs=folders.runs, first=first))
        for result in done[-1].results:
            write_result(folders.results_dir, result)
        outcome.results = [result for seed_run in done for result in seed_run.results]

    for seed in seeds:
        one(seed)
    if record:
        judgeable = [_judgeable(result) for result in outcome.results]
        write_expected(path, expected_cells([r for r in judgeable if r is not None], min_bands=MIN_BANDS))
        log.info(f"wrote {path}")
    expected = load_expected(path)
    outcome.verdicts = judged(expected, outcome.results, recipe)
    if len(done) == 1 and any(verdict.needs_more_seeds for verdict in outcome.verdicts.values()):
        undecided = [str(key) for key, verdict in outcome.verdicts.items() if verdict.needs_more_seeds]
        log.info(f"outside the band: {'; '.join(undecided)}. Two more seeds decide")
        for seed in [seed for seed in MORE_SEEDS if seed not in seeds][: MIN_OBSERVED - 1]:
            one(seed)
        outcome.verdicts = judged(expected, outcome.results, recipe, first_seed=seeds[0])
    log.info("pages")
    outcome.pages = write_report(
        folders.reports,
        recipe=recipe.name,
        results=outcome.results,
        expected=expected,
        verdicts=outcome.verdicts,
        parity_cases=outcome.parity or [],
        figures_inputs=FigureInputs(
            loss_logs={f"seed {r.seed}": RunFolder(r.folder).log for r in done},
            embedding=done[0].embedding,
            confusion=done[0].confusion,
        ),
    )


def _check_before_training(recipe: Recipe, path: Path, seeds: Sequence[int], *, record: bool) -> None:
    """What would be found after minutes of training is found before."""
    if not seeds:
        raise ConfigError("no seed", wanted="at least one", where="--seeds", fix="for example --seeds 0")
    if not recipe.config.eval.every_n_epochs:
        raise ConfigError(
            "eval.every_n_epochs: 0", wanted="1 or more: the loss at the end is judged", where=path.parent, fix="set it"
        )
    expected = load_expected(path).cells(recipe.variant)
    samples = {seed for cell in expected.values() for seed in cell.samples} - {None}
    if not record and len(own := sorted(set(seeds) & samples)) > 1:
        raise ConfigError(
            f"seeds {', '.join(map(str, own))} are expected samples themselves",
            wanted="seeds to hold against the expected samples, at most one of which is such a sample",
            where="--seeds",
            fix="choose other seeds, or record these anew with --record",
        )
    planned = seeds if record else MORE_SEEDS if len(seeds) == 1 else ()
    clash = set(planned) & (set(MORE_SEEDS) if record else samples)
    if clash:
        raise ConfigError(
            f"seed {min(map(int, filter(None, clash)))} both expected and deciding",
            wanted=f"expected samples of seeds other than {', '.join(map(str, MORE_SEEDS))}",
            where=path,
            fix="record other seeds",
        )


def _judgeable(result: Result) -> Result | None:
    metrics = {name: value for name, value in result.metrics.items() if name in MIN_BANDS}
    return result.model_copy(update={"metrics": metrics}) if metrics else None
