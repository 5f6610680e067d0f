"""The pages below docs/ hold what they say: their Python, their YAML files and their commands are run, in order."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scmf.cli.main import app
from tests import ROOT

PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "examples" not in page.parts)
"""The page of the plugin needs the plugin installed: tests/examples runs it."""
LONG = ("benchmarks", "data", "gene-vectors", "publish", "python", "strategies")
"""Pages that train, convert or draw for a while; the verbs on them run small in the tests of the command line."""
BLOCK = re.compile(r"^```(python|sh|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.nightly] if page.stem in LONG else []) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / ".cache"))
    names = {}
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, str(page), "exec"), names)
        elif kind == "yaml" and (found := re.match(r"# (\S+\.yaml)\n", text)):
            Path(found.group(1)).write_text(text)
        elif kind == "sh":
            for line in filter(None, text.splitlines()):
                program, *arguments = line.split()
                assert program == "scmf"
                done = CliRunner().invoke(app, arguments, catch_exceptions=False)
                assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_yaml_of_a_page_is_a_valid_configuration(page, tmp_path):
    from scmf.core.config.recipe import load_recipe

    for number, (_, text) in enumerate(found for found in BLOCK.findall(page.read_text()) if found[0] == "yaml"):
        (tmp_path / f"{number}.yaml").write_text(text)
        assert load_recipe(tmp_path / f"{number}.yaml").config.data.streamed or "stream" not in text
