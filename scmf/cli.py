"""The command line: parse, call one function, print.

stdout carries the answer (a table, or one JSON value with --json); progress and errors go to stderr.
Nothing heavy is imported at the top, so that ``scmf --help`` answers at once.

Exit codes: 0 done and fine; 1 an honest no (a verdict is off, a check found an error); 2 and above
are errors, see scmf/errors.py; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from scmf.reproduce import Outcome

app = typer.Typer(
    name="scmf",
    help="Reproducible recipes for single-cell foundation models. AnnData in, AnnData out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Dataset cards: list, show, fetch, check.", no_args_is_help=True)
app.add_typer(data_app, name="data")

_STOPPED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal, as shells have it."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=V", help="Override a key, for example training.lr=1e-4.")
]
Variant = Annotated[str | None, typer.Option("--variant", help="Variant of the recipe; its default if not given.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Config = Annotated[str, typer.Option("--config", help="Recipe by name, or a YAML file.")]


def main() -> None:
    """Entry point: errors of ours and Ctrl-C become a few words and an exit code, others keep their traceback.

    Of several processes (torchrun, accelerate launch) the first one prints the answer.
    """
    from scmf.errors import ScmfError

    several, first = int(os.environ.get("WORLD_SIZE", "1")) > 1, os.environ.get("RANK", "0") == "0"
    if not first:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  (for as long as the process lives)
    code = 0
    try:
        app()
    except ScmfError as error:
        if "--json" in sys.argv:
            _print_json(error.to_json())
        else:
            print(f"{type(error).__name__}\n{error}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns Ctrl-C into an exit with this code and no word
        code = stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else _STOPPED
        if code == _STOPPED:
            print("stopped; the same command goes on", file=sys.stderr)
    if several:
        from scmf.training.ranks import leave

        leave(code)
    raise SystemExit(code)


# --- verbs ----------------------------------------------------------------------------------------


@app.command()
def reproduce(
    recipe: Annotated[str, typer.Argument(help="Recipe by name or path.")],
    tier: Annotated[
        list[str] | None, typer.Option("--tier", help="parity or embedded; both if not given. May be repeated.")
    ] = None,
    variant: Variant = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds to run: 0, or 1-5, or 1,3.")] = "0",
    record: Annotated[bool, typer.Option("--record", help="Write the results as expected values.")] = False,
    overrides: Set = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder for checkpoints and logs.")] = Path("runs"),
    ledger: Annotated[Path, typer.Option("--ledger", help="Folder for result files.")] = Path("leaderboard/results"),
    reports: Annotated[Path, typer.Option("--reports", help="Folder for pages.")] = Path("reports"),
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce a recipe: parity with the official code, then a small variant from scratch, judged.

    Exit code 0 when every verdict is match, close or not applicable, else 1.
    """
    from scmf import plugins
    from scmf.errors import ConfigError
    from scmf.reproduce import TIERS
    from scmf.reproduce import reproduce as run_reproduction

    for name in tier or ():
        if name not in TIERS:
            hint = plugins.did_you_mean(name, list(TIERS))
            raise ConfigError(f"tier {name!r}", wanted=f"one of {', '.join(TIERS)}", where="--tier", fix=hint)
    note = _note(quiet)
    outcome = run_reproduction(
        recipe,
        tiers=tuple(tier or TIERS),
        variant=variant,
        overrides=tuple(overrides or ()),
        seeds=_seeds(seeds),
        record=record,
        runs=runs,
        ledger=ledger,
        reports=reports,
        progress=not quiet,
        note=note,
        on_case=lambda case: note(f"{'ok  ' if case.passed else 'FAIL'} {case.name}: {case.compared}"),
    )
    if json_:
        _print_json(outcome.to_json())
    else:
        _print_outcome(outcome)
    raise typer.Exit(0 if outcome.ok else 1)


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
    from scmf import run
    from scmf.recipe import load_recipe

    texts = (*(overrides or ()), *(() if seed is None else (f"training.seed={seed}",)))
    recipe = load_recipe(config, variant=variant, overrides=texts)
    note = _note(quiet)
    prepared: Any
    if recipe.config.data.streamed:
        from scmf.streaming import prepare_stream

        prepared = prepare_stream(recipe.config, progress=not quiet, note=note)
    else:
        prepared = run.prepare(recipe.config, progress=not quiet, note=note)
    _, report = run.pretrain(recipe, prepared, out, progress=not quiet, note=note)
    answer = {
        "model": str(out / "model"),
        "log": str(report.log),
        "steps": report.steps,
        "resumed_from": report.resumed_from,
        "seconds": round(report.seconds, 2),
    }
    if report.data_wait is not None:
        answer["data_wait_share"] = round(report.data_wait, 4)
    _print_answer(answer, as_json=json_)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a run, or of a checkpoint.")],
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe or YAML; that of the run if not given.")
    ] = None,
    variant: Variant = None,
    overrides: Set = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a trained model beside its untrained self and the baselines."""
    from scmf.evaluation import evaluate_folder

    scores = evaluate_folder(
        model,
        config=config,
        variant=variant,
        overrides=tuple(overrides or ()),
        progress=not quiet,
        note=_note(quiet),
    )
    if json_:
        _print_json([score.to_json() for score in scores])
        return
    _print_table(
        ("benchmark", "protocol", "method", "metric", "value"),
        [
            (score.benchmark, score.protocol, score.method, name, f"{value:.4f}")
            for score in scores
            for name, value in score.metrics.items()
        ],
    )


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
    layer: Annotated[int, typer.Option("--layer", help="0 last layer, -1 the one before.")] = -1,
    pooling: Annotated[str, typer.Option("--pooling", help="cell (mean over genes) or cls.")] = "cell",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the embedding of every cell into obsm of a copy of an AnnData file."""
    from scmf.evaluation import embed_to_file

    answer = embed_to_file(
        file, model, output=output, key=key, counts=counts, gene_ids=gene_ids, layer=layer, pooling=pooling,
        note=_note(quiet),
    )  # fmt: skip
    _print_answer(answer, as_json=json_)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="An .h5ad file.")],
    vocabulary: Annotated[
        str | None, typer.Option("--vocabulary", help="Vocabulary card, such as geneformer-v2.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe or YAML: say what it would refuse of this file.")
    ] = None,
    variant: Variant = None,
    json_: Json = False,
) -> None:
    """Look at a file as a recipe would: counts, gene ids, coverage, empty and duplicate cells.

    Exit code 1 when something would be refused.
    """
    from scmf.data.check import check_file
    from scmf.recipe import load_recipe

    sections = None if config is None else load_recipe(config, variant=variant).config
    _print_report(check_file(file, vocabulary=vocabulary, recipe_sections=sections), as_json=json_)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; stdout if not given.")] = None,
) -> None:
    """JSON schema of the YAML files, for editors."""
    from scmf.files import write_json
    from scmf.recipe import file_schema

    if out is None:
        _print_json(file_schema())
    else:
        write_json(out, file_schema())
        print(out)


