"""Whether a checkpoint folder stands alone: whose code is in it, and that it loads where scmf cannot be imported.

Lives here: telling code of this installation from other code, starting the probe in a clean process, what a failure
means. Lives elsewhere: what the clean process does (probe), which files are published (folder).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scmf.core import registry
from scmf.core.errors import ModelError
from scmf.core.files import sha256_file
from scmf.models.foreign import other_code, other_weights

_PROBE = Path(__file__).with_name("probe.py")
_OURS = ("models", "tokenizers")
_PATIENCE_S = 900


def foreign_code(folder: Path) -> list[str]:
    """Code that loading ``folder`` would run and that is not, to the byte, of this installation.

    Python files of others, and references to code or weights outside the folder.
    """
    package = Path(__file__).parent.parent
    ours = {(path.name, sha256_file(path)) for room in _OURS for path in (package / room).glob("*.py")}
    strange = sorted(path.name for path in folder.glob("*.py") if (path.name, sha256_file(path)) not in ours)
    return [*strange, *other_code(folder), *other_weights(folder)]


def check_alone(folder: Path, *, trust: bool = False, where: Path | None = None) -> dict[str, Any]:
    """Load ``folder`` with transformers alone in a clean process and embed a few cells.

    Parameters
    ----------
    folder
        Weights, configuration, code and tokenizer.
    trust
        Run code in it that is not of this installation.
    where
        How to call the folder in an error.

    Returns
    -------
    dict
        What the process saw, see `scmf.hub.probe.probe`.

    Raises
    ------
    ModelError
        If code is not ours and not trusted, or the folder does not load or embed.
    """
    if not trust and not registry.trusted() and (strange := foreign_code(folder)):
        raise ModelError(
            f"code that is not of this installation: {', '.join(strange)}",
            wanted="the files of scmf/models and scmf/tokenizers as save_pretrained copies them",
            where=where or folder,
            fix="save the model again with this version (one that has a name: `scmf models pull NAME --again`), or "
            "pass --trust if you have read that code",
        )
    with tempfile.TemporaryDirectory(prefix="scmf-probe-") as home:
        environment = {
            **os.environ,
            "HF_HOME": home,  # the code of the folder is cached there
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "false",
        }
        try:
            done = subprocess.run(
                [sys.executable, "-I", str(_PROBE), str(folder.resolve())],
                env=environment, cwd=home, capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise _not_alone(f"no answer within {_PATIENCE_S} s", where or folder) from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise _not_alone(lines[-1].strip() if lines else f"exit code {done.returncode}", where or folder)
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def _not_alone(found: str, where: Path) -> ModelError:
    return ModelError(
        f"does not load and embed in a process with transformers alone: {found}",
        wanted="weights, configuration, code and tokenizer in one folder",
        where=where,
        fix="publish a folder that `scmf train` or `scmf models pull` wrote",
    )
