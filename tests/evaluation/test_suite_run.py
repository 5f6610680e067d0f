"""Submissions scored on tasks, and filed: baselines, a run, vectors, predicted cells, edges; tasks as callbacks."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from scmf.core.errors import ConfigError, DataError
from scmf.evaluation.callbacks import inline
from scmf.evaluation.run import evaluate_tasks
from scmf.evaluation.tasks import load_suite
from scmf.results.ledger import read_results
from tests.cli.test_cli import scmf


@pytest.fixture
def suite(toy_env, tmp_path):
    """A suite of the toy's cells, one task a benchmark that needs no file from outside."""
    base = {"dataset": str(toy_env / "toy.yaml"), "split": "donor", "description": "a toy"}
    tasks = {
        "types": {**base, "benchmark": "annotation", "protocols": ["linear_probe", "knn_transfer"], "finetune": True},
        "batches": {**base, "benchmark": "integration", "protocols": ["scgpt"]},
    }
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({"tasks": tasks}))
    return path


@pytest.fixture
def trained(toy_env, tmp_path, capsys, monkeypatch):
    """A run with a section for fine-tuning."""
    code, _, err = scmf(
        capsys, monkeypatch, "train", "--config", toy_env / "recipe.yaml", "--out", tmp_path / "run", "--quiet",
        "--set", "eval.finetune.max_epochs=1",
    )  # fmt: skip
    assert code == 0, err
    return tmp_path / "run"


def test_baselines_are_scored_and_filed_with_provenance(suite, tmp_path):
    results = evaluate_tasks("baselines", tasks=["all"], suite=suite, results_dir=tmp_path / "ledger")
    found = {(r.benchmark, r.protocol, r.method) for r in results}
    assert {("annotation", "linear_probe", m) for m in ("hvg", "pca", "shuffled_labels")} <= found
    assert ("integration", "scgpt", "pca") in found and ("annotation", "constant", "majority") in found
    one = next(r for r in results if r.method == "hvg")
    assert one.command == "scmf evaluate baselines --tasks types --suite suite.yaml" and one.seed is None
    assert one.provenance["data"]["split_sha256"] and one.provenance["task"] == "types"
    assert one.intervals == {} and one.details["per_class"], "two donors are no draw"
    assert list(one.details["units"]["values"]["accuracy"]) == ["d4", "d5"]
    assert read_results(tmp_path / "ledger") == sorted(
        results, key=lambda r: (*r.key(""), -1 if r.seed is None else r.seed)
    )


def test_a_run_is_scored_beside_its_untrained_self_and_compared(suite, trained, tmp_path, capsys, monkeypatch):
    code, out, err = scmf(
        capsys, monkeypatch, "evaluate", trained, "--tasks", "all", "--suite", suite, "--json", "--quiet"
    )
    assert code == 0, err
    rows = {(r["protocol"], r["method"]): r for r in json.loads(out)}
    for protocol in ("linear_probe", "knn_transfer", "finetuned_head", "scgpt"):
        assert {(protocol, "pretrained"), (protocol, "untrained")} <= set(rows)
    one = rows["linear_probe", "pretrained"]
    assert one["parameters"] > 0 and one["corpora"][0].endswith(".donor") and one["seed"] == 0
    assert list((trained / "results").rglob("*.json"))
    code, out, err = scmf(capsys, monkeypatch, "compare", trained, "--out", tmp_path / "board", "--quiet")
    assert code == 0, err
    assert (tmp_path / "board" / "index.html").is_file() and "pretrained" in out


def test_vectors_of_a_file_are_matched_by_cell_id(suite, toy_env, tmp_path):
    cells = ad.read_h5ad(toy_env / "mirror" / "toy" / "toy.h5ad")
    cells.obsm["X_mine"] = np.eye(3)[cells.obs["cell_type"].cat.codes] + 0.01 * np.arange(3)
    path = tmp_path / "mine.h5ad"
    cells[::-1].copy().write_h5ad(path)
    ask = {"suite": suite, "obsm": "X_mine", "name": "my-model/v1", "results_dir": tmp_path / "l"}
    results = evaluate_tasks(str(path), tasks=["types"], **ask)
    linear = next(r for r in results if r.protocol == "linear_probe")
    assert linear.metrics["accuracy"] == 1 and (linear.recipe, linear.variant) == ("my-model", "v1")
    cells[:50].copy().write_h5ad(path)
    with pytest.raises(DataError, match="cells have no vector"):
        evaluate_tasks(str(path), tasks=["types"], **ask)
    with pytest.raises(DataError, match="no 'X_other' in obsm"):
        evaluate_tasks(str(path), tasks=["types"], **{**ask, "obsm": "X_other"})
    with pytest.raises(ConfigError, match="recipe/variant"):
        evaluate_tasks(str(path), tasks=["types"], **{**ask, "name": None})


