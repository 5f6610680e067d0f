"""The workflow on GitHub says nothing that Makefile and command line do not know, and writes no more than a comment."""

import re
import shlex

import pytest
import typer
import yaml

from scmf.cli.main import app
from scmf.experiments.regression import SCRATCH
from scmf.results.pages.regression import Check
from tests import ROOT

FILE = ROOT / ".github" / "workflows" / "reproduce.yml"


@pytest.fixture(scope="module")
def workflow():
    """The file by the rules of YAML 1.1, in which the key ``on`` is true."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def commands(workflow):
    """Every line that a step of the workflow runs."""
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            yield from (line for line in step.get("run", "").splitlines() if line.strip())


def test_every_make_target_exists(workflow):
    wanted = {line.split()[1] for line in commands(workflow) if line.startswith("make ")}
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"install", "lint", "test-all"} <= wanted <= known


def test_every_command_of_ours_exists_with_its_options(workflow):
    verbs = typer.main.get_command(app).commands
    lines = [shlex.split(line.partition(">")[0]) for line in commands(workflow) if "/scmf " in line]
    assert lines
    for program, verb, *words in lines:
        assert program == ".venv/bin/scmf"
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_it_runs_on_pull_requests_with_the_whole_history_and_python_of_the_tested_row(workflow):
    assert set(workflow[True]) == {"pull_request", "push"}
    steps = {step["uses"].partition("@")[0]: step for step in workflow["jobs"]["check"]["steps"] if "uses" in step}
    assert steps["actions/checkout"]["with"]["fetch-depth"] == 0
    assert steps["actions/setup-python"]["with"]["python-version"] == "3.11"


def test_the_job_that_runs_foreign_code_may_write_nothing_and_the_one_that_writes_runs_none(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    check, comment = workflow["jobs"]["check"], workflow["jobs"]["comment"]
    assert "permissions" not in check
    assert comment["permissions"] == {"pull-requests": "write"}
    assert not any("run" in step or "checkout" in step.get("uses", "") for step in comment["steps"])
    # Nothing that a pull request says (title, branch) is pasted into a shell or a script.
    steps = [step for job in (check, comment) for step in job["steps"]]
    assert not [s for s in steps if "${{" in s.get("run", "") + s.get("with", {}).get("script", "")]


def test_actions_are_pinned_to_a_major_version(workflow):
    uses = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in uses)


def test_what_is_kept_is_what_the_check_writes_and_the_comment_is_a_key_of_its_json(workflow):
    (upload,) = (s for s in workflow["jobs"]["check"]["steps"] if s.get("uses", "").startswith("actions/upload"))
    kept = upload["with"]["path"].split()
    assert {str(SCRATCH / "reports"), str(SCRATCH / "results"), "check.json", "check.md"} <= set(kept)
    assert any("jq -r '.markdown" in line for line in commands(workflow)) and "markdown" in Check(()).to_json()
