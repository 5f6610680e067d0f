"""One meaning per verb: which verbs there are, and the error that names the new spelling of an old one."""

import json

import pytest
import typer

from scmf.cli import main as cli
from scmf.cli.options import RENAMED, names_of, refuse_renamed, seeds_of
from scmf.core.errors import ConfigError
from scmf.core.workspace import RUNS
from scmf.evaluation.tasks import load_suite
from tests.cli.test_cli import command  # noqa: F401  (fixture)

COMMANDS = typer.main.get_command(cli.app).commands


def test_the_verbs_are_these():
    assert set(COMMANDS) == {
        "reproduce", "compare", "train", "sweep", "evaluate", "tasks", "embed", "check", "publish", "schema", "data",
        "models", "finetune", "predict", "perturb", "plan",
    }  # fmt: skip
    assert "--tokenizers" not in {option for parameter in COMMANDS["compare"].params for option in parameter.opts}


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--tokenizers", "binned", "--model", "transformer_encoder"],
        ["compare", "--tokenizers=binned"],
        ["evaluate", "ls"],
        ["--trust", "evaluate", "ls", "--json"],
        ["data", "tokenise", "cells.h5ad", "--out", "tokens"],
        ["data", "tokenize", "cells.h5ad", "--max-genes", "9"],
        ["reproduce", "geneformer", "--ledger", "results"],
        ["evaluate", "run", "--tasks", "all", "--ledger=results"],
    ],
    ids=" ".join,
)
def test_an_old_spelling_is_one_error_that_names_the_new(arguments):
    with pytest.raises(ConfigError, match="earlier release") as error:
        refuse_renamed(arguments)
    assert error.value.fix in {new for _, _, new in RENAMED}


@pytest.mark.parametrize(
    "arguments", [["compare", "all"], ["sweep", "--tokenizers", "a"], ["evaluate", "lsd"], ["data", "ls"], []]
)
def test_a_spelling_of_today_passes(arguments):
    refuse_renamed(arguments)


def test_the_command_line_ends_with_that_error_and_the_help_lists_the_old_names(command):  # noqa: F811
    code, out, err = command("evaluate", "ls")
    assert (code, out) == (2, "") and err.startswith("ConfigError") and "do: scmf tasks" in err
    assert "evaluate ls" in command("--help")[1]


def test_tasks_lists_every_task(command):  # noqa: F811
    code, out, _ = command("tasks", "--json")
    assert code == 0 and set(json.loads(out)) == set(load_suite().tasks)
    assert all(name in command("tasks")[1] for name in load_suite().tasks)


def test_folders_that_the_help_names_are_below_runs():
    shown = [parameter.show_default for verb in COMMANDS.values() for parameter in verb.params]
    folders = [text for text in shown if isinstance(text, str) and "/" in text]
    assert len(folders) == 8
    assert all(str(RUNS) in text for text in folders)


def test_seeds_and_names_are_read_from_a_text():
    assert seeds_of("0") == (0,)
    assert seeds_of("1-3,2,7") == (1, 2, 3, 7)
    assert names_of(" a, b,,") == ["a", "b"]
    for bad in ("", "a", "3-1", "-1", "1-"):
        with pytest.raises(ConfigError, match="--seeds"):
            seeds_of(bad)
