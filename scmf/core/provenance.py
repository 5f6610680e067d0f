"""Where a number comes from: code, command, machine, versions.

Lives here: facts about the running program. Lives elsewhere: what was measured (results).
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from scmf.core.redact import hide, hide_command

DISTRIBUTION = "scmodelforge"
"""The name on the package index, kept in this one place."""

_PACKAGES = (
    DISTRIBUTION, "torch", "transformers", "accelerate", "numpy", "scipy", "numba", "anndata",
    "scanpy", "scikit-learn", "scib-metrics", "pandas",
)  # fmt: skip


@functools.cache
def version() -> str:
    """Version of the installed distribution."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of the checkout the package runs from and whether it has uncommitted changes; empty in a wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {}

    def git(*arguments: str) -> str | None:
        run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    # Only the code counts: a run writes results and reports into the same tree.
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--", "scmf", "recipes", "datasets"))}


@functools.cache
def code_digest() -> str:
    """Sha256 of every module that can move a number (all but pages, publishing and the command line)."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package).as_posix()
        if not relative.startswith(("results/pages/", "hub/", "cli/", "__main__")):
            digest.update(f"{relative}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Versions of the packages that can move a number; those not installed are left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line as a person would type it, with ``***`` in place of secrets."""
    program = Path(sys.argv[0]).name
    if program in ("__main__.py", "-m"):
        program = "scmf"
    return shlex.join(hide_command([program, *sys.argv[1:]]))


def collect(**facts: Any) -> dict[str, Any]:
    """Provenance of a result as a JSON object.

    Parameters
    ----------
    facts
        What the caller knows besides: device, seed, checksums of data, seconds.
    """
    return {
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "packages": package_versions(),
        **hide(facts),
    }
