"""The pages of a report: ``<recipe>.md`` and a self-contained ``<recipe>.html``.

Lives here: what goes into the templates and which files are written. Equal input gives equal bytes: no
clock, no random order. Lives elsewhere: rows and sentences (table), pictures (reproduction_plots), the look
(templates/*.j2).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from scmf.core.files import atomic_path, write_text
from scmf.results.expected import Expected, PublishedValue
from scmf.results.judge import FINAL_ALPHA, FIRST_ALPHA, MIN_OBSERVED, MIN_SAMPLES, Verdict
from scmf.results.pages import escape, table
from scmf.results.pages import reproduction_plots as plots
from scmf.results.pages.environment import make_environment
from scmf.results.pages.reproduction_plots import FigureInputs
from scmf.results.pages.table import Row
from scmf.results.parity import ParityCase
from scmf.results.result import CellKey, Result

LEVELS = {
    "A": "recomputed from a file of the authors",
    "A-derived": "computed from a file of the authors, not printed by them",
    "B": "output stored in the named repository",
    "C": "read in the paper",
}
"""Evidence levels in words."""


@dataclass(frozen=True)
class _Figure:
    name: str
    title: str
    alt: str
    png: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode("ascii")


def write_report(
    out_dir: Path | str,
    *,
    recipe: str,
    results: Sequence[Result],
    expected: Expected,
    verdicts: Mapping[CellKey, Verdict],
    parity_cases: Sequence[ParityCase] = (),
    figures_inputs: FigureInputs | None = None,
) -> list[Path]:
    """Write the report of one recipe.

    Parameters
    ----------
    out_dir
        Folder; ``<recipe>.md`` and ``<recipe>.html`` are written into it, pictures into ``<recipe>/``.
    recipe
        Name of the recipe.
    results, expected, verdicts
        What was measured, what was expected, and `scmf.results.expected.judge_results` of both.
    parity_cases
        Comparisons with the official code; empty without outputs of the official code.
    figures_inputs
        What the pictures are made from; a picture without input is left out, and the page says so.

    Returns
    -------
    Paths written, pages first.

    Raises
    ------
    MissingExtraError
        jinja2, matplotlib or umap-learn is not installed.
    """
    out_dir = Path(out_dir)
    environment = _environment()
    rows = table.table_rows(results=results, expected=expected, verdicts=verdicts)
    figures, absent = _figures(rows, figures_inputs or FigureInputs())
    context = {
        "recipe": recipe,
        "sections": _sections(rows, figures),
        "tally": table.tally(rows),
        "runs": _runs(results),
        "published": _published_blocks(expected.published),
        "parity": table.parity_rows(parity_cases),
        "figures": [figure for figure in figures if not figure.name.startswith("scores")],
        "absent_figures": absent,
        "levels": LEVELS,
        "min_samples": MIN_SAMPLES,
        "min_observed": MIN_OBSERVED,
        "first_alpha": FIRST_ALPHA,
        "final_alpha": FINAL_ALPHA,
    }
    pages = [
        write_text(out_dir / f"{recipe}.{kind}", environment.get_template(f"report.{kind}.j2").render(context))
        for kind in ("md", "html")
    ]
    return pages + [_write_png(out_dir / recipe / f"{figure.name}.png", figure.png) for figure in figures]


def _write_png(path: Path, png: bytes) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_bytes(png)
    return path


def _environment() -> Any:
    environment = make_environment(needed_for="the pages of a report")
    environment.filters.update(
        number=table.number, spread=table.spread, verdict=table.verdict_text, samples=_samples,
        cell=escape.markdown, code=escape.code,
        words=lambda name: name.replace("_", " "),
    )  # fmt: skip
    environment.globals["NO_PAPER"] = table.NO_PAPER
    environment.globals["VERDICTS"] = table.VERDICTS
    return environment


def _samples(samples: Mapping[str, float]) -> str:
    if set(samples) == {"none"}:
        return f"{samples['none']!r} (no seed)"
    return ", ".join(f"{seed}: {value!r}" for seed, value in samples.items()) or "none"


# --- what the templates show ----------------------------------------------------------------------


def _sections(rows: Sequence[Row], figures: Sequence[_Figure]) -> list[dict[str, Any]]:
    pictures = {figure.name: figure for figure in figures}
    sections = []
    for key, items in groupby(rows, key=table.group_of):
        group = list(items)
        metrics = [_metric(metric, list(part)) for metric, part in groupby(group, key=lambda row: row["metric"])]
        variant, dataset, split, benchmark = key
        sections.append(
            {
                "title": f"{benchmark} on {dataset}, split {split} ({variant})",
                "metrics": metrics,
                "rows": group,
                "figure": pictures.get(_scores_name(key)),
            }
        )
    return sections


def _metric(name: str, rows: list[Row]) -> dict[str, Any]:
    return {
        "name": name,
        "rows": rows,
        "higher": rows[0]["higher_is_better"],
        "sentence": " ".join(table.sentences(rows)),
    }


def _runs(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Programs and machines that measured the results; usually one."""
    runs: dict[tuple[Any, ...], dict[str, Any]] = {}
    for result in results:
        facts = result.provenance
        git = facts.get("git", {})
        packages = ", ".join(f"{name} {version}" for name, version in sorted(facts.get("packages", {}).items()))
        run = {
            "digest": result.recipe_digest,
            "variant": result.variant,
            "commit": git.get("commit", "unknown") + (" with uncommitted changes" if git.get("dirty") else ""),
            "python": facts.get("python", "unknown"),
            "cpu": facts.get("cpu", "unknown"),
            "packages": packages,
        }
        entry = runs.setdefault(tuple(run.values()), {**run, "results": 0, "seconds": 0.0})
        entry["results"] += 1
        entry["seconds"] += result.seconds or 0.0
    return list(runs.values())


