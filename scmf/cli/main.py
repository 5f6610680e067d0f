"""The command line: parse, call one function, print.

The verbs; ``evaluate`` and ``compare`` are in cli_bench, ``publish`` in cli_hub, ``scmf data`` in cli_data, printing in
cli_print. stdout carries the answer (a table, or one JSON value with --json); progress and errors go to stderr.
Nothing heavy is imported at the top, so that ``scmf --help`` answers at once.

Exit codes: 0 done and fine; 1 an honest no (a verdict is off, a check found an error); 2 and above
are errors, see scmf/errors.py; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scmf.cli.data import data_app
from scmf.cli.evaluate import add_bench
from scmf.cli.output import Json, Quiet, print_answer, print_json, print_outcome, print_report, print_table, seeds_of
from scmf.cli.publish import add_publish

log = logging.getLogger(__name__)

app = typer.Typer(
    name="scmf",
    help="Reproducible recipes for single-cell foundation models. AnnData in, AnnData out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
add_bench(app)
add_publish(app)

EVERY = "all"
"""Word for every shipped recipe."""

_STOPPED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal, as shells have it."""

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=V", help="Override a key, for example training.lr=1e-4.")
]
Variant = Annotated[str | None, typer.Option("--variant", help="Variant of the recipe; its default if not given.")]
Config = Annotated[str, typer.Option("--config", help="Recipe by name, or a YAML file.")]


@app.callback()
def every_command(
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Let classes that a file names by package.module:Class, and plugins, run."),
    ] = False,
) -> None:
    """Reproducible recipes for single-cell foundation models. AnnData in, AnnData out."""
    from scmf.core import registry

    registry.trust(trust)


