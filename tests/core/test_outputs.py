"""Outputs are tried before the work, and nothing is left behind or touched by that."""

import errno
import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from scmf.core import kernels
from scmf.core.errors import ConfigError, ResourceError, resource_error
from scmf.core.files import write_text
from scmf.core.outputs import try_file, try_folder


def left(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_place_that_can_be_written_to_passes_and_stays_as_it_was(tmp_path):
    (tmp_path / "old.txt").write_text("old")
    for path in (tmp_path / "new.txt", tmp_path / "a" / "b" / "new.txt", tmp_path / "old.txt"):
        assert try_file(path, option="--out") == path
        assert try_folder(path.parent, option="--out") == path.parent
    assert left(tmp_path) == ["old.txt"] and (tmp_path / "old.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("file/x.txt", "a file where a folder is needed"),
        ("file/deep/x.txt", "a file where a folder is needed"),
        ("folder", "a folder"),
        ("x" * 300, "too long"),
        ("x" * 300 + "/y.txt", "too long"),
        ("dangling/x.txt", "no such file or folder"),
        ("loop/x.txt", "no such file or folder|circle"),
        ("/proc/x/y.txt", "no such file or folder|no permission"),
        ("/dev/full", "neither a file nor a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_with_its_option(tmp_path, name, found):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ResourceError, match=found) as error:
        try_file(tmp_path / name, option="--out")
    assert "--out" in str(error.value.where)


def test_a_folder_that_is_a_file_or_an_input_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a file where a folder is needed"):
        try_folder(tmp_path / "file", option="--out")
    with pytest.raises(ConfigError, match="output is the input"):
        try_folder(tmp_path, option="--out", inputs=[tmp_path / "."])
    (tmp_path / "link").hardlink_to(tmp_path / "file")
    with pytest.raises(ConfigError, match="output is the input"):
        try_file(tmp_path / "link", option="--out", inputs=[tmp_path / "file"])


@pytest.mark.parametrize("name", ["", " ", "a\0b", "s3://bucket/x?token=secret"])
def test_a_name_that_is_none_is_refused_and_keeps_secrets(name):
    with pytest.raises(ConfigError) as error:
        try_file(name, option="--out")
    assert "secret" not in str(error.value)


def test_endings_are_those_of_the_format(tmp_path):
    assert try_file(tmp_path / "a.h5ad", option="-o", endings=(".h5ad",))
    with pytest.raises(ConfigError, match="ends in .h5ad"):
        try_file(tmp_path / "a.zarr", option="-o", endings=(".h5ad",))


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(5_000_000))
    try_file(tmp_path / "a", option="--out", need=4_000_000)
    with pytest.raises(ResourceError, match=r"5.0 MB free(.|\n)*about 2.0 GB"):
        try_file(tmp_path / "a", option="--out", need=2_000_000_000)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.ENOSPC, "no space left")]
)
def test_a_folder_that_takes_no_file_is_refused(tmp_path, monkeypatch, number, words):
    def refuse(**_):
        raise OSError(number, os.strerror(number), "/somewhere/.scmf-probe")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    for attempt in (lambda: try_file(tmp_path / "x", option="--out"), lambda: try_folder(tmp_path, option="--out")):
        with pytest.raises(ResourceError, match=words) as error:
            attempt()
        assert "probe" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "ro").mkdir(mode=0o555)
    with pytest.raises(ResourceError, match="no permission"):
        try_file(tmp_path / "ro" / "x", option="--out")


# --- errors of the system and of libraries ----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "/x"), "no space left on the disk"),
        (OSError(30, "Read-only file system", "/x"), "read-only"),
        (PermissionError(13, "Permission denied", "/x"), "no permission"),
        (MemoryError("Unable to allocate 3 TiB"), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    ],
)
def test_an_error_of_the_system_is_told_in_words(error, words):
    assert words in str(resource_error(error))


def test_errors_of_libraries_are_told_and_faults_of_ours_are_not():
    from safetensors import SafetensorError

    assert resource_error(SafetensorError("header too large")) is not None
    assert resource_error(KeyError("x")) is None
    assert "'/x'" not in str(resource_error(OSError(28, "", "/x"))) and "/x" in str(
        resource_error(OSError(28, "", "/x"))
    )


def test_a_name_as_long_as_the_file_system_allows_and_one_that_is_no_text_are_written(tmp_path):
    assert write_text(tmp_path / ("x" * 250 + ".json"), "a").read_text() == "a"
    name = os.fsdecode(b"caf\xe9.txt")
    assert write_text(tmp_path / name, f"about {name}").read_text() == "about caf\\udce9.txt"


# --- compiled kernels -------------------------------------------------------------------------------


def test_kernels_without_a_writable_folder_get_one_of_this_process(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(kernels, "_can_write", lambda folder: False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/x")
    from numba import config

    monkeypatch.setattr(config, "CACHE_DIR", "")
    made = kernels.ensure_cache(tmp_path)
    assert made is not None and made.is_dir() and (made.stat().st_mode & 0o77) == 0
    assert os.environ["NUMBA_CACHE_DIR"] == str(made) == config.CACHE_DIR
    assert "NUMBA_CACHE_DIR" in caplog.text
    shutil.rmtree(made)


def test_kernels_with_a_writable_folder_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert kernels.ensure_cache(Path("/proc")) is None
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert kernels.ensure_cache(tmp_path) is None
    assert left(tmp_path) == []
