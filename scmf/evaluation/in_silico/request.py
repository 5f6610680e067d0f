"""What is asked of `scmf perturb`: genes, kind, states, how many cells, and how files are read.

Lives here: the request and what does not go together in it. Lives elsewhere: carrying it out (run).
"""

from __future__ import annotations

from dataclasses import dataclass

from scmf.core.errors import ConfigError
from scmf.core.registry import did_you_mean
from scmf.data.stores.canonical import Rounding
from scmf.evaluation.in_silico.plan import KINDS, SEED, Kind
from scmf.evaluation.in_silico.states import States
from scmf.evaluation.in_silico.statistics import Wanted

EVERY = "all"
"""Word in place of genes: each gene of each cell alone."""


@dataclass(frozen=True)
class Request:
    """What is to be done to which cells.

    Parameters
    ----------
    genes
        Symbols or Ensembl ids, each perturbed alone; ``("all",)``: each gene of each cell.
    combine
        Perturb the genes together.
    perturbation
        ``delete`` or ``overexpress``.
    fold
        With counts: over-expression multiplies the count by this number; None: the largest count of the cell.
    states
        Start and goal.
    max_cells
        At most so many cells of each perturbation and of each state, drawn with ``seed``.
    """

    genes: tuple[str, ...]
    combine: bool = False
    perturbation: str = "delete"
    fold: int | None = None
    states: States | None = None
    max_cells: int | None = None
    seed: int = SEED

    @property
    def kind(self) -> Kind:
        """``perturbation``, held against what there is."""
        for kind in KINDS:
            if kind == self.perturbation:
                return kind
        raise ConfigError(
            f"--perturbation {self.perturbation}", wanted=f"one of {', '.join(KINDS)}", where="--perturbation",
            fix=did_you_mean(self.perturbation, list(KINDS)),
        )  # fmt: skip

    @property
    def every(self) -> bool:
        """Whether each gene of each cell is perturbed."""
        return self.genes == (EVERY,)

    @property
    def wanted(self) -> Wanted:
        """The states that statistics are made for."""
        return Wanted() if self.states is None else Wanted(self.states.goal, self.states.alternates)

    def check(self) -> None:
        """Raise `ConfigError` for what does not go together."""
        kind = self.kind
        if not self.genes:
            raise ConfigError(
                "no gene", wanted="symbols or Ensembl ids, or all", where="--genes", fix="--genes TP53,GATA1"
            )
        if EVERY in self.genes and not self.every:
            raise ConfigError(
                f"{EVERY!r} beside names of genes",
                wanted="either",
                where="--genes",
                fix="--genes all, or the names alone",
            )
        if self.every and self.combine:
            raise ConfigError(
                "--combine with --genes all", wanted="genes by name to combine", where="--combine",
                fix="leave out --combine, or name the genes that are perturbed together",
            )  # fmt: skip
        if self.fold is not None and kind == "delete":
            raise ConfigError(
                "--fold with a deletion", wanted="--perturbation overexpress", where="--fold", fix="leave it out"
            )


@dataclass(frozen=True)
class Reading:
    """How a file of cells is read, as in `scmf.evaluation.embed_file.embed_to_file`."""

    counts: str = "auto"
    gene_ids: str = "auto"
    counts_rounding: Rounding = "error"
    batch_key: str | None = None
    allow_low_coverage: bool = False
