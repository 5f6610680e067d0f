"""The floors of the house: an import only points down. Reads the source, imports nothing."""

import ast
import sys

import pytest

from tests import ROOT

PACKAGE = ROOT / "scmf"

FLOORS = {
    **dict.fromkeys(
        (
            "errors",
            "files",
            "config",
            "config_data",
            "config_tokenizer",
            "config_model",
            "config_training",
            "validation",
            "section",
            "plugins",
            "provenance",
        ),
        1,
    ),
    **dict.fromkeys(("data", "tokenizers", "models", "results", "expectations"), 2),
    "recipe": 3,
    **dict.fromkeys(("training", "eval"), 4),
    **dict.fromkeys(
        ("embedding", "weights", "run", "streaming", "token_cache", "tokenizing", "seeds", "evaluation"), 5
    ),
    **dict.fromkeys(("reproduce", "compare", "report", "hub", "hub_card"), 5),
    **dict.fromkeys(
        ("suite", "suite_run", "subjects", "board", "gene_edges", "gene_contexts", "regression", "changes", "backends"),
        5,
    ),
    **dict.fromkeys(("cli", "cli_bench", "cli_data", "cli_print", "cli_hub", "__main__"), 6),
}
# Rooms of one floor that are one room in two files.
SAME_ROOM = ({"results", "expectations"},)
# Modules of floors 1 and 5 may use each other; rooms of floors 2 and 4 never import each other.
SEPARATE_FLOORS = (2, 4)

STDLIB = frozenset(sys.stdlib_module_names)
TRAVELS = {  # folders whose files are copied into a checkpoint, and all they may import
    "tokenizers": {"numpy", "scipy", "numba", "transformers"},
    "models": {"torch", "transformers"},
}
LIGHT = ("results", "expectations", "report")
HEAVY = {"torch", "anndata", "scanpy", "transformers", "accelerate"}


def room(path):
    """Name of the room a file lies in; the package itself is ``__init__``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(source, package=()):
    """Line and dotted name of every import, those inside functions and below TYPE_CHECKING too.

    ``package`` are the parts of the package of the file, to resolve relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def may_import(here, there):
    """True when room ``here`` may import room ``there``."""
    if here == there or any({here, there} <= pair for pair in SAME_ROOM):
        return True
    if FLOORS[here] == FLOORS[there]:
        return FLOORS[here] not in SEPARATE_FLOORS
    return FLOORS[here] > FLOORS[there]


def breaches(here, source, package=("scmf",)):
    """Every line of ``source``, a file of room ``here``, that breaks a rule."""
    for line, name in imports(source, package):
        top, _, rest = name.partition(".")
        if here in TRAVELS and top != "scmf" and top not in STDLIB | TRAVELS[here]:
            yield line, f"{here} travels alone inside a checkpoint and may not import {top}"
        if here in LIGHT and top in HEAVY:
            yield line, f"{here} needs no {top}"
        if top != "scmf":
            continue
        there = rest.partition(".")[0]
        if here in TRAVELS and there != here:
            yield line, f"{here} travels alone inside a checkpoint and may not import {name}"
        elif here in LIGHT and there in FLOORS and there not in LIGHT and FLOORS[there] > 1:
            yield line, f"{here} needs neither torch nor anndata and may not import {name}, which may"
        elif there in FLOORS and not may_import(here, there):
            yield line, f"{here} (floor {FLOORS[here]}) may not import {name} (floor {FLOORS[there]})"


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
KNOWN = [path for path in FILES if room(path) in FLOORS]


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} <= set(FLOORS), "a new room needs a floor in FLOORS"


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    package = path.relative_to(ROOT).parent.parts
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}" for line, what in breaches(room(path), path.read_text(), package)
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("here", "source"),
    [
        ("data", "from scmf.tokenizers import rank_value"),
        ("data", "from scmf import tokenizers"),
        ("data", "def f():\n    import scmf.models.transformer_encoder"),
        ("config", "from scmf.core.config.recipe import Recipe"),
        ("recipe", "from scmf.training import loop"),
        ("training", "from scmf.eval import annotation"),
        ("report", "import scmf.cli.main"),
        ("report", "import torch.nn"),
        ("report", "from scmf.eval import annotation"),
        ("results", "from anndata import AnnData"),
        ("expectations", "import importlib\nimportlib.import_module('torch')"),
        ("tokenizers", "import pandas"),
        ("tokenizers", "from scmf.core.errors import ConfigError"),
        ("models", "import numpy as np"),
        ("eval", "from ..training import loop"),
    ],
)
def test_the_walk_sees_what_is_forbidden(here, source):
    found = list(breaches(here, source, package=("scmf", here)))
    assert [line for line, _ in found] == [len(source.splitlines())]


@pytest.mark.parametrize(
    ("here", "source"),
    [
        ("cli", "from scmf.experiments.reproduce import run"),
        ("reproduce", "from scmf.results.pages.reproduction import write_report"),
        ("training", "import torch\nfrom scmf.core.config.recipe import Recipe"),
        ("expectations", "from scmf.results.result import judge"),
        ("tokenizers", "import numpy as np\nfrom .rank_value_kernel import rank"),
        ("config", "from scmf import plugins"),
        ("eval", "import anndata, math"),
    ],
)
def test_the_walk_lets_pass_what_is_allowed(here, source):
    assert not list(breaches(here, source, package=("scmf", here)))
