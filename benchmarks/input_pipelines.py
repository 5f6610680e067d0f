"""Throughput of the tokenizers of scGPT, scFoundation and TranscriptFormer beside the official paths, on one thread.

Run ``python benchmarks/input_pipelines.py``; it writes ``input_pipelines.json`` and prints a table.

Lives here: the table of pipelines, the measurement, the file. Lives elsewhere: each official path, restated in a file
of its own (``PLUG_INS``), which also says what of ours is timed beside it and on which cells.

A plug-in is a module beside this one with ``pipelines(copies) -> list[Pipeline]``: the cells of the oracle ``copies``
times over, or synthetic ones where they are not at hand. Before anything is timed ``verify`` compares the tokens of
both programs and stops the run if they differ. Then both run in turns, three rounds or more; figures are medians, by
wall clock and by CPU time (a busy neighbor on the same core moves both by a tenth; the file names the load). Reading
files, matching gene names for the first time and compiling are not timed.
"""

from __future__ import annotations

# ruff: noqa: E402  (the number of threads must be set before numpy is imported)
import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy

sys.path.insert(0, str(Path(__file__).parent))

from scmf.core import provenance
from scmf.core.files import write_json

PLUG_INS = ("official_scgpt_path", "official_scfoundation_path", "official_transcriptformer_path")
"""Modules that restate an official path; those not there yet are left out."""


class Pipeline(NamedTuple):
    """Two programs that make the same tokens of the same cells.

    Parameters
    ----------
    name, cells
        What is made of which cells, in words, for the table.
    n_cells, n_values
        Cells a run, and values above 0 that they hold.
    ours, official
        One run each over all cells, without arguments; what they return is not looked at.
    verify
        Compare the tokens of both; how much was compared, such as ``{"cells": 400, "tokens": 412345}``; `SystemExit`
        if they differ.
    bar
        Times faster that ours must be.
    """

    name: str
    cells: str
    n_cells: int
    n_values: int
    ours: Callable[[], Any]
    official: Callable[[], Any]
    verify: Callable[[], dict[str, int]]
    bar: float


def table_of(names: Sequence[str], copies: int) -> list[Pipeline]:
    """Pipelines of the plug-ins that there are."""
    here = Path(__file__).parent
    return [
        pipeline
        for name in names
        if (here / f"{name}.py").is_file()
        for pipeline in importlib.import_module(name).pipelines(copies)
    ]


def measure(pipeline: Pipeline, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of both programs by wall clock and CPU time, in turns, so that a busy spell hits both.

    A run of ours is much shorter, so it is repeated before and after each official one until half a second has gone:
    one lucky or unlucky moment decides nothing.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in ("ours", "official")}

    def once(name: str, program: Callable[[], Any]) -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        program()
        seconds[name]["cpu"].append(time.process_time() - cpu)
        seconds[name]["wall"].append(time.perf_counter() - wall)
        return seconds[name]["wall"][-1]

    for _ in range(rounds):
        for turn in ("before", "official", "after"):
            if turn == "official":
                once("official", pipeline.official)
            else:
                spent = 0.0
                while spent < 0.5:
                    spent += once("ours", pipeline.ours)
    return seconds


def figures(pipeline: Pipeline, rounds: int) -> dict[str, Any]:
    """Verify, then measure one pipeline: everything the file holds about it."""
    compared = pipeline.verify()
    pipeline.ours()  # compiled and matched, as in every run but the first
    seconds = measure(pipeline, rounds)
    rates = {
        program: {clock: pipeline.n_cells / statistics.median(taken) for clock, taken in clocks.items()}
        for program, clocks in seconds.items()
    }
    return {
        "cells": pipeline.cells,
        "n_cells": pipeline.n_cells,
        "values_a_cell": round(pipeline.n_values / pipeline.n_cells, 1),
        "compared_before": compared,
        "cells_per_second": {p: {c: round(v) for c, v in r.items()} for p, r in rates.items()},
        "seconds": {p: {c: _spread(v) for c, v in r.items()} for p, r in seconds.items()},
        "ratio": {c: round(rates["ours"][c] / rates["official"][c], 2) for c in ("cpu", "wall")},
        "bar": pipeline.bar,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    """Number of runs, and the shortest, middle and longest of them."""
    found = {"shortest": min(seconds), "median": statistics.median(seconds), "longest": max(seconds)}
    return {"runs": len(seconds), **{name: round(value, 4) for name, value in found.items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; exit code 1 if a bar is missed by CPU time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=50, help="times the cells of the oracle")
    parser.add_argument("--only", nargs="*", help="plug-ins to run, such as official_scgpt_path")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    found = {}
    print(f"{'cells a second, by CPU time':<64}{'ours':>10}{'official':>10}{'ratio':>9}{'wall':>9}   bar")
    for pipeline in table_of(options.only or PLUG_INS, options.copies):
        of = found[pipeline.name] = figures(pipeline, max(3, options.rounds))
        rates, ratio = of["cells_per_second"], of["ratio"]
        print(
            f"{pipeline.name:<64}{rates['ours']['cpu']:>10,}{rates['official']['cpu']:>10,}"
            f"{ratio['cpu']:>8.1f}x{ratio['wall']:>8.1f}x   {of['bar']:g}x",
            flush=True,
        )
    write_json(options.out, {
        "pipelines": found,
        "rounds": max(3, options.rounds),
        "provenance": provenance.collect(
            load_average=os.getloadavg()[0], torch=torch.__version__, numpy=np.__version__, scipy=scipy.__version__
        ),
    })  # fmt: skip
    return int(any(of["ratio"]["cpu"] < of["bar"] for of in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
