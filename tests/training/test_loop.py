"""The training loop: exact resume, accumulation, precision, trackers, refusals."""

import itertools
import json

import numpy as np
import pytest
import torch

from scmf.core.config.run import TrainingConfig
from scmf.core.errors import TrainingError
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import padded_tensors
from scmf.models.transformer_encoder import TransformerEncoderConfig, TransformerEncoderForMaskedLM
from scmf.training import checkpoints
from scmf.training.distributed import make_accelerator
from scmf.training.loop import train
from scmf.training.objectives.masked_gene import MaskedGenePrediction
from scmf.training.share import Share
from scmf.training.trainee import Trainee

VOCAB = 60


def cells(n=40, *, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 12, size=n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(offsets, {"input_ids": rng.integers(2, VOCAB, size=offsets[-1]).astype(np.int32)})


def model(*, dropout=0.1):
    torch.manual_seed(0)
    shape = TransformerEncoderConfig.from_settings(
        {"vocab_size": VOCAB, "max_positions": 12},
        {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 32, "dropout": dropout,
         "attention_dropout": dropout},
    )  # fmt: skip
    return TransformerEncoderForMaskedLM(shape)


def settings(**changes):
    return TrainingConfig(**{"batch_size": 4, "max_epochs": 3, "lr": 1e-2, "warmup_steps": 3, **changes})


def run(out, *, config=None, network=None, digest="a", callbacks=(), valid=None):
    return train(
        network or model(),
        cells(),
        objective=MaskedGenePrediction(0.3, 1, VOCAB, (0, 1)),
        settings=config or settings(),
        out=out,
        digest=digest,
        valid=valid,
        callbacks=callbacks,
    )


def losses(out, key="loss"):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


class Killed(Exception):
    """Stands for a process that dies."""


# Before the first checkpoint, in the middle of an epoch and at the end of one, with each of the two orders.
DEATHS = {(1, 1, False), (7, 1, True), (10, 1, False), (7, 3, True)}


@pytest.mark.parametrize(
    ("dies_at", "accumulation", "grouped"),
    [
        pytest.param(*case, marks=[] if case in DEATHS else [pytest.mark.nightly])
        for case in itertools.product((1, 7, 10, 13), (1, 3), (True, False))
    ],
)
def test_a_run_interrupted_anywhere_resumes_bit_exactly(tmp_path, monkeypatch, grouped, accumulation, dies_at):
    config = settings(
        checkpoint_every_n_steps=3, group_by_length=grouped, gradient_accumulation=accumulation, max_epochs=4
    )
    whole = model()
    run(tmp_path / "whole", config=config, network=whole, valid=cells(8, seed=1))

    steps = []
    step = torch.optim.AdamW.step

    def dying(self, *arguments, **keywords):
        steps.append(1)
        if len(steps) == dies_at:
            raise Killed
        return step(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dying)
        with pytest.raises(Killed):
            run(tmp_path / "parts", config=config, valid=cells(8, seed=1))
    torch.manual_seed(999)  # whatever the new process drew before must not matter
    again = model()
    run(tmp_path / "parts", config=config, network=again, valid=cells(8, seed=1))

    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert losses(tmp_path / "parts", "valid_loss") == losses(tmp_path / "whole", "valid_loss")
    for (name, ours), theirs in zip(again.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_finished_run_is_not_trained_further(tmp_path):
    first = run(tmp_path)
    before = losses(tmp_path)
    second = run(tmp_path)
    assert (second.steps, second.resumed_from) == (first.steps, first.steps)
    assert losses(tmp_path) == before


def test_checkpoints_of_another_run_are_refused(tmp_path):
    run(tmp_path, digest="a")
    with pytest.raises(TrainingError, match="checkpoints of another run"):
        run(tmp_path, digest="b")


def test_a_half_written_checkpoint_is_ignored_and_old_ones_are_deleted(tmp_path):
    run(tmp_path, config=settings(keep_checkpoints=2))
    folder = tmp_path / "checkpoints"
    kept = checkpoints.complete(folder)
    assert len(kept) == 2
    (folder / ".step-00000099.part").mkdir()
    assert checkpoints.complete(folder) == kept
    assert run(tmp_path, config=settings(keep_checkpoints=2)).resumed_from == 30


def test_checkpoints_are_read_by_from_pretrained(tmp_path):
    network = model()
    run(tmp_path, network=network)
    newest = checkpoints.complete(tmp_path / "checkpoints")[-1]
    loaded = TransformerEncoderForMaskedLM.from_pretrained(newest)
    for (name, ours), theirs in zip(loaded.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_accumulated_batches_count_every_prediction_once(tmp_path):
    """4 x 3 cells in one step give the gradient of one batch of 12 with the same masks: a mean over predictions."""
    from scmf.training import loop

    class Fixed:
        name = "fixed"

        def prepare(self, batch, generator):
            chosen = batch["input_ids"] % 3 == 0
            chosen &= batch["attention_mask"].bool()
            return {**batch, "labels": torch.where(chosen, batch["input_ids"], -100)}

        def predictions(self, inputs):
            return int((inputs["labels"] != -100).sum())

    found = {}
    for name, parts in (("whole", [np.arange(12)]), ("parts", np.split(np.arange(12), 3))):
        network = model(dropout=0.0)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        trainee = Trainee(make_accelerator(settings(), tmp_path), network, network, optimizer, False, schedule)
        found[name] = loop._step(
            trainee, [padded_tensors(cells(), part) for part in parts], objective=Fixed(),
            settings=settings(max_grad_norm=None), position=(0, 0), share=Share(), batches_of_all_ranks=3,
        )  # fmt: skip
        found[name] = (found[name][0], network.state_dict())
    assert found["whole"][0] == pytest.approx(found["parts"][0], rel=1e-6)
    for name, tensor in found["whole"][1].items():
        assert torch.allclose(tensor, found["parts"][1][name], atol=1e-6), name


def test_max_steps_ends_the_run_and_the_schedule(tmp_path):
    report = run(tmp_path, config=settings(max_steps=7))
    assert report.steps == 7
    assert losses(tmp_path, "lr")[-1] == 0


def test_schedule_warms_up_to_the_peak_and_falls(tmp_path):
    run(tmp_path)
    rates = losses(tmp_path, "lr")
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) == 2
    assert rates[-1] == 0


def test_gradients_are_clipped_and_the_norm_before_is_logged(tmp_path):
    run(tmp_path, config=settings(max_grad_norm=1e-3))
    assert max(losses(tmp_path, "grad_norm")) > 1e-2


def test_bf16_trains_close_to_fp32(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", config=settings(precision="bf16-mixed"))
    ours, theirs = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert ours != theirs
    assert np.allclose(ours, theirs, rtol=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(TrainingError, match="without a GPU"):
        run(tmp_path, config=settings(precision="16-mixed"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    network = model()
    with torch.no_grad():
        network.bert.embeddings.word_embeddings.weight[5] = float("inf")
    with pytest.raises(TrainingError, match="loss nan"):
        run(tmp_path, network=network)


def test_callbacks_run_in_evaluation_mode_and_land_in_the_log(tmp_path):
    modes = []

    def callback(network, epoch, step):
        modes.append(network.training)
        return {"score": float(step)}

    run(tmp_path, callbacks=[callback], valid=cells(8, seed=1))
    assert modes == [False] * 3
    assert losses(tmp_path, "score") == [10.0, 20.0, 30.0]
    assert len(losses(tmp_path, "valid_loss")) == 3


def test_validation_uses_the_same_masks_every_time(tmp_path):
    run(tmp_path / "a", valid=cells(8, seed=1), config=settings(lr=1e-12))
    found = losses(tmp_path / "a", "valid_loss")
    assert np.allclose(found, found[0], rtol=1e-6)


def test_tensorboard_gets_the_losses(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, config=settings(trackers=("tensorboard",)), valid=cells(8, seed=1))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = next(path for path in tmp_path.rglob("events.out.tfevents.*") if "hparams" not in str(path))
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    assert [event.value for event in accumulator.Scalars("loss")] == pytest.approx(losses(tmp_path), rel=1e-6)
    assert len(accumulator.Scalars("valid_loss")) == 3


@pytest.mark.slow
def test_wandb_writes_an_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("sys.argv", ["scmf", "train", "--set", "data.storage_options.secret=pl4ntedS3cret"])
    run(tmp_path, config=settings(trackers=("wandb",), max_steps=2))
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    held = b"".join(path.read_bytes() for path in (tmp_path / "wandb").rglob("*") if path.is_file())
    assert b"loss" in held and b"pl4ntedS3cret" not in held, "it must not record the command line"
