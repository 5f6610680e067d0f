"""`scmf plan`: sizes are those of the network that would be trained, costs those of its batches; errors that help."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from scmf.cli.main import app
from scmf.core.config.training import TrainingConfig
from scmf.core.errors import ConfigError
from scmf.experiments import pilot
from scmf.experiments.gpus import GPUS
from scmf.experiments.pilot import Cost, fitted, measure
from scmf.models.run_folder import RunFolder
from scmf.training.data import prepare
from scmf.training.pretrain import pretrain
from tests.fixtures.four_families import FAMILIES, cells
from tests.training.test_pairs import recipe_of

SETTINGS = TrainingConfig(batch_size=4)


def planned(*words):
    done = CliRunner().invoke(app, ["plan", *map(str, words), "--json", "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def batch(*rows):
    return {name: torch.from_numpy(values) for name, values in cells().pad(np.array(rows)).items()}


def meta(family, **changes):
    """The network of a family on the meta device."""
    network = FAMILIES[family][0]()
    for name, value in changes.items():
        setattr(network.config, name, value)
    with torch.device("meta"):
        return type(network)(network.config)


# --- through the command line -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """A finished run of the toy recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
        patch.setenv("SCMF_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        recipe = recipe_of(toy, "rank_value", "transformer_encoder", "eval.every_n_epochs=0")
        _, report = pretrain(recipe, prepare(recipe.config), out := tmp_path_factory.mktemp("run"))
    return out, report


def test_the_plan_is_what_the_run_did(toy_env, trained):
    out, report = trained
    found = planned(toy_env / "recipe.yaml", "--set", "training.max_epochs=2", "--set", "training.keep_checkpoints=1")
    assert found["steps"] == report.steps and found["cells_per_step"] == 16
    assert found["parameters"] == json.loads((out / "run.json").read_text())["parameters"]
    folder = sorted((out / "pretraining" / "checkpoints").iterdir())[-1]
    written = 2 * sum(path.stat().st_size for path in folder.iterdir()) + sum(
        path.stat().st_size for path in RunFolder(out).model.glob("*.safetensors")
    )
    assert found["disk"] == pytest.approx(written, rel=0.25)  # small files beside small weights
    assert found["memory"]["weights"] == 4 * found["parameters"] == found["memory"]["optimizer"] / 2
    assert found["seconds"] > 0 and found["tokens"] > 0
    assert [one["gpu"]["name"] for one in found["gpus"]] == [gpu.name for gpu in GPUS]


def test_two_gpus_halve_the_hours_and_shards_the_state(toy_env):
    words = (toy_env / "recipe.yaml", "--gpu", "h100")
    one = planned(*words)["gpus"][0]
    two = planned(*words, "--set", "training.num_gpus=2", "--set", "training.strategy=fsdp")["gpus"][0]
    assert two["hours"] == pytest.approx(one["hours"] / 2) and two["usd"] == pytest.approx(one["usd"])
    assert two["strategy"] == "fsdp" and two["memory"]["optimizer"] == one["memory"]["optimizer"] / 2
    assert one["strategy"] == "one process" and one["fits"]


def test_cells_that_are_not_there_need_a_vocabulary_alone(toy_env, trained):
    vocabulary = f"tokenizer.vocabulary={trained[0] / 'model'}"
    words = (
        toy_env / "recipe.yaml",
        "--set",
        vocabulary,
        "--set",
        "data.dataset=null",
        "--set",
        "data.files=[no.h5ad]",
    )
    found = planned(*words, "--set", "data.split=null", "--cells", "1600", "--tokens", "20")
    assert (found["cells"], found["tokens_per_cell"], found["steps"]) == (1600, 20, 400)
    assert found["tokens"] == 4 * 1600 * 20


def test_the_table_says_where_prices_come_from(toy_env):
    done = CliRunner().invoke(app, ["plan", str(toy_env / "recipe.yaml"), "--quiet", "--gpu", "H200"])
    assert done.exit_code == 0 and "4.59 an hour, RunPod" in done.stdout and "2026-10-07" in done.stdout
    for gpu in GPUS:
        assert gpu.price_source and gpu.peak_source and gpu.price_date.startswith("2026-")


@pytest.mark.parametrize(
    ("words", "found", "fix"),
    [
        (("--gpu", "H1000"), "--gpu H1000", "did you mean 'H100'"),
        (("--cells", "5"), "one of --cells and --tokens", "give the other one"),
        (("--cells", "5", "--tokens", "9"), "fitted on cells", "name a card"),
        (("--set", "training.lr=fast"), "training.lr", ""),
    ],
)
def test_what_cannot_be_planned_is_one_error(toy_env, words, found, fix):
    done = CliRunner().invoke(app, ["plan", str(toy_env / "recipe.yaml"), *words])
    assert isinstance(done.exception, ConfigError) and found in str(done.exception) and fix in str(done.exception)


# --- what a batch costs -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_on_the_meta_device_has_the_parameters_of_the_real_one(family):
    network, objective = FAMILIES[family][0](), FAMILIES[family][1]()
    sizes = [{name: p.shape for name, p in model.named_parameters()} for model in (network, meta(family))]
    assert sizes[0] == sizes[1]
    cost = measure(meta(family), objective, [batch(0, 1, 2, 3)], SETTINGS)[0]
    assert cost.flops > 0 and cost.kept_bytes > 0 and cost.seconds > 0 and cost.step_seconds > 0


@pytest.mark.parametrize("family", ["encoder", "autoencoder", "autoregressive"])
def test_few_layers_tell_the_cost_of_many(family, monkeypatch):
    many = meta(family, num_hidden_layers=5)
    objective = FAMILIES[family][1]()
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *_, **__: x)
    whole = measure(many, objective, [batch(0, 1, 2)], SETTINGS)[0]
    monkeypatch.setattr(pilot, "LARGE", 0)
    parts = measure(many, objective, [batch(0, 1, 2)], SETTINGS)[0]
    assert parts.flops == pytest.approx(whole.flops, rel=1e-6) and parts.seconds is None
    assert parts.kept_bytes == pytest.approx(whole.kept_bytes, rel=0.02)


def test_operations_are_those_of_the_matrix_products():
    """A layer of the encoder by hand: four projections, two of the feed-forward, attention; backward is twice that."""
    one, two = (
        measure(meta("encoder", num_hidden_layers=n), FAMILIES["encoder"][1](), [batch(0, 1, 2)], SETTINGS, gpu=True)[0]
        for n in (1, 2)
    )
    n_cells, n_tokens = one.cells, one.tokens
    width, inner = 16, 24
    layer = n_cells * n_tokens * 2 * (4 * width**2 + 2 * width * inner) + n_cells * 4 * n_tokens**2 * width
    assert two.flops - one.flops == pytest.approx(3 * layer, rel=0.05)  # the kernel computes the scores twice


def test_a_cost_is_split_into_what_grows_with_tokens_and_with_their_square():
    costs = [Cost(b, t, 7.0 * b * t + 0.5 * b * t**2, 0) for b, t in ((2, 10), (4, 100), (3, 1000))]
    assert fitted(costs, "flops") == pytest.approx((7.0, 0.5))
