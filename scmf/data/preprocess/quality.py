"""Quality of cells: counts, genes and mitochondrial share, and filters made of them.

Lives here: `cell_quality` (one pass), which genes are mitochondrial, `filter_cells` and what each filter removed.
Lives elsewhere: whether counts are counts (scmf.data.stores.counts). Doublets are not looked for.

The numbers are those of ``scanpy.pp.calculate_qc_metrics``; 12 bytes a cell stay in memory.

Legend: B cells of a block, G genes of a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import pandas as pd

from scmf.core.errors import ConfigError, CountsError, GeneError
from scmf.data.genes.ids import SYMBOL_COLUMNS, canonical
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.store import Store

_HUMAN = (
    198695, 198712, 198727, 198763, 198786, 198804, 198840, 198886, 198888, 198899, 198938, 212907, 228253,  # proteins
    211459, 210082,  # ribosomal RNA
    209082, 210049, 210077, 210100, 210107, 210112, 210117, 210127, 210135, 210140, 210144,
    210151, 210154, 210156, 210164, 210174, 210176, 210184, 210191, 210194, 210195, 210196,  # transfer RNA
)  # fmt: skip
_MOUSE = (*range(64336, 64362), *range(64363, 64373), 65947)
MITOCHONDRIAL_IDS = frozenset([f"ENSG{n:011d}" for n in _HUMAN] + [f"ENSMUSG{n:011d}" for n in _MOUSE])
"""The 37 genes of the mitochondrial genome of human and of mouse (GENCODE)."""


@dataclass(frozen=True)
class CellQuality:
    """One row a cell of the corpus.

    Parameters
    ----------
    n_counts
        Total counts, float32 (n_cells,).
    n_genes
        Genes with a count above 0, int32 (n_cells,).
    mito_counts
        Counts of mitochondrial genes, float32 (n_cells,); None when they were not asked for.
    """

    n_counts: np.ndarray
    n_genes: np.ndarray
    mito_counts: np.ndarray | None

    @property
    def pct_mito(self) -> np.ndarray:
        """Mitochondrial counts in percent of all, float32 (n_cells,); NaN for cells without counts."""
        if self.mito_counts is None:
            raise ConfigError("mitochondrial counts were not gathered", where="pct_mito", fix="give mito='auto'")
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.mito_counts / self.n_counts * 100

    def table(self) -> pd.DataFrame:
        """Columns ``n_counts``, ``n_genes`` and, where gathered, ``pct_mito``, for ``obs``."""
        columns = {"n_counts": self.n_counts, "n_genes": self.n_genes}
        return pd.DataFrame(columns if self.mito_counts is None else columns | {"pct_mito": self.pct_mito})


@dataclass(frozen=True)
class CellFilter:
    """Which cells stay and why the others go.

    Parameters
    ----------
    keep
        Boolean (n_cells,), as `Corpus.scan` and every ``keep=`` take it.
    failed
        Filter -> cells that fail it, whatever the others say.
    removed
        Filter -> cells that it removes after the filters before it; they add up to all that go.
    """

    keep: np.ndarray
    failed: dict[str, int]
    removed: dict[str, int]

    def __str__(self) -> str:
        parts = [f"{name} {count:,}" for name, count in self.removed.items()]
        return f"{int(self.keep.sum()):,} of {len(self.keep):,} cells stay; removed: {', '.join(parts) or 'none'}"


def is_mitochondrial(store: Store) -> np.ndarray:
    """Which columns are genes of the mitochondrial genome, boolean (G,).

    By Ensembl id (human, mouse; versions ignored), by a symbol that begins with ``MT-`` (any case) as the id, and by
    such a symbol in a column of ``var``.
    """
    found = np.array([canonical(gene) in MITOCHONDRIAL_IDS or gene.upper().startswith("MT-") for gene in store.genes])
    var = store.var
    for column in SYMBOL_COLUMNS:
        if column in var:
            found |= var[column].astype(str).str.upper().str.startswith("MT-").to_numpy(bool)
    return found


@numba.njit(nogil=True, cache=True)
def _measure(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, mito_G: np.ndarray, n_counts_B: np.ndarray,
    n_genes_B: np.ndarray, mito_B: np.ndarray
) -> int:  # fmt: skip
    """Fill the three arrays; the first cell with a value that is no count, else -1."""
    for cell in range(len(n_counts_B)):
        total, mito, genes = 0.0, 0.0, 0
        for at in range(indptr[cell], indptr[cell + 1]):
            value = np.float64(data[at])
            if not (value >= 0.0 and value < np.inf):
                return cell
            total += value
            genes += value != 0
            if mito_G[indices[at]]:
                mito += value
        n_counts_B[cell], n_genes_B[cell], mito_B[cell] = total, genes, mito
    return -1


def cell_quality(
    corpus: Corpus,
    *,
    keep: np.ndarray | None = None,
    mito: Literal["auto", "none"] | Sequence[str] = "auto",
    threads: int = 2,
) -> CellQuality:
    """Measure every cell in one pass.

    Parameters
    ----------
    corpus
        Raw counts.
    keep
        Boolean (n_cells,): measure these; the others get zeros.
    mito
        ``auto``: see `is_mitochondrial`; a sequence: these gene ids, as the stores write them; ``none``: not gathered.
    threads
        Blocks read ahead.

    Raises
    ------
    GeneError
        A store has no mitochondrial gene although they were asked for: its share would be 0 for a wrong reason.
    CountsError
        A negative, NaN or infinite count; the cell is named.
    """
    marked: dict[int, np.ndarray] = {}
    for number, store in enumerate(corpus.stores):
        if isinstance(mito, str):
            marked[number] = is_mitochondrial(store) if mito == "auto" else np.zeros(len(store.genes), bool)
        else:
            marked[number] = np.isin(np.array(store.genes, dtype=object), list(mito))
        if mito != "none" and not marked[number].any():
            raise GeneError(
                f"no mitochondrial gene among {len(store.genes):,} (first: {store.genes[0]!r})",
                wanted="Ensembl ids of human or mouse, or symbols that begin with MT-",
                where=store.uri,
                fix="give the ids (mito=[...]), or mito='none' and no max_pct_mito",
            )
    n_counts, n_genes = np.zeros(corpus.n_cells, np.float32), np.zeros(corpus.n_cells, np.int32)
    mito_counts = np.zeros(corpus.n_cells, np.float32)
    for piece in corpus.scan(keep=keep, threads=threads):
        n = len(piece.cells)
        parts = np.zeros(n, np.float32), np.zeros(n, np.int32), np.zeros(n, np.float32)
        block = piece.counts
        bad = _measure(block.indptr, block.indices, block.data, marked[piece.store], *parts)
        if bad >= 0:
            raise CountsError(
                "a negative, NaN or infinite count",
                wanted="raw counts",
                where=f"{corpus.stores[piece.store].uri}, cell number "
                f"{int(piece.cells[bad] - corpus.offsets[piece.store])} (from 0)",
                fix="correct or leave out the cell",
            )
        n_counts[piece.cells], n_genes[piece.cells], mito_counts[piece.cells] = parts
    return CellQuality(n_counts, n_genes, None if mito == "none" else mito_counts)


def filter_cells(
    corpus: Corpus,
    *,
    min_genes: int | None = None,
    max_genes: int | None = None,
    min_counts: float | None = None,
    max_counts: float | None = None,
    max_pct_mito: float | None = None,
    mito: Literal["auto", "none"] | Sequence[str] = "auto",
    stored_zeros: bool = True,
    threads: int = 2,
) -> CellFilter:
    """Decide which cells stay. A bound itself is within the filter, as in ``scanpy.pp.filter_cells``.

    Parameters
    ----------
    corpus
        Raw counts.
    min_genes, max_genes, min_counts, max_counts
        Bounds of the genes with a count above 0 and of the total counts.
    max_pct_mito
        Most percent of mitochondrial counts; a cell without counts fails.
    mito
        See `cell_quality`; only looked at for ``max_pct_mito``.
    stored_zeros
        Stores may hold zeros as values. False says that they do not: filters by genes alone then take the number of
        stored values and read no counts. The first 4,096 cells of each store are read to check it.
    threads
        Blocks read ahead.

    Raises
    ------
    CountsError
        ``stored_zeros=False`` and one was found.
    """
    by_genes_alone = min_counts is None and max_counts is None and max_pct_mito is None
    if min_genes is None and max_genes is None and by_genes_alone:
        return CellFilter(np.ones(corpus.n_cells, bool), {}, {})
    if by_genes_alone and not stored_zeros:
        _check_no_zeros(corpus)
        n_counts, n_genes, pct_mito = None, corpus.lengths, None
    else:
        found = cell_quality(corpus, mito="none" if max_pct_mito is None else mito, threads=threads)
        n_counts, n_genes = found.n_counts, found.n_genes
        pct_mito = None if max_pct_mito is None else found.pct_mito
    fails = {}
    if min_genes is not None:
        fails[f"min_genes {min_genes}"] = n_genes < min_genes
    if max_genes is not None:
        fails[f"max_genes {max_genes}"] = n_genes > max_genes
    if min_counts is not None and n_counts is not None:
        fails[f"min_counts {min_counts:g}"] = n_counts < min_counts
    if max_counts is not None and n_counts is not None:
        fails[f"max_counts {max_counts:g}"] = n_counts > max_counts
    if pct_mito is not None:
        fails[f"max_pct_mito {max_pct_mito:g}"] = ~(pct_mito <= max_pct_mito)
    keep, removed = np.ones(corpus.n_cells, bool), {}
    for name, fail in fails.items():
        removed[name] = int(np.count_nonzero(fail & keep))
        keep &= ~fail
    return CellFilter(keep, {name: int(np.count_nonzero(fail)) for name, fail in fails.items()}, removed)


def _check_no_zeros(corpus: Corpus) -> None:
    for store in dict.fromkeys(corpus.stores):
        block = store.read(np.array([[0, min(4096, store.n_cells)]]))
        zeros = int(store.lengths[: block.n_cells].sum(dtype=np.int64)) - int(block.indptr[-1])
        zeros += int(np.count_nonzero(block.data == 0))
        if zeros:
            raise CountsError(
                f"{zeros:,} stored zeros or entries that are there twice in the first {block.n_cells:,} cells",
                wanted="none, as stored_zeros=False says",
                where=store.uri,
                fix="leave stored_zeros out, so that the counts are read",
            )
