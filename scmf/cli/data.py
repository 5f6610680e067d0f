"""``scmf data``: cards, conversion, statistics, splits, gene vocabularies.

Lives here: parse, call one function, print. Lives elsewhere: the other verbs (main), printing (output).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from scmf.cli.options import Counts, GeneIds, Json, LowCoverage, Quiet, Rounding, rounding_of
from scmf.cli.output import print_answer, print_json, print_report, print_table

log = logging.getLogger(__name__)

data_app = typer.Typer(help="Cards, conversion, statistics, splits, gene vocabularies.", no_args_is_help=True)

Files = Annotated[list[str], typer.Argument(help=".h5ad, .zarr, folders, patterns, s3:// and other addresses.")]


@data_app.command("ls")
def data_ls(json_: Json = False) -> None:
    """List the dataset and vocabulary cards, and whether their files are here, can be fetched or need a download."""
    from scmf.data.cards.card import list_cards
    from scmf.data.cards.sources import status

    cards = [
        {
            "name": c.name, "kind": c.kind, "cells": c.n_cells, "status": status(c), "license": c.license,
            "splits": ", ".join(c.splits), "title": c.title,
        }
        for c in list_cards()
    ]  # fmt: skip
    if json_:
        print_json(cards)
    else:
        columns = ("name", "kind", "cells", "status", "license", "splits", "title")
        print_table(columns, [tuple("" if c[k] is None else str(c[k]) for k in columns) for c in cards])


@data_app.command("info")
def data_info(card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False) -> None:
    """Show a card: source, checksums, license, citation, labels, splits, leak marks."""
    from scmf.data.cards.card import load_card

    print_answer(load_card(card).model_dump(mode="json", exclude_none=True), as_json=json_)


@data_app.command("fetch")
def data_fetch(
    card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False, quiet: Quiet = False
) -> None:
    """Fetch the files of a card and check their sums."""
    from scmf.data.cards.card import load_card
    from scmf.data.cards.sources import fetch

    files = fetch(load_card(card))
    print_answer({name: str(path) for name, path in files.items()}, as_json=json_)


@data_app.command("check")
def data_check(card: Annotated[str, typer.Argument(help="Card by name or path.")], json_: Json = False) -> None:
    """Check that files, labels and splits of a card are what it says."""
    from scmf.data.cards.card import load_card
    from scmf.data.checks.file import check_card

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
    counts_rounding: Rounding = "error",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """How many genes, and how much of the counts, of each file a vocabulary holds."""
    from scmf.data.preprocess.coverage import coverage_of_files

    report = coverage_of_files(
        files,
        vocabulary=vocabulary,
        orthologs=orthologs,  # type: ignore[arg-type]  # checked there, with a hint
        cells=cells or None,
        counts=counts,
        gene_ids=gene_ids,
        rounding=rounding_of(counts_rounding),
    )
    if json_:
        print_json(report.to_json())
    else:
        print_table(report.HEADER, report.rows())


@data_app.command("stats")
def data_stats(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="JSON to write; its table goes into the same folder.")],
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    counts_rounding: Rounding = "error",
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
    """Cells that detect each gene, its counts and its non-zero median, in one pass. An interrupted pass resumes."""
    from scmf.core.outputs import try_file
    from scmf.data.preprocess.statistics import refuse_names
    from scmf.data.preprocess.statistics_pass import corpus_statistics
    from scmf.data.stores.corpus import Corpus
    from scmf.data.stores.open import open_stores

    refuse_names(out, table)
    for written in (out, out.with_suffix(f".{table}"), *(() if exact else (out.with_suffix(".state.npz"),))):
        try_file(written, option="--out", inputs=files)
    corpus = Corpus(open_stores(files, counts=counts, gene_ids=gene_ids, rounding=rounding_of(counts_rounding)))
    found = corpus_statistics(
        corpus,
        n_counts=n_counts,
        target=target,
        exact=exact,
        compression=compression,
        threads=threads,
        state=None if exact else out.with_suffix(".state.npz"),
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


@data_app.command("convert")
def data_convert(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Folder of the collection: new, or of the same command before.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the shuffled order.")] = 0,
    no_shuffle: Annotated[bool, typer.Option("--no-shuffle", help="Keep the order of the inputs.")] = False,
    genes: Annotated[str, typer.Option("--genes", help="Of inputs that differ: union or intersection.")] = "union",
    memory_gb: Annotated[float, typer.Option("--memory-gb", min=0.05, help="For buffers, in GB.")] = 1.0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads.")] = 2,
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    counts_rounding: Rounding = "error",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rewrite cells as shuffled, sharded zarr (AnnData's own). Repeat the command to resume an interrupted run."""
    from scmf.core import registry
    from scmf.core.errors import ConfigError
    from scmf.core.outputs import try_folder
    from scmf.data.convert.convert import convert

    try_folder(out, option="--out", inputs=files)
    if genes not in ("union", "intersection"):
        hint = registry.did_you_mean(genes, ["union", "intersection"])
        raise ConfigError(f"--genes {genes}", wanted="union or intersection", where="--genes", fix=hint)
    report = convert(
        files,
        out,
        seed=seed,
        shuffle=not no_shuffle,
        genes=genes,  # type: ignore[arg-type]  # checked above
        memory=int(memory_gb * 1e9),
        threads=threads,
        counts=counts,
        gene_ids=gene_ids,
        rounding=rounding_of(counts_rounding),
    )
    print_answer(report.to_json(), as_json=json_)


