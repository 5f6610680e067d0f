"""How much of a vocabulary a file has, and how much of the file a vocabulary keeps, as findings of `scmf check`.

Lives elsewhere: the other findings (file), what is too little (scmf.data.genes.known_share).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from scmf.data.genes.known_share import LEAST, KnownShare
from scmf.data.genes.species import species_read
from scmf.data.genes.vocabulary import GeneTables
from scmf.data.splits.findings import CheckReport, Level


def check_species(report: CheckReport, vocabulary: GeneTables) -> None:
    """Add an error where the genes of the file are of another species than those of the vocabulary."""
    species = report.facts["genes"]["species"]
    read = species_read(vocabulary.genes, vocabulary.aliases)
    if species and read and species not in read:
        report.add(
            "error", "species", f"genes of {species}, and a vocabulary of {', '.join(sorted(read))}",
            do="use a vocabulary of this species, or train with data.gene_set and data.orthologs",
        )  # fmt: skip


def check_vocabulary(
    report: CheckReport, vocabulary: GeneTables, ids: np.ndarray, x: sparse.csr_matrix | None, *, allow: bool
) -> None:
    """Add the share of the vocabulary that is found, and the share of the genes and counts that is kept.

    Parameters
    ----------
    report
        Gets the findings.
    vocabulary
        Genes to look for.
    ids
        Genes of the file (G,).
    x
        Counts (N, G), or None.
    allow
        Little is a warning and not an error.
    """
    mapped, how = vocabulary.gene_map().map(ids)
    known = mapped != ""
    found, size = len(set(mapped[known])), len(vocabulary.genes)
    facts: dict[str, Any] = {"size": size, "found": found, "how": {**how.to_json(), "collisions": len(how.collisions)}}
    report.facts["vocabulary"] = facts
    text = f"{found:,} of {size:,} genes found ({found / size:.1%})"
    cells = None
    sums = None if x is None else np.asarray(x.sum(axis=0)).ravel()
    share = KnownShare.of(known, n_vocabulary=size, n_found=found, sums=sums)
    if x is not None:
        facts["count_share"] = share.counts or 0.0
        cells = int(((np.diff(x[:, known].indptr) == 0) & (np.diff(x.indptr) > 0)).sum())
        facts["cells_without_token"] = cells
        text += f", with {facts['count_share']:.1%} of the counts"
    facts["gene_share"] = share.n_known / max(share.n_genes, 1)
    text += f"; {share.n_known:,} of {share.n_genes:,} genes of the file ({facts['gene_share']:.1%})"
    if found == 0:
        do = "check species and ids: the vocabulary has ids such as " + ", ".join(vocabulary.genes[:2])
        report.add("error", "vocabulary", text, do=do)
        return
    low = share.is_low or found < 0.5 * size or facts.get("count_share", 1.0) < 0.5
    do = "check species and ids, and that the genes were not filtered (HVG)" if low else ""
    level: Level = "error" if share.is_low and not allow else "warning" if low else "ok"
    if level == "error":
        do += f"; below {LEAST:.0%} cells are refused unless --allow-low-coverage is given"
    report.add(level, "vocabulary", text, do=do)
    if how.alias:
        report.add("ok", "other names", f"{how.alias:,} symbols, aliases or retired ids are mapped")
    if how.collisions:
        gene, given = next(iter(how.collisions.items()))
        text = f"{len(how.collisions):,} genes have several columns, the first is {gene}: {', '.join(given)}"
        report.add("ok", "same gene twice", f"{text}; their counts are added up")
    if cells:
        report.add("error", "empty cells", f"{cells:,} cells have no gene of the vocabulary", do="remove them")
