"""The verbs that score and show scores: ``evaluate``, ``tasks``, ``compare``. Nothing heavy is imported at the top.

Lives here: parsing and printing. Lives elsewhere: scoring (scmf.evaluation), the leaderboard
(scmf.experiments.leaderboard, scmf.results.pages), which change moved which number (scmf.results.history).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scmf.cli.options import BatchSize, Device, Json, LowCoverage, Quiet, Set, Variant, names_of
from scmf.cli.output import print_json, print_scores, print_table, say

if TYPE_CHECKING:
    from scmf.results.result import Result

COMPARE = "runs/compare"

CALIBRATE = "calibrate"
"""Word before a card."""


def evaluate(
    submission: Annotated[
        str,
        typer.Argument(
            help="Folder of a run or checkpoint, or a model by name (`scmf models ls`); with --tasks also `baselines`, "
            "an .h5ad file with embeddings (--obsm) or predicted cells, or a table of edges (.tsv, .csv). Or the word "
            "calibrate, before a card."
        ),
    ],
    card: Annotated[
        str | None,
        typer.Argument(help="With calibrate: a dataset card of a perturbation screen, by name or path."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="Tasks of the leaderboard: all, a benchmark, or names (`scmf tasks` lists them)."),
    ] = None,
    suite: Annotated[Path | None, typer.Option("--suite", help="A suite of your own, not the shipped one.")] = None,
    obsm: Annotated[str | None, typer.Option("--obsm", help="Key in obsm with embeddings.")] = None,
    by_order: Annotated[
        bool,
        typer.Option("--by-order", help="Vectors of --obsm are those of the task's cells in their order, not by id."),
    ] = False,
    name: Annotated[
        str | None, typer.Option("--as", help="recipe/variant that results of a file are filed under.")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option("--trained-on", help="Corpus that a file's maker was trained on, for the leak marks."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            help="Folder for result files of --tasks.",
            show_default="RUN/results, or runs/evaluate/results",
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe or YAML; that of the run if not given.")
    ] = None,
    variant: Variant = None,
    overrides: Set = None,
    batch_size: BatchSize = None,
    device: Device = None,
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a submission on tasks of the leaderboard; without --tasks, a run on the benchmarks of its own recipe.

    A run is scored beside its untrained network and the baselines. `scmf evaluate calibrate CARD` says which metrics
    tell the perturbations of a screen apart, and which may head a table; --results names a folder for its JSON.
    """
    if submission == CALIBRATE or card is not None:
        others = (
            tasks,
            suite,
            obsm,
            name,
            trained_on,
            config,
            variant,
            overrides,
            batch_size,
            device,
            by_order,
            allow_low_coverage,
        )
        _calibrate(submission, card, alone=not any(others), results=results, json_=json_)
        return
    if tasks is not None:
        from scmf.evaluation.run import evaluate_tasks

        found = evaluate_tasks(
            submission, tasks=names_of(tasks), suite=suite, obsm=obsm, by_order=by_order, name=name,
            corpora=tuple(trained_on or ()), results_dir=results, device=device, batch_size=batch_size,
            allow_low_coverage=allow_low_coverage,
        )  # fmt: skip
        _print_results(found, as_json=json_)
        return
    from scmf.evaluation.evaluate_run import evaluate_folder

    scores = evaluate_folder(
        submission,
        config=config,
        variant=variant,
        overrides=tuple(overrides or ()),
        device=device,
        batch_size=batch_size,
        allow_low_coverage=allow_low_coverage,
    )
    if json_:
        print_json([score.to_json() for score in scores])
        return
    print_scores(scores)


def _calibrate(word: str, card: str | None, *, alone: bool, results: Path | None, json_: bool) -> None:
    """The calibration of a card: JSON, or a table with the verdict beneath."""
    from scmf.core.errors import ConfigError
    from scmf.core.outputs import try_folder
    from scmf.evaluation.perturbation.calibrate_card import COLUMNS, calibrate_card, write_calibration

    if word != CALIBRATE or card is None or not alone:
        raise ConfigError(
            f"{word!r} with {'no card' if card is None else repr(card)}" + ("" if alone else " and other options"),
            wanted="one submission; or `scmf evaluate calibrate CARD`, with --json and --results or alone",
            where="scmf evaluate", fix="`scmf data ls` lists cards",
        )  # fmt: skip
    folder = None if results is None else try_folder(results, option="--results")
    found = calibrate_card(card)
    written = None if folder is None else write_calibration(found, folder)
    if json_:
        print_json(found.to_json())
        return
    print_table(COLUMNS, found.rows())
    say(found.verdict.sentence)
    if written is not None:
        say(f"wrote {written}")


def tasks(
    suite: Annotated[Path | None, typer.Option("--suite", help="A suite of your own, not the shipped one.")] = None,
    json_: Json = False,
) -> None:
    """List the tasks of the leaderboard: benchmark, cells, and what a good number means."""
    from scmf.evaluation.tasks import load_suite

    found = load_suite(suite).tasks
    if json_:
        print_json({name: task.model_dump(mode="json") for name, task in found.items()})
        return
    rows = [(name, t.benchmark, f"{t.dataset}.{t.split}", t.description) for name, t in found.items()]
    print_table(("task", "benchmark", "cells", "what a good number means"), rows)


def _print_results(results: list[Result], *, as_json: bool) -> None:
    if as_json:
        print_json([result.to_json() for result in results])
        return
    rows = []
    for result in results:
        where = f"{result.dataset}.{result.split}"
        head = (result.benchmark, where, result.protocol, result.method)
        if result.absence is not None:
            rows.append((*head, "", f"— ({result.absence.reason})", ""))
        for metric, value in result.metrics.items():
            found = result.intervals.get(metric)
            span = "" if found is None else f"{found.low:.4f} to {found.high:.4f} ({found.unit})"
            if each := result.details.get("units", {}).get("values", {}).get(metric):
                span = ", ".join(f"{name}: {one:.4f}" for name, one in each.items())
            rows.append((*head, metric, f"{value:.4f}", span))
    print_table(("benchmark", "cells", "protocol", "method", "metric", "value", "95 % interval, or each"), rows)


def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Recipes (recipes/*, or `all`), folders of runs and reproductions (runs/reproduce/geneformer)."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the pages.", show_default=COMPARE)] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="Result files of recipes.", show_default="those that come with scmf"),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option("--history", help="Write a page too: which change moved which committed number, read from git."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """The leaderboard of recipes or runs: tables, page, CSV, JSON, figures. Nothing is trained."""
    from scmf.core.config.recipe import list_recipes
    from scmf.core.outputs import try_file, try_folder
    from scmf.core.workspace import default_folder
    from scmf.experiments.leaderboard import compare_measured

    out = try_folder(out or default_folder("compare"), option="--out")
    if history is not None:
        try_file(history, option="--history")
    leaderboard = compare_measured(list_recipes() if what == ["all"] else what, results_dir=results, out=out)
    pages = list(leaderboard.pages)
    if history is not None:
        from scmf.results.history import write_history

        pages.append(write_history(".", history))
    if json_:
        print_json(leaderboard.to_json())
        return
    for title, heads, lines in leaderboard.terminal_tables():
        say(title)
        print_table(tuple(heads), [tuple(line) for line in lines])
    for page in pages:
        say(f"wrote {page}")
