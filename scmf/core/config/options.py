"""The ``options`` of one choice (a strategy, an architecture, an objective): checked, completed, described.

A class carries its options as ``Options``, a frozen dataclass of the standard library: annotation, default, ranges in
``metadata`` (``ge``, ``gt``, ``le``, ``lt``, ``pattern``), a text under each, rules between them in ``__post_init__``.
What is here makes a section of it when a file is checked or described. Lives elsewhere: the options themselves, in a
light file beside their class (for example tokenizers/binned_options.py), and where that is (core.registry).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import Field, ValidationError, create_model, model_validator

from scmf.core import registry
from scmf.core.config.renamed import RENAMED, current_names
from scmf.core.config.section import Section

_RENAMED = {"models": "model.options"}
"""Kinds with options that were renamed, and where `RENAMED` has them."""


@cache
def section_of(options: Any) -> type[Section]:
    """The section that checks a dataclass of options; a section as it is, one without keys for None."""
    if options is None:
        return Section
    if issubclass(options, Section):
        return options
    hints, texts = get_type_hints(options), _texts(options)
    keys: dict[str, Any] = {}
    for one in fields(options):
        default = {"default_factory": one.default_factory} if one.default is MISSING else {"default": one.default}
        keys[one.name] = (hints[one.name], Field(**default, description=texts.get(one.name), **one.metadata))

    def rules(section: Any) -> Any:
        options(**{name: getattr(section, name) for name in keys})
        return section

    checked: dict[str, Any] = {"rules": model_validator(mode="after")(rules)}
    section: type[Section] = create_model(
        options.__name__, __base__=Section, __doc__=options.__doc__, __validators__=checked, **keys
    )
    return section


def _texts(options: type) -> dict[str, str]:
    """Name of an attribute -> the text under it, in the class and those it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed(options.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, under in zip(body.body, body.body[1:], strict=False):
            text = under.value.value if isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant) else None
            if isinstance(text, str) and isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                found[line.target.id] = inspect.cleandoc(text)
    return found


def check_options(kind: str, choice: str, given: dict[str, Any]) -> dict[str, Any]:
    """The ``options`` that belong to one choice, checked.

    Parameters
    ----------
    kind, choice
        As `scmf.core.registry` takes them.
    given
        Keys and values of ``options``.

    Returns
    -------
    dict
        The given keys with values of the right type. Defaults are left out, so that the digest of a recipe does not
        move when a choice learns an option.
    """
    section = section_of(registry.options_class(kind, choice))
    if kind in _RENAMED and set(given) & set(RENAMED[_RENAMED[kind]]):
        given = current_names(_RENAMED[kind], given)
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


def with_defaults(kind: str, choice: str, given: dict[str, Any]) -> dict[str, Any]:
    """All options of a choice: the given ones and the defaults of the others."""
    return section_of(registry.options_class(kind, choice)).model_validate(given).model_dump(mode="json")


def options_schema(kind: str) -> Callable[[dict[str, Any]], None]:
    """What completes the JSON schema of ``options``: those of any built-in choice.

    Which of them belong together is checked on load. Nothing is imported before a schema is asked for.
    """

    def complete(schema: dict[str, Any]) -> None:
        properties: dict[str, Any] = {}
        for choice in registry.OPTIONS[kind]:
            section = section_of(registry.options_class(kind, choice))
            for name, part in section.model_json_schema()["properties"].items():
                text = f"{choice}: {part.get('description', '')}"
                known_part = properties.setdefault(name, {"description": text})
                if known_part["description"] != text:
                    known_part["description"] += f"\n{text}"
        schema |= {"properties": dict(sorted(properties.items())), "additionalProperties": False}

    return complete
