"""Where files lie: the shipped recipes and cards, the cache, the local mirrors.

Lives here: the folders and the environment variables that move them. Lives elsewhere: what is in a run folder
(`models.run_folder`), reading and writing (`core.files`, `core.yaml`).
"""

from __future__ import annotations

import os
from pathlib import Path

from scmf.core.config.renamed import warn_renamed


def shipped(kind: str) -> Path:
    """Folder of the recipes or the dataset cards that come with the package.

    In an editable install or a checkout this is the folder beside ``scmf/``, read live; in a wheel
    it is ``scmf/_shipped/<kind>``.

    Parameters
    ----------
    kind
        ``"recipes"`` or ``"datasets"``.
    """
    package = Path(__file__).parents[1]
    live = package.parent / kind
    if (package.parent / "pyproject.toml").is_file() and live.is_dir():
        return live
    return package / "_shipped" / kind


def cache_dir() -> Path:
    """Folder for fetched files: ``SCMF_CACHE_DIR``, else ``$XDG_CACHE_HOME/scmf``, else ``~/.cache/scmf``."""
    if found := os.environ.get("SCMF_CACHE_DIR"):
        return Path(found)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scmf"


def data_dir() -> Path | None:
    """Local mirror of public files (``SCMF_DATA_DIR``), or None."""
    found = os.environ.get("SCMF_DATA_DIR")
    return Path(found) if found else None


def reference_dir() -> Path | None:
    """Folder with outputs of the official codes (``SCMF_REFERENCE_DIR``), or None."""
    found = os.environ.get("SCMF_REFERENCE_DIR")
    if not found and (found := os.environ.get("SCMF_ORACLE_DIR")):
        warn_renamed("environment", "SCMF_ORACLE_DIR", "SCMF_REFERENCE_DIR")
    return Path(found) if found else None
