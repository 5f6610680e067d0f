"""One architecture under several tokenizers: same cells, same budget, one table."""

import json

import pytest

from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError
from scmf.experiments.tokenizer_grid import Row, Sweep, sweep_tokenizers, under
from tests.cli.test_cli import scmf

KEY = ("annotation", "linear_probe", "accuracy")


def test_only_tokenizer_model_and_objective_differ(toy_env):
    base = load_recipe(toy_env / "recipe.yaml")
    other = under(base, "binned", architecture="transformer_encoder", objective="masked_gene_prediction")
    assert other.config.training == base.config.training
    assert (other.config.data, other.config.eval) == (base.config.data, base.config.eval)
    assert other.config.model.options == {"value_encoding": "category", "positions": False}
    assert other.config.model.model_copy(update={"options": {}}) == base.config.model
    assert (other.config.tokenizer.max_length, other.variant) == (base.config.tokenizer.max_length, "binned")


@pytest.mark.nightly
def test_the_grid_trains_each_strategy_on_the_same_budget(toy_env, tmp_path, capsys, monkeypatch):
    code, out, _ = scmf(
        capsys, monkeypatch, "sweep", "--tokenizers", "rank_value,binned,continuous", "--model",
        "transformer_encoder", "--config", toy_env / "recipe.yaml", "--seeds", "0-1", "--set",
        "training.max_epochs=2", "--out", tmp_path, "--json", "--quiet",
    )  # fmt: skip
    assert code == 0
    found = json.loads(out)
    rows = {(row["strategy"], row["method"]): row for row in found["rows"]}
    strategies = ("rank_value", "binned", "continuous")
    assert {name for name, _ in rows} == {*strategies, None}
    assert len({rows[name, "pretrained"]["steps"] for name in strategies}) == 1
    assert not found["absent"]
    for name in strategies:
        metrics = {(m["benchmark"], m["protocol"], m["metric"]): m for m in rows[name, "pretrained"]["metrics"]}
        assert len(metrics[KEY]["samples"]) == 2
        assert metrics[KEY]["against_best"] in ("best", "worse", "not distinguishable")
    assert {"majority", "hvg", "pca"} <= {row["method"] for row in found["rows"]}
    text = (tmp_path / "sweep.md").read_text(encoding="utf-8")
    assert r"| rank\_value, pretrained |" in text and "not distinguishable" in text
    files = list((tmp_path / "results").rglob("*.json"))
    assert len(files) > 10
    assert all("--set training.max_epochs=2" in json.loads(file.read_text())["command"] for file in files)


def test_a_strategy_that_the_model_cannot_take_is_named_and_the_others_run(toy_env, tmp_path):
    found = sweep_tokenizers(
        str(toy_env / "recipe.yaml"), ["rank_value", "binned"], architecture="generative_transformer",
        objective="masked_value_prediction", overrides=("training.max_epochs=1",), out=tmp_path,
    )  # fmt: skip
    assert set(found.absent) == {"rank_value"}
    assert [row.strategy for row in found.rows if row.method == "pretrained"] == ["binned"]


def test_unknown_names_and_an_empty_grid_are_refused(toy_env, tmp_path):
    recipe = str(toy_env / "recipe.yaml")
    with pytest.raises(ConfigError, match="tokenizer 'bined'"):
        sweep_tokenizers(recipe, ["bined"], architecture="transformer_encoder", out=tmp_path)
    with pytest.raises(ConfigError, match="no tokenizer"):
        sweep_tokenizers(recipe, [], architecture="transformer_encoder", out=tmp_path)
    with pytest.raises(ConfigError, match="no tokenizer ran"):
        sweep_tokenizers(
            recipe, ["rank_value"], architecture="generative_transformer", objective="masked_value_prediction",
            out=tmp_path, )  # fmt: skip


def test_differences_are_told_apart_by_the_spread_of_the_seeds():
    rows = [
        Row("a", "pretrained", {KEY: [0.80, 0.81, 0.82]}, {}),
        Row("b", "pretrained", {KEY: [0.79, 0.82, 0.80]}, {}),
        Row("c", "pretrained", {KEY: [0.60, 0.61, 0.60]}, {}),
        Row(None, "hvg", {KEY: [0.9]}, {}),
    ]
    verdicts = Sweep("m", "r", (0, 1, 2), rows, {}).verdicts(KEY)
    assert verdicts == {"a, pretrained": "best", "b, pretrained": "not distinguishable", "c, pretrained": "worse"}
    one = [Row(row.strategy, row.method, {KEY: row.samples[KEY][:1]}, {}) for row in rows]
    assert Sweep("m", "r", (0,), one, {}).verdicts(KEY) == {}