def main() -> None:
    """Entry point: errors of ours and Ctrl-C become a few words and an exit code, others keep their traceback.

    Of several processes (torchrun, accelerate launch) the first one prints the answer.
    """
    from scmf.core.errors import ScmfError

    several, first = int(os.environ.get("WORLD_SIZE", "1")) > 1, os.environ.get("RANK", "0") == "0"
    if not first:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  (for as long as the process lives)
    code = 0
    try:
        app()
    except ScmfError as error:
        if "--json" in sys.argv:
            print_json(error.to_json())
        else:
            print(f"{type(error).__name__}\n{error}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns Ctrl-C into an exit with this code and no word
        code = stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else _STOPPED
        if code == _STOPPED:
            print("stopped; the same command goes on", file=sys.stderr)
    if several:
        from scmf.core.distributed import leave

        leave(code)
    raise SystemExit(code)


# --- verbs ----------------------------------------------------------------------------------------


@app.command()
def reproduce(
    recipe: Annotated[str, typer.Argument(help="Recipe by name or path.")],
    tier: Annotated[
        list[str] | None, typer.Option("--tier", help="parity or mini; both if not given. May be repeated.")
    ] = None,
    variant: Variant = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds to run: 0, or 1-5, or 1,3.")] = "0",
    record: Annotated[bool, typer.Option("--record", help="Write the results as expected values.")] = False,
    overrides: Set = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder for checkpoints and logs.")] = Path("runs"),
    ledger: Annotated[Path, typer.Option("--ledger", help="Folder for result files.")] = Path("leaderboard/results"),
    reports: Annotated[Path, typer.Option("--reports", help="Folder for pages.")] = Path("reports"),
    check: Annotated[
        bool,
        typer.Option("--check", help="Hold it against the committed results, touching none; `all` takes every recipe."),
    ] = False,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", help="With --check: judge this folder of results, run nothing."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce a recipe: parity with the official code, then a small variant from scratch, judged.

    Exit code 0 when every verdict is match, close or not applicable, else 1.
    """
    if check or measured is not None or recipe == EVERY:
        others = bool(variant or overrides or record or seeds != "0")
        _check_recipes(recipe, check=check, measured=measured, tiers=tier, alone=others, json_=json_, quiet=quiet)
        return
    from scmf.core import registry
    from scmf.core.errors import ConfigError
    from scmf.experiments.reproduce import TIERS
    from scmf.experiments.reproduce import reproduce as run_reproduction

    for name in tier or ():
        if name not in TIERS:
            hint = registry.did_you_mean(name, list(TIERS))
            raise ConfigError(f"tier {name!r}", wanted=f"one of {', '.join(TIERS)}", where="--tier", fix=hint)
    outcome = run_reproduction(
        recipe,
        tiers=tuple(tier or TIERS),
        variant=variant,
        overrides=tuple(overrides or ()),
        seeds=seeds_of(seeds),
        record=record,
        runs=runs,
        ledger=ledger,
        reports=reports,
        on_case=lambda case: log.info(f"{'ok  ' if case.passed else 'FAIL'} {case.name}: {case.compared}"),
    )
    if json_:
        print_json(outcome.to_json())
    else:
        print_outcome(outcome)
    raise typer.Exit(0 if outcome.ok else 1)


def _check_recipes(
    recipe: str,
    *,
    check: bool,
    measured: Path | None,
    tiers: list[str] | None,
    alone: bool,
    json_: bool,
    quiet: bool,
) -> None:
    """The regression check of one recipe or of all."""
    from scmf.core.errors import ConfigError
    from scmf.experiments.regression import check_all
    from scmf.experiments.reproduce import TIERS

    if not check or alone:
        raise ConfigError(
            f"{recipe} with --check {check}, or with --variant, --set, --seeds or --record beside it",
            wanted="`scmf reproduce all --check`, alone or with --tier and --measured",
            where="scmf reproduce",
            fix="name one recipe, or leave the other options out",
        )
    found = check_all(
        None if recipe == EVERY else [recipe], tiers=tuple(tiers or TIERS), measured=measured, )  # fmt: skip
    if json_:
        print_json(found.to_json())
    else:
        from scmf.results.pages.regression import COLUMNS

        print_table(("recipe", "ok", "verdicts"), found.summary())
        print_table(tuple(COLUMNS), found.table(everything=False))
        print("every number lies in its band" if found.ok else "NOT as committed: see the first rows")
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def train(
    config: Config,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; a run that was killed there goes on.")],
    variant: Variant = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Short for --set training.seed=N.")] = None,
    overrides: Set = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain the model of a recipe or of your own YAML file."""
    from scmf.core.config.recipe import load_recipe
    from scmf.evaluation.callbacks import callbacks_of
    from scmf.training.data import prepare
    from scmf.training.pretrain import pretrain

    texts = (*(overrides or ()), *(() if seed is None else (f"training.seed={seed}",)))
    recipe = load_recipe(config, variant=variant, overrides=texts)
    prepared: Any
    if recipe.config.data.streamed:
        from scmf.training.stream_data import prepare_stream

        prepared = prepare_stream(recipe.config)
    else:
        prepared = prepare(recipe.config)
    callbacks = callbacks_of(recipe.config.eval, prepared)
    _, report = pretrain(recipe, prepared, out, callbacks=callbacks)
    answer = {
        "model": str(out / "model"),
        "log": str(report.log),
        "steps": report.steps,
        "resumed_from": report.resumed_from,
        "seconds": round(report.seconds, 2),
    }
    if report.data_wait is not None:
        answer["data_wait_share"] = round(report.data_wait, 4)
    print_answer(answer, as_json=json_)


@app.command()
def embed(
    file: Annotated[Path, typer.Argument(help="An .h5ad file with raw counts.")],
    model: Annotated[Path, typer.Option("--model", help="Folder of a run, or of a checkpoint.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New .h5ad file; <file>.<recipe>.h5ad if not given.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Key in obsm; X_<recipe> if not given.")] = None,
    counts: Annotated[
        str, typer.Option("--counts", help="Where raw counts are: auto, X, raw.X, layers/<name>.")
    ] = "auto",
    gene_ids: Annotated[str, typer.Option("--gene-ids", help="auto, var_names, or a column of var.")] = "auto",
    layer: Annotated[
        int | None, typer.Option("--layer", help="0 last layer, -1 the one before; as in the run if not given.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="cell, cls, max or all; as in the run if not given.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the embedding of every cell into obsm of a copy of an AnnData file."""
    from scmf.evaluation.evaluate_run import embed_to_file

    answer = embed_to_file(
        file, model, output=output, key=key, counts=counts, gene_ids=gene_ids, layer=layer, pooling=pooling,
        )  # fmt: skip
    print_answer(answer, as_json=json_)


@app.command()
def check(
    files: Annotated[list[str], typer.Argument(help="An .h5ad file; with --split also zarr stores and several files.")],
    vocabulary: Annotated[
        str | None, typer.Option("--vocabulary", help="Vocabulary card, such as geneformer-v2.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe or YAML: say what it would refuse of this file.")
    ] = None,
    variant: Variant = None,
    split: Annotated[
        Path | None, typer.Option("--split", help="TSV of cell_id and part: look for what leaks through it.")
    ] = None,
    donor_key: Annotated[
        str | None, typer.Option("--donor-key", help="Column whose values must lie in one part each.")
    ] = None,
    json_: Json = False,
) -> None:
    """Look at a file as a recipe would: counts, gene ids, coverage, empty and duplicate cells, leaks of a split.

    Exit code 1 when something would be refused.
    """
    from scmf.core.config.recipe import load_recipe
    from scmf.core.errors import ConfigError
    from scmf.data.checks.file import check_file
    from scmf.data.checks.split import check_split

    one = len(files) == 1 and files[0].endswith(".h5ad") and "://" not in files[0]
    if one:
        sections = None if config is None else load_recipe(config, variant=variant).config
        found = check_file(
            Path(files[0]), vocabulary=vocabulary, recipe_sections=sections, split=split, donor_key=donor_key
        )
    elif split is None or vocabulary is not None or config is not None:
        raise ConfigError(
            f"{len(files)} file(s), the first {files[0]!r}",
            wanted="one .h5ad file on this machine, or --split without --vocabulary and --config",
            where="scmf check",
            fix="`scmf data genes FILES --vocabulary NAME` says what a vocabulary holds of any stores",
        )
    else:
        found = check_split(files, split, donor_key=donor_key)
    print_report(found, as_json=json_)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; stdout if not given.")] = None,
) -> None:
    """JSON schema of the YAML files, for editors."""
    from scmf.core.config.recipe import file_schema
    from scmf.core.files import write_json

    if out is None:
        print_json(file_schema())
    else:
        write_json(out, file_schema())
        print(out)
