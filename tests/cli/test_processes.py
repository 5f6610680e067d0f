"""`scmf train` starts the processes that a configuration asks for, and says what is there when it cannot."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from scmf.cli.main import app
from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError
from scmf.models.checkpoint import load_run_model
from scmf.training import processes
from scmf.training.processes import start
from tests import ROOT
from tests.conftest import synthetic_cells

CONFIG = {
    "data": {"files": ["cells.h5ad"]},
    "tokenizer": {"min_cells": 5, "max_length": 40},
    "model": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16},
    "training": {"max_epochs": 1, "batch_size": 8},
    "eval": {"benchmarks": []},
}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(ROOT), "SCMF_RANK_TIMEOUT": "300",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    synthetic_cells(70).write_h5ad(folder / "cells.h5ad")
    (folder / "my.yaml").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No process of a run, and no GPU; as before afterwards."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def scmf(folder, *arguments, launcher=("-m", "scmf")):
    command = [sys.executable, *launcher, *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=600
    )


def refused(folder, *overrides):
    """The error of ``scmf train`` with overrides."""
    words = [word for text in overrides for word in ("--set", text)]
    done = CliRunner().invoke(app, ["train", "--config", str(folder / "my.yaml"), "--out", str(folder / "no"), *words])
    assert isinstance(done.exception, ConfigError) and not (folder / "no").exists()
    return str(done.exception)


@pytest.mark.slow
def test_train_starts_its_processes_and_the_sharded_model_loads_in_one(folder):
    train = ("train", "--config", "my.yaml", "--json", "--quiet")
    two = scmf(folder, *train, "--out", "two", "--set", "training.num_processes=2", "--set", "training.strategy=fsdp")
    assert two.returncode == 0, two.stderr[-3000:]
    answer = json.loads(two.stdout)  # one answer
    assert answer["steps"] == 5 and answer["processes"] == 2 and answer["cells_per_step"] == 16
    one = CliRunner().invoke(
        app, ["train", "--config", str(folder / "my.yaml"), "--out", str(folder / "one"), "--quiet", "--json",
              "--set", f"data.files=[{folder}/cells.h5ad]", "--set", "training.gradient_accumulation=2"],
        catch_exceptions=False,
    )  # fmt: skip
    assert json.loads(one.stdout)["processes"] == 1
    models = [load_run_model(folder / name)[0].state_dict() for name in ("two", "one")]
    for name, tensor in models[1].items():
        assert torch.allclose(models[0][name], tensor, atol=1e-5), name


@pytest.mark.nightly  # of a process that is lost, test_other_number sees one error and its exit code
def test_an_error_of_the_processes_is_told_once_with_its_exit_code(folder):
    done = scmf(
        folder, "train", "--config", "my.yaml", "--out", "bad", "--quiet", "--set", "data.files=[none.h5ad]", "--set",
        "training.num_processes=2",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("found:") == 1 and "none.h5ad" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.nightly
def test_accelerate_launch_works(folder, monkeypatch):
    launcher = (
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "scmf",
    )  # fmt: skip
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    train = ("train", "--config", "my.yaml", "--out", "accelerate", "--json", "--quiet")
    done = scmf(folder, *train, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["processes"] == 2


@pytest.mark.parametrize(
    ("asked", "gpus", "found", "runs"),
    [
        (("num_gpus=4",), 0, "training.num_gpus 4, and this machine has no GPU", "num_gpus=0 num_processes=1"),
        (("num_gpus=4",), 2, "this machine has 2 GPUs", "num_gpus=2"),
        (("num_nodes=2",), 0, "this is one node", "num_nodes=1"),
        (("num_nodes=2",), 2, "this is one node", "num_nodes=1"),
        (("num_gpus=4", "num_nodes=2"), 0, "one node that knows of no other; this machine has no GPU",
         "num_gpus=0 num_processes=1 num_nodes=1"),
        (("num_gpus=4", "num_nodes=2"), 4, "one node that knows of no other", "num_nodes=1"),
        (("num_processes=99",), 0, "training.num_processes 99, and this machine has 3 processor", "num_processes=3"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_error_whose_overrides_run(folder, monkeypatch, asked, gpus, found, runs):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(processes, "_processors", lambda: 3)
    overrides = [f"training.{text}" for text in asked]
    said = refused(folder, *overrides)
    assert found in said and said.count("found:") == 1
    named = re.findall(r"--set (training\.\S+?)[,;]?(?=\s|$)", said.split("fix:")[-1].split("for several nodes")[0])
    assert " ".join(named) == " ".join(f"training.{text}" for text in runs.split())
    launched = []
    monkeypatch.setattr(processes, "_launch", lambda per_node, *_: launched.append(per_node) or 0)
    config = load_recipe(str(folder / "my.yaml"), overrides=(*overrides, *named)).config
    start(config.training, [])
    assert launched in ([], [2], [3], [4])


@pytest.mark.parametrize(
    ("overrides", "found", "fix"),
    [
        (("training.num_gpus=2", "training.num_processes=2"), "num_gpus 2 and num_processes 2", "one of the two"),
        (("training.strategy=fdsp",), "training.strategy", "did you mean 'fsdp'"),
        (("training.num_gpus=-1",), "training.num_gpus", "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_requests_that_contradict_themselves_are_one_error(folder, overrides, found, fix):
    said = refused(folder, *overrides)
    assert found in said and fix in said


@pytest.mark.parametrize(
    ("asked", "gpus", "found", "runs"),
    [
        ("num_processes=4", 0, "4 process(es), 2 on this node", ["num_processes=2", "num_nodes=2"]),
        ("num_gpus=4", 0, "2 on this node; this machine has no GPU", ["num_gpus=0", "num_processes=2", "num_nodes=2"]),
        ("num_gpus=4", 2, "4 process(es), 2 on this node", ["num_gpus=2", "num_nodes=2"]),
        ("seed=1", 1, "this machine has 1 GPU", ["num_processes=2", "num_nodes=2"]),
    ],
)
def test_processes_that_others_started_are_held_against_the_request(folder, monkeypatch, asked, gpus, found, runs):
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    said = refused(folder, f"training.{asked}")
    overrides = [f"training.{text}" for text in runs]
    assert found in said and " ".join(f"--set {text}" for text in overrides) in said
    config = load_recipe(str(folder / "my.yaml"), overrides=(f"training.{asked}", *overrides)).config
    assert start(config.training, []) is None


def test_processes_know_who_started_them_and_keep_away_from_the_folder(folder, monkeypatch):
    """A file ``torch.py`` beside the configuration is not theirs, where it is not that of this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
    seen = []

    def launch(config, python):
        return lambda *words: seen.append((config.nproc_per_node, python, words, os.environ["SCMF_STARTED_BY"]))

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launch)
    words = ["train", "--config", "my.yaml", "--out", "never", "--set", "training.num_processes=2", "--seed", "3"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert seen == [(
        2, sys.executable,
        ("-P", "-m", "scmf", "train", "--config", "my.yaml", "--out", "never", "--set", "training.num_processes=2",
         "--set", "training.seed=3"),
        str(os.getpid()),
    )]  # fmt: skip
    assert "SCMF_STARTED_BY" not in os.environ


def test_nodes_of_srun_are_held_against_the_request(folder, monkeypatch):
    for name, value in {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert "--set training.num_nodes=2" in refused(folder, "training.num_nodes=3")


@pytest.mark.parametrize(
    "words", [("reproduce", "geneformer", "--runs", "no"), ("sweep", "--tokenizers", "binned", "--model", "scgpt")]
)
def test_verbs_that_train_in_their_own_process_refuse_several(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "--set", "training.num_processes=2"])
    assert isinstance(done.exception, ConfigError) and "one process" in str(done.exception)
    assert not list(tmp_path.iterdir())
