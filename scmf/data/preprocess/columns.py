"""Which column of a store is which gene of a list.

Lives here: exact matching of ids as they are written. Lives elsewhere: versions, symbols, aliases and other species
(scmf.data.genes.ids), one aligner for many stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from scmf.core.errors import GeneError
from scmf.data.stores.corpus import Corpus


@lru_cache(maxsize=256)
def places(genes: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """Place in ``wanted`` of each of ``genes``, int32 (G,), -1 for none; remembered for the next block."""
    place = {gene: i for i, gene in enumerate(wanted)}
    found = np.array([place.get(gene, -1) for gene in genes], np.int32)
    found.flags.writeable = False
    return found


def gene_columns(genes: Sequence[str], wanted: Sequence[str], *, where: object) -> np.ndarray:
    """Place in ``wanted`` of each of ``genes``, int32 (G,), -1 for none.

    Raises
    ------
    GeneError
        None of ``wanted`` is there.
    """
    found = places(tuple(genes), tuple(wanted))
    if wanted and not (found >= 0).any():
        raise GeneError(
            f"none of {len(wanted):,} genes (first: {wanted[0]!r})",
            wanted=f"ids such as {genes[0]!r}" if len(genes) else None,
            where=where,
            fix="give ids as the store writes them, or bring both to one aligner first",
        )
    return found


def common_genes(corpus: Corpus, genes: Sequence[str] | None) -> tuple[str, ...]:
    """Genes over which a corpus is looked at.

    Parameters
    ----------
    corpus
        Its stores.
    genes
        The genes; None takes those of the stores, which must then agree.

    Raises
    ------
    GeneError
        The stores have different genes and none were given.
    """
    if genes is not None:
        return tuple(genes)
    first = corpus.stores[0]
    for store in corpus.stores:
        if store.genes != first.genes:
            raise GeneError(
                f"{len(store.genes):,} genes that are not the {len(first.genes):,} of {first.uri}",
                wanted="the same genes in the same order in all stores",
                where=store.uri,
                fix="give genes=, the aligner over which to look; a gene that a store lacks counts as 0 there",
            )
    return first.genes
