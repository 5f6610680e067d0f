"""Throughput of the rank-value tokenizer beside a numpy loop and beside the official path, on one thread.

Run ``python benchmarks/tokenizer_throughput.py``; it writes ``tokenizer_throughput.json`` and prints a table.

Four programs on the same cells in one run, in turns, medians of three or more rounds, by wall clock and by CPU time:
the sort alone (ours; a loop of ``numpy.argsort`` over cells with the same arithmetic) and counts to a saved token
dataset (ours, with the ids as int16; the official path as restated in ``official_path.py``, whose library stores them
as int32). Before anything is timed the tokens of all
four are compared: equal for every cell, exact ties as sets.

Cells: 400 real PBMCs 50 times over with rows permuted where ``SCMF_REFERENCE_DIR`` and ``SCMF_DATA_DIR`` hold them,
else synthetic ones of 20,000 genes. Bars: twice the numpy loop, twenty times the official path.
"""

from __future__ import annotations

# ruff: noqa: E402  (the number of threads must be set before numpy is imported)
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).parent))
import official_path

from scmf.core import provenance
from scmf.core.files import write_json
from scmf.core.paths import data_dir, reference_dir
from scmf.data.tokens.arrow import TokenDatasetWriter, write_token_dataset
from scmf.tokenizers.rank_value import RankValueTokenizer

BARS = {"rank": 2.0, "end to end": 20.0}
LONGEST = 4096
BLOCK = 1024


@dataclass
class Work:
    """Cells and dictionaries to tokenize."""

    name: str
    counts: sp.csr_matrix
    genes: list[str]
    n_counts: np.ndarray
    tables: official_path.Dictionaries

    def tokenizer(self) -> RankValueTokenizer:
        """Ours, for V2."""
        tables = self.tables
        return RankValueTokenizer.from_tables(
            tables.token_ids, tables.medians, tables.mapping, max_length=LONGEST, special_tokens=True
        )


def real_cells(copies: int) -> Work | None:
    """400 PBMCs of the oracle, several times over in another order each; None if they are not at hand."""
    oracle, mirror = reference_dir(), data_dir()
    path = oracle / "geneformer" / "inputs" / "real_pbmc400.h5ad" if oracle else None
    if path is None or not path.is_file() or mirror is None:
        return None
    import anndata

    from scmf.data.genes.vocabulary import load_vocabulary

    cells = anndata.read_h5ad(path)
    found = load_vocabulary("geneformer-v2")
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(cells.n_obs) for _ in range(copies)])
    return Work(
        f"400 real PBMCs x {copies}, rows permuted", sp.csr_matrix(cells.X)[order], cells.var["ensembl_id"].tolist(),
        cells.obs["n_counts"].to_numpy()[order],
        official_path.Dictionaries(found.token_ids, found.medians, found.aliases),
    )  # fmt: skip


def synthetic_cells(n_cells: int, *, n_genes: int = 20_000, n_expressed: int = 2_000, seed: int = 0) -> Work:
    """Small counts of genes with Zipf popularity, and a V2-like vocabulary of nine genes in ten."""
    rng = np.random.default_rng(seed)
    popularity = rng.permutation(1 / np.arange(1, n_genes + 1) ** 0.6)
    chance = np.minimum(1, popularity / popularity.sum() * n_expressed)
    for _ in range(20):
        chance = np.minimum(1, chance * n_expressed / chance.sum())
    rows = [np.flatnonzero(rng.random(n_genes) < chance) for _ in range(n_cells)]
    indptr = np.concatenate([[0], np.cumsum([row.size for row in rows])])
    data = rng.geometric(0.6, indptr[-1]).astype(np.float32)
    counts = sp.csr_matrix((data, np.concatenate(rows).astype(np.int32), indptr), shape=(n_cells, n_genes))
    genes = [f"ENSG{i:011d}" for i in range(n_genes)]
    known = [gene for gene in genes if rng.random() < 0.9]
    token_ids = {name: i for i, name in enumerate(["<pad>", "<mask>", "<cls>", "<eos>", *known])}
    medians = dict(zip(known, np.exp(rng.normal(0, 1, len(known))).tolist(), strict=True))
    tables = official_path.Dictionaries(token_ids, medians, {gene: gene for gene in known})
    totals = np.asarray(counts.sum(axis=1)).ravel().astype(np.float32)
    return Work(f"{n_cells:,} synthetic cells, {n_genes:,} genes", counts, genes, totals, tables)


