"""The README and the guide for contributors are short, and name only files, commands and options that exist."""

import re

import pytest
from typer.main import get_command

from scmf.cli.main import app
from tests import ROOT
from tests.conftest import synthetic_cells

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = get_command(app).commands


def commands_of(text):
    """Words of every command line of ours, in code spans and in blocks."""
    for line in re.findall(r"(?:^|`)(?:\.venv/bin/)?scmf ([^`\n]+)", text, re.MULTILINE):
        words = line.partition("#")[0].split()
        yield words[1:] if words[:1] == ["--trust"] else words


def test_the_readme_has_at_most_90_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 90


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_option_exists(page):
    for verb, *words in commands_of(page.read_text(encoding="utf-8")):
        command = COMMANDS[verb]
        if verb in ("data", "models") and words and words[0].islower() and words[0] in command.commands:
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= {*known, "--help"}, (verb, words)


def test_the_readme_names_every_verb():
    used = {verb for verb, *_ in commands_of(README.read_text(encoding="utf-8"))}
    assert used == set(COMMANDS)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic_cells().write_h5ad("cells.h5ad")
    names = {}
    for text in re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(text, "README.md", "exec"), names)
    assert set(names["batch"]) == {"input_ids", "attention_mask", "length"}


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets
