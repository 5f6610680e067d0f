"""What benchmarks and submissions must offer, and the tasks that a recipe makes of its own cells."""

import inspect
import subprocess
import sys

import pytest

from scmf.core import registry
from scmf.core.config.recipe import load_recipe
from scmf.evaluation.protocol import Benchmark
from scmf.evaluation.submissions.baselines import BaselinesSubmission
from scmf.evaluation.submissions.edges import EdgesSubmission
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.evaluation.submissions.predictions import PredictionsSubmission
from scmf.evaluation.submissions.protocol import Submission
from scmf.evaluation.submissions.vectors import VectorsSubmission
from scmf.evaluation.tasks import COMMON, Task, tasks_of

KINDS = (BaselinesSubmission, EdgesSubmission, ModelSubmission, PredictionsSubmission, VectorsSubmission)
TASK = {"benchmark": "annotation", "dataset": "pancreas", "split": "donor", "description": "unseen donors"}


@pytest.mark.parametrize("name", registry.names("benchmarks"))
def test_a_benchmark_is_one_class_found_by_its_name(name):
    benchmark = registry.resolve("benchmarks", name)
    assert Benchmark in benchmark.__mro__ and benchmark.name == name and benchmark.asks_for
    assert set(benchmark.task_options) <= set(Task.model_fields) - set(COMMON)
    assert set(benchmark.required_options) <= set(benchmark.task_options)
    assert list(inspect.signature(benchmark.score).parameters) == ["task", "submission", "cells"]


def test_every_key_of_a_task_is_common_or_known_to_a_benchmark():
    known = {key for name in registry.names("benchmarks") for key in registry.resolve("benchmarks", name).task_options}
    assert set(Task.model_fields) == set(COMMON) | known


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_submission_offers_what_the_protocol_says(kind):
    for name in ("vectors", "labels", "predictions", "edges"):
        wanted = inspect.signature(getattr(Submission, name)).parameters
        assert list(inspect.signature(getattr(kind, name)).parameters) == list(wanted)


def test_reading_the_suite_imports_neither_torch_nor_anndata():
    code = (
        "import sys; from scmf.evaluation.tasks import load_suite; load_suite()\n"
        "print({'torch', 'anndata', 'scanpy', 'sklearn', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_recipe_makes_tasks_of_its_own_cells():
    recipe = load_recipe("geneformer", variant="mini", overrides=("eval.knn_neighbors=7",))
    tasks = tasks_of(recipe)
    assert list(tasks) == ["annotation", "integration"]
    assert (tasks["annotation"].dataset, tasks["annotation"].split) == ("pancreas", "donor")
    assert tasks["annotation"].knn_neighbors == 7 and tasks["annotation"].finetune
    assert tasks["integration"].protocols == ("scib",)


def test_options_that_came_later_leave_old_digests_as_they_are():
    assert "knn_neighbors" not in Task.model_validate(TASK).facts()
    assert Task.model_validate({**TASK, "knn_neighbors": 3}).facts()["knn_neighbors"] == 3
    assert Task.model_validate(TASK).facts()["unseen"] == "error"
