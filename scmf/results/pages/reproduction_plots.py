"""The four pictures of a report as PNG bytes, equal for equal input.

Lives here: loss curves, UMAP, confusion matrix, scores of all methods. Lives elsewhere: what the
numbers mean (table), where the pictures go (reproduction). matplotlib is imported inside the functions.

Array legend: N cells, D embedding width, K classes.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scmf.core.errors import ConfigError, EvaluationError, MissingExtraError
from scmf.results.pages.table import Row, group_of, number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

# Paul Tol's "muted" set: nine colors that stay apart in every common color blindness.
PALETTE = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499")
_MARKERS = "os^Dv"
_UMAP_EXACT = 4096
"""Below so many cells umap-learn searches neighbors exactly."""
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a label may hold dollar signs
}


@dataclass(frozen=True)
class EmbeddingInput:
    """Cells to show in two dimensions.

    Parameters
    ----------
    embedding_ND
        Embedding, float; UMAP is computed from it. With two columns it is shown as it is.
    labels
        Cell type of each cell.
    batches
        Study (or another batch) of each cell.
    title
        What was embedded, for example ``mini, seed 0, test cells``.
    """

    embedding_ND: np.ndarray
    labels: Sequence[str]
    batches: Sequence[str]
    title: str = ""


@dataclass(frozen=True)
class ConfusionInput:
    """A confusion matrix.

    Parameters
    ----------
    labels
        K class names.
    counts_KK
        Cells; rows are true classes, columns predicted ones.
    title
        Which prediction, for example ``linear probe, pretrained, seed 0``.
    """

    labels: Sequence[str]
    counts_KK: np.ndarray
    title: str = ""


@dataclass(frozen=True)
class FigureInputs:
    """What the pictures of a report are made from; what is None or empty is left out with a note.

    Parameters
    ----------
    loss_logs
        Name of a run (``seed 0``) to its JSON-lines log: ``{"step", "epoch", "loss", "lr", …}`` for a
        training step, ``{"epoch", "step", "valid_loss"}`` for an evaluation.
    embedding
        Cells for the UMAP.
    confusion
        Confusion matrix of the probe.
    """

    loss_logs: Mapping[str, Path] = field(default_factory=dict)
    embedding: EmbeddingInput | None = None
    confusion: ConfusionInput | None = None


@contextmanager
def matplotlib_figures() -> Iterator[Any]:
    """The Figure class of matplotlib, in the style of all pages."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", needed_for="the pictures of a report") from error
    # A Figure without pyplot has no global state and draws with Agg.
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
        yield Figure


def _png(figure: Figure) -> bytes:
    """PNG without date and software version, so that equal input gives equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


# --- loss -----------------------------------------------------------------------------------------


def read_loss_log(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of a JSON-lines log.

    Returns
    -------
    train, valid
        Arrays ``(n, 2)`` of step and loss, sorted by step.

    Raises
    ------
    ConfigError
        A line is not JSON or lacks the key ``step``.
    """
    train, valid = [], []
    for n, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            step = entry["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"line {n} is not a log entry ({error!r})",
                wanted='JSON with a key "step"',
                where=path,
                fix="delete the line; a run that was killed may leave half a line at the end",
            ) from error
        if "loss" in entry:
            train.append((step, entry["loss"]))
        if "valid_loss" in entry:
            valid.append((step, entry["valid_loss"]))
    return (
        np.array(sorted(train), dtype=float).reshape(-1, 2),
        np.array(sorted(valid), dtype=float).reshape(-1, 2),
    )


def smooth(values: np.ndarray, *, window: int) -> np.ndarray:
    """Exponential moving average of span ``window``, corrected for its start."""
    decay = 1 - 2 / (window + 1)
    total, weight, out = 0.0, 0.0, np.empty(len(values))
    for i, value in enumerate(values):
        total = decay * total + value
        weight = decay * weight + 1
        out[i] = total / weight
    return out


