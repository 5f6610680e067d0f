"""The verb ``plan``: what a run will take before it starts.

Lives here: parsing and printing. Lives elsewhere: the plan (scmf.experiments.plan), GPUs and prices
(scmf.experiments.gpus).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scmf.cli.options import Json, LowCoverage, Quiet, Set, Variant, sets_of
from scmf.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from scmf.experiments.plan import Memory, Plan


def plan(
    config: Annotated[str, typer.Argument(help="Recipe by name, or a YAML file.")],
    variant: Variant = None,
    overrides: Set = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="A kind of GPU, such as H100; all if not given. May be repeated.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=1, help="GPUs of the run; training.num_gpus if not given.")
    ] = None,
    mfu: Annotated[
        float, typer.Option("--mfu", min=0.01, max=1, help="Share of the peak that training reaches.")
    ] = 0.3,
    cells: Annotated[
        int | None,
        typer.Option("--cells", min=1, help="Training cells, in place of data: with --tokens; none is read."),
    ] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=1, help="Tokens of each of --cells.")] = None,
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what training a configuration takes: parameters, memory, disk, tokens, operations, hours, cost."""
    from scmf.core.config.recipe import load_recipe
    from scmf.experiments.gpus import gpus_named
    from scmf.experiments.plan import plan as make_plan

    kinds = gpus_named(gpu or [])
    recipe = load_recipe(config, variant=variant, overrides=sets_of(overrides, allow_low_coverage=allow_low_coverage))
    found = make_plan(recipe, kinds, count=gpus, mfu=mfu, cells=cells, tokens=tokens)
    if json_:
        print_json(found.to_json())
    else:
        _print(found)


def _print(found: Plan) -> None:
    time = "—" if found.seconds is None else _hours(found.seconds / 3600)
    print_table(
        ("what", "how much"),
        [
            ("parameters", f"{found.parameters:,} ({found.trainable:,} trained, {found.embeddings:,} in embeddings)"),
            ("training cells", f"{found.cells:,}, {found.tokens_per_cell:,.0f} tokens each with padding"),
            ("steps", f"{found.steps:,} of {found.cells_per_step:,} cells"),
            ("tokens of the run", f"{found.tokens:.3g}"),
            ("operations of the run", f"{found.flops:.3g} FLOP"),
            ("disk", _bytes(found.disk)),
            ("memory on this CPU", f"{_bytes(found.memory.total)}: {_parts(found.memory)}"),
            ("time on this CPU", f"{time}, one process"),
        ],
    )
    print_table(
        ("GPUs", "strategy", "memory of each", "fits", "time", "USD", "price from"),
        [
            (
                f"{one.count} x {one.gpu.name}", one.strategy, f"{_bytes(one.memory.total)}: {_parts(one.memory)}",
                "yes" if one.fits else "no", _hours(one.hours), f"{one.usd:,.2f}",
                f"{one.gpu.usd_per_hour} an hour, {one.gpu.price_source}, {one.gpu.price_date}",
            )
            for one in found.gpus
        ],
    )  # fmt: skip
    say(f"time = operations / (GPUs x dense bf16 peak x {found.mfu:g}), training alone; --mfu changes the share")


def _parts(memory: Memory) -> str:
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer}
    return " + ".join(f"{_bytes(size)} {name}" for name, size in (parts | {"activations": memory.activations}).items())


def _bytes(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def _hours(hours: float) -> str:
    if hours < 0.1:
        return f"{hours * 3600:.3g} s"
    return f"{hours:.3g} h" if hours < 100 else f"{hours:,.0f} h"
