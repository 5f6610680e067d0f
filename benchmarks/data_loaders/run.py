"""Loaders side by side in one run: builds the corpus and the environments, checks tokens, measures in rounds.

    python benchmarks/data_loaders/run.py                       # everything, about an hour, 20 GB below .cache
    python benchmarks/data_loaders/run.py --cells 20000 --files 4 --rounds 1 --only "ours|annbatch"

Each case runs in a process of its own, the cases one after the other, the whole list again in every round, so that a
busy spell of the machine hits all of them. Before each case the files of its store are read once (warm page cache).
Writes one JSON file with every raw number and one chart. Lives elsewhere: what is measured (cases), one run
(measure), medians and ratios (summary), the chart (plot).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corpus as corpus_
import environments
import plot
import summary
from cases import CASES, CONVERTED, STORES, Case
from environments import ROOT
from processes import watch

from scmf.core.files import write_json

HERE = Path(__file__).resolve().parent
_TIMEOUT = 900.0
_PREPARE_TIMEOUT = 3_600.0


def environment_variables(work: Path, environment: str | None) -> dict[str, str]:
    """Variables of a measured process: no limit on threads, each loader uses the cores in its own way."""
    limits = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in limits}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "NUMBA_CACHE_DIR": str(work / "numba" / (environment or "ours")),
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }


def prepare(corpus: corpus_.Corpus, work: Path, cases: Sequence[Case]) -> dict[str, str]:
    """Corpus, environments and stores; reasons of the peers that cannot be measured."""
    if not (corpus.folder / "corpus.json").exists():
        say(f"corpus of {corpus.n_cells:,} cells")
        corpus_.make(corpus)
    made = json.loads((corpus.folder / "corpus.json").read_text())
    if made["n_files"] != corpus.n_files:
        raise SystemExit(
            f"{corpus.folder} has {made['n_files']} files, not {corpus.n_files}: remove it, or ask for that"
        )
    wanted: dict[str, list[str]] = {}
    for peer in dict.fromkeys(case.peer for case in cases):
        if name := environments.environment_of(peer):
            wanted.setdefault(name, []).append(peer)
    # Our zarr cases read the collection that annbatch wrote.
    if any(case.store == "annbatch.zarr" for case in cases) and "annbatch" not in wanted.get("py312", []):
        wanted.setdefault("py312", []).append("annbatch")
    failed: dict[str, str] = {}
    for name, peers in wanted.items():
        say(f"environment {name}: {', '.join(peers)}")
        failed |= environments.install(work, name, peers)
    for store, peer in STORES.items():
        if peer in failed or not any(case.store == store for case in cases):
            continue
        if reason := write_store(corpus, work, store, peer):
            failed[peer] = reason
    if any(case.store == CONVERTED for case in cases) and not (corpus.folder / CONVERTED / "zarr.json").exists():
        say(f"store {CONVERTED}, written by scmf data convert")
        command = [sys.executable, "-m", "scmf", "data", "convert", str(corpus.folder / "h5ad")]
        subprocess.run([*command, "--out", str(corpus.folder / CONVERTED), "--quiet"], check=True)
    return failed


def write_store(corpus: corpus_.Corpus, work: Path, store: str, peer: str) -> str | None:
    """Let a peer write its store, once; the reason if it cannot."""
    done = corpus.folder / f".{store}.json"
    if done.exists():
        return None
    say(f"store {store}, written by {peer}")
    environment = environments.environment_of(peer)
    command = [str(environments.python_of(work, environment)), str(HERE / f"peer_{peer}.py"), "prepare"]
    command += ["--corpus", str(corpus.folder), "--store", str(corpus.folder / store)]
    outcome = watch(command, env=environment_variables(work, environment), timeout=_PREPARE_TIMEOUT)
    if outcome.code != 0:
        return f"could not write {store}: {last_line(outcome.said)}"
    write_json(done, {"seconds": outcome.seconds, "bytes": size_of(corpus.folder / store)})
    return None


def warm(store: Path) -> int:
    """Read all files of a store once; the bytes."""
    total, buffer = 0, bytearray(1 << 23)
    for path in sorted(store.rglob("*")) if store.is_dir() else [store]:
        if path.is_file():
            with path.open("rb", buffering=0) as handle:
                while got := handle.readinto(buffer):
                    total += got
    return total


def size_of(store: Path) -> int:
    """Bytes of all files of a store."""
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def one(
    case: Case, verb: str, corpus: corpus_.Corpus, work: Path, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Measure or verify a case in a process of its own; ``{"failed": reason}`` when it does not run."""
    environment = environments.environment_of(case.peer)
    store = corpus.folder / case.store
    if not store.exists():
        return {"failed": f"no store {case.store}"}
    warm(store)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [
            str(environments.python_of(work, environment)), str(HERE / case.script), verb,
            "--corpus", str(corpus.folder), "--store", str(store), "--setting", case.setting,
            "--output", case.output, "--token-threads", str(case.token_threads), "--workers", str(case.workers),
            "--cells", str(options.measured), "--seconds", str(options.seconds), "--seed", str(seed), "--out", str(out),
        ]  # fmt: skip
        outcome = watch(command, env=environment_variables(work, environment), timeout=_TIMEOUT)
        if outcome.code is None:
            return {"failed": f"stopped after {_TIMEOUT:.0f} s"}
        if outcome.code or not out.exists():
            return {"failed": f"exit code {outcome.code}: {last_line(outcome.said)}"}
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result | {"rss_peak_mb": outcome.rss_peak_mb, "anonymous_peak_mb": outcome.anonymous_peak_mb}


