"""Other spellings of keys that stand for good: those of papers and of other tools, taken to the one of `scmf schema`.

Keys that stand elsewhere in the schema move as a file or a ``--set`` is read (`schema_spelling`), so that an override
in one spelling replaces a value in the other. What one key of the schema is made of several (filters, benchmarks,
steps before the tokenizer) is put together when all overrides are applied (`schema_values`). A digest sees the schema
alone. Lives elsewhere: names that a key had in an earlier release and will lose (renamed), what a key means (the
section that has it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scmf.core import registry
from scmf.core.errors import ConfigError

MOVED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("data", "organism"): ("data", "census", "organism"),
    ("data", "filters"): ("data", "census", "filters"),
    ("tokenizer", "gene_vocab"): ("data", "gene_set"),
    ("tokenizer", "gene_set"): ("data", "gene_set"),
    ("tokenizer", "max_genes"): ("tokenizer", "max_length"),
    ("model", "pretraining_task"): ("training", "pretraining_task"),
    ("model", "mask_ratio"): ("training", "mask_ratio"),
    ("data", "preprocessing", "hvg_selection"): ("tokenizer", "top_genes"),
}
"""Where a key may stand -> where it stands in the schema."""

CENSUS = "cellxgene_census"
"""What ``data.source`` may say: the section ``data.census``."""

BENCHMARKS = {
    "cell_type_annotation": "annotation",
    "batch_integration": "integration",
    "perturbation_prediction": "perturbation",
    "gene_network_inference": "gene_network",
}
"""The field's name of a benchmark -> its name here."""

NORMALIZE = ("library_size", "log1p", "none")
"""Values of ``data.preprocessing.normalize``."""

_STEPS = ["normalize", "hvg_selection"]


def schema_spelling(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with each key where the schema has it; what is no mapping is left to the check.

    Raises
    ------
    ConfigError
        A key stands in both places with two values, or ``data.source`` is unknown.
    """
    found = _copy(raw)
    data = found.get("data")
    if isinstance(data, dict) and "source" in data:
        source = data.pop("source")
        if source != CENSUS:
            raise ConfigError(
                f"data.source: {source!r}", wanted=CENSUS, where="data",
                fix="name a card with data.dataset, or your own files with data.files",
            )  # fmt: skip
        data["census"] = data.get("census") or {}
    for old, new in MOVED.items():
        _move(found, old, new)
    return found


def schema_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of `schema_spelling`, all overrides applied, with filters, benchmarks and steps as the schema says.

    Raises
    ------
    ConfigError
        A filter, benchmark or step cannot be read, or the tokenizer cannot have the step.
    """
    found = _copy(raw)
    data, settings = found.get("data"), found.get("eval")
    if isinstance(data, dict):
        if isinstance(data.get("census"), dict):
            _refuse_other_source(data)
            data["census"] = _with_filters(data["census"])
        if "preprocessing" in data:
            _check_steps(data.pop("preprocessing"), found.get("tokenizer"))
    if isinstance(settings, dict) and isinstance(settings.get("benchmarks"), list | tuple):
        _benchmarks(settings)
    return found


def _copy(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in raw.items()}


def _move(found: dict[str, Any], old: tuple[str, ...], new: tuple[str, ...]) -> None:
    place: Any = found
    for key in old[:-1]:
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict) or old[-1] not in place:
        return
    value, target = place.pop(old[-1]), found
    if value is None and new[:2] == ("data", "census"):
        return  # the section alone would choose the Census
    for key in new[:-1]:
        inside = target.get(key)
        if inside is None:
            inside = target[key] = {}
        if not isinstance(inside, dict):
            return  # told by the check of the section
        target = inside
    if target.setdefault(new[-1], value) != value:
        raise _two_places(".".join(old), value, ".".join(new), target[new[-1]])


def _two_places(old: str, value: Any, new: str, other: Any) -> ConfigError:
    return ConfigError(
        f"{old}: {value!r} and {new}: {other!r}", wanted=f"{new} alone", where=new.partition(".")[0],
        fix=f"remove {old}",
    )  # fmt: skip


# --- the Census -------------------------------------------------------------------------------------


def _refuse_other_source(data: dict[str, Any]) -> None:
    """Keys of the Census without the Census, beside files or a card, which would otherwise read as two sources."""
    others = [key for key in ("dataset", "files", "tokens") if data.get(key)]
    given = [key for key in ("organism", "filters") if key in data["census"]]
    if others and given and set(data["census"]) <= {"organism", "filters"}:
        raise ConfigError(
            f"data.{given[0]} with data.{others[0]}", wanted="the Census (data.source), to whose cells it belongs",
            where="data", fix=f"remove data.{given[0]}; of files all cells are read, those that data.filter leaves",
        )  # fmt: skip


def _with_filters(census: dict[str, Any]) -> dict[str, Any]:
    """The section ``census`` with ``filters``, columns of obs and their values, in its ``value_filter``."""
    filters = census.pop("filters", None)
    if filters is None:
        return census
    if not isinstance(filters, dict):
        raise ConfigError(
            f"data.filters: {filters!r}", wanted="columns of obs with the values to keep", where="data",
            fix="for example data.filters: {tissue: [lung, heart]}",
        )  # fmt: skip
    parts = [census["value_filter"]] if census.get("value_filter") else []
    if "is_primary_data" in filters:
        primary = _truths(filters.pop("is_primary_data"))
        only = primary == {True}
        if census.setdefault("primary_only", only) != only:
            raise _two_places("data.filters.is_primary_data", only, "data.census.primary_only", not only)
        if primary == {False}:
            parts.append("is_primary_data == False")
    parts += [_condition(column, values) for column, values in filters.items()]
    if parts:
        census["value_filter"] = " and ".join(f"({part})" for part in parts) if len(parts) > 1 else parts[0]
    return census


