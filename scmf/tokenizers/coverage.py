"""How many genes of some cells a tokenizer knows, and how much of their counts.

Lives here: cells in memory and stores held against the vocabulary of a tokenizer. Lives elsewhere: the numbers and what
is refused (scmf.data.genes.known_share), matching of names (gene_columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scmf.core.errors import DataError, from_value_error
from scmf.data.genes.known_share import KnownShare
from scmf.data.loading.facts import LoadedCells
from scmf.data.preprocess.coverage import gene_sums
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.named_genes import named_genes
from scmf.tokenizers.gene_columns import GeneTokens, match_genes
from scmf.tokenizers.species import refuse_species, through_orthologs


def known_columns(tokenizer: Any, genes: Sequence[str], *, where: object) -> tuple[np.ndarray, int, int]:
    """Which genes have a token, boolean (G,); tokens of genes among them, and in the vocabulary.

    Raises
    ------
    DataError
        No gene has one.
    """
    token_G = gene_tokens(tokenizer, genes, where=where).token_G
    known = token_G >= 0
    special = set(tokenizer.all_special_ids)
    size = sum(number not in special for number in tokenizer.get_vocab().values())
    return known, len(np.unique(token_G[known])), size


def gene_tokens(tokenizer: Any, genes: Sequence[str], *, where: object) -> GeneTokens:
    """The token of each gene, by its name or another name that the tokenizer knows.

    Raises
    ------
    DataError
        No gene has one.
    """
    special = set(tokenizer.all_special_ids)
    token_ids = {token: number for token, number in tokenizer.get_vocab().items() if number not in special}
    names = [str(gene) for gene in genes]
    try:
        aliases = getattr(tokenizer, "_aliases", {})
        return match_genes(names, token_ids, aliases, match_official=tokenizer.match_official)
    except ValueError as error:
        raise from_value_error(DataError, error, where=where) from error


def known_share(tokenizer: Any, cells: LoadedCells) -> KnownShare:
    """Genes and counts of cells in memory that a tokenizer knows."""
    known, n_found, size = known_columns(tokenizer, cells.var_names.tolist(), where=cells.facts.dataset)
    sums = np.asarray(cells.X.sum(axis=0)).ravel()
    return KnownShare.of(known, n_vocabulary=size, n_found=n_found, sums=sums)


def tell_known_share(tokenizer: Any, cells: LoadedCells, *, allow: bool) -> KnownShare:
    """Say how much of the cells a tokenizer knows; see `KnownShare.tell`. Cells of another species are refused."""
    cells = through_orthologs(tokenizer, cells)
    refuse_species(tokenizer, cells.facts.species, where=cells.facts.dataset)
    share = known_share(tokenizer, cells)
    share.tell(cells.facts.dataset, allow=allow)
    return share


def tell_known_share_of_stores(tokenizer: Any, corpus: Corpus, aligner: GeneAligner | None, *, allow: bool) -> None:
    """The same of each store of a corpus, from counts of cells spread over it."""
    stores = {id(store): store for store in corpus.stores}.values()
    for file in named_genes(corpus.stores) if aligner is None or aligner.orthologs is None else ():
        refuse_species(tokenizer, file.species, where=file.name)
    for store in stores:
        if aligner is None:
            known, n_found, size = known_columns(tokenizer, store.genes, where=store.uri)
        else:
            of_panel, _, size = known_columns(tokenizer, aligner.genes, where=store.uri)
            target = aligner.columns(store.genes, where=store.uri).target
            known = (target >= 0) & of_panel[target]
            n_found = len(np.unique(target[known]))
        sums = gene_sums(store, cells=max(64, 2048 // len(stores)))
        KnownShare.of(known, n_vocabulary=size, n_found=n_found, sums=sums).tell(store.uri, allow=allow)
