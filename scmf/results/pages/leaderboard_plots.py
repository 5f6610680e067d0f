"""The pictures of the leaderboard as PNG files, equal for equal numbers.

Bio against batch score, score against cost, F1 of each class, perturbation by perturbation, early precision of
networks. A picture is drawn anew only when its numbers changed: their digest stands in the file. Lives elsewhere:
tables (leaderboard_tables), the drawing (leaderboard_figures).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scmf.core.files import atomic_path, sha256_json
from scmf.results.pages import leaderboard_figures
from scmf.results.pages.leaderboard_rows import Row, words
from scmf.results.pages.leaderboard_tables import Table
from scmf.results.pages.reproduction_plots import matplotlib_figures

Drawing = Callable[[Any, Any], Any]
"""From matplotlib's Figure and data to a figure."""

_KEY = b"scmf-digest"
_FORM = 3
"""Raised when a picture of equal numbers looks different."""

_DOTS = 120
"""Pixels an inch."""

LINEAR = "linear_probe"
"""Protocol of annotation that is drawn; the tables hold all of them."""


@dataclass(frozen=True)
class Plot:
    """A picture, or why there is none; of which benchmark and data set, and its size in pixels."""

    title: str
    file: str
    alt: str
    reason: str = ""
    benchmark: str = ""
    dataset: str = ""
    size: tuple[int, int] = (0, 0)


def draw(tables: Sequence[Table], folder: Path) -> list[Plot]:
    """Draw what there is data for into ``folder``; remove pictures of earlier data there, which were drawn here."""
    found: list[Plot] = []
    for make in (_bio_batch, _score_cost, _classes, _perturbations, _networks):
        found += make(tables, folder)
    kept = {plot.file for plot in found if plot.file}
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        if path.name not in kept and _digest_of(path) is not None:
            path.unlink()
    return found


def _plot(folder: Path, name: str, table: Table, title: str, alt: str, data: Any, drawing: Drawing) -> Plot:
    """Draw ``data`` with a function of leaderboard_figures, unless the file holds the same numbers."""
    digest, path = sha256_json([_FORM, title, data]), folder / f"{name}.png"
    if not (path.is_file() and _digest_of(path) == digest):
        buffer = io.BytesIO()
        with matplotlib_figures() as figures:
            # no date and no version: equal numbers give equal bytes
            figure = drawing(figures, data)
            figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
        with atomic_path(path) as temporary:
            temporary.write_bytes(_with_text(buffer.getvalue(), digest))
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return Plot(title, path.name, alt, benchmark=table.benchmark, dataset=table.dataset, size=(width, height))


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


def _labeled(table: Table) -> list[tuple[Row, str]]:
    """Rows with their names, without the variant where a recipe has but one in the table."""
    models = [row for row in table.rows if not row.baseline]
    variants: dict[str, set[str]] = {}
    for row in models:
        variants.setdefault(row.recipes[0], set()).add(row.variant)
    found = []
    for row in table.rows:
        alone = not row.baseline and len(variants[row.recipes[0]]) == 1
        found.append((row, row.name.replace(f" {row.variant},", "", 1) if alone else row.name))
    return found


def _details(row: Row, key: str) -> list[dict[str, Any]]:
    """What each seed of a row says; nothing when one of them does not say it: a mean over some does not exist."""
    if row.absence:
        return []
    found = {result.seed: result.details[key] for result in row.results if result.details.get(key)}
    return list(found.values()) if set(found) == {result.seed for result in row.results} else []


def _mean(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over seeds of what all of them have."""
    if not each:
        return {}
    return {name: fmean(values[name] for values in each) for name in each[0] if all(name in v for v in each)}


def _value(row: Row, metric: str) -> float | None:
    return row.entries[metric].estimate.value if metric in row.entries else None


# --- the pictures ---------------------------------------------------------------------------------


def _scatter(
    table: Table, folder: Path, name: str, title: str, points: list[dict[str, Any]], **said: Any
) -> list[Plot]:
    """A picture of points, where at least two have both coordinates."""
    points = [point for point in points if point["x"] is not None and point["y"] is not None]
    if len(points) < 2 or all(row.role for row in table.rows):
        return []
    alt = f"{said['y']} against {said['x']} of {len(points)} methods on {table.dataset}"
    return [_plot(folder, name, table, title, alt, {"points": points, **said}, leaderboard_figures.points)]


def _point(row: Row, label: str, x: float | None, y: str) -> dict[str, Any]:
    return {"name": label, "x": x, "y": _value(row, y), "baseline": row.baseline}


def _bio_batch(tables: Sequence[Table], folder: Path) -> list[Plot]:
    axes = {"scib": ("batch_correction", "bio_conservation"), "scgpt": ("avg_batch", "avg_bio")}
    found = []
    for table in tables:
        if table.benchmark == "integration" and table.protocol in axes:
            batch, bio = axes[table.protocol]
            title = f"Bio against batch score: {table.dataset}.{table.split}, {words(table.protocol)}"
            name = f"bio-batch-{table.dataset}-{table.split}-{table.protocol}"
            points = [_point(row, label, _value(row, batch), bio) for row, label in _labeled(table)]
            found += _scatter(table, folder, name, title, points, x=table.label(batch), y=table.label(bio))
    return found or [Plot("Bio against batch score", "", "", "no integration scores")]


def _score_cost(tables: Sequence[Table], folder: Path) -> list[Plot]:
    found = []
    for table in tables:
        if table.benchmark == "annotation" and table.protocol == LINEAR and table.metrics:
            title = f"Score against cost: {table.dataset}.{table.split}, {words(table.protocol)}"
            name = f"cost-{table.dataset}-{table.split}-{table.protocol}"
            points = [_point(row, label, row.cost("seconds") or None, table.first) for row, label in _labeled(table)]
            x = "seconds of scoring (log scale)"
            found += _scatter(table, folder, name, title, points, x=x, y=table.label(table.first), log=True)
    return found or [Plot("Score against cost", "", "", "no annotation scores with a cost")]


def _classes(tables: Sequence[Table], folder: Path) -> list[Plot]:
    found = []
    for table in tables:
        if table.benchmark != "annotation" or table.protocol != LINEAR:
            continue
        sizes: dict[str, int] = {}
        lines: dict[str, dict[str, float]] = {}
        for row, name in _labeled(table):
            each_of = _details(row, "per_class")
            for label, facts in (item for each in each_of for item in each.items()):
                sizes[label] = max(sizes.get(label, 0), int(facts.get("n_test", facts.get("n", 0))))
            if each_of:
                lines[name] = _mean([{label: facts["f1"] for label, facts in each.items()} for each in each_of])
        if len(lines) < 2 or all(row.role for row, name in _labeled(table) if name in lines):
            continue
        classes = sorted(sizes, key=lambda label: (-sizes[label], label))
        data = {
            "classes": [f"{label} ({sizes[label]})" for label in classes],
            "methods": list(lines),
            "f1": [[each.get(label) for label in classes] for each in lines.values()],
        }
        title = f"F1 of each class (test cells): {table.dataset}.{table.split}, {words(table.protocol)}"
        alt = f"F1 of {len(classes)} classes under {len(lines)} methods"
        name = f"classes-{table.dataset}-{table.split}-{table.protocol}"
        found.append(_plot(folder, name, table, title, alt, data, leaderboard_figures.heat))
    return found or [Plot("F1 of each class", "", "", "no scores by class")]


def _perturbations(tables: Sequence[Table], folder: Path) -> list[Plot]:
    metric, found = "pearson_delta", []
    for table in tables:
        if table.benchmark != "perturbation":
            continue
        rows = [(row, label) for row, label in _labeled(table) if not row.absence]
        each = {
            label: _mean([values.get(metric, {}) for values in _details(row, "per_perturbation")])
            for row, label in rows
        }
        base = next((label for row, label in rows if row.method == "train_mean"), "")
        reference = each.pop(base, {})
        others = {label: values for label, values in each.items() if set(values) & set(reference)}
        if len(reference) < 2 or not others:
            continue
        data = {"base": base, "reference": reference, "methods": others}
        title = f"Pearson delta, perturbation by perturbation: {table.dataset}.{table.split}"
        alt = f"Pearson delta of {len(others)} methods against the {base}, {len(reference)} perturbations"
        name = f"perturbations-{table.dataset}-{table.split}"
        found.append(_plot(folder, name, table, title, alt, data, leaderboard_figures.against))
    return found or [Plot("Pearson delta, perturbation by perturbation", "", "", "no scores by perturbation")]


def _networks(tables: Sequence[Table], folder: Path) -> list[Plot]:
    groups: dict[str, list[Table]] = {}
    for table in tables:
        if table.benchmark == "gene_network":
            groups.setdefault(f"{table.dataset}.{table.split}", []).append(table)
    found = []
    for where, mine in groups.items():
        epr = [{label: _value(row, "epr") for row, label in _labeled(table)} for table in mine]
        best: dict[str, float] = {}
        for values in epr:
            for name, value in values.items():
                if value is not None:
                    best[name] = max(best.get(name, value), value)
        names = sorted(best, key=lambda name: (-best[name], name))
        if not names:
            continue
        data = {
            "methods": names,
            "truths": [words(table.protocol) for table in mine],
            "epr": [[values.get(name) for name in names] for values in epr],
        }
        title = f"Early precision ratio of networks: {where}"
        alt = f"Early precision ratio of {len(names)} methods under {len(mine)} networks; 1 is chance"
        found.append(
            _plot(folder, f"networks-{where.replace('.', '-')}", mine[0], title, alt, data, leaderboard_figures.bars)
        )
    return found or [Plot("Early precision ratio of networks", "", "", "no gene network scores")]
