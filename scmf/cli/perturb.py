"""The verb ``perturb``: genes deleted or over-expressed in silico.

Lives here: parsing and printing. Lives elsewhere: the perturbations (scmf.evaluation.in_silico).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scmf.cli.options import (
    BatchKey,
    BatchSize,
    Counts,
    Device,
    GeneIds,
    Json,
    Layer,
    LowCoverage,
    Pooling,
    Quiet,
    Rounding,
    names_of,
    rounding_of,
)
from scmf.cli.output import print_answer, print_json, print_table, say

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 50
"""Rows of the table on the screen."""


def perturb(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a run or checkpoint, geneformer@v2-104m (`scmf models ls`), Hub id."),
    ],
    file: Annotated[str, typer.Argument(help="An .h5ad file or zarr group with raw counts.")],
    genes: Annotated[
        str,
        typer.Option("--genes", help="Symbols or Ensembl ids (TP53,GATA1), each alone; all: each gene of each cell."),
    ],
    combine: Annotated[bool, typer.Option("--combine", help="Perturb the genes together.")] = False,
    perturbation: Annotated[str, typer.Option("--perturbation", help="delete, or overexpress.")] = "delete",
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold",
            min=2,
            help="For models that read counts: over-expression multiplies the count by N.",
            show_default="the count becomes the largest of the cell",
        ),
    ] = None,
    state_key: Annotated[
        str | None, typer.Option("--state-key", help="Column of obs with the state of a cell.")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", help="State whose cells are perturbed.")] = None,
    goal: Annotated[str | None, typer.Option("--goal", help="State that cells should move to.")] = None,
    alternate: Annotated[str | None, typer.Option("--alternate", help="Other states, with commas.")] = None,
    null: Annotated[
        str | None, typer.Option("--null", help="A file of other cells: the shifts are tested against theirs.")
    ] = None,
    max_cells: Annotated[
        int | None,
        typer.Option("--max-cells", min=1, help="Most cells of each perturbation and state, drawn by --seed."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of that draw.")] = 42,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Table of all cells to write, .csv or .parquet.")
    ] = None,
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    counts_rounding: Rounding = "error",
    batch_key: BatchKey = None,
    layer: Layer = None,
    pooling: Pooling = None,
    batch_size: BatchSize = None,
    device: Device = None,
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete or over-express genes in silico, and say how far cells move and towards which state.

    As Geneformer's InSilicoPerturber for models that read a ranking of genes; other models read the changed counts.
    """
    from scmf.evaluation.in_silico.request import Reading, Request
    from scmf.evaluation.in_silico.run import perturb as run
    from scmf.evaluation.in_silico.states import States

    request = Request(
        tuple(names_of(genes)), combine=combine, perturbation=perturbation, fold=fold,
        states=States.asked(state_key, start, goal, names_of(alternate or "")), max_cells=max_cells, seed=seed,
    )  # fmt: skip
    found = run(
        model, file, request, null=null, out=out, layer=layer, pooling=pooling, batch_size=batch_size, device=device,
        reading=Reading(counts, gene_ids, rounding_of(counts_rounding), batch_key, allow_low_coverage),
    )  # fmt: skip
    if json_:
        print_json(found.to_json())
        return
    facts = {key: value for key, value in found.facts.items() if value != {}}
    print_answer(facts, as_json=False)
    _print_statistics(found.table)


def _print_statistics(table: pd.DataFrame) -> None:
    """The first rows of the statistics."""
    print_table(
        tuple(map(str, table.columns)), [tuple(map(_text, row)) for row in table[:_SHOWN].itertuples(index=False)]
    )
    if len(table) > _SHOWN:
        say(f"{len(table) - _SHOWN:,} more perturbations: --json prints all of them")


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
