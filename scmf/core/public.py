"""The public names of a package, each imported when it is first used, so that ``import scmf`` costs nothing.

A name that is not among them may move without notice. A function that is called like its module
(``scmf.training.pretrain.pretrain``) is imported from there: a package cannot have both under one name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def public(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and the sorted ``__all__`` of a package.

    Parameters
    ----------
    package
        Its ``__name__``.
    modules
        Module below the package -> its public names, separated by spaces.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *homes}), sorted(homes)