def numpy_loop(work: Work) -> Callable[[], list[np.ndarray]]:
    """A bare loop over cells with the same arithmetic; the lookup of columns is not part of what is timed."""
    mapping = {k: v for k, v in work.tables.mapping.items() if v in work.tables.token_ids}
    token = np.array([work.tables.token_ids.get(mapping.get(gene, ""), -1) for gene in work.genes])
    known = np.flatnonzero(token >= 0)
    counts = work.counts[:, known].tocsr()
    token, n_counts = token[known], work.n_counts
    reciprocal = 1 / np.array([work.tables.medians[mapping[work.genes[i]]] for i in known])
    indptr, indices, data = counts.indptr, counts.indices, counts.data

    def run() -> list[np.ndarray]:
        scale, ranked = 1 / n_counts, []
        for row in range(indptr.size - 1):
            span = slice(indptr[row], indptr[row + 1])
            columns = indices[span]
            values = data[span] * scale[row] * 10_000 * reciprocal[columns]
            ranked.append(token[columns[np.argsort(-values)]][: LONGEST - 2])
        return ranked

    return run


def verify(work: Work, folder: Path) -> dict[str, int]:
    """Compare the tokens of all programs for every cell; returns how much was compared."""
    import datasets

    ours = work.tokenizer()
    ranked = ours.rank(work.counts, work.genes, n_counts=work.n_counts, crop=False, values="scaled")
    cropped = ours.rank(work.counts, work.genes, n_counts=work.n_counts, dtype=np.int16)
    saved = datasets.load_from_disk(str(write_token_dataset(folder / "ours", cropped.ids, cropped.offsets)))
    peer = official_path.tokenize(
        folder / "official", work.counts, work.genes, work.n_counts, work.tables, longest=LONGEST, special=True
    )
    loop, in_another_order = numpy_loop(work)(), 0
    columns = [dataset.data.column("input_ids").combine_chunks() for dataset in (saved, peer)]
    flat = [(column.offsets.to_numpy(), column.values.to_numpy()) for column in columns]
    if not len(saved) == len(peer) == len(loop) == work.counts.shape[0]:
        raise SystemExit("the programs keep different numbers of cells")
    for row in range(work.counts.shape[0]):
        span = slice(ranked.offsets[row], ranked.offsets[row + 1])
        ids, values = ranked.ids[span], ranked.values[span]
        for offsets, column in flat:
            theirs = column[offsets[row] : offsets[row + 1]][1:-1]
            in_another_order += same_up_to_ties(theirs, ids, values, row)
        in_another_order += same_up_to_ties(loop[row], ids, values, row)
    n_tokens = int(cropped.offsets[-1])
    return {"cells": work.counts.shape[0], "tokens": n_tokens, "rows_with_ties_in_another_order": in_another_order}


def same_up_to_ties(theirs: np.ndarray, ids: np.ndarray, values: np.ndarray, row: int) -> bool:
    """True if a cell differs in the order of equal values only; stops the run if it differs in more."""
    ours = ids[: theirs.size]
    if theirs.size == min(ids.size, LONGEST - 2) and np.array_equal(theirs, ours):
        return False
    value_of = dict(zip(ids.tolist(), values.tolist(), strict=True))
    if theirs.size != ours.size or [value_of.get(i) for i in theirs.tolist()] != values[: theirs.size].tolist():
        raise SystemExit(f"cell {row} has other tokens: the figures would mean nothing")
    return True


