"""The folders of shipped files, of fetched files and of local mirrors."""

import pytest

from scmf.core import paths
from scmf.core.paths import cache_dir, shipped


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder elsewhere, as if paths.py had been imported from it."""
    folder = tmp_path / "place" / "scmf"
    for kind in ("recipes", "datasets"):
        (folder / "_shipped" / kind).mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(folder / "core" / "paths.py"))
    return folder


def test_a_checkout_reads_its_recipes_and_cards_live(package):
    (package.parent / "pyproject.toml").touch()
    for kind in ("recipes", "datasets"):
        (package.parent / kind).mkdir()
        assert shipped(kind) == package.parent / kind


def test_a_wheel_reads_what_travels_in_it(package):
    # site-packages may hold a foreign folder called datasets: the library of that name
    (package.parent / "datasets").mkdir()
    assert shipped("datasets") == package / "_shipped" / "datasets"


def test_the_tests_run_on_the_checkout():
    assert (shipped("recipes") / "geneformer" / "recipe.yaml").is_file()
    assert (shipped("datasets") / "pancreas.yaml").is_file()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"SCMF_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/scmf"),
        ({"HOME": "/c"}, "/c/.cache/scmf"),
    ],
)
def test_where_fetched_files_are_kept(monkeypatch, environment, wanted):
    for name in ("SCMF_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(cache_dir()) == wanted


@pytest.mark.parametrize(("name", "function"), [("SCMF_DATA_DIR", "data_dir"), ("SCMF_REFERENCE_DIR", "reference_dir")])
def test_an_unset_or_empty_folder_is_none(monkeypatch, name, function):
    monkeypatch.setenv(name, "")
    assert getattr(paths, function)() is None
    monkeypatch.delenv(name)
    assert getattr(paths, function)() is None
    monkeypatch.setenv(name, "/somewhere")
    assert str(getattr(paths, function)()) == "/somewhere"
