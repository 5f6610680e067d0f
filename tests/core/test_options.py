"""A class carries its own options: what a file may say of them, their descriptions, rules between them."""

from dataclasses import dataclass, field, fields

import pytest
from pydantic import ValidationError

from scmf.core import registry
from scmf.core.config.options import check_options, section_of, with_defaults
from scmf.core.config.run import json_schema

CHOICES = [(kind, name) for kind, options in registry.OPTIONS.items() for name in options]


@dataclass(frozen=True)
class Base:
    """Options of a family."""

    width: int = field(default=2, metadata={"ge": 1})
    """How wide."""


@dataclass(frozen=True)
class Own(Base):
    """Options of one of it."""

    share: float = field(default=0.5, metadata={"gt": 0, "lt": 1})
    """How much."""
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.width == 7:
            raise ValueError("7 is no width")


def test_a_dataclass_becomes_a_section():
    section = section_of(Own)
    assert section().model_dump() == {"width": 2, "share": 0.5, "names": ()}
    found = {name: key.description for name, key in section.model_fields.items()}
    assert found == {"width": "How wide.", "share": "How much.", "names": None}
    for wrong in ({"width": 0}, {"share": 1}, {"share": float("inf")}, {"width": 7}, {"other": 1}, {"width": "x"}):
        with pytest.raises(ValidationError):
            section(**wrong)
    assert section_of(Own) is section and not section_of(None).model_fields


@pytest.mark.parametrize(("kind", "name"), CHOICES)
def test_a_class_carries_the_options_that_a_file_is_checked_with(kind, name):
    options = registry.options_class(kind, name)
    assert registry.resolve(kind, name).Options is options
    schema = json_schema()["$defs"]
    section = {"tokenizers": "TokenizerConfig", "models": "ModelConfig", "objectives": "TrainingConfig"}[kind]
    described = schema[section]["properties"]["options"]["properties"]
    for one in fields(options):
        text = section_of(options).model_fields[one.name].description
        assert text and f"{name}: {text}" in described[one.name]["description"]
    assert with_defaults(kind, name, {}) == section_of(options)().model_dump(mode="json")
    assert check_options(kind, name, {}) == {}


def test_a_class_without_options_says_so():
    assert registry.options_class("tokenizers", "rank_value") is None
    with pytest.raises(ValueError, match="rank_value has no options"):
        check_options("tokenizers", "rank_value", {"seed": 1})


def test_one_bin_is_no_number_of_bins():
    for bins in (0, 2, 51):
        assert check_options("tokenizers", "binned", {"n_bins": bins}) == {"n_bins": bins}
    for bins in (1, -1, 40_000):
        with pytest.raises(ValueError, match="n_bins"):
            check_options("tokenizers", "binned", {"n_bins": bins})
