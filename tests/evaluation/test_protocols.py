"""What benchmarks and submissions must offer, and the tasks that a recipe makes of its own cells."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from scmf.core import registry
from scmf.core.config.recipe import load_recipe
from scmf.core.config.renamed import first_names
from scmf.core.config.section import Section
from scmf.core.files import sha256_json
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.protocol import Benchmark
from scmf.evaluation.run import scores
from scmf.evaluation.submissions.baselines import BaselinesSubmission
from scmf.evaluation.submissions.edges import EdgesSubmission
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.evaluation.submissions.predictions import PredictionsSubmission
from scmf.evaluation.submissions.protocol import EmptySubmission, Origin, Submission
from scmf.evaluation.submissions.vectors import VectorsSubmission
from scmf.evaluation.tasks import COMMON, LATER, Task, tasks_of
from scmf.results.score import Score

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


class Counted(Benchmark):
    """A benchmark from outside: one class."""

    class Options(Section):
        """Its own options."""

        least: int = 1

    name = "counted"
    asks_for = "vectors of cells"

    @classmethod
    def score(cls, task, submission, cells):
        least = cls.Options(**task.options).least
        for method, x_ND in submission.vectors(task, cells).items():
            n_cells = len(x_ND)
            yield Score(cls.name, "all", method, {"share": n_cells / least}, {"share": "cells"}, n_cells, None, 0.0)


def test_a_new_benchmark_is_one_class(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN["benchmarks"], "counted", f"{__name__}:Counted")
    task = Task.model_validate({**TASK, "benchmark": "counted", "options": {"least": 4}})
    with pytest.raises(ValueError, match="did you mean 'least'"):
        Task.model_validate({**TASK, "benchmark": "counted", "options": {"leest": 4}})
    with pytest.raises(ValueError, match="annotation has no options"):
        Task.model_validate({**TASK, "options": {"least": 4}})

    class Given(EmptySubmission):
        def vectors(self, task, cells):
            return {"mine": np.zeros((8, 2))}

    one = Given(Origin("mine", "v1", "published", "0", ()))
    assert [score.metrics for score in scores(task, one, TaskCells(None))] == [{"share": 2.0}]


def test_options_that_came_later_leave_old_digests_as_they_are():
    plain = Task.model_validate(TASK)
    before = {key: value for key, value in plain.model_dump(mode="json").items() if key not in LATER}
    assert plain.digest("d") == sha256_json(["d", first_names("task", before)])
    assert Task.model_validate({**TASK, "knn_neighbors": 3}).digest("d") != plain.digest("d")
    assert Task.model_validate({**TASK, "unseen": "report"}).digest("d") != plain.digest("d")
