"""``scmf models``: published models by name: list, describe, have them here.

Lives here: parse, call one function, print. Lives elsewhere: the cards (scmf.models.published.cards), fetching and
converting (scmf.models.published.pull).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmf.cli.options import Json, Quiet
from scmf.cli.output import print_answer, print_json, print_table

models_app = typer.Typer(help="Published models by name: list, describe, fetch and convert.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="recipe@variant, for example geneformer@v2-104m.")]


@models_app.command("ls")
def models_ls(json_: Json = False) -> None:
    """List the published models: parameters, license, source, checksum, size, and whether they are here."""
    from rich.filesize import decimal

    from scmf.models.published.cached import here as is_here
    from scmf.models.published.cards import list_models

    found = [(model, is_here(model) is not None, model.info()) for model in list_models()]
    if json_:
        print_json(
            [
                {
                    **{key: info[key] for key in ("name", "parameters", "license", "repository", "fetched_from")},
                    "sha256": list(model.sums), "size": model.facts.files[0].size, "status": _status(model, here),
                    "title": info["title"],
                }
                for model, here, info in found
            ]
        )  # fmt: skip
        return
    rows = [
        (
            model.name, "unknown" if model.facts.parameters is None else f"{model.facts.parameters:,}",
            "none published" if not model.sums else model.sums[0][:12],
            "unknown" if model.facts.files[0].size is None else decimal(model.facts.files[0].size),
            _status(model, here), info["license"].partition("(")[0].strip(), info["repository"], info["title"],
        )
        for model, here, info in found
    ]  # fmt: skip
    columns = ("name", "parameters", "sha256", "size", "status", "license", "source", "title")
    print_table(columns, rows)


def _status(model: object, here: bool) -> str:
    """In the words of `scmf data ls`."""
    fetched = getattr(model, "source", None) is not None
    return "here" if here else "fetched on first use" if fetched else "needs a download"


@models_app.command("info")
def models_info(name: Name, json_: Json = False) -> None:
    """Show a published model: license, source, revision, checksums, shape, and how to get it."""
    from scmf.models.published.cached import here
    from scmf.models.published.cards import published

    model = published(name)
    found = here(model)
    made_of = None if found is None else {"source_sha256": found.sha256, "verified": found.verified}
    folder = None if found is None else str(found.folder)
    print_answer(
        {**model.info(), "status": _status(model, found is not None), "folder": folder, "made_of": made_of},
        as_json=json_,
    )


@models_app.command("pull")
def models_pull(
    name: Name,
    source: Annotated[
        Path | None, typer.Option("--source", help="Official file or folder that you have; fetched if not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder; the cache, where commands find it by name, if not given.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="What the official file must have, where no sum was published.")
    ] = None,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Accept a file that has no published sum, and record its own.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Make the folder in the cache anew.")] = False,
    no_tokenizer: Annotated[bool, typer.Option("--no-tokenizer", help="With --out: weights and code alone.")] = False,
    match_official: Annotated[
        bool,
        typer.Option("--match-official", help="TranscriptFormer, with --out: official numbers, faults included."),
    ] = False,
    genes: Annotated[
        list[Path] | None,
        typer.Option("--genes", help="TranscriptFormer, with --out: vectors of other genes. May be repeated."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch official weights at their pinned revision, verify their sha256 and convert them, once.

    Where nothing can be fetched automatically the error says what to do. Weights are read without running code.
    """
    from scmf.models.published.pull import pull

    found = pull(
        name,
        source=source,
        out=out,
        sha256=sha256,
        unverified=unverified,
        again=again,
        tokenizer=not no_tokenizer,
        match_official=match_official,
        genes=genes,
    )
    print_answer(found.to_json(), as_json=json_)
