"""Result files of cz-benchmarks, written from ours and read into ours.

A file holds ``task_results``: task, model, data sets, and metrics as ``{metric_type, value, params}`` (``MetricResult``
of cz-benchmarks 0.15.1; the frame is that of the files in its repository). Lives here: the translation, both ways
without loss. Lives elsewhere: running a task (cz_run).

Only results whose metrics are defined as theirs can be written: the protocol ``cross_validated`` of ``annotation``, and
what came from cz-benchmarks. Accuracy on a held-out donor under the name of theirs would be another number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scmf.core.errors import ConfigError, EvaluationError
from scmf.core.files import sha256_json
from scmf.results.expected import PublishedValue
from scmf.results.result import Result

VERSION = "0.15.1"
"""Release of cz-benchmarks that this was written against."""

TASKS = {
    "clustering": ("integration", "cz_clustering"),
    "embedding": ("integration", "cz_embedding"),
    "integration": ("integration", "cz_batch_integration"),
    "batch_integration": ("integration", "cz_batch_integration"),
    "metadata_label_prediction": ("annotation", "cz_label_prediction"),
    "label_prediction": ("annotation", "cz_label_prediction"),
    "perturbation": ("perturbation", "cz_perturbation"),
    "perturbation_expression_prediction": ("perturbation", "cz_perturbation_expression_prediction"),
    "sequential_organization": ("integration", "cz_sequential_organization"),
    "cross-species_integration": ("integration", "cz_cross_species_integration"),
    "cross-species_label_prediction": ("annotation", "cz_cross_species_label_prediction"),
}
"""Task of cz-benchmarks to our benchmark and protocol; of two names of a task the later one is that of 0.15.1."""

OURS = {("annotation", "cross_validated"): "label_prediction"}
"""Protocols of ours that compute what a task of theirs does."""

LOWER_IS_BETTER = ("mean_squared_error",)
"""Their metrics that are better when lower."""

_FOLDED = ("accuracy", "f1", "precision", "recall", "auroc")
_CLASSIFIERS = ("knn", "lr", "rf")
_MEAN = f"MEAN({','.join(_CLASSIFIERS)})"
_UPPER = {"pearson_correlation": "PEARSON_CORRELATION"}
_BASELINE = "BASELINE"


# --- names of metrics -----------------------------------------------------------------------------


def metric_name(metric: Mapping[str, Any]) -> str:
    """Our name of one of their metrics: ``accuracy_lr`` for a classifier, else type and parameters.

    Raises
    ------
    ConfigError
        Type or value is missing.
    """
    kind, params = metric.get("metric_type"), dict(metric.get("params") or {})
    if not isinstance(kind, str) or not isinstance(metric.get("value"), (int, float)):
        raise ConfigError(
            f"a metric {dict(metric)}", wanted="metric_type and a number as value", where="task_results.metrics",
            fix="write the file with cz-benchmarks, or with scmf",
        )  # fmt: skip
    folded = kind.removeprefix("mean_fold_")
    if kind.startswith("mean_fold_") and folded in _FOLDED and set(params) == {"classifier"}:
        if params["classifier"] == _MEAN:
            return folded
        if params["classifier"] in _CLASSIFIERS:
            return f"{folded}_{params['classifier']}"
    return kind.lower() + (f"[{','.join(f'{k}={v}' for k, v in sorted(params.items()))}]" if params else "")


def higher_is_better(name: str) -> bool:
    """Direction of one of their metrics by our name of it."""
    return name.partition("[")[0] not in LOWER_IS_BETTER


def _metric(name: str, value: float, *, folds: bool) -> dict[str, Any]:
    """One of their metrics from our name of it."""
    kind, _, classifier = name.partition("_")
    if folds and kind in _FOLDED and classifier in ("", *_CLASSIFIERS):
        return {"metric_type": f"mean_fold_{kind}", "value": value, "params": {"classifier": classifier or _MEAN}}
    kind, _, inner = name.partition("[")
    pairs = (pair.partition("=") for pair in inner.removesuffix("]").split(",") if pair)
    return {"metric_type": _UPPER.get(kind, kind), "value": value, "params": {key: text for key, _, text in pairs}}


# --- from ours to theirs --------------------------------------------------------------------------


def task_of(result: Result) -> str | None:
    """Task of cz-benchmarks that computes what ``result`` holds; None when there is none."""
    here = (result.benchmark, result.protocol)
    names = [name for name, there in TASKS.items() if there == here]
    return OURS.get(here) or (names[-1] if names else None)


def to_cz(results: Sequence[Result], *, command: str = "scmf") -> dict[str, Any]:
    """A result file of cz-benchmarks.

    Parameters
    ----------
    results
        Results with a task of theirs, see `task_of`. Facts that their frame has no place for travel in
        ``model_args["scmf_result"]``, so that `results_from_cz` gives equal results.
    command
        What to say under ``args``.

    Raises
    ------
    EvaluationError
        No result, one without metrics, or one whose metrics have no counterpart.
    """
    if not results:
        raise EvaluationError("no results", wanted="at least one", where="to_cz", fix="choose some")
    entries = [_entry(result) for result in results]
    times = [str(result.provenance["time"]) for result in results if "time" in result.provenance]
    return {
        "czbenchmarks_version": VERSION,
        "args": command,
        "task_results": entries,
        "timestamp": max(times, default=None),
    }


def _entry(result: Result) -> dict[str, Any]:
    task = task_of(result)
    if task is None or result.absence is not None:
        what = f"protocol {result.protocol!r}" if result.absence is None else f"no number: {result.absence.reason}"
        raise EvaluationError(
            f"{result.path}: {what}",
            wanted="metrics that cz-benchmarks defines in the same way",
            where="to_cz",
            fix="score the embedding under the protocol cross_validated, or with a task of cz-benchmarks",
        )
    folds = task == "label_prediction"
    metrics = [_metric(name, value, folds=folds) for name, value in result.metrics.items()]
    if "cz" in result.provenance:
        return {**result.provenance["cz"], "metrics": metrics}
    rest = {key: value for key, value in result.to_json().items() if key not in ("metrics", "absence")}
    return {
        "task_name": task,
        "task_name_display": task.replace("_", " "),
        "model_type": result.recipe.upper(),
        "datasets": [{"name": result.dataset, "organism": None, "name_display": f"{result.dataset}.{result.split}"}],
        "model_args": {"model_variant": result.variant, "method": result.method, "scmf_result": rest},
        "metrics": metrics,
        "runtime_metrics": {} if result.seconds is None else {"seconds": result.seconds},
        "model_name_display": f"{result.recipe} {result.variant}, {result.method}",
    }


# --- from theirs to ours --------------------------------------------------------------------------


def results_from_cz(value: Any, *, where: str = "a result file of cz-benchmarks") -> list[Result]:
    """Results of a file; those that we wrote come back equal, others are of the tier ``published``.

    Parameters
    ----------
    value
        The JSON value of the file.
    where
        How to call it in an error, and in the command of foreign results.

    Raises
    ------
    ConfigError
        Another format, or a task that is not in `TASKS`.
    """
    return [_result(entry, value, where) for entry in _entries(value, where)]


def _entries(value: Any, where: str) -> list[dict[str, Any]]:
    entries = value.get("task_results") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not all(isinstance(one, dict) and one.get("metrics") for one in entries):
        raise ConfigError(
            "no task_results with metrics", wanted="a result file of cz-benchmarks", where=where, fix="name another"
        )
    for entry in entries:
        if entry.get("task_name") not in TASKS:
            raise ConfigError(
                f"task {entry.get('task_name')!r}", wanted=f"one of {', '.join(TASKS)}", where=where,
                fix="leave its entry out",
            )  # fmt: skip
    return entries


def _result(entry: Mapping[str, Any], whole: Mapping[str, Any], where: str) -> Result:
    metrics = {metric_name(metric): float(metric["value"]) for metric in entry["metrics"]}
    if len(metrics) != len(entry["metrics"]):
        raise ConfigError("one metric twice", wanted="each once", where=where, fix="look at task_results.metrics")
    arguments = dict(entry.get("model_args") or {})
    if "scmf_result" in arguments:
        return Result.from_json({**arguments["scmf_result"], "metrics": metrics, "absence": None}, where=where)
    benchmark, protocol = TASKS[entry["task_name"]]
    release = str(whole.get("czbenchmarks_version", "of unknown version"))
    model, variant = str(entry.get("model_type", "unknown")), str(arguments.pop("model_variant", "default"))
    baseline = model == _BASELINE
    facts = {"cz": {key: item for key, item in entry.items() if key != "metrics"}, "czbenchmarks_version": release}
    return Result(
        recipe="baselines" if baseline else _slug(model.lower()),
        variant="reference" if baseline else _slug(variant),
        tier="published",
        benchmark=benchmark,
        dataset=_dataset(entry),
        split=_slug("-".join(f"{key}-{item}" for key, item in sorted(arguments.items()))) if arguments else "all",
        protocol=protocol,
        method="cz_baseline" if baseline else "official",
        seed=None,
        metrics=metrics,
        definitions={name: f"{name} (cz-benchmarks {release}, task {entry['task_name']})" for name in metrics},
        higher_is_better={name: higher_is_better(name) for name in metrics},
        recipe_digest=sha256_json(facts["cz"]),
        provenance={**facts, **({"time": whole["timestamp"]} if whole.get("timestamp") else {})},
        command=f"read from {where}",
    )


def _dataset(entry: Mapping[str, Any]) -> str:
    """Names of the data sets; older files list them under ``dataset_names``."""
    names = [one["name"] for one in entry.get("datasets") or ()] or list(entry.get("dataset_names") or ["unknown"])
    return _slug("-".join(map(str, names)))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-") or "unknown"


def published_from_cz(value: Any, *, source: str, comparable: str, where: str = "") -> Iterator[PublishedValue]:
    """Rows for ``published`` of an expected.yaml, of evidence level B: an output stored in a repository.

    Parameters
    ----------
    value
        The JSON value of the file.
    source
        Repository, commit and path.
    comparable
        One sentence: how the numbers compare with ours.
    """
    for result in results_from_cz(value, where=where or source):
        entry = result.provenance.get("cz", {})
        model = str(entry.get("model_name_display") or f"{result.recipe} {result.variant}")
        for metric, number in result.metrics.items():
            yield PublishedValue(
                id=_slug(f"cz-{result.recipe}-{result.variant}-{result.dataset}-{result.protocol}-{metric}"),
                model=model,
                task=f"{entry.get('task_name', result.protocol)} (cz-benchmarks)",
                dataset=result.dataset,
                split=result.split,
                metric=metric,
                value=number,
                level="B",
                source=source,
                comparable=comparable,
            )
