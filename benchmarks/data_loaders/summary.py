"""From raw runs to medians, ratios and goals. Ratios are taken within a round, so that a busy spell cancels."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from cases import BARS, RATIOS, Case
from corpus import Corpus

from scmf.core import provenance

_MEDIANS = (
    "cells_per_s", "cells_per_cpu_s", "first_batch_s", "open_s", "rss_peak_mb", "anonymous_peak_mb",
    "cpu_s_of_other_processes",
)  # fmt: skip


def summarize(
    corpus: Corpus,
    cases: Sequence[Case],
    runs: Mapping[str, list[dict[str, Any]]],
    checked: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The whole report as a JSON object.

    Parameters
    ----------
    corpus
        What was read.
    cases
        What was measured.
    runs
        Key of a case -> its run in every round.
    checked
        Result of the comparison of tokens.
    options
        Options of the command.
    """
    lines = {case.key: line_of(case, runs[case.key]) for case in cases}
    ratios = {
        f"{ours} / {theirs}": found
        for ours, theirs in RATIOS
        if ours in runs and theirs in runs and (found := ratio_of(runs[ours], runs[theirs]))
    }
    return {
        "corpus": json.loads((corpus.folder / "corpus.json").read_text()),
        "stores": stores_of(corpus.folder),
        "tokens_compared": dict(checked),
        "cases": lines,
        "ratios": ratios,
        "goals": goals_of(lines, ratios),
        "settings": {
            "batch": 64, "rounds": options.rounds, "cells_of_a_run": options.measured,
            "seconds_of_a_run_at_most": options.seconds, "page_cache": "warm",
        },
        "provenance": provenance.collect(
            memory_mb=psutil.virtual_memory().total / 1e6, cores=os.cpu_count(), kernel=platform.release(),
            load_average=os.getloadavg()[0],
        ),
    }  # fmt: skip


def line_of(case: Case, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of a case beside its raw runs; the reason where it did not run."""
    line: dict[str, Any] = {**case._asdict(), "runs": list(runs)}
    good = [run for run in runs if "failed" not in run]
    if not good:
        return line | {"failed": runs[0]["failed"] if runs else "not run"}
    line["median"] = {name: statistics.median(run[name] for run in good) for name in _MEDIANS}
    if case.peer != "limits" and None not in good[0]["entropy_of_maximum"].values():
        line["median"]["entropy_of_maximum"] = {
            block: statistics.median(run["entropy_of_maximum"][block] for run in good)
            for block in good[0]["entropy_of_maximum"]
        }
    return line


def ratio_of(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Ours over theirs in each round, and the medians, by wall clock and by CPU time."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if "failed" not in a and "failed" not in b]
    if not pairs:
        return None
    found: dict[str, Any] = {}
    for clock, name in (("wall", "cells_per_s"), ("cpu", "cells_per_cpu_s")):
        rounds = [a[name] / b[name] for a, b in pairs]
        found[clock] = {"median": statistics.median(rounds), "rounds": rounds}
    return found


def goals_of(lines: Mapping[str, Any], ratios: Mapping[str, Any]) -> dict[str, Any]:
    """Each goal that could be judged: what was wanted, what was found."""
    found = {}
    for key, wanted in BARS["cells_per_s"].items():  # type: ignore[attr-defined]
        if "median" in lines.get(key, {}):
            rate = lines[key]["median"]["cells_per_s"]
            found[f"{key}, cells/s"] = {"wanted": wanted, "found": rate, "met": rate >= wanted}
    for key, wanted in BARS["ratio"].items():  # type: ignore[attr-defined]
        if key in ratios:
            ratio = ratios[key]["wall"]["median"]
            found[f"{key}, ratio"] = {"wanted": wanted, "found": ratio, "met": ratio >= wanted}
    peaks = [line["median"]["rss_peak_mb"] for line in lines.values() if line["peer"] == "ours" and "median" in line]
    if peaks:
        found["largest RSS of ours, MB"] = {
            "wanted": BARS["rss_mb"], "found": max(peaks), "met": max(peaks) < BARS["rss_mb"],  # type: ignore[operator]
        }  # fmt: skip
    return found


def stores_of(folder: Path) -> dict[str, Any]:
    """Bytes of each store, and seconds where a peer wrote it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            note = folder / f".{path.name}.json"
            said = json.loads(note.read_text()) if note.exists() else {}
            size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
            found[path.name] = {"bytes": size} | {k: v for k, v in said.items() if k == "seconds"}
    return found


def table(report: Mapping[str, Any]) -> str:
    """The report as text."""
    corpus = report["corpus"]
    rows = [
        f"{corpus['n_cells']:,} cells, {corpus['stored_values_a_cell']:,.0f} stored values a cell;"
        f" median of {report['settings']['rounds']} rounds",
        f"{'':<40}{'cells/s':>10}{'/CPU-s':>10}{'entropy':>9}{'first s':>9}{'RSS MB':>8}{'anon.':>8}",
    ]
    for key, line in report["cases"].items():
        if "failed" in line:
            rows.append(f"{key:<40}  {line['failed']}")
            continue
        median = line["median"]
        entropy = median.get("entropy_of_maximum", {}).get("64")
        rows.append(
            f"{key:<40}{median['cells_per_s']:>10,.0f}{median['cells_per_cpu_s']:>10,.0f}"
            f"{'' if entropy is None else f'{entropy:.3f}':>9}{median['first_batch_s']:>9.2f}"
            f"{median['rss_peak_mb']:>8,.0f}{median['anonymous_peak_mb']:>8,.0f}"
        )
    rows.append("")
    rows += [
        f"{name:<70}{ratio['wall']['median']:>7.2f}x wall{ratio['cpu']['median']:>7.2f}x CPU"
        for name, ratio in report["ratios"].items()
    ]
    rows.append("")
    for name, goal in report["goals"].items():
        rows.append(
            f"{name:<60}{goal['found']:>12,.2f}  goal {goal['wanted']:,g}  {'met' if goal['met'] else 'MISSED'}"
        )
    return "\n".join(rows)
