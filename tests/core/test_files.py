"""Atomic writing and sums."""

import hashlib
import json
import math
import os

import pytest

from scmf.core.files import atomic_path, sha256_file, sha256_json, write_json, write_text

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