@data_app.command("tokenize")
def data_tokenize(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Folder to make, for datasets.load_from_disk.")],
    vocabulary: Annotated[
        str, typer.Option("--vocabulary", help="Vocabulary card, such as geneformer-v2, or the folder of a tokenizer.")
    ],
    max_length: Annotated[int, typer.Option("--max-length", min=3, help="Longest sequence.")] = 2048,
    special_tokens: Annotated[bool, typer.Option("--special-tokens", help="Put <cls> and <eos> around.")] = False,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Column of obs to keep. May be repeated.")
    ] = None,
    min_genes: Annotated[int, typer.Option("--min-genes", min=0, help="Leave out cells with fewer genes.")] = 0,
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    counts_rounding: Rounding = "error",
    allow_low_coverage: LowCoverage = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rank-value tokens of all cells as a Hugging Face dataset that the official Geneformer reads."""
    from scmf.core.config.run import DataConfig, validate
    from scmf.core.outputs import try_folder
    from scmf.training.stream_data import tokenize_files

    try_folder(out, option="--out", inputs=files)
    data = {
        "files": files, "counts": counts, "gene_ids": gene_ids, "counts_rounding": rounding_of(counts_rounding),
        "allow_low_coverage": allow_low_coverage, "filter": {"min_genes": min_genes},
    }  # fmt: skip
    written = tokenize_files(
        validate(DataConfig, data, where="scmf data tokenize"), out, vocabulary=vocabulary, max_length=max_length,
        special_tokens=special_tokens,
        columns=columns or (), )  # fmt: skip
    print_answer({"tokens": str(out), "cells": written}, as_json=json_)


@data_app.command("hvg")
def data_hvg(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="Text file with one gene a line, for data.gene_set.")],
    split: Annotated[
        Path | None, typer.Option("--split", help="TSV with cell_id and split; only its training cells are looked at.")
    ] = None,
    flavor: Annotated[
        str, typer.Option("--flavor", help="seurat, cell_ranger, seurat_v3, seurat_v3_paper, pearson_residuals.")
    ] = "seurat_v3",
    n_top_genes: Annotated[int, typer.Option("--n-top-genes", min=1, help="Genes to choose.")] = 2000,
    batch_key: Annotated[str | None, typer.Option("--batch-key", help="Column of obs; choose within batches.")] = None,
    counts: Counts = "auto",
    gene_ids: GeneIds = "auto",
    counts_rounding: Rounding = "error",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Highly variable genes by a flavour of scanpy, over cells on disk, of the training cells alone."""
    from scmf.core.files import write_text
    from scmf.core.outputs import try_file
    from scmf.data.preprocess.hvg import highly_variable_genes
    from scmf.data.splits.read import read_codes
    from scmf.data.stores.corpus import Corpus
    from scmf.data.stores.open import open_stores

    try_file(out, option="--out", inputs=files)
    corpus = Corpus(open_stores(files, counts=counts, gene_ids=gene_ids, rounding=rounding_of(counts_rounding)))
    keep = None if split is None else read_codes(split, corpus) == 0
    found = highly_variable_genes(corpus, keep=keep, flavor=flavor, n_top_genes=n_top_genes, batch_key=batch_key)  # type: ignore[arg-type]
    if why := found.why_not(n_top_genes):
        log.warning(f"--n-top-genes: {why}")
    write_text(out, "".join(f"{gene}\n" for gene in found.selected))
    cells = corpus.n_cells if keep is None else int(keep.sum())
    print_answer({"genes": str(out), "chosen": len(found.selected), "cells": cells, "flavor": flavor}, as_json=json_)


@data_app.command("split")
def data_split(
    files: Files,
    out: Annotated[Path, typer.Option("--out", help="File to write, such as split.tsv.gz; a .yaml goes with it.")],
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="Column kept whole: donor, batch, study, perturbation, cell_type, ...; repeatable."),
    ] = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="group; random (cells); unseen, combinations, simulation (perturbations).")
    ] = "group",
    fractions: Annotated[str, typer.Option("--fractions", help="Shares of train, valid, test.")] = "0.8,0.1,0.1",
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            "--hold-out",
            metavar="PART=A,B",
            help='Put these whole into a part: test=d4,d5; with commas in names test=["d4, F"].',
        ),
    ] = None,
    stratify: Annotated[
        str | None, typer.Option("--stratify", help="Column to be evenly spread, such as cell_type.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed.")] = 0,
    separator: Annotated[str, typer.Option("--separator", help="Between the names of a combination.")] = "+",
    control: Annotated[list[str] | None, typer.Option("--control", help="Name of the control; repeatable.")] = None,
    json_: Json = False,
) -> None:
    """Split cells by donor, batch, study, perturbation or cell type; cells one by one only with --strategy random."""
    from scmf.core.errors import ConfigError
    from scmf.core.outputs import try_file
    from scmf.data.checks.split import names_of, split_files
    from scmf.data.splits.split import side_file

    held: dict[str, list[str]] = {}
    for text in hold_out or ():
        part, equals, names = text.partition("=")
        if not equals:
            example = "for example test=d4,d5"
            raise ConfigError(f"--hold-out {text}", wanted="PART=NAME,NAME", where="--hold-out", fix=example)
        held.setdefault(part, []).extend(names_of(names))
    try:
        shares = tuple(float(share) for share in fractions.split(","))
    except ValueError:
        raise ConfigError(
            f"--fractions {fractions}", wanted="three numbers", where="--fractions", fix="0.8,0.1,0.1"
        ) from None
    for written in (out, side_file(out)):
        try_file(written, option="--out", inputs=files)
    more: dict[str, Any] = {"control": control} if control else {}
    answer = split_files(
        files, out, by=by[0] if by and len(by) == 1 else by, strategy=strategy, fractions=shares,
        hold_out=held or None, stratify_by=stratify, seed=seed, separator=separator, **more,
    )  # fmt: skip
    print_answer(answer, as_json=json_)
