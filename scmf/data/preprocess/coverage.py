"""How much of a file a gene vocabulary holds: of its genes and, what matters more, of its counts.

Lives here: `coverage`, its report, and `coverage_of_files` behind ``scmf data genes``.
Lives elsewhere: how a gene is found (gene_aligner), vocabularies by name (genes.gene_sets), opening files
(stores.open).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from scmf.data.genes.gene_sets import GeneSet, load_gene_set
from scmf.data.genes.ids import detect, pick_symbols
from scmf.data.genes.names import MATCHED
from scmf.data.genes.orthologs import Many, load_orthologs
from scmf.data.preprocess.aligner_columns import Columns
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.open import open_stores
from scmf.data.stores.store import Store, is_store

_SPAN = 64
"""Neighboring cells that are read together when only some are looked at."""


@dataclass(frozen=True)
class StoreCoverage:
    """One store, or one list of genes, against a vocabulary.

    Parameters
    ----------
    name
        Path or address.
    ids
        What its gene ids are, for example ``Ensembl ids of Homo sapiens``.
    n_genes
        Columns.
    kinds
        Columns by what became of them, see `scmf.data.genes.names.KINDS`; they add up to ``n_genes``.
    found
        Genes of the vocabulary that it has.
    collisions
        Genes of the vocabulary that several columns are added up for.
    missing
        Columns that are not in the vocabulary: id, symbol (None where the store has none beside its ids) and share of
        the counts, the largest first; without counts the first ones and None.
    n_cells
        Cells; 0 for a list of genes.
    cells_read
        Cells whose counts were looked at.
    count_share
        Share of the counts of these cells that the vocabulary holds; None where no counts were looked at.
    """

    name: str
    ids: str
    n_genes: int
    kinds: dict[str, int]
    found: int
    collisions: int
    missing: tuple[tuple[str, str | None, float | None], ...]
    n_cells: int = 0
    cells_read: int = 0
    count_share: float | None = None

    @property
    def matched(self) -> int:
        """Columns that are in the vocabulary."""
        return sum(list(self.kinds.values())[:MATCHED])


@dataclass(frozen=True)
class CoverageReport:
    """How much of some stores a vocabulary holds.

    Parameters
    ----------
    vocabulary
        Its name.
    n_genes
        Genes of the vocabulary.
    found_in_any, found_in_all
        Genes of the vocabulary that at least one store, or every store, has.
    count_share
        Share of all counts that the vocabulary holds, each store with the weight of its cells; None without counts.
    stores
        One by one, in the order given.
    """

    vocabulary: str
    n_genes: int
    found_in_any: int
    found_in_all: int
    count_share: float | None
    stores: tuple[StoreCoverage, ...]

    HEADER = (
        "store", "ids", "genes", "in vocabulary", "of the vocabulary", "share of counts", "exact", "normalized",
        "alias", "ortholog", "missing", "ambiguous", "largest missing",
    )  # fmt: skip
    """Names of the columns of `rows`."""

    def rows(self) -> list[tuple[str, ...]]:
        """One row a store for a table under `HEADER`."""
        table: list[tuple[str, ...]] = []
        for store in self.stores:
            kinds = store.kinds
            missing = kinds["outside"] + kinds["no_ortholog"] + kinds["unknown"]
            numbers = (kinds["exact"], kinds["normalized"], kinds["alias"], kinds["ortholog"], missing)
            share = "" if store.count_share is None else f"{store.count_share:.1%}"
            largest = ", ".join(
                (symbol or gene) + ("" if of is None else f" {of:.1%}") for gene, symbol, of in store.missing[:3]
            )
            row = [store.name, store.ids, f"{store.n_genes:,}", f"{store.matched:,}"]
            row += [f"{store.found / self.n_genes:.1%}", share, *(f"{n:,}" for n in numbers)]
            table.append((*row, f"{kinds['ambiguous']:,}", largest))
        return table

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "stores": [{**asdict(store), "matched": store.matched} for store in self.stores]}


def coverage(
    source: Store | Corpus | Sequence[Store] | Sequence[str],
    vocabulary: GeneAligner | GeneSet | str | Path,
    *,
    name: str | None = None,
    cells: int | None = 2048,
    n_missing: int = 10,
) -> CoverageReport:
    """Hold stores, or a list of genes, against a vocabulary.

    Parameters
    ----------
    source
        A store, several, a corpus, or gene names.
    vocabulary
        An aligner, a gene set, or what `load_gene_set` takes. Orthologs and other names are those of the aligner; a
        gene set brings its own other names and no orthologs.
    name
        How to call the vocabulary; a gene set has a name of its own.
    cells
        Cells of each store whose counts are looked at, in spans spread evenly over it (so that an ordered file is seen
        whole); None reads all of them, block by block.
    n_missing
        Missing genes to name for each store.

    Raises
    ------
    GeneError
        A store is of another species than the vocabulary, and no orthologs lead to it.
    """
    if isinstance(vocabulary, str | Path):
        vocabulary = load_gene_set(vocabulary)
    if isinstance(vocabulary, GeneSet):
        name, vocabulary = name or vocabulary.name, GeneAligner.of(vocabulary)
    if isinstance(source, Corpus):
        source = source.stores
    given: list[Any] = [source] if is_store(source) else list(cast(Iterable[Any], source))
    if given and not is_store(given[0]):
        given = [tuple(map(str, given))]
    one_by_one, seen, kept, total = [], [], 0.0, 0.0
    for one in given:
        store = one if is_store(one) else None
        genes, where = (store.genes, store.uri) if store else (one, "list of genes")
        columns = vocabulary.columns(genes, where=where)
        sums = np.zeros(len(genes))
        read = _add_counts(store, sums, cells) if store else 0
        one_by_one.append(_of_store(where, genes, columns, sums, store, read, n_missing))
        seen.append(np.unique(columns.target[columns.target >= 0]))
        if read:
            weight = one_by_one[-1].n_cells / read
            kept += weight * float(sums[columns.target >= 0].sum())
            total += weight * float(sums.sum())
    times = np.bincount(np.concatenate(seen), minlength=len(vocabulary)) if seen else np.zeros(len(vocabulary))
    return CoverageReport(
        vocabulary=name or "aligner",
        n_genes=len(vocabulary),
        found_in_any=int((times > 0).sum()),
        found_in_all=int((times == len(seen)).sum()) if seen else 0,
        count_share=kept / total if total else None,
        stores=tuple(one_by_one),
    )


def _of_store(
    name: str, genes: Sequence[str], columns: Columns, sums: np.ndarray, store: Store | None, read: int, n_missing: int
) -> StoreCoverage:
    outside, total = np.flatnonzero(columns.target < 0), float(sums.sum())
    first = outside[np.argsort(-sums[outside], kind="stable")][:n_missing].tolist()
    ids = detect(genes)
    symbols = None
    if store is not None and ids.kind != "symbol" and first:
        symbols = pick_symbols(store.var, None, ids_from="", path=store.uri)
    return StoreCoverage(
        name=name,
        ids=str(ids),
        n_genes=len(genes),
        kinds=columns.counts,
        found=columns.n_found,
        collisions=len(columns.collisions),
        missing=tuple(
            (genes[i], None if symbols is None else str(symbols[i]), float(sums[i] / total) if total else None)
            for i in first
        ),
        n_cells=store.n_cells if store else 0,
        cells_read=read,
        count_share=1 - float(sums[outside].sum()) / total if total else None,
    )


def gene_sums(store: Store, *, cells: int | None = 2048) -> np.ndarray:
    """Counts of each gene of a store (G,), over ``cells`` cells spread evenly over it; None takes all."""
    sums_G = np.zeros(len(store.genes))
    _add_counts(store, sums_G, cells)
    return sums_G


def _add_counts(store: Store, sums_G: np.ndarray, cells: int | None) -> int:
    """Add the counts of some cells up by gene; the number of cells."""
    read = 0
    for spans in _spans(store.n_cells, cells):
        block = store.read(spans)
        sums_G += np.bincount(block.indices.astype(np.intp), weights=block.data, minlength=len(sums_G))
        read += block.n_cells
    return read


def _spans(n_cells: int, cells: int | None) -> Iterable[np.ndarray]:
    """Spans to read at once, together about ``cells`` cells spread evenly over the store."""
    every = n_cells if cells is None else min(cells, n_cells)
    n_spans = -(-every // _SPAN)
    if every == n_cells:
        starts = np.arange(n_spans) * _SPAN
        stops = np.minimum(starts + _SPAN, n_cells)
    else:
        length = min(_SPAN, every)
        starts = np.linspace(0, n_cells - length, n_spans).astype(np.int64)
        stops = np.minimum(starts + length, np.append(starts[1:], n_cells))
    spans = np.stack([starts, stops], axis=1)
    return (spans[i : i + 64] for i in range(0, len(spans), 64))


def coverage_of_files(
    paths: Sequence[str | Path],
    *,
    vocabulary: str | Path,
    orthologs: Many | None = None,
    cells: int | None = 2048,
    counts: str = "auto",
    gene_ids: str = "auto",
    rounding: Rounding = "error",
    storage_options: Mapping[str, Any] | None = None,
) -> CoverageReport:
    """What ``scmf data genes`` shows.

    Parameters
    ----------
    paths
        Files, folders or addresses of stores.
    vocabulary
        See `load_gene_set`.
    orthologs
        Policy with which mouse genes are taken to human ones; None takes none.
    cells
        Cells looked at in each store; None all.
    counts, gene_ids, rounding, storage_options
        See `scmf.data.stores.open.open_stores`.
    """
    genes = load_gene_set(vocabulary)
    table = None if orthologs is None else load_orthologs(orthologs)
    aligner = GeneAligner.of(genes, mapping=genes.gene_map(), orthologs=table)
    stores = open_stores(paths, counts=counts, gene_ids=gene_ids, rounding=rounding, storage_options=storage_options)
    try:
        return coverage(stores, aligner, name=genes.name, cells=cells)
    finally:
        for store in stores:
            store.close()
