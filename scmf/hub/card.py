"""The model card: ``README.md`` with a YAML front matter that the Hub reads (license, tags, model-index).

Equal input gives equal text: no clock. The words stand in ``scmf/results/pages/templates/model_card.md.j2``. Lives
here: what goes into them, from the run, its recipe, the cards of its cells and its results. Lives elsewhere: gathering
results (results), where the weights come from (origin), rows and sentences of a table (scmf.results.pages.table).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from scmf.core.config.recipe import Identity, Recipe, list_recipes, load_recipe
from scmf.core.errors import ConfigError
from scmf.core.provenance import DISTRIBUTION
from scmf.core.shareable import published, published_command
from scmf.core.yaml import dump_yaml
from scmf.hub.results import Model
from scmf.models.origin import Checkpoint, Link, spdx
from scmf.models.run_folder import RunFolder
from scmf.results.expected import Expected
from scmf.results.judge import Verdict
from scmf.results.pages import escape, table
from scmf.results.pages.environment import make_environment
from scmf.results.result import Result

_SHOWN = Verdict("not_applicable", "shown, not judged")
_TAGS = ("single-cell", "transcriptomics", "biology", "custom_code", "scmodelforge")


@dataclass(frozen=True)
class Subject:
    """All that a card is about.

    Parameters
    ----------
    repo
        ``owner/name`` on the Hub.
    checkpoint, model
        The folder and what it is.
    license
        License of the weights.
    links
        Where they come from.
    seen
        What the clean process saw, see `scmf.hub.probe.probe`.
    cells
        Card of the cells it was trained on; None for own files.
    results
        Its scores and those of baselines beside it.
    """

    repo: str
    checkpoint: Checkpoint
    model: Model
    license: str
    links: Sequence[Link]
    seen: dict[str, Any]
    cells: Any
    results: Sequence[Result]

    @property
    def recipe(self) -> Recipe | None:
        """The shipped recipe of that name and variant; None for own YAML files."""
        try:
            found = load_recipe(self.model.recipe, variant=self.model.variant)
        except ConfigError:
            return None
        return found if found.identity is not None and found.name == self.model.recipe else None

    @property
    def identity(self) -> Identity | None:
        """Who published the model; of converted weights also where the recipe does not list their variant."""
        if self.recipe is not None:
            return self.recipe.identity
        if self.checkpoint.run or self.model.recipe not in list_recipes():
            return None
        return load_recipe(self.model.recipe).identity

    @property
    def source(self) -> dict[str, Any]:
        """Repository, revision and checksum of the published weights it is or began with; empty if there are none."""
        return next((link.facts for link in self.links if link.facts.get("source_repository")), {})

    @property
    def title(self) -> str:
        """Name of recipe and variant, or of the repository."""
        if self.model.recipe == "unknown":
            return self.repo.rpartition("/")[2]
        return f"{self.model.recipe} {self.model.variant}"


def card_text(subject: Subject) -> str:
    """The whole of ``README.md``.

    Raises
    ------
    MissingExtraError
        jinja2 is not installed.
    """
    environment = make_environment(needed_for="the model card")
    environment.filters.update(
        cell=escape.markdown, code=escape.code, place=escape.place, number=table.number,
        words=lambda name: name.replace("_", " "),
    )  # fmt: skip
    recipe, run = subject.recipe, subject.checkpoint.run
    config = dump_yaml(training_yaml(run)) if run else None
    verdicts = dict.fromkeys(_keys(subject), _SHOWN)
    rows = table.table_rows(results=subject.results, expected=Expected(), verdicts=verdicts)
    body: str = environment.get_template("model_card.md.j2").render(
        s=subject,
        recipe=recipe,
        identity=subject.identity,
        distribution=DISTRIBUTION,
        config=config,
        fence=escape.fence(config or ""),
        command=published_command((run.get("provenance") or {}).get("command", "")),
        changed=_changed(recipe, run),
        log=_log(subject.checkpoint),
        tables=_tables(rows),
        definitions=_definitions(subject.results),
        absent=[result for result in subject.results if result.absence],
        measured=_measured(subject.results),
        limits=_limits(subject, rows),
        provenance=published(run.get("provenance") or {}),
    )
    return f"---\n{front_matter(subject)}---\n\n{body}"


def front_matter(subject: Subject) -> str:
    """The YAML that the Hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    known = spdx(subject.license)
    license: dict[str, Any] = {"license": known.lower()} if known else {
        "license": "other", "license_name": _slug(subject.license), "license_link": "LICENSE",
    }  # fmt: skip
    tags = [*_TAGS, *([] if subject.model.recipe == "unknown" else [subject.model.recipe])]
    scores = [
        EvalResult(
            task_type=result.benchmark,
            task_name=f"{result.benchmark} ({result.protocol.replace('_', ' ')})",
            dataset_type=result.dataset,
            dataset_name=f"{result.dataset}, split {result.split}",
            dataset_split="valid" if result.benchmark == "pretraining" else "test",
            metric_type=metric,
            metric_name=f"{metric} ({result.protocol.replace('_', ' ')})",
            metric_value=value,
            metric_args={"definition": result.definitions[metric], "method": result.method},
        )
        for result in subject.results
        if result.method in table.OURS
        for metric, value in sorted(result.metrics.items())
    ]
    repository = str(subject.source.get("source_repository") or "")
    data = ModelCardData(
        **license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=tags,
        base_model=repository if repository.count("/") == 1 else None,
        model_name=subject.title if scores else None,
        eval_results=scores or None,
    )
    text: str = data.to_yaml(line_break="\n")
    return text if text.endswith("\n") else text + "\n"


