"""Atomic writing, sums, YAML 1.2, and the folders of shipped files."""

import hashlib
import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core import files
from scmf.core.errors import ConfigError
from scmf.core.files import atomic_path, cache_dir, load_yaml, sha256_file, sha256_json, shipped, write_json, write_text

# --- atomic writing -------------------------------------------------------------------------------


def test_the_file_appears_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "deep" / "er" / "table.tsv.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_stands_and_nothing_is_left_behind(tmp_path, error):
    path = write_text(tmp_path / "a.json", "old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"loss": math.nan})
    assert json.loads(path.read_text()) == {"loss": 1.0}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = write_text(tmp_path / "a.txt", "text")
        plain = tmp_path / "plain.txt"
        plain.write_text("text")
        assert os.umask(umask) == umask, "writing must not change the mask of the process"
    finally:
        os.umask(before)
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_writer_that_removes_and_makes_its_file_is_served(tmp_path):
    with atomic_path(tmp_path / "a.bin") as temporary:
        temporary.unlink()
        temporary.write_bytes(b"made anew")
    assert (tmp_path / "a.bin").read_bytes() == b"made anew"


def test_text_is_utf8_whatever_the_locale_says(tmp_path):
    assert write_text(tmp_path / "a.txt", "µ — β").read_bytes() == "µ — β".encode()


def test_equal_content_is_an_equal_json_file(tmp_path):
    one = write_json(tmp_path / "1.json", {"b": 1, "a": [1.5, None]})
    two = write_json(tmp_path / "2.json", {"a": [1.5, None], "b": 1})
    assert one.read_bytes() == two.read_bytes()


# --- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_sha256_of_a_value_is_that_of_its_canonical_text():
    # printf '%s' '{"a":[1,2.5,null],"b":"µ"}' | sha256sum
    digest = hashlib.sha256('{"a":[1,2.5,null],"b":"µ"}'.encode()).hexdigest()
    assert sha256_json({"b": "µ", "a": (1, 2.5, None)}) == digest


def test_a_value_without_json_has_no_sum():
    with pytest.raises(ValueError, match="JSON compliant"):
        sha256_json({"loss": math.inf})


# --- YAML 1.2 -------------------------------------------------------------------------------------


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


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder elsewhere, as if files.py had been imported from it."""
    folder = tmp_path / "place" / "scmf"
    for kind in ("recipes", "datasets"):
        (folder / "_shipped" / kind).mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(folder / "core" / "files.py"))
    return folder


def test_a_checkout_reads_its_recipes_and_cards_live(package):
    (package.parent / "pyproject.toml").touch()
    for kind in ("recipes", "datasets"):
        (package.parent / kind).mkdir()
        assert shipped(kind) == package.parent / kind


def test_a_wheel_reads_what_travels_in_it(package):
    # site-packages may hold a foreign folder called datasets: the library of that name
    (package.parent / "datasets").mkdir()
    assert shipped("datasets") == package / "_shipped" / "datasets"


def test_the_tests_run_on_the_checkout():
    assert (shipped("recipes") / "geneformer" / "recipe.yaml").is_file()
    assert (shipped("datasets") / "pancreas.yaml").is_file()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"SCMF_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/scmf"),
        ({"HOME": "/c"}, "/c/.cache/scmf"),
    ],
)
def test_where_fetched_files_are_kept(monkeypatch, environment, wanted):
    for name in ("SCMF_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(cache_dir()) == wanted


@pytest.mark.parametrize(("name", "function"), [("SCMF_DATA_DIR", "data_dir"), ("SCMF_REFERENCE_DIR", "reference_dir")])
def test_an_unset_or_empty_folder_is_none(monkeypatch, name, function):
    monkeypatch.setenv(name, "")
    assert getattr(files, function)() is None
    monkeypatch.delenv(name)
    assert getattr(files, function)() is None
    monkeypatch.setenv(name, "/somewhere")
    assert str(getattr(files, function)()) == "/somewhere"
