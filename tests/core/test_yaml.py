"""YAML 1.2: scalars, keys, what is written, and the errors of what is not YAML."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import ConfigError
from scmf.core.yaml import dump_yaml, load_yaml


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


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a: 1\na: 2", "a", 2), ("b:\n  c: 1\n\n  c: 2", "c", 4), ("{a: 1, b: {c: 1, c: 2}}", "c", 1),
        ("- x: 1\n  x: 1", "x", 2), ("1: a\n0x1: b", "1", 2),
    ],
)  # fmt: skip
def test_a_duplicate_key_is_refused_with_its_line(text, key, line):
    with pytest.raises(ConfigError, match=rf"duplicate key '{key}', line {line}\b") as caught:
        load_yaml(text, where="my.yaml")
    assert caught.value.where == "my.yaml"
    assert caught.value.fix


@pytest.mark.parametrize(("text", "line"), [("a: 1\nb: [1\nc: 2", 3), ("a: 1\nb: c: d", 2), ("a: 1\n\t- b", 2)])
def test_what_is_not_yaml_names_the_line(text, line):
    with pytest.raises(ConfigError, match=rf"(?s)not YAML: .*line {line}\b"):
        load_yaml(text)


# --- writing --------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=30)


@given(st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3)))
def test_what_is_written_reads_back_equal(value):
    assert load_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize(
    "text", ["no", "1e5", "1e-05", "012", "0o7", "12:30", "2024-08-16", "1_000", "=", "~", "true", "1.2.3"]
)
def test_readers_of_yaml_1_1_read_the_same(text):
    written = dump_yaml({"text": text, "rate": 1e-5})
    assert yaml.safe_load(written) == load_yaml(written) == {"text": text, "rate": 1e-5}


def test_long_lines_are_folded_without_blanks_at_their_ends():
    value = {"note": "word " * 60 + "end", "quoted": "it's: " + "word " * 60 + "end"}
    written = dump_yaml(value)
    assert load_yaml(written) == value
    assert all(line == line.rstrip() and len(line) <= 105 for line in written.splitlines())


def test_a_dict_used_twice_is_written_once():
    shared = {"digest": "abc"}
    written = dump_yaml([{"with": shared}, {"with": shared}])
    assert written.count("digest") == 1
    assert load_yaml(written) == [{"with": shared}, {"with": shared}]


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


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "x: " + "[" * 300_000, "x: " + "{a: " * 3000, "- " * 9999, "".join(" " * i + "a:\n" for i in range(999)),
        "a: &l [*l]", LAUGHS,
    ],
    ids=["flow", "mapping", "sequence", "block", "loop", "laughs"],
)  # fmt: skip
def test_what_is_nested_without_end_is_one_error(text):
    with pytest.raises(ConfigError, match="nested more than"):
        load_yaml(text)


@pytest.mark.parametrize(
    "text", ["? [a]\n: 1\n? {b: 1}\n: 2", "!!bool x", "!!int x", "!!timestamp x", "<<: *a", "%YAML 9"]
)
def test_what_the_parser_stumbles_over_is_one_error(text):
    with pytest.raises(ConfigError, match="not YAML"):
        load_yaml(text)
