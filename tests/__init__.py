"""Tests mirror the packages of scmf; `ROOT` is the checkout.

Processes of one parallel run (pytest-xdist) do not share the cache of compiled kernels: numba numbers its files without
a lock, so that two processes that compile one function for different types at the same moment may swap their code.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    from numba import config

    os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".cache" / "numba" / worker)
    config.reload_config()  # a package that was imported before may have imported numba
