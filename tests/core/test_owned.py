"""Folders: replaced as a whole when they are ours, never when they are not; checksums; locks; temporary files."""

import os
import socket
import subprocess
import sys

import pytest

from scmf.core import manifest
from scmf.core.errors import DataError, ModelError, TrainingError
from scmf.core.files import write_text
from scmf.core.locks import one_writer
from scmf.core.owned import new_folder, refuse_replacing


def make(path, text="one", name="model.safetensors"):
    with new_folder(path) as part:
        (part / name).write_text(text)
        manifest.seal(part)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_ours_is_replaced_and_what_others_put_there_stays(tmp_path):
    path = tmp_path / "model"
    make(path, name="old.safetensors")
    (path / "sub").mkdir()
    (path / "sub" / "mine.txt").write_text("mine")
    make(path, "two")
    assert names(path) == ["checksums.json", "model.safetensors", "sub/mine.txt"]
    assert manifest.damage(path) == [] and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_others_and_a_file_are_refused_and_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    (tmp_path / "b").write_text("mine")
    (tmp_path / "c").mkdir()
    for name in "ab":
        with pytest.raises(ModelError, match="did not write|a file"):
            make(tmp_path / name)
        with pytest.raises(DataError):
            refuse_replacing(tmp_path / name, error=DataError)
    make(tmp_path / "c")
    assert (tmp_path / "a" / "thesis.txt").read_text() == (tmp_path / "b").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_an_error_leaves_what_was_there(tmp_path):
    make(tmp_path / "m", "one")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "m") as part:
        (part / "x").write_text("half")
        _ = 1 / 0
    assert (tmp_path / "m" / "model.safetensors").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    make(tmp_path / "disk" / "m")
    (tmp_path / "m").symlink_to(tmp_path / "disk" / "m")
    make(tmp_path / "m", "two")
    assert (tmp_path / "m").is_symlink() and (tmp_path / "disk/m/model.safetensors").read_text() == "two"


def test_two_at_once_are_refused(tmp_path):
    with new_folder(tmp_path / "m"), pytest.raises(ModelError, match="is writing here"):
        make(tmp_path / "m")
    with (
        one_writer(tmp_path / "x", "training"),
        pytest.raises(TrainingError, match=f"training, process {os.getpid()}"),
        one_writer(tmp_path / "x", "training"),
    ):
        pass
    with one_writer(tmp_path / "x", "training"):
        pass


def test_damage_is_named_by_what_the_file_holds(tmp_path):
    make(tmp_path / "m", name="gene_medians.json")
    (tmp_path / "m" / "gene_medians.json").write_text("two")
    (tmp_path / "m" / "notes.txt").write_text("fine")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    said = [str(one) for one in manifest.damage(tmp_path / "m")]
    assert said[0].startswith("gene medians (gene_medians.json): changed since") and len(said) == 2
    assert said[1] == "file tokenizer.json: added since the folder was saved"


def test_temporary_files_of_dead_processes_are_swept_and_those_of_others_are_not(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    host = socket.gethostname()
    gone = tmp_path / f".a.json.{host}-{int(done.stdout)}-abcdefgh.json"
    kept = [
        tmp_path / f".a.json.{host}-{os.getpid()}-abcdefgh.json",
        tmp_path / f".b.json.{host}-{int(done.stdout)}-abcdefgh.json",
        tmp_path / ".a.json.mine.json",
    ]
    for path in (gone, *kept):
        path.write_text("x")
    write_text(tmp_path / "a.json", "{}")
    assert not gone.exists() and all(path.exists() for path in kept)