def _published_blocks(values: Sequence[PublishedValue]) -> list[dict[str, Any]]:
    blocks: dict[tuple[str, ...], dict[str, Any]] = {}
    for value in values:
        key = (value.task, value.source, value.level, value.comparable)
        block = blocks.setdefault(
            key,
            {
                "task": value.task,
                "source": value.source,
                "doi": value.doi,
                "level": value.level,
                "comparable": value.comparable,
                "values": [],
            },
        )
        block["values"].append(value)
    return list(blocks.values())


# --- pictures -------------------------------------------------------------------------------------


def _scores_name(key: tuple[str, ...]) -> str:
    return "scores-" + "-".join(key)


def _figures(rows: Sequence[Row], inputs: FigureInputs) -> tuple[list[_Figure], list[str]]:
    figures, absent = [], []
    for key, items in groupby(rows, key=table.group_of):
        group = list(items)
        if any(row["observed_mean"] is not None for row in group):
            title = f"Scores of all methods: {key[3]} on {key[1]}"
            figures.append(_Figure(_scores_name(key), title, title, plots.plot_scores(group)))
    if inputs.loss_logs:
        alt = f"Training and validation loss of {', '.join(inputs.loss_logs)}"
        figures.append(_Figure("loss", "Loss", alt, plots.plot_loss(inputs.loss_logs)))
    else:
        absent.append("Loss curves: — (no training log was given)")
    if inputs.embedding is not None:
        alt = "Two-dimensional map of the cell embedding, colored by cell type and by study"
        figures.append(_Figure("umap", "Embedding", alt, plots.plot_embedding(inputs.embedding)))
    else:
        absent.append("UMAP of the embedding: — (no embedding was given)")
    if inputs.confusion is not None:
        alt = "Confusion matrix of true against predicted cell types"
        figures.append(_Figure("confusion", "Confusion", alt, plots.plot_confusion(inputs.confusion)))
    else:
        absent.append("Confusion matrix: — (no predictions were given)")
    return figures, absent
