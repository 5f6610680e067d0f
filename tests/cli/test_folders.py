"""Through the command line: the files of others stay, one writer a folder, leftovers are swept."""

import shutil
import socket
import sys
from pathlib import Path

import pytest

from scmf.core.locks import one_writer
from tests.fixtures.commands import everything


# --- nobody's files ---------------------------------------------------------------------
@pytest.mark.parametrize("name", ["model", "pretraining", "run.json"])
def test_train_leaves_the_files_of_others_alone(tmp_path, again, name):
    out = tmp_path / "mine"
    if name == "run.json":
        out.mkdir()
        (out / name).write_text('{"speed": 3}')
    else:
        (out / name).mkdir(parents=True)
        (out / name / "thesis.txt").write_text("years of work")
    before = everything(out)
    code, said = again(out)
    assert code in (2, 4) and "did not write" in said, said
    assert everything(out) == before


def test_a_strangers_model_beside_a_run_json_of_ours_is_kept(run, again):
    shutil.rmtree(run / "model")
    (run / "model").mkdir()
    (run / "model" / "thesis.txt").write_text("years of work")
    code, said = again(run)
    assert code == 4 and "did not write" in said
    assert (run / "model" / "thesis.txt").read_text() == "years of work"


def test_what_others_put_into_a_model_of_ours_stays_in_it(run, again):
    (run / "model" / "plots").mkdir()
    (run / "model" / "plots" / "mine.png").write_text("mine")
    (run / "model" / "notes.txt").write_text("mine")
    (run / "slurm.out").write_text("mine")
    assert again(run)[0] == 0
    kept = everything(run)
    assert [str(p) for p, data in kept.items() if data == b"mine"] and sum(d == b"mine" for d in kept.values()) == 3


def test_compare_leaves_the_files_of_others_alone(tmp_path, command):
    for name in ("README.md", "index.html", "leaderboard.csv"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("mine")
        code, said = command("compare", "geneformer", "--out", out, "--quiet")
        assert code == 2 and "did not write" in said
        assert everything(out).popitem()[1] == b"mine"
    out = tmp_path / "pages"
    (out / "plots").mkdir(parents=True)
    (out / "plots" / "mine.png").write_bytes(b"mine")
    assert command("compare", "geneformer", "--out", out, "--quiet")[0] == 0
    assert command("compare", "geneformer", "--out", out, "--quiet")[0] == 0
    assert (out / "plots" / "mine.png").read_bytes() == b"mine"


def test_sweep_leaves_the_files_of_others_alone(tmp_path, toy_env, command):
    (tmp_path / "sweep.md").write_text("mine")
    code, said = command(
        "sweep", "--tokenizers", "rank_value", "--model", "transformer_encoder", "--config", toy_env / "recipe.yaml",
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 2 and "did not write" in said and (tmp_path / "sweep.md").read_text() == "mine"


def test_reproduce_leaves_pages_of_others_alone(tmp_path, toy_env, command):
    (tmp_path / "toy.md").write_text("mine")
    code, said = command(
        "reproduce", toy_env / "recipe.yaml", "--tier", "mini", "--reports", tmp_path, "--runs", tmp_path / "r",
        "--results", tmp_path / "l",
    )  # fmt: skip
    assert code == 2 and "did not write" in said and everything(tmp_path) == {Path("toy.md"): b"mine"}


# --- processes ---------------------------------------------------------------------
def test_a_second_train_on_one_folder_is_refused_while_the_first_runs(run, again, command):
    before = everything(run)
    with one_writer(run, "scmf train"):
        code, said = again(run)
    assert code == 5 and "is writing here" in said and "scmf train, process" in said
    assert {k: v for k, v in everything(run).items() if k.name != ".scmf-lock"} == {
        k: v for k, v in before.items() if k.name != ".scmf-lock"
    }
    assert again(run)[0] == 0


def test_leftovers_of_a_killed_run_are_swept(run, again, trained):
    for name in (".model.scmf-part", ".model.scmf-old"):
        shutil.copytree(run / "model", run / name / "model")
    (run / ".run.json.elsewhere-1-abcdefgh.json").write_text("{}")  # of another machine: nobody can tell
    left = run / f".run.json.{socket.gethostname()[:64]}-4194000-abcdefgh.json"
    left.write_text("{}")
    assert again(run)[0] == 0
    assert sorted(path.name for path in run.iterdir()) == [
        ".run.json.elsewhere-1-abcdefgh.json", ".scmf-lock", "model", "pretraining", "run.json",
    ]  # fmt: skip


def test_a_model_that_was_being_replaced_when_the_run_was_killed_is_put_back(run, again):
    (run / "model" / "notes.txt").write_text("mine")
    (run / "model").rename(run / ".model.scmf-old")
    assert again(run)[0] == 0
    assert (run / "model" / "notes.txt").read_text() == "mine" and not (run / ".model.scmf-old").exists()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK 2 of WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT is not set"),
    ],
)
def test_an_environment_of_several_processes_that_lacks_something_is_one_error(
    tmp_path, again, monkeypatch, environment, named
):
    monkeypatch.setattr("scmf.core.distributed.leave", lambda code: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SCMF_RANK_TIMEOUT", "2")
    stdout = sys.stdout
    try:
        code, said = again(tmp_path / "out")
    finally:
        sys.stdout = stdout
    assert code == 5 and named in said and said.count("found:") == 1


def test_a_rank_alone_in_the_environment_does_not_make_a_run_write_nothing(tmp_path, again, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert again(tmp_path / "out")[0] == 0 and (tmp_path / "out/model/model.safetensors").is_file()