def measure(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each program by wall clock and CPU time, in turns, so that a busy spell hits all of them."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            program()
            seconds[name]["cpu"].append(time.process_time() - cpu)
            seconds[name]["wall"].append(time.perf_counter() - wall)
    return seconds


def rows(counts: sp.csr_matrix, start: int, stop: int) -> sp.csr_matrix:
    """Some rows as a matrix that shares the buffers."""
    indptr = counts.indptr[start : stop + 1]
    span = slice(indptr[0], indptr[-1])
    shape = (indptr.size - 1, counts.shape[1])
    return sp.csr_matrix((counts.data[span], counts.indices[span], indptr - indptr[0]), shape=shape, copy=False)


def programs(work: Work, folder: Path) -> dict[str, Callable[[], Any]]:
    """What is timed, by name. Reading the dictionaries and cutting the blocks (views, no copies) is not."""
    ours = work.tokenizer()
    blocks = [(rows(work.counts, start, start + BLOCK), work.n_counts[start : start + BLOCK])
              for start in range(0, work.counts.shape[0], BLOCK)]  # fmt: skip
    number = iter(range(10**6))

    def rank() -> None:
        for counts, n_counts in blocks:
            ours.rank(counts, work.genes, n_counts=n_counts)

    def end_to_end(dtype: Any) -> None:
        with TokenDatasetWriter(folder / f"ours-{next(number)}") as writer:
            for counts, n_counts in blocks:
                ranked = ours.rank(counts, work.genes, n_counts=n_counts, dtype=dtype)
                writer.add(ranked.ids, ranked.offsets)

    def official() -> None:
        path = folder / f"official-{next(number)}"
        official_path.tokenize(path, work.counts, work.genes, work.n_counts, work.tables, longest=LONGEST, special=True)

    return {
        "rank: ours": rank,
        "rank: numpy loop": numpy_loop(work),
        "end to end: ours": lambda: end_to_end(np.int16),
        "end to end: ours, int32": lambda: end_to_end(np.int32),
        "end to end: official path": official,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=50, help="times 400 cells")
    parser.add_argument("--synthetic", action="store_true", help="do not use real cells")
    parser.add_argument(
        "--folder", type=Path, help="where datasets are saved; default /dev/shm or the temporary folder"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    import pyarrow as pa

    import datasets

    pa.set_cpu_count(1)
    datasets.disable_progress_bars()
    work = None if options.synthetic else real_cells(options.copies)
    work = work or synthetic_cells(400 * options.copies)
    n_cells = work.counts.shape[0]
    # In memory where possible: the disk is not what is measured.
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=options.folder or memory) as name:
        compared = verify(work, Path(name) / "verified")
        seconds = measure(programs(work, Path(name)), max(3, options.rounds))
    rates = {
        program: {clock: n_cells / statistics.median(taken) for clock, taken in clocks.items()}
        for program, clocks in seconds.items()
    }
    ratios = {
        "rank": {c: rates["rank: ours"][c] / rates["rank: numpy loop"][c] for c in ("cpu", "wall")},
        "end to end": {
            c: rates["end to end: ours"][c] / rates["end to end: official path"][c] for c in ("cpu", "wall")
        },
    }
    write_json(options.out, {
        "work": work.name,
        "stored_values_a_cell": round(work.counts.nnz / n_cells, 1),
        "compared_before": compared,
        "cells_per_second": {p: {c: round(v) for c, v in r.items()} for p, r in rates.items()},
        "seconds": {p: {c: [round(s, 4) for s in v] for c, v in r.items()} for p, r in seconds.items()},
        "ratios": {name: {c: round(v, 2) for c, v in r.items()} for name, r in ratios.items()},
        "bars": BARS,
        "provenance": provenance.collect(
            folder=str(Path(name).parent), load_average=os.getloadavg()[0],
            datasets=datasets.__version__, pyarrow=pa.__version__,
        ),
    })  # fmt: skip
    print(f"{work.name}; {work.counts.nnz / n_cells:,.0f} stored values a cell; one thread; median of {options.rounds}")
    print(f"tokens equal in all programs for {compared['cells']:,} cells ({compared['tokens']:,} tokens)\n")
    print(f"{'cells a second':<28}{'CPU time':>12}{'wall':>12}")
    for program, rate in rates.items():
        print(f"{program:<28}{rate['cpu']:>12,.0f}{rate['wall']:>12,.0f}")
    for name, ratio in ratios.items():
        print(f"{name + ', ratio':<28}{ratio['cpu']:>11.1f}x{ratio['wall']:>11.1f}x   bar {BARS[name]:g}x")
    return int(any(ratio["cpu"] < BARS[name] for name, ratio in ratios.items()))


if __name__ == "__main__":
    raise SystemExit(main())
