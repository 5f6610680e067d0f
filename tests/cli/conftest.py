"""Fixtures of the tests of the command line: a command, a small trained run, cells."""

import shutil

import pytest

from tests.conftest import synthetic_cells
from tests.fixtures.commands import SMALL, scmf


@pytest.fixture
def command(capsys):
    """Run a command: exit code, and all that it printed."""

    def run(*arguments):
        capsys.readouterr()
        code = scmf(*arguments)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return run


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """Folder of a run of two epochs."""
    out = tmp_path_factory.mktemp("trust") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
        patch.setenv("SCMF_CACHE_DIR", str(out.parent / "cache"))
        assert scmf("train", "--config", toy / "recipe.yaml", "--out", out, *SMALL, "--quiet") == 0
    return out


@pytest.fixture
def run(trained, toy_env, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "mine.h5ad"
    synthetic_cells(20, seed=3).write_h5ad(path)
    return path


@pytest.fixture
def again(toy_env, command):
    """Give the command of the run again."""
    return lambda out, *more: command("train", "--config", toy_env / "recipe.yaml", "--out", out, *SMALL, *more)
