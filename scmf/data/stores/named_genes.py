"""What the stores of a corpus call their genes, each list once: what is asked before they are brought together."""

from __future__ import annotations

from collections.abc import Iterable

from scmf.data.genes.ids import pick_symbols
from scmf.data.genes.joining import NamedGenes
from scmf.data.genes.species import species_of_table
from scmf.data.stores.store import Store


def named_genes(stores: Iterable[Store]) -> list[NamedGenes]:
    """The different lists of genes of some stores, each with the name of its first store, symbols and species."""
    files: dict[tuple[str, ...], NamedGenes] = {}
    for store in stores:
        if store.genes not in files:
            symbols = pick_symbols(store.var, None, ids_from="", path=store.uri)
            species = species_of_table(store.var, store.genes)
            files[store.genes] = NamedGenes(str(store.uri), store.genes, symbols, species)
    return list(files.values())
