"""What one optimizer step does, against a loop of plain torch: in one process, accumulated, and in two processes."""

import json

import pytest
import torch

from scmf.training.optimizer import make_optimizer
from tests.fixtures.forked import finished, ranks
from tests.fixtures.plain_training import EveryThird, Network, cells, main, run, settings, textbook


def lines(out, key):
    found = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line[key] for line in found if key in line]


def agree(out, network, batches_of_steps, config):
    """Losses, norms, rates of the log, and the weights, are those of the textbook."""
    reference = Network()
    wanted = textbook(reference, batches_of_steps, config)
    assert lines(out, "loss") == pytest.approx(wanted.losses, rel=1e-5)
    if config.max_grad_norm is not None:
        assert lines(out, "grad_norm") == pytest.approx(wanted.norms, rel=1e-4)
    assert lines(out, "lr")[:-1] == pytest.approx(wanted.rates[1:], rel=1e-6)  # logged after the schedule moved on
    start = Network().state_dict()
    for name, tensor in reference.state_dict().items():
        moved = (tensor - start[name]).abs().max()
        assert moved > 1e-3, name
        assert torch.allclose(network[name], tensor, rtol=0, atol=1e-4 * float(moved)), name


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_run_is_that_of_the_textbook(tmp_path, accumulation, clip):
    """22 cells in batches of 4 with unequal numbers of predictions; the last group of an epoch has fewer batches."""
    config = settings(gradient_accumulation=accumulation, max_grad_norm=clip)
    network, objective = Network(), EveryThird()
    run(tmp_path, network, objective, config)
    epochs = [objective.batches[:6], objective.batches[6:]]
    assert len({len(batch["input_ids"]) for batch in epochs[0]}) == 2
    steps = [epoch[i : i + accumulation] for epoch in epochs for i in range(0, 6, accumulation)]
    agree(tmp_path, network.state_dict(), steps, config)


def test_weight_decay_shrinks_matrices_by_lr_times_decay_and_nothing_else():
    network = Network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = make_optimizer(network, settings(lr=0.1, weight_decay=0.5))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, tensor in network.state_dict().items():
        factor = 1 - 0.1 * 0.5 if name in ("embed.weight", "head.weight") else 1.0
        assert torch.allclose(tensor, before[name] * factor, rtol=1e-6, atol=0), name


def test_the_validation_loss_weighs_every_prediction_alike(tmp_path):
    network, objective, valid = Network(), EveryThird(), cells(9, seed=1)
    run(tmp_path, network, objective, settings(lr=1e-30, weight_decay=0.0), valid=valid)
    losses = []
    for row in range(len(valid)):
        ids = torch.from_numpy(valid.columns["input_ids"][valid.offsets[row] : valid.offsets[row + 1]]).long()
        wanted = ids[ids % 3 == 0]
        losses.append(torch.nn.functional.cross_entropy(network.logits(wanted), wanted, reduction="none").detach())
    assert lines(tmp_path, "valid_loss") == pytest.approx([float(torch.cat(losses).mean())] * 2, rel=1e-5)
    order = (-valid.lengths).argsort(kind="stable")
    batches = [torch.cat([losses[row] for row in order[i : i + 4]]) for i in range(0, len(valid), 4)]
    alike = sum(float(batch.mean()) for batch in batches) / len(batches)
    assert abs(alike - float(torch.cat(losses).mean())) > 1e-3, "these cells tell a mean over batches apart"


def test_masks_and_dropout_of_no_two_batches_epochs_or_runs_are_alike(tmp_path):
    seeds = []
    for seed in (0, 1):
        network, objective = Network(dropout=0.5), EveryThird()
        run(tmp_path / str(seed), network, objective, settings(seed=seed, gradient_accumulation=2))
        assert len(objective.seeds) == len(network.seeds) == 12
        seeds += objective.seeds + network.seeds
    assert len(set(seeds)) == 48


# --- two processes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the two processes of a run saw, and its folder."""
    out = tmp_path_factory.mktemp("two")
    finished(ranks(main, out, size=2))
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)], out / "run"  # noqa: TID251


def test_the_gradient_of_two_processes_is_that_of_all_their_predictions(two):
    ranks, out = two
    config = settings(gradient_accumulation=2)
    zero, one = (rank["batches"] for rank in ranks)
    assert len(zero) == len(one) == 6  # 22 cells, two epochs of three rounds
    starts = [(0, 2), (2, 3), (3, 5), (5, 6)]
    agree(out, ranks[0]["weights"], [[*zero[a:b], *one[a:b]] for a, b in starts], config)
    for name, tensor in ranks[0]["weights"].items():
        assert torch.equal(tensor, ranks[1]["weights"][name]), name


def test_masks_and_dropout_differ_between_processes(two):
    seeds = [seed for rank in two[0] for kind in ("masks", "dropout") for seed in rank[kind]]
    assert len(seeds) == len(set(seeds)) == 24


def test_a_checkpoint_says_how_many_processes_wrote_it(two):
    newest = sorted((two[1] / "checkpoints").iterdir())[-1]
    assert json.loads((newest / "progress.json").read_text(encoding="utf-8"))["world_size"] == 2