def test_vectors_with_other_ids_are_matched_by_order_when_asked(suite, toy_env, tmp_path, capsys, monkeypatch):
    cells = ad.read_h5ad(toy_env / "mirror" / "toy" / "toy.h5ad")
    cells.obsm["X_mine"] = np.eye(3)[cells.obs["cell_type"].cat.codes] + 0.01 * np.arange(3)
    path = tmp_path / "mine.h5ad"

    def said(adata, *words, what=path):
        adata.write_h5ad(path)
        ask = ("--suite", suite, "--as", "my-model/v1", "--results", tmp_path / "l", "--json", "--quiet")
        code, out, err = scmf(capsys, monkeypatch, "evaluate", what, "--tasks", "types", *ask, *words)
        return code, out if code == 0 else f"{out} {err}"

    obsm, order = ("--obsm", "X_mine"), "--by-order"
    code, why = said(cells[::-1].copy(), *obsm, order)
    assert code == 3 and "the cells of the task in another order" in why
    for other in ([f"row{i}" for i in range(cells.n_obs)], ["a row"] * cells.n_obs):
        unnamed = cells.copy()
        unnamed.obs_names = other
        code, why = said(unnamed, *obsm)
        assert code == 3 and "cells have no vector" in why and order in why
        code, out = said(unnamed, *obsm, order)
        linear = next(one for one in json.loads(out) if one["protocol"] == "linear_probe")
        assert linear["metrics"]["accuracy"] == 1 and order in linear["command"]
    code, why = said(cells[:50].copy(), *obsm, order)
    assert code == 3 and "50 vectors" in why
    for words, what in (((order,), path), ((*obsm, order), "baselines")):
        code, why = said(cells, *words, what=what)
        assert code == 2 and "--by-order" in why


def test_what_a_submission_cannot_give_is_filed_as_a_reason(suite, tmp_path):
    path = tmp_path / "edges.tsv"
    pd.DataFrame({"regulator": ["A"], "target": ["B"], "weight": [1.0]}).to_csv(path, sep="\t", index=False)
    results = evaluate_tasks(str(path), tasks=["types"], suite=suite, name="edges/v1", results_dir=tmp_path / "l")
    assert [r.absence.reason for r in results] == ["it gives no vectors of cells"]


def test_words_that_mean_nothing_are_refused(suite, tmp_path):
    with pytest.raises(ConfigError, match="baselines, the folder of a run"):
        evaluate_tasks("no/such/thing", tasks=["types"], suite=suite, results_dir=tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'types'"):
        evaluate_tasks("baselines", tasks=["tpyes"], suite=suite, results_dir=tmp_path)


def test_tasks_run_as_callbacks_and_stand_beside_the_loss(suite, toy_env, tmp_path, capsys, monkeypatch):
    for owner in ("callbacks", "tasks"):
        monkeypatch.setattr(f"scmf.evaluation.{owner}.load_suite", lambda: load_suite(suite))
    code, _, err = scmf(
        capsys, monkeypatch, "train", "--config", toy_env / "recipe.yaml", "--out", tmp_path / "run", "--quiet",
        "--set", "eval.tasks=[types, batches]", "--set", "training.trackers=[tensorboard]",
    )  # fmt: skip
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run/pretraining/log.jsonl").read_text().splitlines()]
    scored = [line for line in lines if "types/linear_probe/accuracy" in line]
    assert len(scored) == 2 and all("valid_loss" in line and "batches/scgpt/avg_bio" in line for line in scored)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_callbacks_do_not_change_what_is_trained(suite, toy_env, tmp_path, capsys, monkeypatch):
    for owner in ("callbacks", "tasks"):
        monkeypatch.setattr(f"scmf.evaluation.{owner}.load_suite", lambda: load_suite(suite))
    losses = []
    for tasks in ("[]", "[types]"):
        out = tmp_path / f"run{len(losses)}"
        args = ("train", "--config", toy_env / "recipe.yaml", "--out", out, "--quiet", "--set", f"eval.tasks={tasks}")
        assert scmf(capsys, monkeypatch, *args)[0] == 0
        log = (out / "pretraining/log.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in log])
    assert losses[0] == losses[1]


def test_unknown_tasks_are_refused_before_training(toy_env, tmp_path):
    with pytest.raises(ConfigError, match="task 'nowhere'"):
        inline(["nowhere"], None, None)
