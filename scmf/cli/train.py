"""The verbs that train: ``train`` one configuration, ``sweep`` one architecture under several tokenizers.

Lives here: parsing and printing. Lives elsewhere: a run (scmf.training.pretrain), the sweep
(scmf.experiments.tokenizer_grid).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scmf.cli.options import Config, Json, LowCoverage, Quiet, Seeds, Set, Variant, names_of, seeds_of, sets_of
from scmf.cli.output import print_answer, print_json, print_table, say

log = logging.getLogger(__name__)

SWEEP = "runs/sweep"
TRAIN = "runs/CONFIG-TIME"


def train(
    config: Config,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the run; an interrupted run there resumes.", show_default=TRAIN),
    ] = None,
    variant: Variant = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Short for --set training.seed=N.")] = None,
    overrides: Set = None,
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain the model of a recipe or of your own YAML or TOML file; ``training`` says in how many processes."""
    from scmf.core.config.recipe import load_recipe
    from scmf.core.distributed import agreed, is_main
    from scmf.core.outputs import try_folder
    from scmf.core.workspace import new_run_folder
    from scmf.evaluation.tasks import check_tasks
    from scmf.training.processes import hide_gpus, start

    texts = sets_of(overrides, seed=seed, allow_low_coverage=allow_low_coverage)
    recipe = load_recipe(config, variant=variant, overrides=texts)
    check_tasks(recipe.config.eval)
    hide_gpus(recipe.config.training)
    if out is None:
        out = agreed(lambda: new_run_folder(recipe.name))
        if is_main():
            log.info(f"the run is written to {out}; with --out {out} it resumes where it was interrupted")
    try_folder(out, option="--out")
    if recipe.config.model.checkpoint is not None:
        from scmf.models.published.names import find_model

        find_model(recipe.config.model.checkpoint)  # a wrong name, or a download, comes before the work
    code = start(recipe.config.training, _again(config, out, variant, texts, json_=json_, quiet=quiet))
    if code is not None:
        raise typer.Exit(code)
    # What takes seconds to load, a process that only starts others does without.
    from scmf.evaluation.callbacks import callbacks_of
    from scmf.models.run_folder import RunFolder
    from scmf.training.data import prepare
    from scmf.training.pretrain import pretrain, refuse_other_run

    if is_main():
        refuse_other_run(RunFolder(out), {"seed": recipe.config.training.seed, "recipe_digest": recipe.digest})
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
        "processes": report.processes,
        "cells_per_step": report.cells_per_step,
    }
    if report.data_wait is not None:
        answer["data_wait_share"] = round(report.data_wait, 4)
    print_answer(answer, as_json=json_)


def _again(
    config: str, out: Path, variant: str | None, overrides: tuple[str, ...], *, json_: bool, quiet: bool
) -> list[str]:
    """Arguments of Python by which another process does what this one was asked for."""
    from scmf.core import registry

    flags = {"--json": json_, "--quiet": quiet}
    here = {"", str(Path.cwd())} & set(sys.path)
    return [
        *(() if here else ("-P",)),  # python -m looks into the folder it is called in, which need not be ours
        *("-m", "scmf", *(("--trust",) if registry.trusted() else ()), "train", "--config", config, "--out", str(out)),
        *(() if variant is None else ("--variant", variant)),
        *(word for text in overrides for word in ("--set", text)),
        *(flag for flag, given in flags.items() if given),
    ]


def sweep(
    tokenizers: Annotated[str, typer.Option("--tokenizers", help="Names, such as rank_value,binned,continuous.")],
    model: Annotated[str, typer.Option("--model", help="Architecture that is trained under each of the tokenizers.")],
    config: Annotated[str, typer.Option("--config", help="Recipe or YAML: cells, sizes, budget.")] = "geneformer",
    objective: Annotated[
        str, typer.Option("--objective", help="One objective for all, or own: that of each strategy's paper.")
    ] = "masked_gene_prediction",
    seeds: Seeds = "0",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for runs and tables.", show_default=SWEEP)] = None,
    variant: Variant = None,
    overrides: Set = None,
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one architecture under several tokenizers: same cells, budget and seeds, one table.

    From two seeds on the table says which differences are larger than the spread of the seeds.
    """
    from scmf.core.outputs import try_folder
    from scmf.core.workspace import default_folder
    from scmf.experiments.tokenizer_grid import sweep_tokenizers

    out = try_folder(out or default_folder("sweep"), option="--out")
    found = sweep_tokenizers(
        config,
        names_of(tokenizers),
        architecture=model,
        objective=objective,
        variant=variant,
        overrides=sets_of(overrides, allow_low_coverage=allow_low_coverage),
        seeds=seeds_of(seeds),
        out=out,
    )
    if json_:
        print_json(found.to_json())
        return
    heads, lines = found.table()
    print_table(tuple(heads), [tuple(line) for line in lines])
    for strategy, reason in found.absent.items():
        say(f"{strategy}: — ({reason})")
    say(f"wrote {out / 'sweep.md'} and {out / 'sweep.json'}")
