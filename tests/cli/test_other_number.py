"""A streamed run loses a process of two, which ends the other; it goes on with its batches on four and on one."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from scmf.cli.main import app
from scmf.models.checkpoint import load_run_model
from tests.cli.test_processes import CONFIG, ENVIRONMENT
from tests.conftest import synthetic_cells
from tests.fixtures import forked
from tests.fixtures.forked import finished, ranks

STEPS, LOST = 40, 7
"""8 epochs of 5 steps, each of two batches; checkpoints of which the last that is kept is in the second epoch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    synthetic_cells(70).write_h5ad(folder / "cells.h5ad")
    config = {
        **CONFIG,
        "data": {"files": ["cells.h5ad"], "stream": {"block_cells": 4, "buffer_blocks": 4}},
        "model": {**CONFIG["model"], "dropout": 0.0, "attention_dropout": 0.0},
        "training": {
            "max_epochs": 8, "batch_size": 8, "checkpoint_every_n_steps": 1, "keep_checkpoints": 99, "eps": 1e-4,
        },
        "eval": {"every_n_epochs": 0, "benchmarks": []},
    }  # fmt: skip
    (folder / "my.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def lost(folder):
    """The run of two processes, one of which was killed."""
    run = folder / "lost"
    started = start(folder, run, 2)
    last = run / f"pretraining/checkpoints/step-{LOST:08d}"
    until = time.monotonic() + 240
    while not last.exists() and started.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    both = children(started.pid)
    os.kill(both[1], 9)
    killed = time.monotonic()
    answer, said = started.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert len(both) == 2 and not any(map(is_there, both))
    assert started.returncode == 5 and "Traceback" not in said
    assert "of 2 was ended by SIGKILL" in json.loads(answer)["found"]  # one error, as JSON
    for path in run.glob("pretraining/checkpoints/step-*"):
        if path.name > last.name:
            shutil.rmtree(path)
    # the same cells in another file
    shutil.copy(folder / "cells.h5ad", folder / "copy.h5ad")
    (folder / "copy.h5ad").replace(folder / "cells.h5ad")
    return run


@pytest.fixture(scope="module")
def whole(folder):
    """The run that nothing interrupted, in one process with steps of as many batches."""
    with pytest.MonkeyPatch.context() as patch:
        return here(folder, folder / "whole", patch, "training.gradient_accumulation=2")


def command(out, *overrides):
    words = [word for text in overrides for word in ("--set", text)]
    return ["train", "--config", "my.yaml", "--json", "--quiet", "--out", str(out), *words]


def start(folder, out, n_processes):
    words = [sys.executable, "-m", "scmf", *command(out, f"training.num_processes={n_processes}")]
    environment = {**os.environ, **ENVIRONMENT}
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def here(folder, out, patch, *overrides):
    """The run in this process."""
    patch.chdir(folder)
    patch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = CliRunner().invoke(app, command(out, *overrides), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def children(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return sorted(map(int, found.stdout.split()))


def is_there(pid):
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:1] not in ("", "Z")


def same(run, whole):
    """The steps of two runs, and their weights."""
    logs = [
        [json.loads(line) for line in (out / "pretraining/log.jsonl").read_text().splitlines()] for out in (run, whole)
    ]
    assert [line["step"] for line in logs[0]] == list(range(1, STEPS + 1))
    for ours, theirs in zip(*logs, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), ours
    weights = [load_run_model(out)[0].state_dict() for out in (run, whole)]
    for name, tensor in weights[1].items():
        assert torch.allclose(weights[0][name], tensor, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [4, 1])
def test_it_goes_on_with_its_batches_on_another_number(folder, lost, whole, monkeypatch, n_processes):
    run = shutil.copytree(lost, folder / f"on{n_processes}")
    if n_processes == 1:
        here(folder, run, monkeypatch)
    else:
        words = command(run, f"training.num_processes={n_processes}")
        said = finished(ranks(forked.command, *words, size=n_processes, folder=folder))
        found = json.loads("".join(said))
        assert (found["processes"], found["cells_per_step"], found["resumed_from"]) == (n_processes, 16, LOST)
    same(run, whole)


@pytest.mark.nightly
def test_a_number_that_does_not_divide_the_cells_of_a_step_is_one_error(folder, lost):
    again = start(folder, lost, 3)
    answer, _ = again.communicate(timeout=300)
    error = json.loads(answer)
    assert again.returncode == 5 and "3 processes, for a run whose steps are of 16 cells" in error["found"]
    assert "resume with 2 process(es)" in error["do"]