# --- data -----------------------------------------------------------------------------------------


@data_app.command("ls")
def data_ls(json_: Json = False) -> None:
    """List the dataset and vocabulary cards."""
    from scmf.data.cards import list_cards

    cards = [
        {"name": c.name, "kind": c.kind, "cells": c.n_cells, "licence": c.licence, "title": c.title}
        for c in list_cards()
    ]
    if json_:
        _print_json(cards)
    else:
        columns = ("name", "kind", "cells", "licence", "title")
        _print_table(columns, [tuple("" if c[k] is None else str(c[k]) for k in columns) for c in cards])


@data_app.command("info")
def data_info(card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False) -> None:
    """Show a card: source, checksums, licence, citation, labels, splits, leak marks."""
    from scmf.data.cards import load_card

    _print_answer(load_card(card).model_dump(mode="json", exclude_none=True), as_json=json_)


@data_app.command("fetch")
def data_fetch(
    card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False, quiet: Quiet = False
) -> None:
    """Fetch the files of a card and check their sums."""
    from scmf.data.cards import load_card
    from scmf.data.sources import fetch

    files = fetch(load_card(card), progress=not quiet)
    _print_answer({name: str(path) for name, path in files.items()}, as_json=json_)


@data_app.command("check")
def data_check(card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False) -> None:
    """Check that files, labels and splits of a card are what it says."""
    from scmf.data.cards import load_card
    from scmf.data.check import check_card

    _print_report(check_card(load_card(card)), as_json=json_)


# --- printing -------------------------------------------------------------------------------------


def _seeds(text: str) -> tuple[int, ...]:
    from scmf.errors import ConfigError

    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        whole = first.isdecimal() and (last.isdecimal() if dash else True)
        if not whole or (dash and int(last) < int(first)):
            raise ConfigError(
                f"--seeds {text}", wanted="numbers from 0, rising in a range", where="--seeds", fix="0, or 1-5, or 1,3"
            )
        seeds += range(int(first), int(last if dash else first) + 1)
    return tuple(dict.fromkeys(seeds))


def _note(quiet: bool) -> Any:
    def note(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    return note


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def _print_answer(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
        return
    from scmf.files import dump_yaml

    print(dump_yaml(answer), end="")


def _print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A pipe has no width; do not fold what a program reads.
    Console(width=None if console.is_terminal else 200).print(table)


def _print_report(report: Any, *, as_json: bool) -> None:
    """A check's findings; exit code 1 when one of them is an error."""
    if as_json:
        _print_json(report.to_json())
    else:
        _print_table(("level", "what", "found", "do"), [tuple(str(part) for part in row) for row in report.rows()])
    raise typer.Exit(0 if report.ok else 1)


def _print_outcome(outcome: Outcome) -> None:
    from rich.console import Console

    from scmf.expectations import load_expected
    from scmf.report.table import parity_rows, table_rows
    from scmf.report.terminal import render_terminal

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for tier, reason in outcome.absent.items():
        console.print(f"{tier}: — ({reason})", markup=False)
    if outcome.parity is not None:
        columns = ("parity", "passed", "largest difference", "tolerance")
        _print_table(columns, [_parity_line(row) for row in parity_rows(outcome.parity)])
        for case in outcome.parity:
            if not case.passed:
                console.print(f"FAIL {case.name}: {case.compared}; {case.detail}", markup=False)
    if outcome.verdicts:
        expected = load_expected(outcome.recipe.folder / "expected.yaml")
        rows = table_rows(results=outcome.results, expected=expected, verdicts=outcome.verdicts)
        console.print(render_terminal(rows, title=f"{outcome.recipe.name}, variant {outcome.recipe.variant}"))
    for page in outcome.pages:
        console.print(f"wrote {page}", markup=False)
    console.print("reproduced" if outcome.ok else "NOT reproduced: see the rows above", markup=False)


def _parity_line(row: dict[str, Any]) -> tuple[str, ...]:
    passed = f"{row['passed']} of {row['cases']} cases"
    return row["part"], passed, f"{row['difference']:.2g}", f"{row['tolerance']:.2g}"
