"""The synthetic corpus every loader is measured on, in the formats that AnnData and tokens have.

Lives here: making the counts (numba), writing h5ad, raw arrays and tokens, and the tables of the tokenizer. Lives
elsewhere: the formats that a peer writes with its own writer (``prepare`` of each peer_*.py).

The counts are molecules: a cell draws as many as its depth says (lognormal) from the popularity of the genes in its
cell type (Zipf, with a share of genes changed by type), so counts are small integers, most of them 1, and a cell
has about 2,000 of 20,000 genes.

Layout of the folder::

    h5ad/part-00.h5ad ...         uncompressed, float32 counts, int32 columns
    h5ad_gzip/part-00.h5ad ...    anndata's ``compression="gzip"``
    raw/{indptr,indices,data}.npy mapped arrays: the physical limit
    tokens_int16/, tokens_int32/  exact rank-value tokens as a Hugging Face dataset
    tokenizer/, tables.npz        the tokenizer and the meaning of its columns
    corpus.json                   facts, and a digest of the tokens of all cells
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from token_rows import LONGEST, digest_rows

from scmf.core.files import atomic_path, write_json

N_GENES = 20_000
MEAN_NONZERO = 2_000
CELL_TYPES = 16
DEPTH_SIGMA = 0.45
MEDIAN_SIGMA = 0.6
CELLS_PER_BLOCK = 1_000
_MASK = (1 << 64) - 1


class Corpus(NamedTuple):
    """What is made: its size, its seed, its folder."""

    folder: Path
    n_cells: int = 200_000
    n_files: int = 8
    seed: int = 0

    @property
    def cells_per_file(self) -> int:
        """Cells of one file; the sizes are chosen so that files are equal."""
        return self.n_cells // self.n_files

    @property
    def names(self) -> list[str]:
        """Names of the h5ad files."""
        return [f"part-{i:02d}.h5ad" for i in range(self.n_files)]


def popularity(seed: int) -> np.ndarray:
    """Share of each gene among the molecules of each cell type, float64 (CELL_TYPES, N_GENES)."""
    rng = np.random.default_rng(seed)
    zipf = rng.permutation(1 / np.arange(1, N_GENES + 1))
    share = np.repeat(zipf[None], CELL_TYPES, axis=0)
    specific = rng.random(share.shape) < 0.15
    share[specific] *= np.exp(rng.normal(0, 1, int(specific.sum())))
    return share / share.sum(axis=1, keepdims=True)


def median_depth(share: np.ndarray) -> float:
    """Median molecules of a cell that give `MEAN_NONZERO` genes on average, by bisection over a quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    low, high = 100.0, 1e6
    for _ in range(24):
        depth = (low * high) ** 0.5
        genes = [(1 - np.exp(-depth * np.exp(DEPTH_SIGMA * x) * share)).sum(axis=1).mean() for x in nodes]
        low, high = (depth, high) if weights @ genes / weights.sum() < MEAN_NONZERO else (low, depth)
    return low


@numba.njit(cache=True, nogil=True)
def alias_table(share: Any, accept: Any, other: Any) -> None:
    """Vose's tables to draw from a distribution in constant time: ``accept`` uint32, ``other`` int32."""
    n = share.size
    scaled = share * n
    small, large = np.empty(n, np.int32), np.empty(n, np.int32)
    n_small = n_large = 0
    for i in range(n):
        if scaled[i] < 1:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        s, g = small[n_small], large[n_large - 1]
        accept[s] = np.uint32(scaled[s] * 4294967295.0)
        other[s] = g
        scaled[g] -= 1 - scaled[s]
        if scaled[g] < 1:
            n_large -= 1
            small[n_small] = g
            n_small += 1
    for i in range(n_small):
        accept[small[i]], other[small[i]] = np.uint32(4294967295), small[i]
    for i in range(n_large):
        accept[large[i]], other[large[i]] = np.uint32(4294967295), large[i]


