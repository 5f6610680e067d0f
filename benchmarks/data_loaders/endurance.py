"""Ten million cells through the stream in one process: cells a second and memory, each second, as JSON and a plot.

    python benchmarks/data_loaders/endurance.py                     # after run.py --prepare-only
    python benchmarks/data_loaders/endurance.py --cells 1000000 --setting h5ad

The corpus is the stores of the benchmark standing in it as often as it takes; its cells count as others, so the plan
of the epoch, the row index and everything else has the size of the whole.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ours
from environments import ROOT
from plot import over_time
from processes import memory_of
from run import warm

from scmf.core import provenance
from scmf.core.files import write_json

_STORES = {"zarr": "annbatch.zarr", "h5ad": "h5ad", "cache": "tokens_int32"}


class Watch(threading.Thread):
    """Takes cells and memory of this process at every interval, until it is stopped."""

    def __init__(self, interval: float) -> None:
        super().__init__(name="watch", daemon=True)
        self.interval, self.cells = interval, 0
        self.samples: list[dict[str, float]] = []
        self._done = threading.Event()

    def run(self) -> None:
        """Sample."""
        began = last = time.perf_counter()
        before = 0
        while not self._done.wait(self.interval):
            now, cells = time.perf_counter(), self.cells
            rss, anonymous = memory_of(os.getpid())
            self.samples.append({
                "t_s": round(now - began, 3), "cells": cells, "cells_per_s": round((cells - before) / (now - last), 1),
                "rss_mb": round(rss / 1e6, 1), "anonymous_mb": round(anonymous / 1e6, 1),
            })  # fmt: skip
            last, before = now, cells

    def stop(self) -> None:
        """End it."""
        self._done.set()
        self.join()


def stream_all(folder: Path, setting: str, cells: int, *, interval: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """One epoch of at least ``cells`` cells; every cell is counted, so that none is lost or doubled unseen.

    Parameters
    ----------
    folder
        The corpus.
    setting
        ``zarr``, ``h5ad`` or ``cache``.
    cells
        Cells of the epoch; rounded up to whole repetitions of the stores.
    interval
        Seconds between samples.
    seed
        Seed of the stream.
    """
    import numpy as np

    store = folder / _STORES[setting]
    warm(store)
    once = ours.open_corpus(store, setting)
    corpus = ours.open_corpus(store, setting, repeats=-(-cells // once.n_cells))
    stream = ours.open_stream(corpus, setting, folder / "tokenizer", seed=seed)
    seen = np.zeros(corpus.n_cells, np.uint8)
    n_tokens = 0
    watch = Watch(interval)
    watch.start()
    start, cpu = time.perf_counter(), time.process_time()
    for batch in stream.epoch(0):
        seen[batch.cells] += 1
        n_tokens += int(batch.lengths.sum())
        watch.cells += len(batch.cells)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    watch.stop()
    half = watch.samples[len(watch.samples) // 10 :]  # the first tenth fills buffers
    rss = [sample["rss_mb"] for sample in half] or [0.0]
    return {
        "cells": corpus.n_cells, "stores": len(corpus.stores), "store": _STORES[setting], "tokens": n_tokens,
        "each_cell_once": bool((seen == 1).all()), "wall_s": wall, "cpu_s": cpu, "cells_per_s": corpus.n_cells / wall,
        "cells_per_cpu_s": corpus.n_cells / cpu, "rss_peak_mb": max(rss), "rss_growth_mb": rss[-1] - rss[0],
        "rss_median_mb": statistics.median(rss), "samples": watch.samples,
        "provenance": provenance.collect(load_average=os.getloadavg()[0]),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write JSON and plot; exit code 1 if a cell was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench-data")
    parser.add_argument("--corpus", default="corpus-200000", help="folder below the work folder")
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--setting", choices=sorted(_STORES), default="zarr")
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "data_loaders_endurance.json")
    options = parser.parse_args(arguments)
    record = stream_all(options.work / options.corpus, options.setting, options.cells, interval=options.interval)
    write_json(options.out, record)
    over_time(record, options.out.with_suffix(".png"))
    print(
        f"{record['cells']:,} cells in {record['wall_s']:,.0f} s: {record['cells_per_s']:,.0f} cells/s, RSS"
        f" {record['rss_median_mb']:,.0f} MB, growth {record['rss_growth_mb']:+,.0f} MB,"
        f" each cell once: {record['each_cell_once']}"
    )
    return int(not record["each_cell_once"])


if __name__ == "__main__":
    raise SystemExit(main())
