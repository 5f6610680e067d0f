"""YAML 1.2: scalars, keys, and the errors of what is not YAML."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import ConfigError
from scmf.core.yaml import load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # What YAML 1.1 makes something else of.
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("NO", "NO"),
        ("1e-4", 1e-4), ("1e5", 1e5), ("2E+3", 2e3), ("012", 12), ("0o17", 15), ("0x1F", 31), ("-0", 0),
        ("12:30", "12:30"), ("190:20:30", "190:20:30"), ("1_000", "1_000"), ("0b11", "0b11"),
        ("2024-08-16", "2024-08-16"), ("<<", "<<"), ("=", "="),
        # What both agree on.
        ("true", True), ("False", False), ("TRUE", True), ("tRUE", "tRUE"),
        ("null", None), ("~", None), ("", None), ("Null", None), ("nULL", "nULL"),
        ("1", 1), ("+1", 1), ("-7", -7), (".5", 0.5), ("5.", 5.0), ("-1.5e-3", -1.5e-3), ("1.2.3", "1.2.3"),
        (".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf),
        ("'1e-4'", "1e-4"), ('"true"', "true"), ("e5", "e5"), (".", "."), ("-", [None]), ("1e", "1e"),
        ("[a, no, 1e-3]", ["a", "no", 1e-3]), ("{no: 1}", {"no": 1}),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text, value):
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_is_a_number(text):
    assert math.isnan(load_yaml(text))


@pytest.mark.parametrize("text", ["a: 1\na: 2", "{a: 1, b: {c: 1, c: 2}}", "- x: 1\n  x: 1", "1: a\n0x1: b"])
def test_a_key_that_stands_twice_is_refused(text):
    with pytest.raises(ConfigError, match="stands twice"):
        load_yaml(text, where="my.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- a", "'open", "!!python/object:os.system {}", "!!int x"])
def test_what_is_not_yaml_is_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert caught.value.where == str(path)
    assert caught.value.fix


def test_a_file_that_is_no_text_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"cells\.h5ad"):
        load_yaml(tmp_path / "cells.h5ad")


def test_a_number_too_long_to_read_is_an_error():
    with pytest.raises(ConfigError, match="not YAML"):
        load_yaml("9" * 5000)


def test_no_such_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="folder"):
        load_yaml(tmp_path)


@given(st.text(alphabet="ab01.-+eoxX:{}[],&*!|>'\"#%?~ \n", max_size=25))
def test_any_text_is_a_value_or_a_config_error(text):
    try:
        load_yaml(text)
    except ConfigError as error:
        assert error.where == "YAML text"
