"""How many genes of a file a vocabulary knows, and how much of its counts: said always, refused where it is little.

Vectors of cells of which a model reads 2 % of the counts say nothing and look like any others. Lives here: the numbers,
the sentence and the refusal, for every verb. Lives elsewhere: which columns a vocabulary knows (names, vocabulary,
scmf.tokenizers.coverage), coverage of many stores as a table (scmf.data.preprocess.coverage).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import GeneError

log = logging.getLogger(__name__)

LEAST = 0.2
"""Share of the genes, and of the counts, below which cells are refused."""

_HALF = 0.5
"""Share below which it is a warning."""

_WHOLE = 0.9
"""Share of the vocabulary from which on the file has what the model reads, however many counts other genes hold."""


@dataclass(frozen=True)
class KnownShare:
    """Genes and counts of a file that a vocabulary knows.

    Parameters
    ----------
    n_genes, n_known
        Genes of the file, and those of them that the vocabulary knows.
    n_vocabulary, n_found
        Genes of the vocabulary, and those of them that the file has.
    counts
        Share of the counts; None where no counts were looked at.
    """

    n_genes: int
    n_known: int
    n_vocabulary: int
    n_found: int
    counts: float | None = None

    @classmethod
    def of(cls, known: np.ndarray, *, n_vocabulary: int, n_found: int, sums: np.ndarray | None) -> KnownShare:
        """From which columns are known, boolean (G,), and the sum of the counts of each (G,)."""
        share = None if sums is None or not sums.sum() else float(sums[known].sum() / sums.sum())
        return cls(len(known), int(known.sum()), n_vocabulary, n_found, share)

    @property
    def genes(self) -> float:
        """Genes in common, as a share of the shorter of the two lists: a small panel is not held against a file."""
        return self.n_found / max(min(self.n_genes, self.n_vocabulary), 1)

    @property
    def smallest(self) -> float:
        """The smaller of the two shares; that of the genes alone where a chosen set of genes is there as a whole."""
        if self.counts is None or self.n_found >= _WHOLE * self.n_vocabulary:
            return self.genes
        return min(self.genes, self.counts)

    @property
    def is_low(self) -> bool:
        """Whether it is too little to say anything of the cells."""
        return self.smallest < LEAST

    @property
    def is_half(self) -> bool:
        """Whether less than half is known."""
        return self.smallest < _HALF

    def __str__(self) -> str:
        of_file = f"{self.n_known:,} of {self.n_genes:,} genes ({self.n_known / max(self.n_genes, 1):.1%})"
        counts = "" if self.counts is None else f" and {self.counts:.1%} of the counts"
        of_vocabulary = f"{self.n_found:,} of its {self.n_vocabulary:,} genes"
        return f"the vocabulary knows {of_file}{counts}; {of_vocabulary} are there"

    def tell(self, where: object, *, allow: bool) -> None:
        """Log the share; raise `GeneError` where it is too low, unless that is allowed.

        Parameters
        ----------
        where
            How to call the cells.
        allow
            ``--allow-low-coverage``.
        """
        if self.is_low and not allow:
            raise GeneError(
                str(self), wanted=f"at least {LEAST:.0%} of the genes and of the counts", where=where,
                fix="check species and gene ids (data.gene_ids) and that genes were not filtered; with "
                "--allow-low-coverage (data.allow_low_coverage: true) the cells are taken as they are",
            )  # fmt: skip
        log.log(logging.WARNING if self.is_half else logging.INFO, f"{where}: {self}")