def plot_loss(logs: Mapping[str, Path]) -> bytes:
    """Training loss a step (thin: raw, thick: smoothed) and validation loss an epoch, one color a run."""
    with matplotlib_figures() as figure_class:
        figure = figure_class(figsize=(7, 3.8), layout="constrained")
        axes = figure.add_subplot()
        window = 1
        for i, (name, path) in enumerate(logs.items()):
            color = PALETTE[i % len(PALETTE)]
            train, valid = read_loss_log(path)
            window = max(window, len(train) // 40)
            axes.plot(*train.T, color=color, linewidth=0.5, alpha=0.2)
            axes.plot(train[:, 0], smooth(train[:, 1], window=window), color=color, linewidth=1.4, label=name)
            axes.plot(
                *valid.T, color=color, linestyle=":", marker=_MARKERS[i % 5], markersize=5, markeredgecolor="white"
            )
        axes.plot([], [], color="#555555", linewidth=1.4, label=f"train, mean over about {window} steps")
        axes.plot([], [], color="#555555", linestyle=":", marker="o", markersize=5, label="validation")
        axes.set(xlabel="optimizer step", ylabel="loss (nats per predicted token)")
        axes.margins(x=0.01)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        axes.legend(ncols=2)
        return _png(figure)


# --- embedding ------------------------------------------------------------------------------------


def umap_coordinates(embedding_ND: np.ndarray) -> np.ndarray:
    """UMAP of an embedding, ``(N, 2)``; seeded and on one thread, so that it is the same every time."""
    try:
        import umap
    except ImportError as error:
        raise MissingExtraError("umap-learn", "report", needed_for="the UMAP of a report") from error
    n = len(embedding_ND)
    if n < 4:
        raise EvaluationError(f"{n} cells", wanted="at least 4 cells", where="UMAP", fix="embed more cells")
    from sklearn.neighbors import NearestNeighbors

    x_ND, count = np.asarray(embedding_ND, dtype=np.float32), min(15, n - 1)
    near = None
    if n < _UMAP_EXACT:  # as umap-learn does, without what it takes to compile its own search
        near = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(x_ND).kneighbors(x_ND)[::-1]
    model = umap.UMAP(n_neighbors=count, random_state=0, n_jobs=1, precomputed_knn=near or (None, None, None))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="precomputed_knn")  # new cells are never placed
        return np.asarray(model.fit_transform(x_ND))


def plot_embedding(view: EmbeddingInput) -> bytes:
    """The same UMAP twice, colored by cell type and by study."""
    xy_N2 = np.asarray(view.embedding_ND)
    if not len(xy_N2) == len(view.labels) == len(view.batches):
        raise EvaluationError(
            f"{len(xy_N2)} cells, {len(view.labels)} labels, {len(view.batches)} batches",
            wanted="one label and one batch a cell",
            where="UMAP of the report",
        )
    if xy_N2.shape[1] != 2:
        xy_N2 = umap_coordinates(xy_N2)
    with matplotlib_figures() as figure_class:
        figure = figure_class(figsize=(9, 4.9), layout="constrained")
        for i, (title, names) in enumerate((("cell type", view.labels), ("study", view.batches))):
            axes = figure.add_subplot(1, 2, i + 1)
            _scatter(axes, xy_N2, np.asarray([str(name) for name in names]))
            axes.set_title(f"{title}{f' · {view.title}' if view.title and i == 0 else ''}")
            axes.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
            axes.set_aspect("equal", adjustable="datalim")
        return _png(figure)


