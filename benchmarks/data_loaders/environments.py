"""The interpreters of the peers: each Python in a virtual environment of its own, made from the package index.

A peer that does not install keeps the others going; the reason stands in the result.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("numba", "scipy", "psutil", "numpy")
PEERS: dict[str, dict[str, tuple[str, ...]]] = {
    "py311": {
        "scdataset": ("torch==2.13.0", "scdataset==0.3.0", "anndata", "h5py"),
        "anndata_annloader": ("torch==2.13.0", "anndata", "h5py"),
        "bionemo_scdl": ("torch==2.13.0", "bionemo-scdl==0.1.3"),
        "tiledbsoma_ml": ("torch==2.13.0", "tiledbsoma", "tiledbsoma-ml==0.1.0", "anndata"),
        "hf_datasets": ("torch==2.13.0", "datasets", "pyarrow"),
    },
    "py312": {"annbatch": ("annbatch==0.3.1", "zarrs==0.2.3", "zarr==3.4.2", "anndata==0.13.4", "numba==0.68.1")},
}
"""Environment -> peer -> what it needs. annbatch asks for Python 3.12, the others run on the tested 3.11."""

_VERSION = {"py311": "3.11", "py312": "3.12"}


def environment_of(peer: str) -> str | None:
    """The environment a peer runs in; None for this project's own."""
    return next((name for name, peers in PEERS.items() if peer in peers), None)


def python_of(work: Path, environment: str | None) -> Path:
    """Interpreter of an environment."""
    return Path(sys.executable) if environment is None else work / environment / "bin" / "python"


def install(work: Path, environment: str, peers: Iterable[str]) -> dict[str, str]:
    """Make an environment and put peers into it; reasons of those that could not be installed."""
    folder = work / environment
    python = python_of(work, environment)
    if not python.exists():
        base = find_python(_VERSION[environment])
        if base is None:
            reason = f"no Python {_VERSION[environment]} (set PYTHON{_VERSION[environment].replace('.', '')})"
            return dict.fromkeys(peers, reason)
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
    # The pins of this project hold for its own Python; others get the versions named above.
    pins = ["--constraint", str(ROOT / "constraints.txt")] if environment == "py311" else []
    failed = {}
    for peer in peers:
        wanted = [*NEEDED, *PEERS[environment][peer]]
        stamp = folder / f".{peer}"
        if stamp.exists() and stamp.read_text() == "\n".join(wanted):
            continue
        said = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *pins, *wanted],
            capture_output=True,
            text=True,
            check=False,
        )
        if said.returncode:
            lines = [line for line in said.stderr.splitlines() if line.startswith("ERROR")] or [said.stderr[-300:]]
            failed[peer] = f"pip: {lines[0]}"
        else:
            stamp.write_text("\n".join(wanted))
    return failed


def find_python(version: str) -> str | None:
    """An interpreter of that version that runs: of the environment variable, the PATH, or pyenv."""
    for candidate in _candidates(version):
        shown = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if shown.returncode == 0 and shown.stdout.startswith(f"Python {version}."):
            return candidate
    return None


def _candidates(version: str) -> Iterator[str]:
    if named := os.environ.get(f"PYTHON{version.replace('.', '')}"):
        yield named
    if sys.version.startswith(f"{version}."):
        yield sys.executable
    if found := shutil.which(f"python{version}"):
        yield found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from (str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True))