def last_line(said: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def verify(cases: Sequence[Case], work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every case that makes tokens, over a small corpus: each cell once, and all tokens those of the tokenizer."""
    small = corpus_.Corpus(work / "corpus-4000", 4_000, 4)
    failed = prepare(small, work, cases)
    digest = json.loads((small.folder / "corpus.json").read_text())["digest_of_tokens"]
    found: dict[str, Any] = {}
    for case in cases:
        if case.output != "tokens" or case.setting == "tokenize":
            continue
        say(f"tokens of {case.key}")
        result = {"failed": failed[case.peer]} if case.peer in failed else one(case, "verify", small, work, options, 0)
        if "failed" not in result:
            same = result["digest_of_tokens"] == digest and result["each_row_once"] and result["cells"] == small.n_cells
            result = {"equal": same, "cells": result["cells"]}
            if not same:
                raise SystemExit(f"{case.key}: other tokens, or cells lost or doubled; its figures would mean nothing")
        found[case.key] = result
    return found


def say(text: str) -> None:
    """Progress on stderr."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, verify, measure, write; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench-data", help="corpus and environments")
    parser.add_argument("--cells", type=int, default=200_000, help="cells of the corpus")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--measured", type=int, help="cells of one run; default: those of the corpus")
    parser.add_argument("--seconds", type=float, default=30.0, help="a slow loader is stopped after this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="regular expression: cases to run")
    parser.add_argument("--prepare-only", action="store_true")
    parser.add_argument("--skip-verify", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE.parent / "data_loaders.json", help="the chart lies beside it")
    options = parser.parse_args(arguments)
    if options.cells % options.files:
        parser.error(f"{options.cells:,} cells do not divide into {options.files} equal files")
    options.measured = options.measured or options.cells
    work = options.work.resolve()
    corpus = corpus_.Corpus(work / f"corpus-{options.cells}", options.cells, options.files)
    cases = [case for case in CASES if re.search(options.only, case.key)]
    failed = prepare(corpus, work, cases)
    if options.prepare_only:
        return 0
    checked = {} if options.skip_verify else verify(cases, work, options)
    runs: dict[str, list[dict[str, Any]]] = {case.key: [] for case in cases}
    for number in range(options.rounds):
        for case in cases:
            known = failed.get(case.peer)
            result = {"failed": known} if known else one(case, "measure", corpus, work, options, number)
            runs[case.key].append(result | {"round": number})
            rate = result.get("cells_per_s")
            say(f"round {number + 1} {case.key}: {result['failed'] if rate is None else f'{rate:,.0f} cells/s'}")
    report = summary.summarize(corpus, cases, runs, checked, options)
    write_json(options.out, report)
    plot.bars(report, options.out.with_suffix(".png"))
    print(summary.table(report))
    return int(not all(goal["met"] for goal in report["goals"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
