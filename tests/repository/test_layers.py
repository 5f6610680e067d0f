"""The layers: a package imports only packages of lower layers. Reads the source, imports nothing."""

import ast
import graphlib
import sys

import pytest

from tests import ROOT

ORDER = {  # lowest layer first
    "scmf": ("core", "data results", "tokenizers models", "training hub", "evaluation", "experiments", "cli"),
    "scmf.data": ("cards", "genes", "stores", "preprocess splits convert", "stream", "loading", "tokens checks"),
}
LAYERS = {root: {p: n for n, names in enumerate(order, 1) for p in names.split()} for root, order in ORDER.items()}
MOST = {"scmf": (8, 50), "scmf.data": (7, 30)}  # layers, arrows between packages

HEAVY = {"torch", "anndata", "scanpy", "transformers", "accelerate"}
# `save_pretrained` copies the files of these packages into a checkpoint, where they must load without scmf.
TRAVELS = {
    "scmf.tokenizers": {"numpy", "scipy", "numba", "transformers", *sys.stdlib_module_names},
    "scmf.models": {"torch", "transformers", *sys.stdlib_module_names},
}
STAYS = {"__init__", "build", "protocol", "dataset", "coverage", "species"}
STAYS |= {"checkpoint", "run_folder", "origin", "embed"}

FILES = {  # dotted name -> path; a package has the name of its folder
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "scmf").rglob("*.py"))
    if "_shipped" not in path.parts
}


def imports(source, package):
    """``(line, dotted name, place)`` of every import; the place is ``module``, ``function`` or ``types``."""

    def walk(node, place):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            place = "function"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            place = "types"
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, place) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = [*above, node.module] if node.module else above
            yield from ((node.lineno, ".".join([*module, alias.name]), place) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((node.lineno, str(x.value), place) for x in node.args[:1] if isinstance(x, ast.Constant))
        for inner in ast.iter_child_nodes(node):
            yield from walk(inner, place)

    yield from walk(ast.parse(source), "module")


def child(root, name):
    """The part of a dotted name directly under ``root``, or None."""
    return name.removeprefix(root + ".").partition(".")[0] if name.startswith(root + ".") else None


def breaches(module, source, package):
    """Line and reason of every import of ``module`` that breaks the rule."""
    for line, name, place in imports(source, package):
        for root, layers in LAYERS.items():
            here, there = child(root, module), child(root, name)
            if here and there and here != there and layers.get(here, 0) <= layers.get(there, 99):
                yield line, f"{here} (layer {layers.get(here)}) imports {name} (layer {layers.get(there)})"
        top, stem = name.partition(".")[0], module.rpartition(".")[2]
        if place == "function" and top == "scmf" and child("scmf", module) != "cli" and module != "scmf.core.registry":
            yield line, f"{name} is imported inside a function"
        if package in TRAVELS and stem not in STAYS and module != package:
            neighbor = child(package, name)
            if top not in TRAVELS[package] and (neighbor is None or neighbor in STAYS):
                yield line, f"{stem} is copied into checkpoints, where {name} may not be installed"
        light = child("scmf", module) == "results" or (child("scmf", module) == "core" and place == "module")
        if light and top in HEAVY:
            yield line, f"results, and all they import, work without {top}"


def package_of(module):
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


EDGES = [
    (module, name, place)
    for module, path in FILES.items()
    for _, name, place in imports(path.read_text(encoding="utf-8"), package_of(module))
]


def test_imports_point_to_lower_layers():
    found = [
        f"{FILES[module].relative_to(ROOT)}:{line}: {reason}"
        for module in FILES
        if module not in ("scmf", "scmf.__main__")
        for line, reason in breaches(module, FILES[module].read_text(encoding="utf-8"), package_of(module))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("root", LAYERS)
def test_packages_have_a_layer_and_few_arrows_and_no_module_is_loose(root):
    found = {child(root, module) for module in FILES} - {None, "__main__"}
    assert found == set(LAYERS[root])
    assert all(package_of(f"{root}.{name}") == f"{root}.{name}" for name in found)
    arrows = {(child(root, module), child(root, name)) for module, name, _ in EDGES if module != "scmf.__main__"}
    assert len({(here, there) for here, there in arrows if here and there and here != there}) <= MOST[root][1]
    assert len(set(LAYERS[root].values())) <= MOST[root][0]


def circle(edges):
    """Modules that import each other in a circle, if there are any."""
    graph = {}
    for module, name, place in edges:
        target = name if name in FILES else name.rpartition(".")[0]
        if place != "types" and target in FILES and target != module:
            graph.setdefault(module, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]


def test_no_modules_import_each_other_in_a_circle():
    assert circle(EDGES) is None
    there, back = ("scmf.core.files", "scmf.core.errors"), ("scmf.core.errors", "scmf.core.files.write_json")
    assert circle([(*there, "module"), (*back, "function")]) and not circle([(*there, "module"), (*back, "types")])


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("scmf.data.stores.open", "from scmf.tokenizers import rank_value"),  # upward
        ("scmf.data.stores.open", "from scmf.data.stream.reader import CellStream"),  # upward inside data
        ("scmf.training.loop", "from scmf.hub import card"),  # sideways
        ("scmf.data.splits.make", "import scmf.data.convert.plan"),  # sideways inside data
        ("scmf.training.loop", "from scmf import load_recipe"),  # the door is above every layer
        ("scmf.models.build", "from ..training import loop"),  # relative
        ("scmf.core.files", "import importlib\nimportlib.import_module('scmf.data.cards')"),
        ("scmf.training.loop", "def f():\n    from scmf.core.files import write_json"),
        ("scmf.core.files", "if TYPE_CHECKING:\n    import scmf.results.result"),
        ("scmf.tokenizers.binned", "import pandas"),
        ("scmf.tokenizers.binned", "from .build import tokenize"),
        ("scmf.models.transformer_encoder", "import numpy as np"),
        ("scmf.results.pages.reproduction", "def f():\n    import torch.nn"),
        ("scmf.core.files", "import torch"),
    ],
)
def test_a_planted_breach_is_seen(module, source):
    assert [line for line, _ in breaches(module, source, module.rpartition(".")[0])] == [source.count("\n") + 1]
