"""The door: `__all__`, the lazy table and what resolves agree; opening it costs nothing."""

import importlib
import subprocess
import sys

import pytest

import scmf

HEAVY = {"torch", "numpy", "pandas", "scipy", "anndata", "transformers", "pydantic", "yaml", "numba"}


def test_the_door_says_what_it_opens():
    assert scmf.__all__ == sorted(scmf._DOOR), "sorted and equal to the table"
    assert len(scmf.__all__) <= 14, "what a notebook needs, the five verbs among it"
    for name in scmf.__all__:
        assert getattr(scmf, name) is getattr(importlib.import_module(scmf._DOOR[name]), name)
    assert set(scmf.__all__) <= set(dir(scmf))
    with pytest.raises(AttributeError, match="'scmf' has no attribute 'nothing'"):
        _ = scmf.nothing


def loaded(code):
    """Which heavy packages a fresh Python has imported after ``code``, and what it printed before."""
    code += "\nimport sys; print('\\n' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, modules = run.stdout.rstrip("\n").rpartition("\n")
    return HEAVY & set(modules.split()), text


def test_importing_scmf_imports_nothing_heavy():
    assert loaded("import scmf") == (set(), "")


HELP = """
import sys
sys.argv = ["scmf", *{arguments!r}]
from scmf.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("arguments", [["--help"], ["reproduce", "--help"], ["data", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    # What it imports decides how fast it answers; the time itself says something of the machine and is not asserted.
    found, text = loaded(HELP.format(arguments=arguments))
    assert found <= ({"pydantic"} if len(arguments) > 1 else set()), "typer itself asks pydantic below a subcommand"
    assert "Usage: scmf" in text


def test_python_m_scmf_is_the_command():
    run = subprocess.run([sys.executable, "-m", "scmf", "--help"], capture_output=True, text=True, check=True)
    assert "reproduce" in run.stdout
