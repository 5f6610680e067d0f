"""What benchmarks of cells share: labels, batches and parts of cells, and checks of a representation.

Lives elsewhere: what a benchmark returns (scmf.results.score).
"""

from __future__ import annotations

import importlib.metadata

import numpy as np

from scmf.core.errors import EvaluationError, MissingExtraError

HVG_GENES = 2000
"""Highly variable genes of the HVG and PCA baselines."""


def package(name: str, extra: str = "eval") -> str:
    """``name version`` for definitions; raises `MissingExtraError` when it is not installed."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(name, extra, needed_for="this benchmark") from error


def check_vectors(x_ND: np.ndarray, method: str, *, where: str) -> None:
    """Raise `EvaluationError` when a representation (N, D) of ``method`` says nothing, or is not finite."""
    if not np.isfinite(x_ND).all():
        found = f"vectors of {method} that are not finite"
    elif len(x_ND) > 1 and (x_ND == x_ND[:1]).all():
        found = f"{method} gives every cell the same vector"
    else:
        return
    raise EvaluationError(
        found,
        wanted="a representation in which cells differ",
        where=where,
        fix="check the weights of the model, or leave this benchmark out",
    )
