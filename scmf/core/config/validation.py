"""From raw YAML values to a section: pydantic's errors told in the words of the files, with hints.

Lives here: `validate` and the wording of what is wrong. Lives elsewhere: the keys (run, data, tokenizer,
model, training).
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from scmf.core import registry
from scmf.core.config.section import Section
from scmf.core.errors import ConfigError
from scmf.core.redact import OPTIONS


def validate(model: type[Section], raw: object, *, where: str) -> Any:
    """Build ``model`` from ``raw``, turning pydantic's errors into one `ConfigError` with hints."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            "\n  ".join(_explain(model, item) for item in error.errors(include_url=False)),
            wanted=f"the keys of {model.__name__} (see `scmf schema`)",
            where=where,
            fix="correct the key or value",
        ) from error


def _explain(model: type[BaseModel], item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path) or "the file"
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, path[:-1])
        return f"unknown key {name!r}: {registry.did_you_mean(path[-1], known)}"
    if item["type"] == "missing":
        return f"key {name!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        known = [part.strip().strip("'") for part in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        message += f"; {registry.did_you_mean(item['input'], known)}"
    shown = "" if isinstance(item["input"], dict) or OPTIONS in path else f" (got {item['input']!r})"
    return f"{name}: {message}{shown}"


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Keys allowed below ``path``, whose parts are keys, positions in a list, names in a dict and tags of a union."""
    models = [model]
    for part in path:
        if any(part in option.model_fields for option in models):
            fields = [option.model_fields[part] for option in models if part in option.model_fields]
            models = [inner for field in fields for inner in _models_in(field.annotation)]
        elif not part.isdigit():
            kinds = [(option, option.model_fields.get("kind")) for option in models]
            tagged = [option for option, kind in kinds if kind is not None and part in get_args(kind.annotation)]
            models = tagged or models  # else a name in a dict, such as that of a variant
    return sorted({key for option in models for key in option.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for argument in get_args(annotation) for inner in _models_in(argument)]
