"""The verbs ``evaluate`` and ``compare`` of the command line. Nothing heavy is imported at the top.

Lives here: parsing and printing. Lives elsewhere: scoring (evaluation, suite_run), the grid of tokenizers (compare),
the leaderboard (scmf.experiments.leaderboard).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scmf.cli.output import Json, Quiet, print_json, print_table, seeds_of

if TYPE_CHECKING:
    from scmf.results.result import Result

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=V", help="Override a key, for example training.lr=1e-4.")
]
Variant = Annotated[str | None, typer.Option("--variant", help="Variant of the recipe; its default if not given.")]


def add_bench(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(name="evaluate")(evaluate)
    app.command(name="compare")(compare)


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a run or checkpoint; with --tasks also `baselines`, an .h5ad file with embeddings "
            "(--obsm) or predicted cells, or a table of edges (.tsv, .csv)."
        ),
    ],
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe or YAML; that of the run if not given.")
    ] = None,
    variant: Variant = None,
    overrides: Set = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", help="Tasks of the leaderboard: all, a benchmark, or names (`scmf evaluate ls`)."),
    ] = None,
    suite: Annotated[Path | None, typer.Option("--suite", help="A suite of your own, not the shipped one.")] = None,
    obsm: Annotated[str | None, typer.Option("--obsm", help="Key in obsm with embeddings.")] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="recipe/variant that results of a file are filed under.")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option("--trained-on", help="Corpus that a file's maker was trained on, for the leak marks."),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Folder for result files of --tasks; RUN/results if not given.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model beside its untrained self and the baselines, or anything on the tasks of the leaderboard."""
    if model == "ls":
        _list_tasks(suite, as_json=json_)
        return
    if tasks is not None:
        from scmf.evaluation.run import evaluate_tasks

        results = evaluate_tasks(
            model, tasks=[task.strip() for task in tasks.split(",") if task.strip()], suite=suite, obsm=obsm,
            name=name, corpora=tuple(trained_on or ()), results_dir=ledger, )  # fmt: skip
        _print_results(results, as_json=json_)
        return
    from scmf.evaluation.evaluate_run import evaluate_folder

    scores = evaluate_folder(
        Path(model),
        config=config,
        variant=variant,
        overrides=tuple(overrides or ()),
    )
    if json_:
        print_json([score.to_json() for score in scores])
        return
    print_table(
        ("benchmark", "protocol", "method", "metric", "value"),
        [
            (score.benchmark, score.protocol, score.method, name, f"{value:.4f}")
            for score in scores
            for name, value in score.metrics.items()
        ],
    )


def _list_tasks(suite: Path | None, *, as_json: bool) -> None:
    from scmf.evaluation.tasks import load_suite

    tasks = load_suite(suite).tasks
    if as_json:
        print_json({name: task.model_dump(mode="json") for name, task in tasks.items()})
        return
    rows = [(name, t.benchmark, f"{t.dataset}.{t.split}", t.description) for name, t in tasks.items()]
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
            rows.append((*head, metric, f"{value:.4f}", span))
    print_table(("benchmark", "cells", "protocol", "method", "metric", "value", "95 % interval"), rows)


def compare(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Recipes (recipes/*), folders of runs: the leaderboard of what was measured of them."),
    ] = None,
    tokenizers: Annotated[
        str | None, typer.Option("--tokenizers", help="Names, such as rank_value,binned,continuous: train a grid.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Architecture that is trained under each of --tokenizers.")
    ] = None,
    config: Annotated[str, typer.Option("--config", help="Recipe or YAML: cells, sizes, budget.")] = "geneformer",
    objective: Annotated[
        str, typer.Option("--objective", help="One objective for all, or own: that of each strategy's paper.")
    ] = "masked_gene_prediction",
    seeds: Annotated[str, typer.Option("--seeds", help="0, or 1-5, or 1,3; differences are told from two on.")] = "0",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for tables (and runs); leaderboard/ for recipes, else runs/compare."),
    ] = None,
    ledger: Annotated[Path, typer.Option("--ledger", help="Folder of result files.")] = Path("leaderboard/results"),
    variant: Variant = None,
    overrides: Set = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """The leaderboard of recipes or runs; with --tokenizers, one architecture trained under several tokenizers."""
    from scmf.core.errors import ConfigError

    if bool(what) == bool(tokenizers) or bool(tokenizers) != bool(model):
        raise ConfigError(
            f"{len(what or [])} recipes or runs, --tokenizers {tokenizers}, --model {model}",
            wanted="either recipes or runs, or --tokenizers together with --model",
            where="scmf compare",
            fix="scmf compare recipes/*, or scmf compare --tokenizers rank_value,binned --model transformer_encoder",
        )
    if what:
        from scmf.experiments.leaderboard import compare_measured

        leaderboard = compare_measured(what, results_dir=ledger, out=out)
        if json_:
            print_json(leaderboard.to_json())
            return
        for title, heads, lines in leaderboard.terminal_tables():
            print(title)
            print_table(tuple(heads), [tuple(line) for line in lines])
        for page in leaderboard.pages:
            print(f"wrote {page}")
        if out is None and leaderboard.whole and Path(".git").exists():
            from scmf.results.history import write_history

            print(f"wrote {write_history('.', 'reports/CHANGES.md')}")
        return
    from scmf.experiments.tokenizer_grid import compare_tokenizers

    assert tokenizers is not None and model is not None
    out = out or Path("runs/compare")
    found = compare_tokenizers(
        config,
        [name.strip() for name in tokenizers.split(",") if name.strip()],
        architecture=model,
        objective=objective,
        variant=variant,
        overrides=tuple(overrides or ()),
        seeds=seeds_of(seeds),
        out=out,
    )
    if json_:
        print_json(found.to_json())
        return
    heads, lines = found.table()
    print_table(tuple(heads), [tuple(line) for line in lines])
    for strategy, reason in found.absent.items():
        print(f"{strategy}: — ({reason})")
    print(f"wrote {out / 'compare.md'} and {out / 'compare.json'}")
