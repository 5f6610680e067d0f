"""The scripts of docs/how-to/slurm.md, run by stand-ins of sbatch and srun; what srun says is read right."""

import json
import os
import re
import subprocess
import sys

import pytest

from scmf.core import slurm
from scmf.core.errors import TrainingError
from scmf.core.workspace import new_run_folder
from scmf.models.checkpoint import load_run_model
from tests import ROOT
from tests.cli.test_processes import CONFIG, ENVIRONMENT
from tests.conftest import synthetic_cells

SCRIPTS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/how-to/slurm.md").read_text(), re.MULTILINE | re.DOTALL)
STEP = {
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "71", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[03-04]",
}  # fmt: skip


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(0, id="a task for each process"),
        pytest.param(1, id="a task for each node"),
    ],
)
@pytest.mark.nightly  # what srun says is read below; processes of `scmf train` meet in test_processes
def test_a_script_of_the_page_trains_one_model_on_two_processes(tmp_path, number):
    (tmp_path / "bin").mkdir()
    standins = f"exec {sys.executable} {ROOT}/tests/fixtures/slurm_standins.py srun"
    for name, line in (("srun", standins), ("scmf", f"exec {sys.executable} -m scmf")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\n{line} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    text = SCRIPTS[number].replace("num_gpus=4", "num_processes=1")
    if number == 0:  # as many processes as this machine bears; the page has eight
        text = text.replace("--nodes=2", "--nodes=1").replace("--ntasks-per-node=4", "--ntasks-per-node=2")
    (tmp_path / "job.sh").write_text(text)
    synthetic_cells(70).write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "mine.yaml").write_text(json.dumps(CONFIG))
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "tests/fixtures/slurm_standins.py"), "sbatch", "job.sh"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("steps: 5") == 1  # 70 cells, 8 a batch, two batches a step; one answer
    newest = sorted((tmp_path / "runs/mine/pretraining/checkpoints").iterdir())[-1]
    assert json.loads((newest / "progress.json").read_text())["world_size"] == 2
    load_run_model(tmp_path / "runs/mine")


def test_a_task_of_several_on_a_node_is_a_process_of_the_run(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    slurm.adopt()
    found = {name: os.environ[name] for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")}
    assert found == {
        "WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gpu03",
    }  # fmt: skip
    assert 12_000 <= int(os.environ["MASTER_PORT"]) < 32_000
    for name in found:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    slurm.adopt()
    assert "WORLD_SIZE" not in os.environ  # one task a node starts the processes itself


def test_a_batch_script_is_one_process(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert slurm.step() is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,9],login", "gpu03"), ("gpu7", "gpu7"), ("a1,a2", "a1"), ("n[12]-ib", "n12-ib"), ("n[1,4]", "n1")],
)
def test_the_first_node_of_a_list(nodes, first):
    assert slurm.first_host(nodes) == first


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [("SLURM_PROCID", "", "SLURM_PROCID is not set"), ("SLURM_STEP_NODELIST", "", "SLURM_STEP_NODELIST is ''"),
     ("SLURM_STEP_NUM_TASKS", "7", "7 tasks on 2 nodes")],
)  # fmt: skip
def test_what_srun_does_not_say_is_one_error(monkeypatch, name, value, found):
    for key, said in {**STEP, name: value}.items():
        monkeypatch.setenv(key, said)
    with pytest.raises(TrainingError) as error:
        slurm.step()
    assert found in str(error.value)


def test_without_out_all_nodes_of_a_job_write_to_one_folder(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert new_run_folder("mine").as_posix() == "runs/mine-job71.0"
    monkeypatch.setenv("SLURM_PTY_PORT", "40000")  # a shell in a job, which may train many times
    assert not new_run_folder("mine").name.startswith("mine-job")
