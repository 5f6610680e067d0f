"""Options that several commands share, and old spellings.

Lives here: the types of ``--json``, ``--quiet``, ``--config``, ``--set``, ``--counts`` and others; seeds and names
read from a text; what a command or option of an earlier release is called now. Lives elsewhere: printing (output),
the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from scmf.cli.output import listen

Quiet = Annotated[
    bool, typer.Option("--quiet", callback=listen, help="Neither messages nor progress on stderr, warnings alone.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=V", help="Override a key, for example training.lr=1e-4.")
]
Variant = Annotated[str | None, typer.Option("--variant", help="Variant of the recipe; its default if not given.")]
Counts = Annotated[str, typer.Option("--counts", help="Where raw counts are: auto, X, raw.X, layers/<name>.")]
GeneIds = Annotated[str, typer.Option("--gene-ids", help="auto, var_names, or a column of var.")]
BatchKey = Annotated[
    str | None,
    typer.Option("--batch-key", help="Column of obs with the batch, for models that read it; as in the run."),
]
Rounding = Annotated[
    str,
    typer.Option("--counts-rounding", help="Counts with fractions (SoupX, CellBender, alevin): error, round, accept."),
]
LowCoverage = Annotated[
    bool,
    typer.Option("--allow-low-coverage", help="Take cells of whose genes or counts the vocabulary knows under 20 %."),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Cells in a forward pass of the embedding; as in the run.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="Where the network embeds: cpu, cuda, cuda:1, mps.", show_default="cpu")
]
Layer = Annotated[
    int | None, typer.Option("--layer", help="0 last layer, -1 the one before; as in the run if not given.")
]
Pooling = Annotated[str | None, typer.Option("--pooling", help="cell, cls, max or all; as in the run if not given.")]
Config = Annotated[str, typer.Option("--config", help="Recipe by name, or a YAML or TOML file.")]
Seeds = Annotated[str, typer.Option("--seeds", help="0, or 1-5, or 1,3.")]

RENAMED: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("compare",), "--tokenizers", "scmf sweep --tokenizers A,B --model M"),
    (("evaluate", "ls"), "", "scmf tasks"),
    (("data", "tokenise"), "", "scmf data tokenize"),
    (("data", "tokenize"), "--max-genes", "--max-length"),
    ((), "--ledger", "--results"),
)
"""Command, option -> what it is called now. The old spelling ends with one error that names the new one."""

RENAMED_HELP = "Renamed: " + "; ".join(
    f"`{' '.join(filter(None, (*words, option)))}` is now `{new}`" for words, option, new in RENAMED
)


def refuse_renamed(arguments: Sequence[str]) -> None:
    """Refuse the spelling of an earlier release.

    Parameters
    ----------
    arguments
        The command line without the program.

    Raises
    ------
    ConfigError
        With the new spelling.
    """
    from scmf.core.errors import ConfigError

    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    first = next((i for i, word in enumerate(arguments) if not word.startswith("-")), 0)
    arguments = arguments[first:]  # an option of scmf itself may stand before the verb
    for words, option, new in RENAMED:
        if tuple(arguments[: len(words)]) == words and (not option or option in options):
            old = " ".join(filter(None, ("scmf", *words, option)))
            raise ConfigError(f"`{old}`, the name in an earlier release", wanted=new, where="command line", fix=new)


def sets_of(overrides: Sequence[str] | None, *, seed: int | None = None, allow_low_coverage: bool) -> tuple[str, ...]:
    """What ``--set`` and the options that stand for it say."""
    texts = tuple(overrides or ()) + (() if seed is None else (f"training.seed={seed}",))
    return (*texts, "data.allow_low_coverage=true") if allow_low_coverage else texts


_MOST_SEEDS = 1000


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds that ``0``, ``1-5`` or ``1,3`` names, without repeats."""
    from scmf.core.errors import ConfigError

    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        whole = first.isdecimal() and (last.isdecimal() if dash else True) and max(len(first), len(last)) <= 10
        if not whole or (dash and int(last) < int(first)):
            raise ConfigError(
                f"--seeds {text}", wanted="numbers from 0, rising in a range", where="--seeds", fix="0, or 1-5, or 1,3"
            )
        span = range(int(first), int(last if dash else first) + 1)
        if len(seeds) + len(span) > _MOST_SEEDS:
            raise ConfigError(
                f"--seeds {text}", wanted=f"at most {_MOST_SEEDS:,} seeds", where="--seeds", fix="0, or 1-5, or 1,3"
            )
        seeds += span
    return tuple(dict.fromkeys(seeds))


def rounding_of(text: str) -> Any:
    """What ``--counts-rounding`` says, one of the words of ``data.counts_rounding``."""
    return _one_of("--counts-rounding", text, ["error", "round", "accept"])


def precision_of(text: str) -> Any:
    """What ``--precision`` of ``embed`` says."""
    return _one_of("--precision", text, ["32-true", "bf16-mixed"])


def _one_of(option: str, text: str, known: list[str]) -> str:
    from scmf.core import registry
    from scmf.core.errors import ConfigError

    if text not in known:
        raise ConfigError(
            f"{option} {text}", wanted=f"one of {', '.join(known)}", where=option,
            fix=registry.did_you_mean(text, known),
        )  # fmt: skip
    return text


def part_of(text: str | None) -> tuple[int, int] | None:
    """What ``--part`` says, such as ``2/8``; None where it is not given."""
    from scmf.core.errors import ConfigError

    if text is None:
        return None
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and len(of) < 7 and 1 <= int(number) <= int(of)):
        raise ConfigError(
            f"--part {text}", wanted="I/N with I from 1 to N", where="--part", fix="for example --part 1/8"
        )
    return int(number), int(of)


def names_of(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
