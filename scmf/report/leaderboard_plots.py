"""The pictures of the leaderboard as PNG files, equal for equal numbers.

Bio against batch score, score against cost, F1 of each class, perturbation by perturbation, early precision of
networks. A picture is drawn anew only when its numbers changed: their digest stands in the file. Lives elsewhere:
tables (leaderboard_table), the style of pictures (plots).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmf.files import atomic_path, sha256_json
from scmf.report.leaderboard_table import CEILING, Row, Table

_KEY = b"scmf-digest"
_FORM = 1
"""Raised when a picture of equal numbers looks different."""


LINEAR = "linear_probe"
"""Protocol of annotation that is drawn; the tables hold all of them."""


@dataclass(frozen=True)
class Plot:
    """A picture, or why there is none."""

    title: str
    file: str
    alt: str
    reason: str = ""


def draw(tables: Sequence[Table], folder: Path) -> list[Plot]:
    """Draw what there is data for into ``folder``; remove pictures of earlier data there."""
    found: list[Plot] = []
    for make in (_bio_batch, _score_cost, _classes, _perturbations, _networks):
        found += make(tables, folder)
    kept = {plot.file for plot in found if plot.file}
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        if path.name not in kept:
            path.unlink()
    return found


def _plot(folder: Path, name: str, title: str, alt: str, data: Any, paint: Callable[[Any, Any], Any]) -> Plot:
    """Draw ``data`` with ``paint(pyplot, data)`` unless the file holds the same numbers."""
    digest, path = sha256_json([_FORM, title, data]), folder / f"{name}.png"
    if not (path.is_file() and _digest_of(path) == digest):
        from scmf.report.plots import _matplotlib, _png

        with _matplotlib() as plt:
            png = _png(paint(plt, data))
        with atomic_path(path) as temporary:
            temporary.write_bytes(_with_text(png, digest))
    return Plot(title, path.name, alt)


def _with_text(png: bytes, digest: str) -> bytes:
    """The picture with the digest of its numbers in a text chunk before its end."""
    body = b"tEXt" + _KEY + b"\0" + digest.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = png.rindex(b"IEND") - 4
    return png[:end] + chunk + png[end:]


def _digest_of(path: Path) -> str | None:
    data = path.read_bytes()
    at = data.rfind(b"tEXt" + _KEY + b"\0")
    return None if at < 0 else data[at + 5 + len(_KEY) : at + 5 + len(_KEY) + 64].decode("ascii", "replace")


def _label(row: Row) -> str:
    return row.name if row.baseline else row.name.replace(" mini,", "")


def _value(row: Row, metric: str) -> float | None:
    return row.entries[metric].estimate.value if metric in row.entries else None


def _canvas(figures: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of this size in inches, and its axes."""
    figure = figures(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


# --- the pictures ---------------------------------------------------------------------------------


def _bio_batch(tables: Sequence[Table], folder: Path) -> list[Plot]:
    axes = {"scib": ("batch_correction", "bio_conservation"), "scgpt": ("avg_batch", "avg_bio")}
    found = []
    for table in tables:
        if table.benchmark != "integration" or table.protocol not in axes:
            continue
        x, y = axes[table.protocol]
        points = [
            {"name": _label(row), "x": _value(row, x), "y": _value(row, y), "baseline": row.baseline}
            for row in table.rows
            if _value(row, x) is not None and _value(row, y) is not None
        ]
        if len(points) < 2:
            continue
        title = f"Bio against batch: {table.dataset}, {table.protocol}"
        data = {"points": points, "x": x, "y": y}
        alt = f"{y} against {x} of {len(points)} methods on {table.dataset}"
        found.append(
            _plot(folder, f"bio-batch-{table.dataset}-{table.split}-{table.protocol}", title, alt, data, _points)
        )
    return found or [Plot("Bio against batch", "", "", "no integration scores")]


def _score_cost(tables: Sequence[Table], folder: Path) -> list[Plot]:
    found = []
    for table in tables:
        if table.benchmark != "annotation" or table.protocol != LINEAR:
            continue
        points = [
            {"name": _label(row), "x": row.cost("seconds"), "y": _value(row, table.first), "baseline": row.baseline}
            for row in table.rows
            if row.cost("seconds") and _value(row, table.first) is not None
        ]
        if len(points) < 3:
            continue
        title = f"Score against cost: {table.dataset}.{table.split}, {table.protocol.replace('_', ' ')}"
        data = {"points": points, "x": "seconds of scoring (log)", "y": table.first, "log": True}
        alt = f"{table.first} against seconds of {len(points)} methods"
        found.append(_plot(folder, f"cost-{table.dataset}-{table.split}-{table.protocol}", title, alt, data, _points))
    return found or [Plot("Score against cost", "", "", "no annotation scores with a cost")]


def _points(plt: Any, data: Any) -> Any:
    figure, axes = _canvas(plt, (7.2, 4.4))
    points = sorted(data["points"], key=lambda point: (point["y"], point["x"], point["name"]))
    for point in points:
        colour = "#999933" if point["baseline"] else "#332288"
        marker = "s" if point["baseline"] else "o"
        axes.scatter(point["x"], point["y"], s=34, color=colour, marker=marker, zorder=3)
    if data.get("log"):
        axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    # labels stand in a column beside the points, in the order of the scores: they never lie upon each other
    low, high = axes.get_ylim()
    for rank, point in enumerate(points):
        at = low + (rank + 0.5) / len(points) * (high - low)
        axes.annotate(
            point["name"], (point["x"], point["y"]), xytext=(1.03, at), textcoords=("axes fraction", "data"),
            fontsize=7.5, va="center", style="italic" if point["baseline"] else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#aaaaaa", "shrinkB": 3},
        )  # fmt: skip
    axes.set(xlabel=data["x"].replace("_", " "), ylabel=data["y"].replace("_", " "))
    axes.grid(alpha=0.25)
    return figure


def _classes(tables: Sequence[Table], folder: Path) -> list[Plot]:
    found = []
    for table in tables:
        rows = [row for row in table.rows if "per_class" in row.first.details and not row.absence]
        if table.benchmark != "annotation" or table.protocol != LINEAR or len(rows) < 2:
            continue
        sizes: dict[str, int] = {}
        for row in rows:
            for label, facts in row.first.details["per_class"].items():
                sizes[label] = int(facts.get("n_test", facts.get("n", 0)))
        classes = sorted(sizes, key=lambda label: (-sizes[label], label))
        data = {
            "classes": [f"{label} ({sizes[label]})" for label in classes],
            "methods": [_label(row) for row in rows],
            "f1": [[row.first.details["per_class"].get(label, {}).get("f1") for label in classes] for row in rows],
        }
        title = f"F1 of each class: {table.dataset}.{table.split}, {table.protocol.replace('_', ' ')}"
        alt = f"F1 of {len(classes)} classes under {len(rows)} methods"
        found.append(_plot(folder, f"classes-{table.dataset}-{table.split}-{table.protocol}", title, alt, data, _heat))
    return found or [Plot("F1 of each class", "", "", "no scores by class")]


def _heat(plt: Any, data: Any) -> Any:
    import numpy as np

    f1 = np.array([[np.nan if value is None else value for value in line] for line in data["f1"]], float)
    many = len(data["classes"])
    figure, axes = _canvas(plt, (2.6 + 0.42 * f1.shape[0], 1.3 + 0.23 * many))
    image = axes.imshow(f1.T, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_yticks(range(many), data["classes"], fontsize=7)
    axes.set_xticks(range(len(data["methods"])), data["methods"], fontsize=7, rotation=40, ha="right")
    figure.colorbar(image, ax=axes, label="F1", shrink=0.7)
    return figure


def _perturbations(tables: Sequence[Table], folder: Path) -> list[Plot]:
    found = []
    for table in tables:
        rows = [row for row in table.rows if "per_perturbation" in row.first.details and not row.absence]
        base = next((row for row in rows if row.method == "train_mean"), None)
        if table.benchmark != "perturbation" or base is None:
            continue
        metric = "pearson_delta"
        others = [row for row in rows if row is not base and metric in row.first.details["per_perturbation"]]
        reference = base.first.details["per_perturbation"].get(metric, {})
        if len(reference) < 2 or not others:
            continue
        data = {
            "reference": reference,
            "methods": {_label(row): row.first.details["per_perturbation"][metric] for row in others},
        }
        title = f"Pearson delta by perturbation: {table.dataset}.{table.split}"
        alt = f"Pearson delta of {len(others)} methods against the train mean, {len(reference)} perturbations"
        found.append(_plot(folder, f"perturbations-{table.dataset}-{table.split}", title, alt, data, _against))
    return found or [Plot("Pearson delta by perturbation", "", "", "no scores by perturbation")]


def _against(plt: Any, data: Any) -> Any:
    from scmf.report.plots import PALETTE

    figure, axes = _canvas(plt, (6.8, 4.6))
    reference = data["reference"]
    for number, (method, values) in enumerate(data["methods"].items()):
        shared = [name for name in reference if name in values]
        axes.scatter(
            [reference[name] for name in shared], [values[name] for name in shared], s=22, alpha=0.8, label=method,
            color=PALETTE[number % len(PALETTE)], marker="osD^vP*X"[number % 8],
        )  # fmt: skip
    ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
    axes.plot(ends, ends, color="#999999", lw=0.8, zorder=0)
    axes.set(xlabel="train mean", ylabel="method")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7.5)
    axes.grid(alpha=0.25)
    return figure


def _networks(tables: Sequence[Table], folder: Path) -> list[Plot]:
    groups: dict[str, list[Table]] = {}
    for table in tables:
        if table.benchmark == "gene_network":
            groups.setdefault(f"{table.dataset}.{table.split}", []).append(table)
    found = []
    for where, mine in groups.items():
        names = sorted({_label(row) for table in mine for row in table.rows if row.method != CEILING})
        data = {
            "methods": names,
            "truths": [table.protocol for table in mine],
            "epr": [
                [{_label(row): _value(row, "epr") for row in table.rows}.get(name) for name in names] for table in mine
            ],
        }
        title = f"Early precision ratio of networks: {where}"
        alt = f"Early precision ratio of {len(names)} methods under {len(mine)} networks; 1 is chance"
        found.append(_plot(folder, f"networks-{where.replace('.', '-')}", title, alt, data, _bars))
    return found or [Plot("Early precision ratio of networks", "", "", "no gene network scores")]


def _bars(plt: Any, data: Any) -> Any:
    from scmf.report.plots import PALETTE

    methods, truths = data["methods"], data["truths"]
    figure, axes = _canvas(plt, (7.4, 1.0 + 0.3 * len(methods)))
    height = 0.8 / len(truths)
    for i, truth in enumerate(truths):
        for j, _ in enumerate(methods):
            value = data["epr"][i][j]
            if value is not None:
                axes.barh(j + (i - len(truths) / 2 + 0.5) * height, value, height, color=PALETTE[i % len(PALETTE)])
        axes.barh([0], [0], color=PALETTE[i % len(PALETTE)], label=truth.replace("_", " "))
    axes.axvline(1, color="#555555", lw=0.8, ls="--")
    axes.set_yticks(range(len(methods)), methods, fontsize=7.5)
    axes.invert_yaxis()
    axes.set(xlabel="early precision ratio (1 is chance)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7.5)
    return figure
