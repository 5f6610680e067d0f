"""A folder for compiled kernels, where numba would find none: containers, read-only installations, no home folder.

Lives here: `ensure_cache`, called when scmf is imported. Lives elsewhere: the kernels (beside what they compute).
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

log = logging.getLogger("scmf.kernels")

_VARIABLE = "NUMBA_CACHE_DIR"


def ensure_cache(package: Path) -> Path | None:
    """Let numba keep compiled kernels in a temporary folder of this process, where it cannot keep them anywhere else.

    numba tries ``NUMBA_CACHE_DIR``, the folder of the source file and the cache of the user, and fails at import when
    none of them can be written to.

    Parameters
    ----------
    package
        Folder of the package whose kernels are compiled.

    Returns
    -------
    Path
        The temporary folder; None where numba finds a place by itself. It is removed when the process ends.
    """
    chosen = os.environ.get(_VARIABLE)
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"  # noqa: PTH111
    if any(_can_write(folder) for folder in (*([Path(chosen)] if chosen else []), package / "__pycache__", user)):
        return None
    try:
        folder = Path(tempfile.mkdtemp(prefix="scmf-kernels-"))
    except OSError:
        _compile_anew()
        log.warning("no folder can be written to: kernels are compiled anew in every process")
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[_VARIABLE] = str(folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(folder)
    log.warning(
        f"no folder for compiled kernels can be written to: {folder} is used and removed at the end; "
        f"set {_VARIABLE} to a folder to compile them only once"
    )
    return folder


def _can_write(folder: Path) -> bool:
    """Whether a folder can be written to, or made."""
    try:
        while not folder.exists():
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _compile_anew() -> None:
    """Kernels that ask for a cache do without."""
    from numba.core.dispatcher import Dispatcher

    Dispatcher.enable_caching = lambda self: None  # type: ignore[method-assign]
