"""Conventions of this repository that no linter checks."""

import ast

import pytest

from tests import ROOT

MODULES = sorted((ROOT / "scmf").rglob("*.py")) + sorted((ROOT / "recipes").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def test_datasets_is_a_folder_of_cards_and_no_package():
    # As a package it would hide the library `datasets` from a program that is started in the checkout.
    assert not (ROOT / "datasets" / "__init__.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_lives_in_it(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and len(docstring.split()) >= 5


LONGER = {  # a reason for each
    **dict.fromkeys(
        (
            "scmf/models/transformer_encoder.py",
            "scmf/models/generative_transformer.py",
            "scmf/models/masked_autoencoder.py",
            "scmf/models/autoregressive_transformer.py",
        ),
        "a model family is one file that travels whole inside a checkpoint",
    ),
    **dict.fromkeys(
        ("recipes/geneformer/parity_model.py", "recipes/scgpt/parity_model.py", "recipes/scfoundation/parity_model.py"),
        "scripts of a recipe are no package and cannot share a module",
    ),
}


@pytest.mark.parametrize("path", [p for p in MODULES + TESTS if name(p) not in LONGER], ids=name)
def test_files_stay_under_400_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < 400, f"{lines} lines: split the file by subject"


def test_no_file_is_named_after_nothing():
    vague = {"utils", "util", "base", "manager", "helpers", "helper", "common", "misc"}
    assert not [name(path) for path in MODULES if set(path.stem.split("_")) & vague]


def test_license_is_the_unmodified_apache_license():
    import hashlib

    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
