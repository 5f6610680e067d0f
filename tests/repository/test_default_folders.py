"""A user's command changes no committed file: everything goes below runs/ unless a maintainer records."""

import inspect
import subprocess

import pytest

from scmf.core.config.recipe import list_recipes, load_recipe
from scmf.core.errors import ConfigError
from scmf.core.workspace import RUNS, checkout, committed_results, default_folder, is_shipped
from scmf.experiments import folders as module
from scmf.experiments.folders import Folders
from scmf.experiments.leaderboard import compare_measured
from scmf.experiments.regression import SCRATCH, check_all
from scmf.experiments.reproduce import reproduce
from scmf.results.ledger import write_result
from scmf.results.result import Result
from tests import ROOT


def every_folder(found):
    return [found.runs, found.results_dir, found.reports]


@pytest.mark.parametrize("name", list_recipes())
def test_a_reproduction_writes_below_runs(name):
    found = every_folder(Folders.of(load_recipe(name)))
    assert found == [RUNS / "reproduce" / name / part for part in ("runs", "results", "reports")]


@pytest.mark.parametrize("name", list_recipes())
def test_recording_writes_results_and_report_of_a_shipped_recipe_where_they_are_committed(name):
    found = Folders.of(load_recipe(name), record=True)
    assert found.runs == RUNS / "reproduce" / name / "runs"
    assert (found.results_dir, found.reports) == (ROOT / "leaderboard" / "results", ROOT / "reports")


def test_recording_a_recipe_of_ones_own_writes_below_runs(toy_env, tmp_path):
    recipe = load_recipe(str(toy_env / "recipe.yaml"))
    assert not is_shipped(recipe.folder)
    assert Folders.of(recipe, record=True) == Folders.of(recipe)
    named = Folders.of(recipe, runs=tmp_path / "a", results_dir=tmp_path / "b", reports=tmp_path / "c")
    assert every_folder(named) == [tmp_path / "a", tmp_path / "b", tmp_path / "c"]


def test_an_installed_recipe_cannot_be_recorded(monkeypatch):
    monkeypatch.setattr(module, "checkout", lambda: None)
    assert Folders.of(load_recipe("geneformer")).results_dir.is_relative_to(RUNS)
    with pytest.raises(ConfigError, match="installed package"):
        Folders.of(load_recipe("geneformer"), record=True)


def test_defaults_of_the_other_commands_are_below_runs():
    assert RUNS in SCRATCH.parents
    for function in (reproduce, check_all):
        for name in ("runs", "results_dir", "reports"):
            default = inspect.signature(function).parameters[name].default
            assert default is None or SCRATCH in default.parents
    assert default_folder("compare") == RUNS / "compare"


def test_the_committed_results_are_those_of_the_checkout():
    assert checkout() == ROOT
    assert committed_results() == ROOT / "leaderboard" / "results"


def test_compare_writes_below_runs_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = Result(
        recipe="scgpt", variant="mini", tier="mini", benchmark="annotation", dataset="toy", split="donor",
        protocol="linear_probe", method="pretrained", seed=0, metrics={"accuracy": 0.5}, definitions={"accuracy": "d"},
        higher_is_better={"accuracy": True}, recipe_digest="0" * 64, provenance={}, command="scmf reproduce scgpt",
    )  # fmt: skip
    write_result(tmp_path / "runs" / "reproduce" / "scgpt" / "results", one)
    pages = compare_measured(["runs/reproduce/scgpt"], results_dir=tmp_path).pages
    assert pages and all(page.is_relative_to(RUNS / "compare") for page in pages)


def test_git_ignores_what_commands_write():
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    for path in (
        "runs/reproduce/geneformer/results/x.json", "runs/compare/index.html", ".cache/scmf/x", "dist/x.whl",
        "docs/runs/compare/index.html", "embedded.h5ad", "cells.geneformer.h5ad", "corpus.zarr/zarr.json",
        "mine.published/README.md",
    ):  # fmt: skip
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0, path