def training_yaml(run: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run as a YAML file for `scmf train`, without credentials and with bare file names."""
    config: dict[str, Any] = published(run.get("config") or {})
    return config


# --- what the template shows ----------------------------------------------------------------------


def _keys(subject: Subject) -> list[Any]:
    return [result.key(metric) for result in subject.results for metric in result.metrics]


def _slug(license: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in license.lower()).split())[:60].strip("-") or "other"


def _tables(rows: Sequence[table.Row]) -> list[dict[str, Any]]:
    """One table a benchmark and set of cells: metrics down, methods across."""
    tables = []
    for key, items in groupby(rows, key=table.group_of):
        group = list(items)
        methods = list(dict.fromkeys((row["method"], row["label"], row["baseline"]) for row in _ours_first(group)))
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for row in group:
            line = lines.setdefault((row["protocol"], row["metric"]), {"higher": row["higher_is_better"], "values": {}})
            line["values"][row["method"]] = row["observed_mean"]
        tables.append({"title": f"{key[3]} on {key[1]}, split {key[2]}", "methods": methods, "lines": lines})
    return tables


def _ours_first(rows: Sequence[table.Row]) -> list[table.Row]:
    ranks = list(table.METHODS)
    return sorted(rows, key=lambda row: ranks.index(row["method"]) if row["method"] in ranks else len(ranks))


def _definitions(results: Sequence[Result]) -> list[tuple[str, str]]:
    return sorted({(metric, result.definitions[metric]) for result in results for metric in result.metrics})


def _measured(results: Sequence[Result]) -> list[str]:
    """Programs that measured the scores, each once."""
    lines = []
    for result in results:
        facts = result.provenance
        git = facts.get("git") or {}
        commit = str(git.get("commit") or "")[:12]
        commit = f"commit {commit}{' with uncommitted changes' if git.get('dirty') else ''}" if commit else ""
        packages = ", ".join(f"{name} {version}" for name, version in sorted((facts.get("packages") or {}).items()))
        file = facts.get("scores")
        kept = f"in {file['file']}, sha256 {file['sha256']}" if file else ""
        told = [escape.markdown(part) for part in (kept, commit, facts.get("cpu"), packages) if part]
        lines.append("; ".join([escape.code(published_command(result.command)), *told]))
    return list(dict.fromkeys(lines))


def _log(checkpoint: Checkpoint) -> dict[str, Any]:
    """Steps and last losses of the training log, where the run still has one."""
    path = RunFolder(checkpoint.folder).log
    if not checkpoint.run or not path.is_file():
        return {}
    found: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the last line of a run that is being written
        found |= {key: entry[key] for key in ("step", "loss", "valid_loss") if key in entry}
    return found


def _changed(recipe: Recipe | None, run: dict[str, Any]) -> list[str] | None:
    """Where the run differs from its recipe, the seed aside; None when it has no recipe."""
    if recipe is None or not run:
        return None
    ours, theirs = _flat(published(recipe.config.model_dump(mode="json"))), _flat(training_yaml(run))
    keys = sorted((ours.keys() | theirs.keys()) - {"training.seed"})
    return [f"{k}: {ours.get(k)!r} → {theirs.get(k)!r}" for k in keys if ours.get(k) != theirs.get(k)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _limits(subject: Subject, rows: Sequence[table.Row]) -> list[str]:
    """What a reader must know before use, the baselines first."""
    lines = []
    for (_, dataset, split, benchmark), items in groupby(rows, key=table.group_of):
        group = list(items)
        lines += [f"{benchmark} on {dataset} ({split}): {text}" for text in table.sentences(group)]
    others = {row["method"] for row in rows if row["baseline"]}
    if not rows:
        lines.append(
            "No score of this model was given when it was published. Do not assume that it is better than principal "
            "components or highly variable genes: the command scmf evaluate measures it beside them."
        )
    elif not others - {"untrained"}:
        lines.append(
            "No baseline without a model stands beside these scores, so they do not say that a model is needed."
        )
    if subject.recipe is not None and subject.recipe.tier == "mini" and subject.checkpoint.run:
        lines.append("A small variant, trained in minutes to test the recipe. It is no foundation model.")
    if subject.source.get("source_verified") is False:
        lines.append("The weights it began with are not the file that its authors published.")
    marks = () if subject.cells is None or subject.cells.part_of == "unknown" else subject.cells.part_of
    lines += [
        f"{leak.corpus} holds its training cells: {leak.contains} ({leak.reason.strip()})."
        for leak in marks
        if leak.contains != "no"
    ]
    lines.append(
        f"It knows {subject.seen['genes']:,} genes and reads at most {subject.seen['max_length']:,} tokens of a cell; "
        "other genes are ignored, and raw counts are needed unless the tokenizer says otherwise."
    )
    lines.append("For research. Not validated for diagnosis or any other clinical use.")
    return lines
