"""cz-benchmarks: answers of release 0.15.1 on synthetic cells, restated here, and its result files both ways.

`tests/recorded/cz_answers.json` holds what that release answered for `cells`; SCMF_CZ_PYTHON names an interpreter that
has it, to ask again. Without it everything but that question is tested.
"""

import json
import os
import stat
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from scmf.core.errors import ConfigError, EvaluationError
from scmf.evaluation.annotation.cross_validation import cross_validated
from scmf.evaluation.external.cz_run import RUNNABLE, run_cz_task, score_of
from scmf.evaluation.external.cz_schema import (
    TASKS,
    VERSION,
    metric_name,
    published_from_cz,
    results_from_cz,
    task_of,
    to_cz,
)
from scmf.results.result import Absence, Result

RECORDED = Path(__file__).with_name("cz_answers.json")
PEER = os.environ.get("SCMF_CZ_PYTHON")
SHARED = Path(os.environ["SCMF_DATA_DIR"]).parent if os.environ.get("SCMF_DATA_DIR") else Path("/nowhere")
FILES = sorted((SHARED / "published" / "cz-benchmarks" / "baselines").glob("*.json"))


def cells():
    """An embedding of three overlapping cell types in two batches, and a fourth with too few cells."""
    rng = np.random.default_rng(0)
    kind = np.r_[np.repeat([0, 1, 2], 50), np.repeat(3, 8)]
    x_ND = (rng.normal(size=(4, 8))[kind] * 0.6 + rng.normal(size=(len(kind), 8))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(["alpha", "beta", "delta", "rare"])[kind]),
            "batch": pd.Categorical(np.where(np.arange(len(kind)) % 3, "one", "two")),
        },
        index=[f"c{i}" for i in range(len(kind))],
    )
    found = ad.AnnData(np.zeros((len(kind), 1), np.float32), obs=obs)
    found.obsm["X_model"] = x_ND
    return found


@pytest.fixture(scope="module")
def answers():
    """Task to what cz-benchmarks answered."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cz") / "cells.h5ad"
    cells().write_h5ad(path)
    return path


# --- the tasks ------------------------------------------------------------------------------------


@pytest.mark.skipif(not PEER, reason="SCMF_CZ_PYTHON does not name an interpreter with cz-benchmarks")
@pytest.mark.parametrize("task", RUNNABLE)
def test_asked_again_it_answers_as_recorded(task, file, answers):
    found = run_cz_task(PEER, file, "X_model", task, label_key="cell_type", batch_key="batch", timeout=300)
    wanted = score_of(answers[task], task, method="pretrained")
    assert found.metrics == pytest.approx(wanted.metrics, abs=1e-6)
    assert (found.definitions, found.n_cells) == (wanted.definitions, wanted.n_cells)


def test_every_task_is_recorded_by_the_release_that_is_named(answers):
    assert set(answers) == set(RUNNABLE)
    assert {answer["version"] for answer in answers.values()} == {VERSION}


def test_our_five_folds_are_its_label_prediction(answers):
    data = cells()
    labels = data.obs["cell_type"].to_numpy(dtype=str)
    ours = cross_validated(data.obsm["X_model"], labels, method="pretrained")
    theirs = score_of(answers["label_prediction"], "label_prediction", method="pretrained")
    assert 0.5 < theirs.metrics["accuracy"] < 0.95  # neither all right nor all wrong
    assert theirs.metrics == pytest.approx(ours.metrics, abs=1e-9)


def test_its_silhouette_is_that_of_sklearn_rescaled(answers):
    data = cells()
    score = score_of(answers["embedding"], "embedding", method="pretrained")
    wanted = (silhouette_score(data.obsm["X_model"], data.obs["cell_type"]) + 1) / 2
    assert score.metrics == pytest.approx({"silhouette_score": wanted}, abs=1e-5)


def test_its_clusters_are_those_of_leiden_on_the_default_graph_of_scanpy(answers):
    import scanpy as sc

    data = cells()
    sc.pp.neighbors(data, use_rep="X_model", random_state=42)
    sc.tl.leiden(data, flavor="igraph", n_iterations=2, random_state=42)
    clusters, labels = data.obs["leiden"].tolist(), data.obs["cell_type"].tolist()
    score = score_of(answers["clustering"], "clustering", method="pretrained")
    assert score.metrics == pytest.approx(
        {
            "adjusted_rand_index": adjusted_rand_score(labels, clusters),
            "normalized_mutual_info": normalized_mutual_info_score(labels, clusters),
        },
        abs=1e-9,
    )


def test_a_score_says_which_release_and_packages_computed_it(answers):
    score = score_of(answers["batch_integration"], "batch_integration", method="pca")
    assert (score.benchmark, score.protocol, score.method) == ("integration", "cz_batch_integration", "pca")
    assert set(score.metrics) == {"entropy_per_cell", "batch_silhouette"}
    assert all(f"cz-benchmarks {VERSION}" in line for line in score.definitions.values())
    assert score.details["packages"]["scib-metrics"] and all(score.higher_is_better.values())


def fake(folder, body):
    """An interpreter that answers without cz-benchmarks."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_what_the_program_answers_is_the_score(file, tmp_path, answers):
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps(answers["clustering"]))
    python = fake(tmp_path, f'cp {answer} "$3"')
    score = run_cz_task(python, file, "X_model", "clustering", label_key="cell_type")
    assert score.metrics == score_of(answers["clustering"], "clustering", method="pretrained").metrics


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("exit 7", "package 'cz-benchmarks' is not installed"),
        ("echo 'KeyError: X_lost' >&2; exit 1", "task clustering failed: KeyError: X_lost"),
        ("exit 0", "task clustering failed: no word"),
        ("sleep 5", "not done after 0.2 s"),
    ],
)
def test_a_program_that_does_not_answer_is_one_error(body, found, file, tmp_path):
    with pytest.raises(EvaluationError, match=found) as caught:
        run_cz_task(fake(tmp_path, body), file, "X_model", "clustering", label_key="cell_type", timeout=0.2
                    if "sleep" in body else 20)  # fmt: skip
    assert caught.value.fix


