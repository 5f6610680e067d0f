"""The tasks of the leaderboard: what the shipped file says is there, and what a wrong one is told."""

import json

import pytest

from scmf.core.errors import ConfigError
from scmf.core.files import sha256_json
from scmf.core.paths import shipped
from scmf.data.cards.card import load_card
from scmf.evaluation.tasks import Suite, Task, load_suite

TASK = {"benchmark": "annotation", "dataset": "pancreas", "split": "donor", "description": "unseen donors"}


@pytest.mark.parametrize("name", load_suite().tasks)
def test_cells_and_split_of_every_task_are_there(name):
    task = load_suite().tasks[name]
    card = load_card(task.dataset)
    assert card.kind == "cells" and card.files
    assert card.split(task.split).sha256
    assert task.benchmark != "perturbation" or card.perturbation is not None
    assert task.benchmark == "perturbation" or task.label_key or card.label_key


def test_the_shipped_suite_holds_every_benchmark():
    assert {task.benchmark for task in load_suite().tasks.values()} == {
        "annotation", "integration", "perturbation", "gene_network",
    }  # fmt: skip


def test_a_task_is_chosen_by_name_by_benchmark_or_all():
    suite = Suite.model_validate({"tasks": {"one": TASK, "two": {**TASK, "benchmark": "integration"}, "three": TASK}})
    assert list(suite.chosen()) == ["one", "two", "three"]
    assert list(suite.chosen(["annotation"])) == ["one", "three"]
    assert list(suite.chosen(["two", "one"])) == ["one", "two"]
    with pytest.raises(ConfigError, match="did you mean 'three'"):
        suite.chosen(["thre"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"benchmark": "anotation"}, "annotation"),
        ({"max_cells": 500}, "`max_cells` belongs to integration"),
        ({"benchmark": "gene_network"}, "`truths` must name"),
        ({"benchmark": "perturbation", "finetune": True}, "`finetune` belongs to annotation"),
        ({"spilt": "donor"}, "spilt"),
        ({"split": " "}, "must not be empty"),
    ],
)
def test_a_wrong_task_is_refused_in_words(tmp_path, change, said):
    import yaml

    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"mine": {**TASK, **change}}}))
    with pytest.raises(ConfigError) as error:
        load_suite(path)
    assert said in str(error.value) and str(path) in str(error.value)


def test_defaults_ask_for_nothing_special():
    task = Task.model_validate(TASK)
    assert task.unseen == "error" and not task.finetune and task.max_cells is None


@pytest.mark.parametrize("name", ["pancreas-folds", "kang-condition", "lung-batches"])
def test_the_digest_of_a_task_is_the_one_the_baselines_were_recorded_with(name):
    folder = shipped("leaderboard") / "results" / "baselines"
    results = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("*.json")]
    recorded = {result["recipe_digest"] for result in results if result["provenance"].get("task") == name}
    assert recorded == {load_suite().tasks[name].digest(sha256_json("baselines"))}
