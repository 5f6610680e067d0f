"""The tree of errors: drawn as it is, four parts each, one exit code a kind."""

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core import errors
from scmf.core.errors import ConfigError, DataError, MissingExtraError, ModelError, ScmfError, from_value_error
from tests import ROOT

CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, ScmfError)}


def drawn():
    """Class -> (parent, exit code or None) as the docstring of the module draws it."""
    tree, path = {}, {}
    for line in errors.__doc__.splitlines():
        found = re.match(r"([ │├└─]*)(\w+Error)\b", line)
        if not found:
            continue
        depth = len(found[1])
        code = re.search(r"\(exit (\d+)\)", line)
        path[depth] = found[2]
        parent = path[max(shallower for shallower in path if shallower < depth)] if depth > min(path) else None
        tree[found[2]] = (parent, int(code[1]) if code else None)
    return tree


def test_the_tree_in_the_docstring_is_the_tree_of_classes():
    assert {name: parent for name, (parent, _) in drawn().items() if parent} == {
        name: kind.__base__.__name__ for name, kind in CLASSES.items() if kind is not ScmfError
    }
    assert len(drawn()) == len(CLASSES) == 12


def test_exit_codes_are_those_of_the_docstring_and_children_share_them():
    codes = {name: code for name, (_, code) in drawn().items()}
    for name, kind in CLASSES.items():
        parent = kind.__base__
        wanted = codes[name] or (1 if kind is ScmfError else parent.exit_code)
        assert kind.exit_code == wanted
    own = [kind.exit_code for kind in ScmfError.__subclasses__()]
    assert sorted(own) == list(range(2, 9)), "one code a kind; 0 and 1 are answers, not errors"


def test_every_class_says_when_it_is_raised():
    assert all(kind.__doc__ for kind in CLASSES.values())


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if kind is not MissingExtraError])
def test_an_error_has_four_parts_in_words_and_in_json(kind):
    error = kind("a", wanted="b", where=("c", 1), fix="d")
    assert str(error) == "found: a\nwanted: b\nwhere: ('c', 1)\ndo: d"
    assert error.to_json() == {"error": kind.__name__, "found": "a", "wanted": "b", "where": "('c', 1)", "do": "d"}


def test_parts_that_are_not_known_are_left_out():
    assert str(ScmfError("a")) == "found: a"
    assert str(ScmfError("a", where=0)) == "found: a\nwhere: 0"
    assert ScmfError("a").to_json() == {
        "error": "ScmfError", "found": "a", "wanted": None, "where": None, "do": None,
    }  # fmt: skip


def test_a_missing_package_names_the_extra_that_brings_it():
    error = MissingExtraError("scanpy", "eval", needed_for="the HVG baseline")
    assert "'scanpy' is not installed" in error.found
    assert error.wanted == "scanpy for the HVG baseline"
    assert error.fix == 'pip install "scmodelforge[eval]"'


def test_the_extras_named_exist(monkeypatch):
    import tomllib

    root = ROOT
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    source = "\n".join(path.read_text() for path in sorted((root / "scmf").rglob("*.py")))
    used = re.findall(r'MissingExtraError\(\s*"[\w-]+",\s*"(\w+)"', source)
    assert used and set(used) <= set(project["optional-dependencies"])
    assert project["name"] in MissingExtraError("a", "b", needed_for="c").fix


# --- from the ValueError of a file that travels alone ------------------------------------------------


def test_four_parts_in_a_value_error_become_those_of_ours():
    error = from_value_error(DataError, ValueError("found: -1\nwanted: counts\nwhere: cell 3\ndo: use raw counts"))
    assert type(error) is DataError
    assert (error.found, error.wanted, error.where, error.fix) == ("-1", "counts", "cell 3", "use raw counts")


def test_the_place_the_caller_knows_comes_first():
    assert from_value_error(ModelError, ValueError("found: a\nwhere: layer"), where="my.h5ad").where == "my.h5ad, layer"
    assert from_value_error(ModelError, ValueError("found: a"), where="my.h5ad").where == "my.h5ad"
    assert from_value_error(ModelError, ValueError("found: a")).where is None


def test_a_foreign_value_error_is_what_was_found():
    error = from_value_error(ConfigError, ValueError("could not broadcast: shapes (3,) and (4,)"))
    assert str(error) == "found: could not broadcast: shapes (3,) and (4,)"


def test_a_part_of_several_lines_stays_one_part():
    text = "found: two genes\n  ENSG1\n  ENSG2: twice\nwanted: one\ndo: drop one"
    error = from_value_error(DataError, ValueError(text))
    assert error.found == "two genes\n  ENSG1\n  ENSG2: twice"
    assert str(error) == text


LINE = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1).filter(lambda text: ": " not in text)


@given(LINE, st.none() | LINE, st.none() | LINE, st.none() | LINE)
def test_an_error_comes_back_from_its_own_text(found, wanted, where, fix):
    error = DataError(found, wanted=wanted, where=where, fix=fix)
    assert from_value_error(DataError, ValueError(str(error))).to_json() == error.to_json()
