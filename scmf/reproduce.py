"""Reproduce a recipe: parity with the official code, the embedded tier from scratch, the verdict.

    parity      our tokens and tensors against those of the official code       (needs SCMF_ORACLE_DIR)
    embedded    a small variant trained and evaluated on real cells, judged against our own seeds

Lives here: which seeds run, which numbers are judged, the outcome. Lives elsewhere: one run (run),
the rule of judging (results), pages (report).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scmf import provenance, run
from scmf.errors import ConfigError, EvaluationError
from scmf.eval.integration import BATCH, BIO
from scmf.eval.score import Score, Truth
from scmf.expectations import Expected, expected_cells, judge_results, load_expected, write_expected
from scmf.files import data_dir, oracle_dir
from scmf.recipe import Recipe, load_recipe
from scmf.report.pages import write_report
from scmf.report.plots import ConfusionInput, EmbeddingInput, FigureInputs, umap_coordinates
from scmf.results import CellKey, ParityCase, Result, Verdict, write_result

TIERS = ("parity", "embedded")

FIRST_SEED = 0
MORE_SEEDS = (100, 101)
"""Seeds that decide when the first lies outside its band. None of them may be an expected sample."""

FLOORS = {
    "accuracy": 0.005,
    "macro_f1": 0.005,
    "valid_loss": 0.005,
    "bio_conservation": 0.005,
    "batch_correction": 0.005,
    "overall": 0.005,
}
"""Smallest half-width of a band, in the unit of the metric: two or three test cells, and what other
processors round differently. A metric that is not here is shown and not judged."""

DETERMINISTIC = ("majority", "hvg", "pca")
"""Methods without a seed."""


@dataclass(frozen=True)
class Folders:
    """Where a reproduction writes: runs (checkpoints, logs), ledger (result files), reports (pages)."""

    runs: Path
    ledger: Path
    reports: Path


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


# --- parity ---------------------------------------------------------------------------------------


def parity_cases(recipe: Recipe, folder: Path) -> Iterator[ParityCase]:
    """Walk over every case found under ``folder``.

    Raises
    ------
    EvaluationError
        If there is none: silence must not look like success.
    """
    if not folder.is_dir():
        raise EvaluationError("no such folder", wanted="outputs of the official code", where=folder)
    stems = sorted(path.stem for path in recipe.folder.glob("parity_*.py"))
    if not stems:
        raise ConfigError(f"recipe {recipe.name!r} has no parity checks", where=recipe.folder)
    found = 0
    for stem in stems:
        for case in recipe.module(stem).cases(folder, data_dir=data_dir()):
            found += 1
            yield case
    if not found:
        raise EvaluationError(
            "no case", wanted=f"files of the official code of {recipe.name}", where=folder, fix="check SCMF_ORACLE_DIR"
        )


# --- the embedded tier ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedRun:
    """One seed of the embedded tier: its results, and what the pictures need."""

    seed: int
    folder: Path
    results: list[Result]
    embedding: EmbeddingInput
    confusion: ConfusionInput | None


def run_seed(recipe: Recipe, seed: int, *, runs: Path, progress: bool, note: run.Note, command: str) -> SeedRun:
    """Pretrain and evaluate one seed; a killed run of the same code and configuration goes on."""
    seeded = _with_seed(recipe, seed)
    # Weights of other code must never be taken for ours: the folder is named after the code.
    name = f"{recipe.digest[:8]}-{provenance.code_digest()[:8]}-seed{seed}"
    out = runs / f"{recipe.name}-{recipe.variant}" / name
    started = time.perf_counter()
    prepared = run.prepare(seeded.config, progress=progress, note=note)
    model, report = run.pretrain(seeded, prepared, out, progress=progress, note=note)
    scores = [_pretraining_score(report.log, len(prepared.part("valid")), len(prepared.part("train")), report.seconds)]
    vectors = run.representations(seeded, prepared, model, note=note)
    scores += run.evaluate(seeded, prepared, vectors, out=out, progress=progress, note=note)
    note(f"seed {seed} done in {time.perf_counter() - started:.0f} s")
    facts = prepared.cells.uns["scmf"]
    truth = Truth.of(prepared.cells)
    return SeedRun(
        seed,
        out,
        [_result(seeded, score, facts, command=command) for score in scores],
        _embedding(vectors["pretrained"], truth, note),
        _confusion(scores),
    )


def _embedding(x_ND: np.ndarray, truth: Truth, note: run.Note) -> EmbeddingInput:
    """The map of all cells for the report; without batches it shows the parts instead."""
    note("UMAP of the embedding")
    batches = truth.parts if truth.batches is None else truth.batches
    return EmbeddingInput(umap_coordinates(x_ND), truth.labels.tolist(), batches.tolist())


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    config = recipe.config
    training = config.training.model_copy(update={"seed": seed})
    return replace(recipe, config=config.model_copy(update={"training": training}))


def _pretraining_score(log: Path, n_valid: int, n_train: int, seconds: float) -> Score:
    values = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [line["valid_loss"] for line in values if "valid_loss" in line]
    if not losses:
        raise EvaluationError(
            "no validation loss", wanted="an evaluation at the end of training", where=log, fix="eval.every_n_epochs: 1"
        )
    definition = "mean cross entropy of the masked tokens of the validation cells, in nats, masks fixed (torch)"
    return Score(
        benchmark="pretraining",
        protocol="masked_gene_prediction",
        method="pretrained",
        metrics={"valid_loss": losses[-1]},
        definitions={"valid_loss": definition},
        n_cells=n_valid,
        n_train=n_train,
        seconds=seconds,
    )


def _result(recipe: Recipe, score: Score, facts: dict[str, Any], *, command: str) -> Result:
    seed = None if score.method in DETERMINISTIC else recipe.config.training.seed
    data = {key: facts[key] for key in ("dataset", "sha256", "split", "split_sha256")}
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Result(
        recipe=recipe.name,
        variant=recipe.variant,
        tier="embedded",
        benchmark=score.benchmark,
        dataset=facts["dataset"],
        split=str(facts["split"]),
        protocol=score.protocol,
        method=score.method,
        seed=seed,
        metrics=score.metrics,
        definitions=score.definitions,
        higher_is_better=score.higher_is_better,
        n_cells=score.n_cells,
        n_train=score.n_train,
        recipe_digest=recipe.digest,
        provenance=provenance.collect(data=data, seed=seed, overrides=list(recipe.overrides)),
        command=command,
        seconds=round(score.seconds, 2),
        peak_memory_mb=round(rss, 1),
    )


def _confusion(scores: Sequence[Score]) -> ConfusionInput | None:
    """Of the fine-tuned head where there is one, else of the linear probe."""
    for protocol in ("finetuned_head", "linear_probe"):
        for score in scores:
            if score.method == "pretrained" and score.protocol == protocol:
                table = score.details["confusion"]
                return ConfusionInput(table["labels"], table["matrix"])
    return None


def judged(expected: Expected, results: Sequence[Result], recipe: Recipe) -> dict[CellKey, Verdict]:
    """Verdicts; parts of a mean that is judged itself are shown and not judged."""
    verdicts = judge_results(expected, results, variant=recipe.variant, recipe_digest=recipe.digest)
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
    runs: Path = Path("runs"),
    ledger: Path = Path("leaderboard/results"),
    reports: Path = Path("reports"),
    progress: bool = True,
    note: run.Note = lambda _: None,
    on_case: Callable[[ParityCase], None] = lambda _: None,
) -> Outcome:
    """Reproduce a recipe and judge it.

    Parameters
    ----------
    name
        Recipe, by name or path.
    tiers
        Which of `TIERS` to run. Parity without oracle files is absent with a reason when other tiers
        run, and an error when it was asked for alone.
    variant
        A variant of the embedded tier; the recipe's default when None.
    overrides
        ``section.key=value`` texts. They change the digest, so expected values become stale.
    seeds
        Seeds to run. With a single one, two more run when a number lies outside its band.
    record
        Write the results as expected values into the recipe's ``expected.yaml`` instead of judging them.
    runs, ledger, reports
        Folders for runs, result files and pages.
    """
    recipe = load_recipe(name, variant=variant, overrides=overrides)
    outcome = Outcome(recipe)
    if "parity" in tiers:
        folder = oracle_dir()
        if folder is None and tuple(tiers) == ("parity",):
            raise EvaluationError(
                "SCMF_ORACLE_DIR is not set", wanted="a folder with outputs of the official code", fix="set it"
            )
        if folder is None:
            outcome.absent["parity"] = "SCMF_ORACLE_DIR is not set: no outputs of the official code at hand"
        else:
            note("parity with the official code")
            outcome.parity = []
            for case in parity_cases(recipe, folder):
                outcome.parity.append(case)
                on_case(case)
    if "embedded" in tiers:
        folders = Folders(runs, ledger, reports)
        _embedded(outcome, seeds, record=record, folders=folders, progress=progress, note=note)
    return outcome


def _embedded(
    outcome: Outcome,
    seeds: Sequence[int],
    *,
    record: bool,
    folders: Folders,
    progress: bool,
    note: run.Note,
) -> None:
    recipe = outcome.recipe
    if recipe.tier != "embedded":
        raise ConfigError(
            f"variant {recipe.variant!r} is not of the embedded tier",
            wanted="a variant with tier: embedded",
            where=recipe.folder / "recipe.yaml",
            fix="choose one, or train it with `scmf train`",
        )
    path = recipe.folder / "expected.yaml"
    done: list[SeedRun] = []

    def one(seed: int) -> None:
        command = f"scmf reproduce {recipe.name} --variant {recipe.variant} --tier embedded --seeds {seed}"
        command += "".join(f" --set {text}" for text in recipe.overrides)
        done.append(run_seed(recipe, seed, runs=folders.runs, progress=progress, note=note, command=command))
        for result in done[-1].results:
            write_result(folders.ledger, result)
        outcome.results = _unique([result for seed_run in done for result in seed_run.results])

    for seed in seeds:
        one(seed)
    if record:
        judgeable = [_judgeable(result) for result in outcome.results]
        write_expected(path, expected_cells([r for r in judgeable if r is not None], floors=FLOORS))
        note(f"wrote {path}")
    expected = load_expected(path)
    if used := sorted(set(MORE_SEEDS) & {s for cell in expected.embedded for s in cell.samples if s is not None}):
        raise ConfigError(f"seed {used[0]} is an expected sample", wanted="other seeds", where=path)
    outcome.verdicts = judged(expected, outcome.results, recipe)
    if len(done) == 1 and any(verdict.needs_more_seeds for verdict in outcome.verdicts.values()):
        undecided = [str(key) for key, verdict in outcome.verdicts.items() if verdict.needs_more_seeds]
        note(f"outside the band: {'; '.join(undecided)}. Two more seeds decide")
        for seed in MORE_SEEDS:
            one(seed)
        outcome.verdicts = judged(expected, outcome.results, recipe)
    outcome.pages = write_report(
        folders.reports,
        recipe=recipe.name,
        results=outcome.results,
        expected=expected,
        verdicts=outcome.verdicts,
        parity_cases=outcome.parity or [],
        figures_inputs=FigureInputs(
            loss_logs={f"seed {r.seed}": r.folder / "pretraining" / "log.jsonl" for r in done},
            embedding=done[0].embedding,
            confusion=done[0].confusion,
        ),
    )


def _unique(results: Sequence[Result]) -> list[Result]:
    """Without the repetition of methods that have no seed; they must agree from seed to seed."""
    kept: dict[Path, Result] = {}
    for result in results:
        first = kept.setdefault(result.path, result)
        if first.metrics != result.metrics:
            raise EvaluationError(
                f"{result.method} gave {result.metrics} and before {first.metrics}",
                wanted="equal numbers from a method without a seed",
                where=result.path,
                fix="report this: the baseline is not deterministic here",
            )
    return list(kept.values())


def _judgeable(result: Result) -> Result | None:
    metrics = {name: value for name, value in result.metrics.items() if name in FLOORS}
    return result.model_copy(update={"metrics": metrics}) if metrics else None
