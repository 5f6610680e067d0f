"""A name becomes a class: built in, an alias, an entry point or a dotted path, whose code runs only after trust."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from scmf.cli.main import app
from scmf.core import registry
from scmf.core.config.run import RunConfig, validate
from scmf.core.errors import ConfigError

RAN = "ran.txt"

CODE = f"""
from pathlib import Path

Path(__file__).with_name({RAN!r}).write_text("imported")


class Tokens:
    pass
"""


class Distribution:
    """Stands for an installed distribution."""

    def __init__(self, name):
        self.name = name


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module outside scmf that leaves a mark when it is imported."""
    (tmp_path / "outside_tokens.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "outside_tokens", raising=False)
    registry.trust(False)
    yield tmp_path
    registry.trust(False)
    sys.modules.pop("outside_tokens", None)


@pytest.fixture
def plugin(package, monkeypatch):
    """The same module, brought by a distribution as the tokenizer ``mine``."""

    def found(group):
        if group != "scmf.tokenizers":
            return []
        point = EntryPoint("mine", "outside_tokens:Tokens", group)
        return [point._for(Distribution("other-tokens"))]

    registry._entry_points.cache_clear()
    monkeypatch.setattr(registry, "entry_points", found)
    yield package
    registry._entry_points.cache_clear()


def test_the_kinds_are_those_of_the_entry_points():
    assert set(registry.BUILT_IN) == {"tokenizers", "models", "objectives", "benchmarks", "readers", "converters"}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in registry.BUILT_IN for name in registry.names(kind)]
)
def test_every_built_in_name_is_a_class(kind, name):
    found = registry.resolve(kind, name)
    assert isinstance(found, type)
    assert found.__name__ == registry.class_name(kind, name)


def test_the_names_of_papers_are_aliases_and_a_config_holds_what_they_stand_for():
    for kind, aliases in registry.ALIASES.items():
        for alias, name in aliases.items():
            assert registry.check(kind, alias) == name
            assert registry.resolve(kind, alias) is registry.resolve(kind, name)
    sections = {"data": {"dataset": "pancreas"}, "model": {"architecture": "scgpt"}, "tokenizer": {"strategy": "scgpt"}}
    config = validate(RunConfig, sections, where="my.yaml")
    assert (config.model.architecture, config.tokenizer.strategy) == ("generative_transformer", "binned")


def test_a_dotted_path_runs_nothing_before_trust(package):
    name = "outside_tokens:Tokens"
    for ask in (registry.check, registry.resolve):
        with pytest.raises(ConfigError, match=r"would run outside_tokens:Tokens from the Python path") as caught:
            ask("tokenizers", name)
        assert "--trust" in caught.value.fix
    with pytest.raises(ConfigError, match="would run outside_tokens:Tokens"):
        validate(RunConfig, {"data": {"dataset": "pancreas"}, "tokenizer": {"strategy": name}}, where="my.yaml")
    assert registry.class_name("tokenizers", name) == "Tokens"
    assert not (package / RAN).exists()
    registry.trust()
    assert registry.resolve("tokenizers", name).__name__ == "Tokens"
    assert (package / RAN).exists()


def test_an_entry_point_is_listed_and_named_with_its_distribution_and_runs_after_trust(plugin):
    assert "mine" in registry.names("tokenizers") and "mine" not in registry.names("models")
    with pytest.raises(ConfigError, match="would run outside_tokens:Tokens of the distribution other-tokens"):
        registry.check("tokenizers", "mine")
    assert not (plugin / RAN).exists()
    registry.trust()
    assert registry.resolve("tokenizers", "mine").__name__ == "Tokens"


def test_code_of_this_distribution_needs_no_word(plugin, monkeypatch):
    own = EntryPoint("mine", "outside_tokens:Tokens", "scmf.tokenizers")._for(Distribution("scmodelforge"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [own])
    assert registry.resolve("tokenizers", "mine").__name__ == "Tokens"


def test_an_entry_point_does_not_replace_what_is_built_in(package, monkeypatch):
    other = EntryPoint("binned", "outside_tokens:Tokens", "scmf.tokenizers")._for(Distribution("other-tokens"))
    registry._entry_points.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [other])
    assert registry.class_name("tokenizers", "binned") == "BinnedTokenizer"
    registry._entry_points.cache_clear()


@pytest.mark.parametrize("name", ["no_such_module_here:Tokens", "outside_tokens:Nothing"])
def test_code_that_cannot_be_imported_is_one_clear_error(package, name):
    registry.trust()
    with pytest.raises(ConfigError) as caught:
        registry.resolve("tokenizers", name)
    assert name in caught.value.found and "PYTHONPATH" in caught.value.fix


@pytest.mark.parametrize("name", ["rankvalue", "a.b", "a b:c", ":c", "a:"])
def test_what_is_neither_gets_a_hint(name):
    with pytest.raises(ConfigError, match=r"rank_value"):
        registry.check("tokenizers", name)


def test_the_command_line_gives_the_word(package, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("data: {dataset: pancreas}\ntokenizer: {strategy: 'outside_tokens:Tokens'}\n")
    runner = CliRunner()
    assert "would run" in str(
        runner.invoke(app, ["train", "--config", str(file), "--out", str(tmp_path / "run")]).exception
    )
    assert not (package / RAN).exists()


def test_a_config_is_read_and_checked_without_torch():
    code = (
        "import sys; from scmf.core.config.recipe import *; [load_recipe(name) for name in list_recipes()]; "
        "file_schema(); assert not {'torch', 'transformers', 'anndata'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
