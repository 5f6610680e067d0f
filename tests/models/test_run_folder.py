"""The folder of a run: what is a run, a checkpoint, the model inside a run; a broken run.json is one error."""

import json
from pathlib import Path

import pytest

from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError
from scmf.models.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run with weights, as far as files tell."""
    recipe = load_recipe("geneformer")
    made = RunFolder(tmp_path / "run")
    made.write({
        "recipe": recipe.name, "variant": recipe.variant, "seed": 3, "recipe_digest": recipe.digest,
        "config": recipe.config.model_dump(mode="json"), "parameters": 7, "provenance": {},
    })  # fmt: skip
    made.model.mkdir()
    (made.model / "config.json").write_text("{}")
    return made


def test_a_run_its_model_and_a_checkpoint_are_told_apart(run, tmp_path, monkeypatch):
    other = tmp_path / "model"
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert RunFolder.find(run.path) == RunFolder.find(run.model) == run
    assert RunFolder.find(other) is None and RunFolder.find(tmp_path / "nothing") is None
    assert RunFolder.weights_in(run.path) == RunFolder.weights_in(run.model) == run.model
    assert RunFolder.weights_in(other) == other
    monkeypatch.chdir(run.model)
    found = RunFolder.find(".")
    assert found is not None and found.note.resolve() == run.note.resolve()
    with pytest.raises(ConfigError, match=r"no run.json"):
        RunFolder.at(other)


def test_the_recipe_of_a_run_is_the_one_it_was_made_with(run):
    made = load_recipe("geneformer")
    assert run.config == made.config and run.recipe().digest == made.digest
    assert run.recipe(("training.lr=0.5",)).config.training.lr == 0.5
    assert (run.fact("seed"), run.fact("parameters")) == (3, 7)


def test_every_place_of_a_run_lies_in_it(run):
    for place in (run.note, run.pretraining, run.log, run.model, run.finetuning("pretrained"), run.results):
        assert run.path in place.parents


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[1]", "a list"), ("{}", "no 'config'"), (json.dumps({"config": 3}), "config is a int")],
)
def test_a_broken_or_foreign_note_is_one_error(run, text, said):
    run.note.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        _ = run.config
    assert str(run.note) in str(caught.value.where)


def test_a_run_finds_its_own_files_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "work" / "data").mkdir(parents=True)
    (tmp_path / "work" / "data" / "cells.h5ad").write_text("")
    monkeypatch.chdir(tmp_path / "work")
    run = RunFolder(Path("runs/one"))
    config = {"data": {"files": ["data/cells.h5ad", "s3://bucket/lost.h5ad"]}}
    run.write({"recipe": "own", "variant": "", "recipe_digest": "0", "config": config})
    assert str(tmp_path) not in run.note.read_text()
    assert list(map(str, run.recipe().config.data.files)) == ["data/cells.h5ad", "s3://bucket/lost.h5ad"]
    monkeypatch.chdir(tmp_path)
    found = [str(one) for one in RunFolder(Path("work/runs/one")).recipe().config.data.files]
    assert found == ["work/data/cells.h5ad", "s3://bucket/lost.h5ad"]
