"""The READMEs of the recipes and the page about models name commands, options and models that exist."""

import re
import shlex

import pytest
from typer.main import get_command

from scmf.cli.main import app
from scmf.core.config.recipe import list_recipes, load_recipe
from scmf.models.published.cards import published
from tests import ROOT

PULL = get_command(app).commands["models"].commands["pull"]
OPTIONS = {option for parameter in PULL.params for option in parameter.opts}
PAGES = {name: load_recipe(name).folder / "README.md" for name in list_recipes()} | {
    "models": ROOT / "docs" / "models.md"
}


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_can_be_given(name):
    text = PAGES[name].read_text(encoding="utf-8")
    commands = re.findall(r"^scmf models pull (.*)$", text, flags=re.MULTILINE)
    assert commands
    for command in commands:
        words = shlex.split(command, comments=True)
        model = published(words[0])
        assert name in ("models", model.card.recipe)
        given = {word for word in words if word.startswith("--")}
        assert given <= OPTIONS
        assert model.sums or given & {"--unverified", "--sha256"}
        assert model.source is not None or "--source" in given
        assert (model.variant == "own") == ("--out" in given)
    for word in re.findall(r"(?:--model |evaluate |`)(\w+@[\w-]+)", text):
        published(word)


@pytest.mark.parametrize("name", list_recipes())
def test_the_options_in_a_readme_exist(name):
    section = PAGES[name].read_text(encoding="utf-8").partition("## Official weights")[2].partition("## Parity")[0]
    assert section and set(re.findall(r"`(--[\w-]+)`", section)) <= OPTIONS