def _scatter(axes: Any, xy_N2: np.ndarray, names: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(len(names))  # no group lies on top of the others
    size = float(np.clip(9000 / max(len(names), 1), 2, 20))
    kinds, code = np.unique(names, return_inverse=True)
    shapes = 1 + (len(kinds) - 1) // len(PALETTE)
    colors = np.array([PALETTE[k % len(PALETTE)] for k in range(len(kinds))])
    for shape in range(shapes):
        these = order[code[order] // len(PALETTE) == shape]
        axes.scatter(*xy_N2[these].T, c=colors[code[these]], s=size, marker=_MARKERS[shape % 5], linewidths=0)
    for k, kind in enumerate(kinds):
        marker = _MARKERS[k // len(PALETTE) % 5]
        axes.scatter([], [], c=colors[k], s=28, marker=marker, label=f"{kind} ({int((code == k).sum())})")
    columns = 3 if max(map(len, kinds)) <= 16 else 2
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=columns, fontsize=8, handletextpad=0.2)


# --- confusion matrix -----------------------------------------------------------------------------


def plot_confusion(matrix: ConfusionInput) -> bytes:
    """Confusion matrix: color is the share of the true class, figures are cells."""
    counts_KK = np.asarray(matrix.counts_KK)
    k = len(matrix.labels)
    if counts_KK.shape != (k, k):
        raise EvaluationError(
            f"matrix {counts_KK.shape} for {k} labels",
            wanted="one row and one column a label",
            where="confusion matrix",
        )
    rows = counts_KK.sum(axis=1, keepdims=True)
    share_KK = np.divide(counts_KK, rows, out=np.zeros((k, k)), where=rows > 0)
    with matplotlib_figures() as figure_class:
        side = max(3.4, 0.46 * k + 1.4)
        figure = figure_class(figsize=(side + 1, side), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1)
        for i, j in zip(*np.nonzero(counts_KK), strict=True):
            ink = "white" if share_KK[i, j] > 0.55 else "#222222"
            axes.text(j, i, f"{int(counts_KK[i, j])}", ha="center", va="center", color=ink, fontsize=7.5)
        axes.set_xticks(range(k), matrix.labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(k), [f"{name} ({int(n)})" for name, n in zip(matrix.labels, rows[:, 0], strict=True)])
        axes.set(xlabel="predicted", ylabel="true (cells)", title=matrix.title)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.7)
        return _png(figure)


# --- scores ---------------------------------------------------------------------------------------


def plot_scores(rows: Sequence[Row]) -> bytes:
    """Scores of all methods of one benchmark, a panel a metric; hollow marks are baselines.

    Parameters
    ----------
    rows
        Rows of one group (see `scmf.results.pages.table.group_of`) from `scmf.results.pages.table.table_rows`.
    """
    if len({group_of(row) for row in rows}) != 1:
        raise EvaluationError("rows of several benchmarks", wanted="the rows of one group", where="plot of scores")
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    names = list(dict.fromkeys((row["baseline"], row["label"], row["protocol"]) for row in rows))
    place = {name: len(names) - 1 - i for i, name in enumerate(names)}
    with matplotlib_figures() as figure_class:
        columns = min(3, len(metrics))
        lines = math.ceil(len(metrics) / columns)
        figure = figure_class(figsize=(2.2 + 2.9 * columns, lines * (0.9 + 0.27 * len(names))), layout="constrained")
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes, metric in zip(grid.flat, metrics, strict=False):
            _score_panel(axes, [row for row in rows if row["metric"] == metric], place)
            axes.set_yticks(list(place.values()), [f"{label}, {p.replace('_', ' ')}" for _, label, p in place])
            axes.set_ylim(-0.6, len(names) - 0.4)
        for axes in list(grid.flat)[len(metrics) :]:
            axes.set_visible(False)
        return _png(figure)


def _score_panel(axes: Any, rows: Sequence[Row], place: Mapping[tuple[bool, str, str], int]) -> None:
    higher = rows[0]["higher_is_better"]
    axes.set_title(f"{rows[0]['metric']} ({'higher' if higher else 'lower'} is better)", fontsize=8.5)
    for row in rows:
        y = place[(row["baseline"], row["label"], row["protocol"])]
        color = "#777777" if row["baseline"] else PALETTE[0]
        if row["expected_mean"] is not None and row["band"] is not None:
            axes.plot(
                [row["expected_mean"] - row["band"], row["expected_mean"] + row["band"]],
                [y, y], color="#DDCC77", linewidth=6, alpha=0.6, solid_capstyle="butt",
            )  # fmt: skip
        samples = list(row["observed_samples"].values())
        if len(samples) > 1:
            axes.scatter(samples, [y] * len(samples), s=8, color=color, alpha=0.6, linewidths=0)
        if row["observed_mean"] is not None:
            fill = "white" if row["baseline"] else color
            axes.scatter(row["observed_mean"], y, s=34, facecolor=fill, edgecolor=color, zorder=3)
            text = number(row["observed_mean"]) + (" ★" if row["best"] else "")
            axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color="#555555")
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=4)
