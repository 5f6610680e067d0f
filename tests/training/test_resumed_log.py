"""A run that goes on writes each step once, and takes steps of as many batches as before."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from scmf.training import checkpoints
from scmf.training.log import RunLog
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

    def dying(trainee, folder, position, **keywords):
        if position.step == dies_at:
            raise Killed
        return SAVE(trainee, folder, position, **keywords)

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


def test_what_is_no_finite_number_is_left_out_of_the_log(tmp_path, caplog):
    lines = RunLog(tmp_path / "log.jsonl", SimpleNamespace(is_main_process=True, log_with=[]), keep_until=0)
    lines.write(3, loss=1.0, grad_norm=float("inf"))  # a step that 16-mixed takes back
    assert not caplog.text
    lines.write(3, valid_loss=float("nan"))
    assert "valid_loss is not finite" in caplog.text
    assert log(tmp_path) == [{"step": 3, "loss": 1.0}, {"step": 3}]


def test_a_checkpoint_of_other_processes_goes_on_with_steps_of_as_many_batches(tmp_path, monkeypatch):
    """Two processes wrote it, of which each had taken half of what one has: 2 batches of 4, two at a time."""

    def of_two(trainee, folder, position, **keywords):
        SAVE(trainee, folder, replace(position, world_size=2, batches_per_step=2), **keywords)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", of_two)
        with pytest.raises(Killed):
            run(tmp_path, Network(), EveryThird(), settings(checkpoint_every_n_steps=2))
    seen = EveryThird()
    report = run(tmp_path, Network(), seen, settings())
    whole = EveryThird()
    run(tmp_path / "whole", Network(), whole, settings())
    assert report.resumed_from == 2
    assert [batch["input_ids"].tolist() for batch in seen.batches] == [
        batch["input_ids"].tolist() for batch in whole.batches[4:]
    ]
    assert report.steps == 2 + 1 + 3  # the rest of the epoch and another one, two batches a step
