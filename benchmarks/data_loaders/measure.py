"""One run of one loader: clocks, memory of the order, exact tokens, JSON. Every peer imports it in its own interpreter.

Lives here: what is the same for all, so that only the loader differs: the clocks, the entropy of source blocks in a
batch, the command line. Lives elsewhere: the tokens (token_rows), the loaders (peer_*.py, ours.py), memory of a process
from outside (processes), the driver (run).

Two outputs. ``native``: what the loader gives of itself. ``tokens``: exact rank-value tokens, at most 2,048,
padded, int32 (B, L). Legend: B cells of a batch, L longest sequence of it, G genes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from token_rows import Csr, Tokenize, digest_rows, with_tokens

BATCH = 64
BLOCK = 64
"""Cells of a source block: what is read together in the setting ``mixed``, and what the entropy is counted over."""
BLOCKS_IN_BUFFER = 256


@dataclass
class Loader:
    """A loader under the clock.

    Parameters
    ----------
    packages
        Distributions whose versions go into the record.
    epoch
        Makes one epoch, shuffled by the seed: pairs of the rows (numbers in the store, int64 (B,)) and the batch.
    csr
        Brings a batch to `Csr`, to be tokenized here; None for loaders that give tokens.
    ids
        Brings a batch to padded int32 (B, L), for loaders that give tokens.
    facts
        Settings that were used, for the record.
    """

    packages: tuple[str, ...]
    epoch: Callable[[int], Iterable[tuple[np.ndarray, Any]]]
    csr: Callable[[Any], Csr] | None = None
    ids: Callable[[Any], np.ndarray] | None = None
    facts: dict[str, Any] | None = None


# --- clocks and order -----------------------------------------------------------------------------


def cpu_seconds() -> float:
    """CPU time of this process and all its children, ended or not."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def machine_seconds() -> float:
    """CPU time all processes of the machine have used."""
    times = psutil.cpu_times()
    return (
        sum(times)
        - times.idle
        - getattr(times, "iowait", 0)
        - getattr(times, "guest", 0)
        - getattr(times, "guest_nice", 0)
    )


def batch_entropy(batches: list[np.ndarray], *, block: int = BLOCK) -> float | None:
    """Mean over the batches of the entropy, in bits, of the source block of a cell; None without batches.

    Parameters
    ----------
    batches
        Rows of each batch: numbers in the store.
    block
        Consecutive rows that are one source block.
    """
    bits = []
    for rows in batches:
        _, counts = np.unique(rows // block, return_counts=True)
        share = counts / rows.size
        bits.append(float(-(share * np.log2(share)).sum()))
    return float(np.mean(bits)) if bits else None


def timed(loader: Loader, options: argparse.Namespace) -> dict[str, Any]:
    """Warm up, then run until enough cells or seconds have passed; the raw numbers."""
    tokens = options.output == "tokens"
    tokenize = _tokens_of(loader, options) if tokens else None

    def epochs(seed: int) -> Generator[tuple[np.ndarray, Any], None, None]:
        for number in itertools.count(seed):
            batches = loader.epoch(number)
            yield from with_tokens(batches, tokenize, options.token_threads) if tokenize else batches

    warm = epochs(options.seed + 10_000)
    for _, _ in zip(range(3), warm, strict=False):
        pass
    warm.close()
    seen: list[np.ndarray] = []
    n_cells = 0
    first = math.nan
    stream = epochs(options.seed)
    busy, cpu, start = machine_seconds(), cpu_seconds(), time.perf_counter()
    for rows, _ in stream:
        if not n_cells:
            first = time.perf_counter() - start
        seen.append(rows)
        n_cells += len(rows)
        if n_cells >= options.cells or (options.seconds and time.perf_counter() - start >= options.seconds):
            break
    wall, cpu, busy = time.perf_counter() - start, cpu_seconds() - cpu, machine_seconds() - busy
    stream.close()
    full = [np.asarray(rows) for rows in seen if len(rows) == options.batch]
    entropy = {str(block): batch_entropy(full, block=block) for block in (BLOCK, 8 * BLOCK)}
    return {
        "cells": n_cells, "batches": len(seen), "wall_s": wall, "cpu_s": cpu, "first_batch_s": first,
        "cells_per_s": n_cells / wall, "cells_per_cpu_s": n_cells / cpu,
        "entropy_bits": entropy,
        "entropy_of_maximum": {
            block: None if bits is None else bits / math.log2(options.batch) for block, bits in entropy.items()
        },
        "distinct_rows": int(np.unique(np.concatenate(seen)).size),
        "cpu_s_of_other_processes": max(0.0, busy - cpu),
    }  # fmt: skip


def verified(loader: Loader, options: argparse.Namespace) -> dict[str, Any]:
    """One whole epoch: every row once, and the digest of all tokens."""
    tokenize = _tokens_of(loader, options)
    seen, digest = [], 0
    for rows, ids_BL in with_tokens(loader.epoch(options.seed), tokenize, options.token_threads):
        if ids_BL.dtype != np.int32 or len(ids_BL) != len(rows):
            raise SystemExit(f"{ids_BL.dtype} tokens of {len(ids_BL)} cells with {len(rows)} rows")
        seen.append(np.asarray(rows))
        flat = np.ascontiguousarray(ids_BL).reshape(-1)
        digest += int(digest_rows(flat, np.arange(0, flat.size + 1, max(1, ids_BL.shape[1]))))
    rows = np.concatenate(seen)
    once = rows.size == np.unique(rows).size
    return {"cells": int(rows.size), "each_row_once": bool(once), "digest_of_tokens": f"{digest & (1 << 64) - 1:016x}"}


def _tokens_of(loader: Loader, options: argparse.Namespace) -> Callable[[Any], np.ndarray]:
    if loader.ids is not None:
        return loader.ids
    csr = loader.csr
    if csr is None:
        raise SystemExit("this loader gives neither counts nor tokens")
    kernel = Tokenize(Path(options.corpus) / "tables.npz")
    return lambda batch: kernel(csr(batch))


# --- command line ---------------------------------------------------------------------------------


def main(
    make: Callable[[argparse.Namespace], Loader], prepare: Callable[[argparse.Namespace], None] | None = None
) -> None:
    """Command line of a peer: ``prepare`` writes its store, ``measure`` and ``verify`` write one JSON file.

    Parameters
    ----------
    make
        Opens the loader for the options.
    prepare
        Writes the peer's own store from the h5ad files of the corpus.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["prepare", "measure", "verify"])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--store", type=Path, required=True, help="what the loader reads")
    parser.add_argument("--setting", default="mixed")
    parser.add_argument("--output", choices=["native", "tokens"], default="tokens")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--token-threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.verb == "prepare":
        if prepare is None:
            raise SystemExit("this peer reads a store that the corpus has")
        prepare(options)
        return
    start = time.perf_counter()
    loader = make(options)
    opened = time.perf_counter() - start
    result = (timed if options.verb == "measure" else verified)(loader, options)
    result |= {
        "open_s": opened,
        "facts": loader.facts or {},
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **_versions(loader.packages)},
    }
    text = json.dumps(result, indent=1, sort_keys=True)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    else:
        sys.stdout.write(text + "\n")


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in (*packages, "numpy", "numba")}
