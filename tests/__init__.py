"""Tests mirror the packages of scmf; `ROOT` is the checkout.

Processes of one parallel run (pytest-xdist) do not share the cache of compiled kernels: numba numbers its files without
a lock, so that two processes that compile one function for different types at the same moment may swap their code.
Each begins with what the recipes of `.ci/run` compiled, one folder a recipe: of a function the first one's files.
"""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    from numba import config

    kernels = ROOT / ".cache" / "numba"
    if not (kernels / worker).exists():
        for index in sorted(kernels.glob("recipes/*/*/*.nbi")):
            if not (copy := kernels / worker / index.parent.name / index.name).exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                for file in index.parent.glob(f"{index.stem}.*"):
                    shutil.copy2(file, copy.parent)
    os.environ["NUMBA_CACHE_DIR"] = str(kernels / worker)
    config.reload_config()  # a package that was imported before may have imported numba
