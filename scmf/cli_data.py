"""``scmf data``: cards, conversion, statistics, splits, gene vocabularies.

Lives here: parse, call one function, print. Lives elsewhere: the verbs (cli), printing (cli_print).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmf.cli_print import print_answer, print_json, print_report, print_table, progress_bar

data_app = typer.Typer(help="Cards, conversion, statistics, splits, gene vocabularies.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Files = Annotated[list[str], typer.Argument(help=".h5ad, .zarr, folders, patterns, s3:// and other addresses.")]
Counts = Annotated[str, typer.Option("--counts", help="Where raw counts are: auto, X, raw.X, layers/<name>.")]
GeneIds = Annotated[str, typer.Option("--gene-ids", help="auto, var_names, or a column of var.")]


@data_app.command("ls")
def data_ls(json_: Json = False) -> None:
    """List the dataset and vocabulary cards."""
    from scmf.data.cards import list_cards

    cards = [
        {"name": c.name, "kind": c.kind, "cells": c.n_cells, "licence": c.licence, "title": c.title}
        for c in list_cards()
    ]
    if json_:
        print_json(cards)
    else:
        columns = ("name", "kind", "cells", "licence", "title")
        print_table(columns, [tuple("" if c[k] is None else str(c[k]) for k in columns) for c in cards])


@data_app.command("info")
def data_info(card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False) -> None:
    """Show a card: source, checksums, licence, citation, labels, splits, leak marks."""
    from scmf.data.cards import load_card

    print_answer(load_card(card).model_dump(mode="json", exclude_none=True), as_json=json_)


@data_app.command("fetch")
def data_fetch(
    card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False, quiet: Quiet = False
) -> None:
    """Fetch the files of a card and check their sums."""
    from scmf.data.cards import load_card
    from scmf.data.sources import fetch

    files = fetch(load_card(card), progress=not quiet)
    print_answer({name: str(path) for name, path in files.items()}, as_json=json_)


@data_app.command("check")
def data_check(card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False) -> None:
    """Check that files, labels and splits of a card are what it says."""
    from scmf.data.cards import load_card
    from scmf.data.check import check_card

    print_report(check_card(load_card(card)), as_json=json_)


@data_app.command("genes")
def data_genes(
    files: Files,
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", help="Gene set, vocabulary card, or a .txt, .tsv, .csv, .json file.")
    ],
    orthologs: Annotated[
        str | None, typer.Option("--orthologs", help="Take mouse genes to human ones: one2one or sum.")
    ] = None,
    cells: Annotated[int, typer.Option("--cells", min=0, help="Cells looked at in each store; 0 for all.")] = 2048,
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """How many genes, and how much of the counts, of each file a vocabulary holds."""
    from scmf.data.coverage import coverage_of_files

    report = coverage_of_files(
        files,
        vocabulary=vocabulary,
        orthologs=orthologs,  # type: ignore[arg-type]  # checked there, with a hint
        cells=cells or None,
        counts=counts,
        gene_ids=gene_ids,
        progress=not quiet,
    )
    if json_:
        print_json(report.to_json())
    else:
        print_table(report.HEADER, report.rows())


@data_app.command("stats")
def data_stats(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="JSON to write; its table goes beside it.")],
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    n_counts: Annotated[
        str | None, typer.Option("--n-counts", help="Column of obs with total counts; their sum if not given.")
    ] = None,
    target: Annotated[float, typer.Option("--target", help="Counts to which a cell is scaled.")] = 10_000,
    exact: Annotated[bool, typer.Option("--exact", help="Exact medians (small corpora only).")] = False,
    compression: Annotated[float, typer.Option("--compression", help="Of the t-digests; 100 as in crick.")] = 100,
    table: Annotated[str, typer.Option("--table", help="tsv.gz or parquet.")] = "tsv.gz",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads.")] = 2,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cells that detect each gene, its counts and its non-zero median, in one pass. A killed pass goes on."""
    from scmf.data.corpus import Corpus
    from scmf.data.statistics_pass import corpus_statistics
    from scmf.data.stores.open import open_stores

    corpus = Corpus(open_stores(files, counts=counts, gene_ids=gene_ids))
    with progress_bar("statistics", corpus.n_cells, unit="cells", show=not quiet) as bar:
        found = corpus_statistics(
            corpus,
            n_counts=n_counts,
            target=target,
            exact=exact,
            compression=compression,
            threads=threads,
            state=None if exact else out.with_suffix(".state.npz"),
            progress=lambda done, _: bar(done),
        )
    path = found.save(out, table=table)
    answer = {
        "statistics": str(path),
        "cells": found.n_cells,
        "genes": int((found.n_cells_G > 0).sum()),
        "counts": found.counts,
        "nnz": found.nnz,
    }
    print_answer(answer, as_json=json_)
