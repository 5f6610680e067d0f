"""Each package has one list of public names: sorted, importable, documented, and free of charge until one is used."""

import importlib
import inspect

import pytest

from tests import ROOT
from tests.repository.test_door import loaded

PACKAGES = sorted(path.parent.name for path in (ROOT / "scmf").glob("*/__init__.py"))


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_sorted_importable_and_documented(name):
    package = importlib.import_module(f"scmf.{name}")
    assert package.__all__ and package.__all__ == sorted(set(package.__all__))
    assert set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        assert not (ROOT / "scmf" / name / public).exists() and not (ROOT / "scmf" / name / f"{public}.py").exists(), (
            f"scmf.{name}.{public} would be the module once that is imported"
        )
        found = getattr(package, public)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__module__.startswith(f"scmf.{name}."), f"{public} is at home in {found.__module__}"
            assert inspect.getdoc(found) and vars(found).get("__doc__", found.__doc__), f"{public} has no docstring"
    with pytest.raises(AttributeError, match=f"'scmf.{name}' has no attribute 'nothing'"):
        _ = package.nothing


def test_opening_the_packages_imports_nothing_heavy():
    code = "import scmf, scmf.core; " + "; ".join(f"import scmf.{name}" for name in PACKAGES)
    assert loaded(f"{code}; print(len(scmf.data.__all__) > 20)") == (set(), "True")
