"""scModelForge: reproducible recipes for single-cell foundation models, and the toolkit they are made of.

The public names: what a notebook needs, imported when it is first used. Each package has public names of its own
(``scmf.data.__all__``); everything else is imported from the module it lives in, and may move.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from scmf.core.kernels import ensure_cache

ensure_cache(Path(__file__).parent)

_DOOR = {
    "RankValueTokenizer": "scmf.tokenizers.rank_value",
    "RunConfig": "scmf.core.config.run",
    "ScmfError": "scmf.core.errors",
    "check": "scmf.data.checks.adata",
    "check_file": "scmf.data.checks.file",
    "embed": "scmf.evaluation.embed_adata",
    "embed_to_file": "scmf.evaluation.embed_file",
    "evaluate": "scmf.evaluation.evaluate_adata",
    "evaluate_folder": "scmf.evaluation.evaluate_run",
    "finetune": "scmf.experiments.finetune_adata",
    "load_cells": "scmf.data.loading.load",
    "load_recipe": "scmf.core.config.recipe",
    "load_run_model": "scmf.models.checkpoint",
    "predict": "scmf.evaluation.predict",
}

__all__ = [  # spelled out for readers and tools; a test holds it equal to the table above
    "RankValueTokenizer",
    "RunConfig",
    "ScmfError",
    "check",
    "check_file",
    "embed",
    "embed_to_file",
    "evaluate",
    "evaluate_folder",
    "finetune",
    "load_cells",
    "load_recipe",
    "load_run_model",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name in _DOOR:
        return getattr(importlib.import_module(_DOOR[name]), name)
    raise AttributeError(f"module 'scmf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DOOR])
