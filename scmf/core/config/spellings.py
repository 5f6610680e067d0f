"""Other spellings of keys that stand for good: those of papers and of other tools, taken to the one of `scmf schema`.

The Census as a source with filters, the task beside the network, the steps before the tokenizer, benchmarks by the
field's names. A digest sees the spelling of the schema alone. Lives elsewhere: names that a key had in an earlier
release and will lose (renamed), what a key means (the section that has it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scmf.core.errors import ConfigError

MOVED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("data", "organism"): ("data", "census", "organism"),
    ("tokenizer", "gene_vocab"): ("data", "gene_set"),
    ("tokenizer", "gene_set"): ("data", "gene_set"),
    ("model", "pretraining_task"): ("training", "pretraining_task"),
    ("model", "mask_ratio"): ("training", "mask_ratio"),
    ("data", "preprocessing", "hvg_selection"): ("tokenizer", "top_genes"),
}
"""Where a key may stand -> where it stands in the schema."""

CENSUS = "cellxgene_census"
BENCHMARKS = {"cell_type_annotation": "annotation", "batch_integration": "integration"}
"""The field's name of a benchmark -> its name here."""

_NORMALIZED = ("library_size", "none")


def schema_spelling(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with each key where the schema has it; what is no mapping is left to the check.

    ``data.preprocessing.normalize`` stays, because only the whole configuration says whether the tokenizer does it
    (`without_normalization`).

    Raises
    ------
    ConfigError
        A key stands in both places with two values, or a filter or benchmark cannot be read.
    """
    found = _copy(raw)
    for old, new in MOVED.items():
        _move(found, old, new)
    data = found.get("data")
    if isinstance(data, dict):
        _census(data)
        if data.get("preprocessing") == {}:
            del data["preprocessing"]
    if isinstance(found.get("eval"), dict) and "benchmarks" in found["eval"]:
        _benchmarks(found["eval"])
    return found


def without_normalization(raw: dict[str, Any]) -> dict[str, Any]:
    """The sections without ``data.preprocessing.normalize``, which every tokenizer does by itself or cannot have done.

    ``rank_value`` and ``continuous`` with ``log1p_10k`` divide by the total counts of a cell; the digits of ``binned``
    are the same before and after. Others read raw counts on purpose, and then the key is refused.
    """
    data = raw.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("preprocessing"), Mapping):
        return raw
    steps = dict(data["preprocessing"])
    wanted = steps.pop("normalize", "none")
    if wanted not in _NORMALIZED:
        raise ConfigError(
            f"data.preprocessing.normalize: {wanted!r}",
            wanted=f"one of {', '.join(_NORMALIZED)}",
            where="data.preprocessing",
            fix="normalize the cells with scanpy and train on the file with tokenizer.options.transform: as_given",
        )
    if wanted == "library_size" and (reason := _reads_counts(raw.get("tokenizer"))):
        raise ConfigError(
            f"data.preprocessing.normalize: library_size with a tokenizer that reads raw counts ({reason})",
            wanted="a tokenizer that divides by the total counts of a cell",
            where="data.preprocessing",
            fix="remove the key, or set tokenizer.strategy: rank_value, or tokenizer.options.transform: log1p_10k",
        )
    kept = {key: value for key, value in data.items() if key != "preprocessing"}
    return {**raw, "data": {**kept, "preprocessing": steps} if steps else kept}


def _reads_counts(tokenizer: Any) -> str:
    """Why a tokenizer does not divide by the total of a cell; empty when it does, or when it makes no difference."""
    section = tokenizer if isinstance(tokenizer, Mapping) else {}
    options = section.get("options") if isinstance(section.get("options"), Mapping) else {}
    if section.get("strategy") in ("binned", "binned_expression") and options.get("n_bins") == 0:
        return "binned with n_bins: 0"
    transform = options.get("transform", "log1p_10k")
    return "" if transform == "log1p_10k" else f"transform: {transform}"


def _copy(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in raw.items()}


def _move(found: dict[str, Any], old: tuple[str, ...], new: tuple[str, ...]) -> None:
    place: Any = found
    for key in old[:-1]:
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict) or old[-1] not in place:
        return
    value, target = place.pop(old[-1]), found
    for key in new[:-1]:
        inside = target.get(key)
        if inside is None:
            inside = target[key] = {}
        if not isinstance(inside, dict):
            return  # told by the check of the section
        target = inside
    if target.setdefault(new[-1], value) != value:
        raise ConfigError(
            f"{'.'.join(old)}: {value!r} and {'.'.join(new)}: {target[new[-1]]!r}",
            wanted=f"{'.'.join(new)} alone",
            where=new[0],
            fix=f"remove {'.'.join(old)}",
        )


def _census(data: dict[str, Any]) -> None:
    """``source: cellxgene_census`` and ``filters`` become the section ``census``."""
    if "source" in data:
        source = data.pop("source")
        if source != CENSUS:
            raise ConfigError(
                f"data.source: {source!r}", wanted=CENSUS, where="data",
                fix="name a card with data.dataset, or your own files with data.files",
            )  # fmt: skip
        data["census"] = data.get("census") or {}
    filters = data.pop("filters", None)
    if filters is None:
        return
    if not isinstance(filters, dict):
        raise ConfigError(
            f"data.filters: {filters!r}", wanted="columns of obs with the values to keep", where="data",
            fix="for example data.filters: {tissue: [lung, heart]}",
        )  # fmt: skip
    census = data.get("census") or {}
    if not isinstance(census, dict):
        return
    primary = filters.pop("is_primary_data", None)
    if primary is not None:
        census["primary_only"] = primary
    parts = [census["value_filter"]] if census.get("value_filter") else []
    parts += [_condition(column, values) for column, values in filters.items()]
    if parts:
        census["value_filter"] = " and ".join(f"({part})" for part in parts) if len(parts) > 1 else parts[0]
    data["census"] = census


def _condition(column: Any, values: Any) -> str:
    """A filter of SOMA that keeps the cells with one of the values in a column."""
    listed = values if isinstance(values, list | tuple) else [values]
    if (
        not str(column).isidentifier()
        or not listed
        or not all(isinstance(value, str | int | float) for value in listed)
    ):
        raise ConfigError(
            f"data.filters.{column}: {values!r}",
            wanted="a column of obs with a value or a list of values",
            where="data.filters",
            fix="for example tissue: [lung, heart]; write anything else as data.census.value_filter",
        )
    if isinstance(values, list | tuple):
        return f"{column} in {list(values)!r}"
    return f"{column} == {values!r}"


def _benchmarks(section: dict[str, Any]) -> None:
    """Benchmarks by the field's names; one with cells of its own becomes the task ``benchmark:card``."""
    given = section["benchmarks"]
    if not isinstance(given, list | tuple):
        return
    plain, tasks = [], list(section.get("tasks") or ())
    for one in given:
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
