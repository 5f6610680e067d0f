"""What every section of a YAML file has in common: frozen, no unknown key, the text under a key is its description.

Lives here: the class, the check of a name, the options of one choice. Lives elsewhere: the sections (config and the
files beside it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from scmf.core import registry
from scmf.core.errors import ConfigError


class Section(BaseModel):
    """Common rules: frozen, no unknown key, the docstring under a key is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def known(kind: str) -> AfterValidator:
    """A validator that takes only names that `scmf.core.registry` knows; an alias becomes what it stands for."""

    def check(name: str) -> str:
        try:
            return registry.check(kind, name)
        except ConfigError as error:
            said = error.fix if "would run" in error.found else f"is unknown: {error.fix}"
            raise ValueError(f"{error.found}{';' if said == error.fix else ''} {said}") from error

    return AfterValidator(check)


def check_options(given: dict[str, Any], sections: Mapping[str, type[Section]], *, choice: str) -> dict[str, Any]:
    """The ``options`` that belong to one choice (a strategy, an architecture, an objective), checked.

    Parameters
    ----------
    given
        Keys and values of ``options``.
    sections
        Name of a choice -> the section of its options; a name that is not there has none.
    choice
        The name chosen beside ``options``.

    Returns
    -------
    dict
        The given keys with values of the right type. Defaults are left out, so that the digest of a recipe does not
        move when a choice learns an option.
    """
    section = sections.get(choice, Section)
    try:
        return section.model_validate(given).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        keys = sorted(section.model_fields)
        lines = []
        for item in error.errors(include_url=False):
            name = ".".join(map(str, item["loc"]))
            if item["type"] == "extra_forbidden":
                hint = registry.did_you_mean(name, keys) if keys else f"{choice} has no options"
                lines.append(f"unknown option {name!r} of {choice}: {hint}")
            else:
                lines.append(
                    f"option {name} of {choice}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r})"
                )
        raise ValueError("\n  ".join(lines)) from error


def with_defaults(given: dict[str, Any], sections: Mapping[str, type[Section]], choice: str) -> dict[str, Any]:
    """All options of a choice: the given ones and the defaults of the others."""
    return sections.get(choice, Section).model_validate(given).model_dump(mode="json")


def options_schema(sections: Mapping[str, type[Section]]) -> dict[str, Any]:
    """JSON schema of ``options``: those of any choice; which of them belong together is checked on load."""
    properties: dict[str, Any] = {}
    for choice, section in sections.items():
        for name, part in section.model_json_schema()["properties"].items():
            text = f"{choice}: {part.get('description', '')}"
            known_part = properties.setdefault(name, {"description": text})
            if known_part["description"] != text:
                known_part["description"] += f"\n{text}"
    return {"properties": dict(sorted(properties.items())), "additionalProperties": False}
