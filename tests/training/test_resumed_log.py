"""A run that goes on writes each step once, and only with as many processes as its checkpoint was made by."""

import json
from dataclasses import replace

import pytest

from scmf.core.errors import TrainingError
from scmf.training import checkpoints
from tests.fixtures.plain_training import EveryThird, Network, cells, run, settings

CONFIG = settings(max_epochs=3, checkpoint_every_n_steps=4)  # 6 steps an epoch, the last of 2 cells
SAVE = checkpoints.save


class Killed(Exception):
    """Stands for a process that dies."""


def train(out):
    return run(out, Network(), EveryThird(), CONFIG, valid=cells(5, seed=1), callbacks=[lambda *_: {"score": 1.0}])


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("dies_at", [4, 6, 8, 12, 16])
def test_lines_beyond_the_checkpoint_are_written_once(tmp_path, monkeypatch, dies_at):
    """Death on the way to a checkpoint: the log is up to five lines ahead of the one before, evaluations among them."""

    def dying(accelerator, folder, position, **keywords):
        if position.step == dies_at:
            raise Killed
        return SAVE(accelerator, folder, position, **keywords)

    train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", dying)
        with pytest.raises(Killed):
            train(tmp_path / "parts")
    held = max((int(path.name[-8:]) for path in checkpoints.complete(tmp_path / "parts" / "checkpoints")), default=0)
    ahead = [line for line in log(tmp_path / "parts") if line["step"] > held]
    assert len(ahead) >= 2
    with (tmp_path / "parts" / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "lo')  # a line that the disk took half of
    report = train(tmp_path / "parts")
    assert report.resumed_from == (held or None)
    lines = log(tmp_path / "parts")
    assert lines == log(tmp_path / "whole")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 19))
    assert [line["step"] for line in lines if "valid_loss" in line] == [6, 12, 18]


def test_a_checkpoint_of_other_processes_is_refused_within_an_epoch_and_taken_at_its_end(tmp_path, monkeypatch):
    def of_two(accelerator, folder, position, **keywords):
        SAVE(accelerator, folder, replace(position, world_size=2), **keywords)
        if position.step == stop:
            raise Killed

    for stop, refused in ((4, True), (6, False)):
        out = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save", of_two)
            with pytest.raises(Killed):
                train(out)
        if refused:
            with pytest.raises(TrainingError, match=r"middle of an epoch, written by 2 process"):
                train(out)
            assert [line["step"] for line in log(out)] == [1, 2, 3, 4]
        else:
            assert train(out).resumed_from == 6
