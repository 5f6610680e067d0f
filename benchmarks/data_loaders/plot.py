"""Charts of the benchmark: cells a second of all loaders, and one long run over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scmf.core.files import atomic_path

_COLOURS = {"ours": "#0072b2", "limits": "#999999"}
_PEER = "#e69f00"


def bars(report: Mapping[str, Any], path: Path) -> None:
    """Cells a second of every case, on a log scale, the rounds as dots.

    Parameters
    ----------
    report
        As `summary.summarize` makes it.
    path
        PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    lines = [(key, line) for key, line in report["cases"].items() if "median" in line][::-1]
    figure = Figure(figsize=(9, 0.26 * len(lines) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, line) in enumerate(lines):
        rate = line["median"]["cells_per_s"]
        axes.barh(place, rate, color=_COLOURS.get(line["peer"], _PEER))
        rounds = [run["cells_per_s"] for run in line["runs"] if "failed" not in run]
        axes.plot(rounds, [place] * len(rounds), ".", color="black", markersize=3)
        axes.annotate(f" {rate:,.0f}", (max(rounds), place), va="center", fontsize=7)
    axes.set_yticks(range(len(lines)), [key for key, _ in lines], fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel("cells a second (wall clock; bar: median, dots: rounds)")
    corpus, settings = report["corpus"], report["settings"]
    axes.set_title(
        f"{corpus['n_cells']:,} cells, {corpus['stored_values_a_cell']:,.0f} stored values each, warm page cache, "
        f"batches of {settings['batch']}, {report['provenance']['cpu_count']} cores",
        fontsize=9,
    )
    handles = [
        Patch(color=color, label=label)
        for color, label in ((_COLOURS["ours"], "this project"), (_PEER, "peers"), (_COLOURS["limits"], "limits"))
    ]
    axes.legend(handles=handles, loc="lower right", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def over_time(record: Mapping[str, Any], path: Path) -> None:
    """Two panels: cells a second and resident memory against time.

    Parameters
    ----------
    record
        As endurance.py writes it.
    path
        PNG to write.
    """
    from matplotlib.figure import Figure

    samples = record["samples"]
    seconds = [sample["t_s"] for sample in samples]
    figure = Figure(figsize=(9, 5), layout="constrained")
    rate, memory = figure.subplots(2, 1, sharex=True)
    rate.plot(seconds, [sample["cells_per_s"] / 1e3 for sample in samples], color=_COLOURS["ours"], linewidth=0.8)
    rate.set_ylabel("throughput (1,000 cells/s)")
    rate.set_ylim(bottom=0)
    rate.set_title(f"{record['cells']:,} cells in one process, from {record['store']}", fontsize=10)
    memory.plot(seconds, [sample["rss_mb"] for sample in samples], color=_COLOURS["ours"], label="resident")
    memory.plot(seconds, [sample["anonymous_mb"] for sample in samples], color=_PEER, label="anonymous")
    memory.set_ylabel("memory (MB)")
    memory.set_xlabel("time (s)")
    memory.set_ylim(bottom=0)
    memory.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