def _truths(values: Any) -> set[bool]:
    listed = values if isinstance(values, list | tuple) else [values]
    if not listed or not all(isinstance(value, bool) for value in listed):
        raise ConfigError(
            f"data.filters.is_primary_data: {values!r}", wanted="true or false", where="data.filters",
            fix="true keeps each cell once; leave the key out for the same",
        )  # fmt: skip
    return set(listed)


def _condition(column: Any, values: Any) -> str:
    """A filter of SOMA that keeps the cells with one of the values in a column."""
    listed = values if isinstance(values, list | tuple) else [values]
    plain = all(isinstance(value, str | int | float) and value == value and value not in _ENDLESS for value in listed)
    if not str(column).isidentifier() or not listed or not plain:
        raise ConfigError(
            f"data.filters.{column}: {values!r}", wanted="a column of obs with a value or a list of values",
            where="data.filters",
            fix="for example tissue: [lung, heart]; write anything else as data.census.value_filter",
        )  # fmt: skip
    return f"{column} in {list(values)!r}" if isinstance(values, list | tuple) else f"{column} == {values!r}"


_ENDLESS = (math.inf, -math.inf)


# --- steps before the tokenizer ---------------------------------------------------------------------


def _check_steps(steps: Any, tokenizer: Any) -> None:
    """Refuse what ``data.preprocessing`` cannot have; what it may have, the tokenizer does by itself.

    ``rank_value`` divides by the total counts of a cell; ``continuous`` and ``gene_embedding`` with ``log1p_10k`` do so
    and take the logarithm; the bins of ``binned`` are the cell's own quantiles, equal before and after either.
    """
    if steps is None:
        return
    if not isinstance(steps, Mapping):
        raise ConfigError(
            f"data.preprocessing: {steps!r}", wanted=f"the keys {' and '.join(_STEPS)}", where="data",
            fix="for example data.preprocessing: {normalize: library_size, hvg_selection: 2000}",
        )  # fmt: skip
    if unknown := [key for key in steps if key not in _STEPS]:
        raise ConfigError(
            f"unknown key 'data.preprocessing.{unknown[0]}'", wanted=f"the keys {' and '.join(_STEPS)}",
            where="data.preprocessing", fix=registry.did_you_mean(str(unknown[0]), _STEPS),
        )  # fmt: skip
    wanted = steps.get("normalize")
    wanted = "none" if wanted is None else wanted
    if wanted not in NORMALIZE:
        raise ConfigError(
            f"data.preprocessing.normalize: {wanted!r}", wanted=f"one of {', '.join(NORMALIZE)}",
            where="data.preprocessing", fix="write library_size, or leave the key out",
        )  # fmt: skip
    if wanted != "none" and (reason := _reads_otherwise(tokenizer, wanted)):
        raise ConfigError(
            f"data.preprocessing.normalize: {wanted} with {reason}",
            wanted="a tokenizer that normalizes by itself", where="data.preprocessing",
            fix="remove the key, or set tokenizer.strategy: continuous, whose transform log1p_10k does both",
        )  # fmt: skip


def _reads_otherwise(tokenizer: Any, step: str) -> str:
    """Why the tokens of a tokenizer are not those of normalized cells; empty where they are."""
    section = tokenizer if isinstance(tokenizer, Mapping) else {}
    given = section.get("options")
    options = given if isinstance(given, Mapping) else {}
    name = str(section.get("strategy", "rank_value"))
    strategy = registry.ALIASES["tokenizers"].get(name, name)
    if strategy == "rank_value":
        return "rank_value, which ranks counts without a logarithm" if step == "log1p" else ""
    if strategy == "binned":
        return "binned and n_bins: 0, which reads raw counts" if options.get("n_bins") == 0 else ""
    if strategy in ("continuous", "gene_embedding"):
        transform = options.get("transform", "log1p_10k")
        return "" if transform == "log1p_10k" else f"transform: {transform}, which reads raw counts"
    return f"{strategy}, of which scmf does not know what it reads"


# --- benchmarks -------------------------------------------------------------------------------------


def _benchmarks(section: dict[str, Any]) -> None:
    """Benchmarks by the field's names; one with cells of its own becomes the task ``benchmark:card``."""
    plain, tasks = [], list(section.get("tasks") or ())
    for one in section["benchmarks"]:
        if isinstance(one, str):
            plain.append(BENCHMARKS.get(one, one))
            continue
        keys = next(iter(one.values())) if isinstance(one, dict) and len(one) == 1 else None
        if not isinstance(keys, dict) or not {"dataset"} <= set(keys) <= {"dataset", "split"}:
            raise ConfigError(
                f"eval.benchmarks: {one!r}", wanted="a benchmark, or a benchmark with its dataset and split",
                where="eval", fix="for example - cell_type_annotation: {dataset: pancreas, split: donor}",
            )  # fmt: skip
        name = next(iter(one))
        cells = ".".join(str(keys[key]) for key in ("dataset", "split") if keys.get(key))
        tasks.append(f"{BENCHMARKS.get(name, name)}:{cells}")
    section["benchmarks"] = plain
    if tasks:
        section["tasks"] = list(dict.fromkeys(tasks))
