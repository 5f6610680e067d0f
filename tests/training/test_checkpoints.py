"""Checkpoints: held against checksums, older ones taken when the newest is damaged, no code in them ever run."""

import contextlib
import json
import pickle  # noqa: TID251  # planted, to see that nobody opens it
import shutil

import pytest
import torch
from safetensors.torch import load_file

from scmf.core import manifest
from scmf.core.errors import TrainingError
from scmf.training import checkpoints, training_state
from tests.training.test_loop import losses, model, run, settings

FILES = (
    "checksums.json", "config.json", "configuration_transformer_encoder.py", "model.safetensors",
    "optimizer.safetensors", "progress.json", "training_state.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run and its weights."""
    out, network = tmp_path_factory.mktemp("whole"), model()
    run(out, network=network)
    return out, network


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(whole[0], tmp_path / "copy")


def newest(out):
    return checkpoints.complete(out / "checkpoints")[-1]


def flip(path, *, at=0.5):
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


class Marker:
    """A pickle that writes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_is_tensors_and_json_alone(whole):
    assert sorted(path.name for path in newest(whole[0]).iterdir()) == list(FILES)


@pytest.mark.parametrize("file", FILES)
def test_one_flipped_bit_is_seen_and_the_checkpoint_before_is_taken(whole, copy, file, caplog):
    flip(newest(copy) / file)
    network = model()
    report = run(copy, network=network)
    assert report.resumed_from == 20 and report.steps == 30
    assert "damaged checkpoint step-00000030" in caplog.text and "resuming from step-00000020" in caplog.text
    assert manifest.part_of(file).split(" (")[0] in caplog.text or file == "checksums.json"
    assert losses(copy) == losses(whole[0])
    for (name, ours), theirs in zip(network.state_dict().items(), whole[1].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert run(copy).resumed_from == 30  # it was written again in the place of the damaged one


@pytest.mark.parametrize("harm", ["missing", "truncated", "added"])
def test_missing_truncated_and_added_files_are_seen(copy, harm, caplog):
    path = newest(copy) / "optimizer.safetensors"
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        shutil.copy(path, path.with_name("model-00001-of-00001.safetensors"))
    assert run(copy).resumed_from == 20
    assert {"missing": ": missing", "truncated": ": changed since", "added": ": added since"}[harm] in caplog.text


def test_a_damaged_checkpoint_does_not_push_out_an_intact_one(copy):
    """With one checkpoint kept, the damaged newest one must not count as the one to keep."""
    one = settings(keep_checkpoints=1, checkpoint_every_n_steps=3, max_epochs=3)
    flip(newest(copy) / "model.safetensors")

    def stop(network, epoch, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(copy, config=one, callbacks=[stop])
    assert [path.name for path in checkpoints.complete(copy / "checkpoints")] == ["step-00000027", "step-00000030"]
    assert run(copy, config=one).resumed_from == 27


def test_when_none_is_intact_all_are_named_and_nothing_is_lost(copy):
    for path in checkpoints.complete(copy / "checkpoints"):
        flip(path / "model.safetensors")
    before = sorted(path.relative_to(copy) for path in copy.rglob("*"))
    with pytest.raises(TrainingError, match=r"2 checkpoints, none of them intact .*weights.*weights"):
        run(copy)
    assert sorted(path.relative_to(copy) for path in copy.rglob("*")) == before


def test_a_manifest_without_which_a_checkpoint_would_be_taken_on_trust_is_missed(copy, caplog):
    (newest(copy) / "checksums.json").unlink()
    assert run(copy).resumed_from == 20
    assert "no checksums.json" in caplog.text


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin", "scaler.pt"])
@pytest.mark.parametrize("sealed", [True, False])
def test_pickles_that_a_stranger_put_there_are_never_run(copy, tmp_path, name, sealed):
    marker = tmp_path / "marker"
    for path in checkpoints.complete(copy / "checkpoints"):
        (path / name).write_bytes(pickle.dumps(Marker(marker)))
        torch.save(Marker(marker), path / f"zip-{name}")
        if sealed:
            (path / "checksums.json").unlink()
            manifest.seal(path)
    with contextlib.suppress(TrainingError):  # a file that was added is damage, too
        run(copy)
    assert not marker.exists()


def of_before(path, accelerator, schedule, *, optimizer=None):
    """Make a checkpoint one of the format before there were checksums."""
    torch.save(optimizer or accelerator._optimizers[0].state_dict(), path / "optimizer.bin")
    torch.save(schedule.state_dict(), path / "custom_checkpoint_0.pkl")


def test_a_checkpoint_of_before_is_resumed_with_a_warning(whole, tmp_path, monkeypatch, caplog):
    write, seal, keep = training_state.write, manifest.seal, []

    def old(trainee, folder, state):
        write(trainee, folder, state)
        of_before(folder, trainee.accelerator, trainee.schedule)
        for name in ("optimizer.safetensors", "training_state.json"):
            (folder / name).unlink()
        keep.append(folder)

    def stop(network, epoch, step):
        if len(keep) == 2:
            raise KeyboardInterrupt
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(training_state, "write", old)
        patch.setattr(manifest, "seal", lambda *_: {})
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, callbacks=[stop])
    assert seal is manifest.seal
    network = model()
    assert run(tmp_path, network=network).resumed_from == 20
    assert "has no checksums" in caplog.text
    for (name, ours), theirs in zip(network.state_dict().items(), whole[1].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("name", ["optimizer.bin", "custom_checkpoint_0.pkl"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_checkpoint_of_before_is_refused_and_not_run(copy, tmp_path, name, zipped):
    marker = tmp_path / "marker"
    for path in checkpoints.complete(copy / "checkpoints"):
        for file in ("checksums.json", "optimizer.safetensors", "training_state.json"):
            (path / file).unlink()
        for file in ("optimizer.bin", "custom_checkpoint_0.pkl"):
            value = Marker(marker) if file == name else {"state": {}, "param_groups": [{}, {}]}
            if zipped or file != name:
                torch.save(value, path / file)
            else:
                (path / file).write_bytes(pickle.dumps(value))
    with pytest.raises(TrainingError, match="cannot be loaded"):
        run(copy)
    assert not marker.exists()


def test_leftovers_of_a_killed_run_are_swept_by_the_next(copy):
    folder = copy / "checkpoints"
    for name in (".step-00000007.part", ".step-00000030.old"):
        shutil.copytree(newest(copy), folder / name)
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine")
    shutil.rmtree(newest(copy))
    run(copy)
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "step-00000020", "step-00000030"]


def test_position_and_digest_stand_in_the_checksums(whole):
    found = manifest.read(newest(whole[0]))
    position = json.loads((newest(whole[0]) / "progress.json").read_text())
    assert found["facts"] == {"step": 30, "digest": "a"} and position["step"] == 30
    assert set(found["files"]) == set(FILES) - {"checksums.json"}


def test_moments_are_kept_exactly(whole):
    tensors = load_file(newest(whole[0]) / "optimizer.safetensors")
    assert {name.partition(".")[2] for name in tensors} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