@numba.njit(cache=True, nogil=True)
def draw_cells(
    depths: Any, types: Any, accept: Any, other: Any, seed: Any, indptr: Any, indices: Any, data: Any
) -> int:
    """Draw the molecules of some cells into CSR buffers long enough for them; returns the stored values."""
    n_genes = accept.shape[1]
    found = np.zeros(n_genes, np.uint16)
    state = seed
    at = 0
    indptr[0] = 0
    for cell in range(depths.size):
        a, o = accept[types[cell]], other[types[cell]]
        for _ in range(depths[cell]):
            state ^= state << np.uint64(13)  # xorshift64
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            gene = ((state >> np.uint64(32)) * np.uint64(n_genes)) >> np.uint64(32)
            if np.uint32(state & np.uint64(4294967295)) > a[gene]:
                gene = np.uint64(o[gene])
            found[gene] += np.uint16(1)
        for gene in range(n_genes):
            if found[gene]:
                indices[at] = gene
                data[at] = found[gene]
                found[gene] = 0
                at += 1
        indptr[cell + 1] = at
    return at


class Block(NamedTuple):
    """Counts of consecutive cells, CSR, and their cell types."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    types: np.ndarray


@functools.cache
def law(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Alias tables of all cell types, and the median depth."""
    share = popularity(seed)
    accept, other = np.empty(share.shape, np.uint32), np.empty(share.shape, np.int32)
    for row, a, o in zip(share, accept, other, strict=True):
        alias_table(row, a, o)
    return accept, other, median_depth(share)