def test_this_interpreter_lacks_it_and_the_error_says_how_to_make_one_that_has_it(file):
    with pytest.raises(EvaluationError, match="is not installed") as caught:
        run_cz_task(sys.executable, file, "X_model", "clustering", label_key="cell_type")
    assert f"cz-benchmarks=={VERSION}" in caught.value.fix
    with pytest.raises(EvaluationError, match="does not run"):
        run_cz_task("/nowhere/python", file, "X_model", "clustering", label_key="cell_type")


def test_what_is_asked_wrongly_is_said_before_anything_runs(file, tmp_path):
    with pytest.raises(ConfigError, match="task 'clusters'"):
        run_cz_task("x", file, "X_model", "clusters", label_key="cell_type")
    with pytest.raises(ConfigError, match="no batch_key"):
        run_cz_task("x", file, "X_model", "batch_integration", label_key="cell_type")
    with pytest.raises(ConfigError, match="no such file"):
        run_cz_task("x", tmp_path / "none.h5ad", "X_model", "clustering", label_key="cell_type")


# --- result files ---------------------------------------------------------------------------------


def result(score, **other):
    return Result(
        **{
            "recipe": "geneformer", "variant": "mini", "tier": "mini", "benchmark": score.benchmark,
            "dataset": "pancreas", "split": "donor", "protocol": score.protocol, "method": score.method, "seed": 1,
            "metrics": score.metrics, "definitions": score.definitions, "higher_is_better": score.higher_is_better,
            "n_cells": score.n_cells, "recipe_digest": "d" * 64, "provenance": {"time": "2026-01-01T00:00:00+00:00"},
            "command": "scmf evaluate x", "seconds": 1.5, "corpora": ("genecorpus",), **other,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(answers):
    data = cells()
    labels = data.obs["cell_type"].to_numpy(dtype=str)
    scores = [score_of(answers[task], task, method="pretrained") for task in RUNNABLE]
    return [result(score) for score in (*scores, cross_validated(data.obsm["X_model"], labels, method="untrained"))]


def test_results_come_back_equal_from_the_file_that_was_written(results):
    value = json.loads(json.dumps(to_cz(results, command="scmf evaluate"), allow_nan=False))
    assert results_from_cz(value) == results
    assert value["czbenchmarks_version"] == VERSION and value["timestamp"] == "2026-01-01T00:00:00+00:00"


def test_metrics_are_written_as_cz_benchmarks_writes_them(results, answers):
    entries = to_cz(results)["task_results"]
    assert [entry["task_name"] for entry in entries] == [*RUNNABLE, "label_prediction"]
    for entry, task in zip(entries, RUNNABLE, strict=False):
        assert entry["metrics"] == [{"params": {}, **metric} for metric in answers[task]["metrics"]]

    def known(entry):
        return {(metric["metric_type"], metric["params"]["classifier"]) for metric in entry["metrics"]}

    assert known(entries[-1]) == known(entries[RUNNABLE.index("label_prediction")])


def test_a_number_that_is_defined_otherwise_is_not_written_under_their_name(results):
    probe = results[0].model_copy(update={"benchmark": "annotation", "protocol": "linear_probe"})
    assert task_of(probe) is None
    with pytest.raises(EvaluationError, match="linear_probe"):
        to_cz([probe])
    absent = results[0].model_copy(update={"metrics": {}, "absence": Absence(kind="failed", reason="diverged")})
    with pytest.raises(EvaluationError, match="diverged"):
        to_cz([absent])
    with pytest.raises(EvaluationError, match="no results"):
        to_cz([])


@pytest.mark.skipif(not FILES, reason="SCMF_DATA_DIR is not set, or has no ../published/cz-benchmarks")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_its_repository_are_read_and_written_back_entry_by_entry(path):
    value = json.loads(path.read_text(encoding="utf-8"))
    found = results_from_cz(value, where=path.name)
    assert {one.tier for one in found} == {"published"}
    assert {one.method for one in found} == {"official", "cz_baseline"}
    assert to_cz(found)["task_results"] == value["task_results"]
    assert len({one.path for one in found}) == len(found)


@pytest.mark.skipif(not FILES, reason="SCMF_DATA_DIR is not set, or has no ../published/cz-benchmarks")
def test_published_values_are_those_of_the_collection():
    import yaml

    rows = yaml.load((SHARED / "specs" / "published_values.yaml").read_text(), Loader=yaml.CSafeLoader)["values"]
    wanted = {(row["dataset"], row["value"]) for row in rows if row["source"] == "czb_fix"}
    found = [
        value
        for path in FILES
        for value in published_from_cz(json.loads(path.read_text()), source=path.name, comparable="other cells")
    ]
    kept = {(value.dataset, value.value) for value in found if value.task.startswith("clustering")}
    assert kept == wanted
    assert {value.level for value in found} == {"B"}
    (adamson,) = {value.metric for value in found if value.value == pytest.approx(0.38533, abs=5e-3)}
    assert adamson == "mean_squared_error[subset=top20]"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({}, "no task_results"),
        ({"task_results": [{"task_name": "clustering", "metrics": []}]}, "no task_results with metrics"),
        ({"task_results": [{"task_name": "poetry", "metrics": [{"metric_type": "a", "value": 1}]}]}, "task 'poetry'"),
        ({"task_results": [{"task_name": "clustering", "metrics": [{"metric_type": "a", "value": 1}] * 2}]}, "twice"),
        ({"task_results": [{"task_name": "clustering", "metrics": [{"metric_type": "a"}]}]}, "a metric"),
    ],
)
def test_another_format_is_one_error(value, found):
    with pytest.raises(ConfigError, match=found):
        results_from_cz(value)


def test_names_of_metrics_and_tasks():
    mean = {"metric_type": "mean_fold_f1", "value": 1.0, "params": {"classifier": "MEAN(knn,lr,rf)"}}
    assert metric_name(mean) == "f1"
    assert metric_name({**mean, "params": {"classifier": "rf"}}) == "f1_rf"
    assert metric_name({**mean, "params": {"classifier": "svm"}}) == "mean_fold_f1[classifier=svm]"
    assert set(RUNNABLE) <= set(TASKS)
