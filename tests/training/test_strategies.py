"""DDP, FSDP2 and one process take the same steps, for every family; a run goes on under another strategy or number."""

import json
import shutil

import pytest
import torch

from scmf.training import checkpoints
from tests.fixtures.forked import finished, ranks
from tests.fixtures.four_families import FAMILIES, STRATEGIES, main, run


def together(out, n):
    """Run the program of the fixture in ``n`` processes; its folder."""
    finished(ranks(main, out, size=n, environment={"SCMF_RANK_TIMEOUT": "300"}))
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of the runs of two processes."""
    return together(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Folder and weights of the run of one process at the same global batch, by family; each is made when asked for."""
    out, made = tmp_path_factory.mktemp("one"), {}

    def of(family):
        if family not in made:
            seen = []
            run(out / family, family, seen=seen, gradient_accumulation=2)
            made[family] = out / family, seen[0]
        return made[family]

    return of


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def same(ours, theirs, *, rel=1e-5):
    assert [set(line) for line in ours] == [set(line) for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            # The value of a callback is of weights that have moved for several steps.
            assert mine[name] == pytest.approx(value, rel=rel if name == "loss" else 10 * rel), (name, mine, other)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "autoencoder_redrawn"])
def test_two_processes_take_the_steps_of_one(two, one, family):
    folder, weights = one(family)
    lines, ours = log(folder), log(two / family / "ddp")
    assert len([line for line in lines if "loss" in line]) == 6  # five batches an epoch, two at a time
    assert len([line for line in lines if "valid_loss" in line]) == 2
    if family == "generative":  # evaluated with moments of norms, which are those of the first process
        lines, ours = ([line for line in of if "loss" in line] for of in (lines, ours))
    same(ours, lines)
    theirs = torch.load(two / family / "ddp.pt", weights_only=True)  # noqa: TID251
    for name, tensor in weights.items():
        if tensor.is_floating_point() and "running" not in name:
            assert torch.allclose(theirs[name], tensor, rtol=1e-4, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "strategy"),
    [(family, strategy) for family, strategies in STRATEGIES.items() for strategy in strategies[1:]],
)
def test_shards_take_the_steps_of_copies(two, family, strategy):
    same(log(two / family / strategy), log(two / family / "ddp"))
    ours, theirs = (torch.load(two / family / f"{name}.pt", weights_only=True) for name in (strategy, "ddp"))  # noqa: TID251
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-4, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["to_ddp", "to_fsdp"])
def test_a_run_goes_on_under_the_other_strategy(two, one, name):
    same(log(two / name), log(one("encoder")[0]))


@pytest.mark.slow
def test_a_run_of_two_shards_goes_on_in_one_process_with_the_same_batches(two, one, tmp_path):
    out = shutil.copytree(two / "to_one", tmp_path / "run")
    assert run(out, "encoder").resumed_from == 2  # in the middle of an epoch
    same(log(out), log(one("encoder")[0]))


@pytest.mark.nightly
def test_four_processes_take_the_steps_of_one(tmp_path):
    run(tmp_path / "one", "encoder", gradient_accumulation=4)
    together(tmp_path, 4)
    for strategy in ("ddp", "fsdp"):
        same(log(tmp_path / strategy), log(tmp_path / "one"))


@pytest.mark.slow
def test_bf16_in_shards_is_near(two, one):
    losses = [[line["loss"] for line in log(out) if "loss" in line] for out in (two / "bf16", one("encoder")[0])]
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]


@pytest.mark.slow
def test_shards_leave_no_trace_in_the_files_of_a_checkpoint(two, one):
    for family in FAMILIES:
        sharded = two / family / STRATEGIES[family][-1]
        folders = [checkpoints.complete(out / "checkpoints")[-1] for out in (sharded, one(family)[0])]
        assert [sorted(path.name for path in folder.iterdir()) for folder in folders][0] == sorted(
            path.name for path in folders[1].iterdir()
        )
        assert (folders[0] / "config.json").read_text() == (folders[1] / "config.json").read_text()