def draw_file(corpus: Corpus, number: int, *, threads: int = 2) -> Block:
    """The counts of one file: depends on seed, file and cell alone, not on threads."""
    accept, other, depth = law(corpus.seed)

    def block(start: int) -> Block:
        n = min(CELLS_PER_BLOCK, corpus.cells_per_file - start)
        rng = np.random.default_rng([corpus.seed, number, start])
        depths = np.maximum(200, depth * np.exp(DEPTH_SIGMA * rng.standard_normal(n))).astype(np.int64)
        # Cells of a type lie together in runs, as samples do; runs of types differ between files.
        types = (np.arange(start, start + n) // 250 * 7 + number) % CELL_TYPES
        indptr, room = np.empty(n + 1, np.int64), int(np.minimum(depths, N_GENES).sum())
        indices, data = np.empty(room, np.uint16), np.empty(room, np.uint16)
        seed = np.uint64(rng.integers(1, _MASK, dtype=np.uint64))
        end = draw_cells(depths, types, accept, other, seed, indptr, indices, data)
        return Block(indptr, indices[:end].copy(), data[:end].copy(), types)

    with ThreadPoolExecutor(threads) as pool:
        blocks = list(pool.map(block, range(0, corpus.cells_per_file, CELLS_PER_BLOCK)))
    ends = np.cumsum([part.indptr[-1] for part in blocks])
    indptr = np.concatenate(
        [[0], *(part.indptr[1:] + end - part.indptr[-1] for part, end in zip(blocks, ends, strict=True))]
    )
    return Block(indptr, *(np.concatenate([part[i] for part in blocks]) for i in (1, 2, 3)))


def anndata_of(corpus: Corpus, number: int, block: Block) -> Any:
    """One file as AnnData: float32 counts, ``row`` (number in the corpus), ``donor``, ``assay``, ``cell_type``."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    n, first = block.indptr.size - 1, number * corpus.cells_per_file
    counts = sp.csr_matrix((n, N_GENES), dtype=np.float32)
    counts.data, counts.indices = block.data.astype(np.float32), block.indices.astype(np.int32)
    counts.indptr = block.indptr.astype(np.int32 if block.indptr[-1] < 1 << 31 else np.int64)
    obs = pd.DataFrame(
        {
            "row": np.arange(first, first + n),
            "donor": pd.Categorical([f"donor-{number}-{i * 3 // n}" for i in range(n)]),
            "assay": pd.Categorical([("10x 3' v2", "10x 3' v3")[number % 2]] * n),
            "cell_type": pd.Categorical([f"type-{t:02d}" for t in block.types]),
        },
        index=[f"cell-{first + i:08d}" for i in range(n)],
    )
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes()))


def genes() -> list[str]:
    """Gene ids of the columns."""
    return [f"ENSG{i:011d}" for i in range(N_GENES)]


def make(corpus: Corpus) -> dict[str, Any]:
    """Write all files; the facts of ``corpus.json``, which is written last."""
    facts_path = corpus.folder / "corpus.json"
    started = time.perf_counter()
    raw: tuple[list[np.ndarray], ...] = [], [], []
    drawn = 0.0
    for number, name in enumerate(corpus.names):
        clock = time.perf_counter()
        block = draw_file(corpus, number)
        drawn += time.perf_counter() - clock
        cells = anndata_of(corpus, number, block)
        for folder, how in (("h5ad", None), ("h5ad_gzip", "gzip")):
            with atomic_path(corpus.folder / folder / name) as temporary:
                cells.write_h5ad(temporary, compression=how)
        for kept, array in zip(raw, (np.diff(block.indptr), block.indices, block.data), strict=True):
            kept.append(array)
    lengths, indices, data = (np.concatenate(parts) for parts in raw)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    del raw
    for name, array in (("indptr", indptr), ("indices", indices), ("data", data)):
        with atomic_path(corpus.folder / "raw" / f"{name}.npy") as temporary:
            np.save(temporary, array)
    digest = write_tokens(corpus, indptr, indices, data)
    facts = {
        "n_cells": corpus.n_cells, "n_files": corpus.n_files, "n_genes": N_GENES, "seed": corpus.seed,
        "stored_values_a_cell": float(lengths.mean()),
        "stored_values_a_cell_p05_p95": [float(q) for q in np.quantile(lengths.astype(float), [0.05, 0.95])],
        "share_of_ones": float((data == 1).mean()), "largest_count": int(data.max()),
        "cells_with_more_genes_than_a_sequence": float((lengths > LONGEST).mean()),
        "seconds_to_draw": drawn, "seconds": time.perf_counter() - started, "digest_of_tokens": digest,
    }  # fmt: skip
    write_json(facts_path, facts)
    return facts


def write_tokens(corpus: Corpus, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> str:
    """Fit the tokenizer on the first cells, write its tables and the tokens of all cells; a digest of these."""
    import scipy.sparse as sp

    from scmf.data.tokens.arrow import TokenDatasetWriter
    from scmf.tokenizers.rank_value import RankValueTokenizer
    from scmf.tokenizers.rank_value_genes import match_columns

    def rows(start: int, stop: int) -> sp.csr_matrix:
        span = slice(indptr[start], indptr[stop])
        part = sp.csr_matrix((stop - start, N_GENES), dtype=np.float32)
        part.data, part.indices = data[span].astype(np.float32), indices[span].astype(np.int32)
        part.indptr = indptr[start : stop + 1] - indptr[start]
        return part

    names = genes()
    fitted = RankValueTokenizer.fit(
        rows(0, min(corpus.n_cells, 5_000)), names, min_cells=1, max_length=LONGEST, special_tokens=False
    )
    # One law of depth gives all rare genes nearly the same median. Those of a real corpus are all different and wider
    # (published: 25,413 values for 25,424 genes, standard deviation of the logarithm 0.68), which a sort feels.
    rng = np.random.default_rng([corpus.seed, 1])
    medians = {gene: median * float(np.exp(rng.normal(0, MEDIAN_SIGMA))) for gene, median in fitted.medians.items()}
    tokenizer = RankValueTokenizer.from_tables(fitted.get_vocab(), medians, max_length=LONGEST, special_tokens=False)
    tokenizer.save_pretrained(str(corpus.folder / "tokenizer"))
    ids = {gene: i for gene, i in tokenizer.get_vocab().items() if gene in tokenizer.medians}
    columns = match_columns(names, ids, tokenizer.medians, {}, match_official=False)
    with atomic_path(corpus.folder / "tables.npz") as temporary:
        np.savez(temporary, code_G=columns.code_G, reciprocal_G=columns.reciprocal_G)
    digest = 0
    with (
        TokenDatasetWriter(corpus.folder / "tokens_int16", dtype=np.int16, overwrite=True) as narrow,
        TokenDatasetWriter(corpus.folder / "tokens_int32", dtype=np.int32, overwrite=True) as wide,
    ):
        for start in range(0, corpus.n_cells, 4_096):
            ranked = tokenizer.rank(rows(start, min(start + 4_096, corpus.n_cells)), names)
            number = {"row": np.arange(start, start + ranked.lengths.size)}
            narrow.add(ranked.ids, ranked.offsets, number)
            wide.add(ranked.ids, ranked.offsets, number)
            digest += int(digest_rows(ranked.ids, ranked.offsets))
    return f"{digest & _MASK:016x}"
