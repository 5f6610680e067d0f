"""The verb ``publish`` of the command line. Nothing heavy is imported at the top.

Lives here: parsing and printing. Lives elsewhere: what it does (scmf.hub.publish).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scmf.cli.options import Json, Quiet
from scmf.cli.output import print_answer


def publish(
    folder: Annotated[
        str, typer.Argument(help="Folder of a run or checkpoint, or a model by name (`scmf models ls`).")
    ],
    repo: Annotated[str, typer.Option("--repo", help="Repository on the Hub: owner/name.")],
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="What `scmf evaluate --json` printed, or a folder of results. May be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to make; <folder>.published if not given.")] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", help="License of weights you trained from scratch; Apache-2.0 if not given."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Replace the files of a repository that exists, in one commit.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the folder and push nothing.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Run code in the folder that is not ours.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a checkpoint stand alone, with license and model card, and push it to a Hugging Face Hub.

    HF_TOKEN (or `hf auth login`) gives the right to write, HF_ENDPOINT another Hub than huggingface.co. Weights whose
    license forbids it, or whose origin cannot be read, are refused.
    """
    from scmf.hub.publish import publish as make_and_push

    answer = make_and_push(
        folder,
        repo,
        out=out,
        results=tuple(results or ()),
        license=license,
        private=private,
        update=update,
        dry_run=dry_run,
        trust=trust,
    )
    print_answer(answer, as_json=json_)
