"""The figures of the leaderboard: numbers in, a figure out.

Lives here: points with labels, a heat map, methods against a baseline, bars. Lives elsewhere: which numbers, and the
files (leaderboard_plots); the style (reproduction_plots). Places are set by hand rather than by a layout engine: a
leaderboard has dozens of pictures, and the engine takes as long as the drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from scmf.results.pages.reproduction_plots import PALETTE

MODEL, BASELINE = "#332288", "#8a7a1f"

_SMALL = 7.5
"""Points of a label."""
_LETTER = 0.058
"""Inches, width of a letter of that size, on the generous side."""

_WRITTEN = 120
"""Most fields of a heat map that are numbered."""


def _canvas(figures: Any, size: tuple[float, float], *, left: float, right: float, bottom: float = 0.55) -> Any:
    """A figure whose axes are ``size`` inches large, with room around; its axes."""
    top = 0.15
    width, height = left + size[0] + right, bottom + size[1] + top
    figure = figures(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
    return figure, axes


def _room(labels: Iterable[str]) -> float:
    """Inches that the longest label takes."""
    return 0.2 + _LETTER * max(map(len, labels), default=0)


def points(figures: Any, data: Any) -> Any:
    """Points, models and baselines apart, with their names beside: ``points``, ``x``, ``y`` and ``log``."""
    points = sorted(data["points"], key=lambda point: (point["y"], point["x"], point["name"]))
    height = max(3.2, 0.2 * len(points))
    figure, axes = _canvas(figures, (4.6, height), left=0.75, right=0.3 + _room(p["name"] for p in points))
    for baseline, color, marker in ((False, MODEL, "o"), (True, BASELINE, "s")):
        mine = [point for point in points if point["baseline"] is baseline]
        xy = [point["x"] for point in mine], [point["y"] for point in mine]
        axes.scatter(*xy, s=34, color=color, marker=marker, zorder=3)
    if data.get("log"):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.margins(x=0.08, y=0.1)
    axes.autoscale_view()
    # labels stand in a column beside the points, in the order of the scores: they never overlap
    to_axes = axes.transData + axes.transAxes.inverted()
    for rank, point in enumerate(points):
        at = (rank + 0.5) / len(points)
        x, y = to_axes.transform((point["x"], point["y"]))
        axes.plot([x, 1.03], [y, at], transform=axes.transAxes, color="#aaaaaa", lw=0.5, zorder=2, clip_on=False)
        axes.text(
            1.04, at, point["name"], transform=axes.transAxes, fontsize=_SMALL, va="center",
            style="italic" if point["baseline"] else "normal", color=BASELINE if point["baseline"] else MODEL,
        )  # fmt: skip
    axes.set(xlabel=data["x"], ylabel=data["y"])
    axes.grid(alpha=0.25)
    return figure


def heat(figures: Any, data: Any) -> Any:
    """F1 of ``classes`` (down) under ``methods`` (across): ``f1``, a list of each method."""
    f1 = np.array([[np.nan if value is None else value for value in line] for line in data["f1"]], float).T
    many, methods = f1.shape
    size = (0.5 * methods, 0.24 * many)
    slant = 0.75 * _room(data["methods"])
    figure, axes = _canvas(figures, size, left=max(_room(data["classes"]), slant), right=0.95, bottom=max(0.6, slant))
    image = axes.imshow(f1, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(f1):
        if f1.size <= _WRITTEN and not np.isnan(value):
            ink = "white" if value < 0.6 else "black"
            axes.text(j, i, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=6, color=ink)
    axes.set_yticks(range(many), data["classes"], fontsize=_SMALL)
    axes.set_xticks(range(methods), data["methods"], fontsize=_SMALL, rotation=40, ha="right", rotation_mode="anchor")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    box, wide = axes.get_position(), figure.get_figwidth()
    figure.colorbar(image, cax=figure.add_axes((box.x1 + 0.12 / wide, box.y0, 0.13 / wide, box.height)), label="F1")
    return figure


def against(figures: Any, data: Any) -> Any:
    """Each perturbation as a point: ``methods`` (up) against the ``reference`` (across), called ``base``."""
    figure, axes = _canvas(figures, (4.4, 4.0), left=0.75, right=0.4 + _room(data["methods"]))
    reference = data["reference"]
    for number, (method, values) in enumerate(data["methods"].items()):
        shared = [name for name in reference if name in values]
        axes.scatter(
            [reference[name] for name in shared], [values[name] for name in shared], s=20, alpha=0.75, label=method,
            color=PALETTE[number % len(PALETTE)], marker="osD^vP*X"[number % 8], linewidths=0,
        )  # fmt: skip
    ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
    axes.plot(ends, ends, color="#999999", lw=0.8, zorder=0)
    axes.set(
        xlabel=f"Pearson delta of the {data['base']}", ylabel="Pearson delta of the method (above the line: better)"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=_SMALL, handletextpad=0.2)
    axes.grid(alpha=0.25)
    return figure


def bars(figures: Any, data: Any) -> Any:
    """Bars of ``methods`` for each of ``truths``: ``epr``, a list of each truth."""
    methods, truths = data["methods"], data["truths"]
    figure, axes = _canvas(figures, (4.4, 0.36 * len(methods) + 0.2), left=_room(methods), right=0.5 + _room(truths))
    height = 0.8 / len(truths)
    for i, truth in enumerate(truths):
        places = [j for j in range(len(methods)) if data["epr"][i][j] is not None]
        axes.barh(
            [j + (i - len(truths) / 2 + 0.5) * height for j in places], [data["epr"][i][j] for j in places], height,
            color=PALETTE[i % len(PALETTE)], label=truth,
        )  # fmt: skip
    axes.axvline(1, color="#555555", lw=0.8, ls="--")
    axes.set_yticks(range(len(methods)), methods, fontsize=_SMALL)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set(xlabel="early precision ratio (dashed: chance)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=_SMALL)
    return figure
