"""The verbs that take files of a user: ``embed``, ``check``; and ``schema``, which describes the YAML files.

Lives here: parsing and printing. Lives elsewhere: embedding (scmf.evaluation), the checks (scmf.data.checks).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    Variant,
    part_of,
    precision_of,
    rounding_of,
)
from scmf.cli.output import print_answer, print_report, say


def embed(
    file: Annotated[
        str,
        typer.Argument(help="An .h5ad file or zarr group with raw counts; with -o also a folder, pattern or address."),
    ],
    model: Annotated[
        str,
        typer.Option("--model", help="Folder of a run or checkpoint, geneformer@v2-104m (`scmf models ls`), Hub id."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New file; <file>.<recipe>.h5ad (of zarr: .zarr) if not given."),
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Add the vectors to the file itself.")] = False,
    vectors_only: Annotated[
        bool,
        typer.Option(
            "--vectors-only", help="A small .h5ad file with cell ids and vectors; always so of several files."
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="Embed part I of N; the last one to finish writes the file."),
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Key in obsm; X_<recipe> if not given.")] = None,
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    counts_rounding: Rounding = "error",
    batch_key: BatchKey = None,
    layer: Layer = None,
    pooling: Pooling = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: Annotated[str, typer.Option("--precision", help="32-true, or bf16-mixed, faster on a GPU.")] = "32-true",
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the embedding of every cell into obsm of a copy of an AnnData file, a few thousand cells at a time.

    A stopped command goes on where it was when it is given again.
    """
    from scmf.evaluation.embed_file import embed_to_file

    answer = embed_to_file(
        file, model, output=output, in_place=in_place, vectors_only=vectors_only, part=part_of(part), key=key,
        counts=counts, gene_ids=gene_ids, counts_rounding=rounding_of(counts_rounding), batch_key=batch_key,
        layer=layer, pooling=pooling, batch_size=batch_size, device=device, precision=precision_of(precision),
        allow_low_coverage=allow_low_coverage,
    )  # fmt: skip
    print_answer(answer, as_json=json_)


def check(
    files: Annotated[
        list[str], typer.Argument(help="An .h5ad file or zarr group; with --split also several, and addresses.")
    ],
    vocabulary: Annotated[
        str | None, typer.Option("--vocabulary", help="Vocabulary card, such as geneformer-v2.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe or YAML: say what it would refuse of this file.")
    ] = None,
    variant: Variant = None,
    split: Annotated[Path | None, typer.Option("--split", help="TSV of cell_id and split: look for leaks.")] = None,
    donor_key: Annotated[
        str | None, typer.Option("--donor-key", help="Column whose values must lie in one part each.")
    ] = None,
    counts_rounding: Rounding = "error",
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
) -> None:
    """Look at a file as a recipe would: counts, gene ids, coverage, empty and duplicate cells, leaks of a split.

    Exit code 1 when something would be refused.
    """
    from scmf.core.config.recipe import load_recipe
    from scmf.core.errors import ConfigError
    from scmf.data.checks.file import check_file
    from scmf.data.checks.split import check_split
    from scmf.data.stores.files.remote import is_remote
    from scmf.data.stores.open import sources_of

    local = len(files) == 1 and not is_remote(files[0])
    stores = [source.root for source in sources_of(files[0], None)] if local else files
    if local and len(stores) == 1:
        sections = None if config is None else load_recipe(config, variant=variant).config
        found = check_file(
            Path(stores[0]), vocabulary=vocabulary, recipe_sections=sections, split=split, donor_key=donor_key,
            rounding=rounding_of(counts_rounding), allow_low_coverage=allow_low_coverage,
        )  # fmt: skip
    elif split is None or vocabulary is not None or config is not None:
        raise ConfigError(
            f"{len(stores)} store(s), the first {stores[0].partition('?')[0]!r}",
            wanted="one .h5ad file or zarr group on this machine, or --split without --vocabulary and --config",
            where="scmf check",
            fix="call it once for each file; `scmf data genes FILES --vocabulary NAME` takes any number of any stores",
        )
    else:
        found = check_split(files, split, donor_key=donor_key)
    print_report(found, as_json=json_)


def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; stdout if not given.")] = None,
) -> None:
    """JSON schema of the YAML files, for editors."""
    import json

    from scmf.core.config.recipe import file_schema
    from scmf.core.files import write_json
    from scmf.core.outputs import try_file

    if out is None:
        print(json.dumps(file_schema(), indent=1, ensure_ascii=False))  # it has no secret, but names of keys for some
    else:
        try_file(out, option="--out")
        write_json(out, file_schema())
        say(out)
