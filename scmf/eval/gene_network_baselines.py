"""Edges without a foundation model: correlation, GRNBoost2 (arboreto), random weights.

All three see log1p of counts per 10,000. Lives elsewhere: the metrics (gene_network_metrics), edges of a model
(scmf.gene_edges).

Array legend: N cells, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from scmf.errors import EvaluationError, MissingExtraError
from scmf.eval.gene_network import symbols_of

SEED = 0
CELLS = 400
"""Most cells that GRNBoost2 is run on."""


def expression(cells: Any) -> pd.DataFrame:
    """log1p of counts per 10,000 as a table (N, G), columns gene symbols in capitals."""
    from scmf.eval.baselines import log_normalised

    x = log_normalised(cells).X
    return pd.DataFrame(np.asarray(x.todense() if hasattr(x, "todense") else x, np.float64), columns=symbols_of(cells))


def edge_table(weights: np.ndarray, regulators: Sequence[str], targets: Sequence[str]) -> pd.DataFrame:
    """A matrix (R, T) as a table ``regulator, target, weight`` without self loops and zeros."""
    i, j = np.nonzero((weights != 0) & (np.asarray(regulators)[:, None] != np.asarray(targets)[None]))
    names, others = np.asarray(regulators, dtype=object), np.asarray(targets, dtype=object)
    return pd.DataFrame({"regulator": names[i], "target": others[j], "weight": weights[i, j]})


def correlation(table: pd.DataFrame, regulators: Sequence[str], targets: Sequence[str]) -> pd.DataFrame:
    """|Pearson correlation| over cells; 0 where a gene does not vary."""
    x = table.to_numpy()
    x = x - x.mean(axis=0)
    size = np.linalg.norm(x, axis=0)
    x = np.divide(x, size, out=np.zeros_like(x), where=size > 1e-12)
    place = {name: i for i, name in enumerate(table.columns)}
    rows, columns = [place[name] for name in regulators], [place[name] for name in targets]
    return edge_table(np.abs(x[:, rows].T @ x[:, columns]), regulators, targets)


def random(regulators: Sequence[str], targets: Sequence[str], *, seed: int = SEED) -> pd.DataFrame:
    """Uniform weights."""
    return edge_table(np.random.default_rng(seed).random((len(regulators), len(targets))), regulators, targets)


def grnboost2(
    table: pd.DataFrame,
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    cells: int | None = CELLS,
    seed: int = SEED,
) -> pd.DataFrame:
    """GRNBoost2: importance of each regulator in stochastic gradient boosting of each target.

    arboreto's own functions for one target, called one after the other (no cluster of dask), on at most ``cells`` cells
    drawn with ``seed``.
    """
    try:
        from arboreto.core import EARLY_STOP_WINDOW_LENGTH, SGBM_KWARGS, infer_partial_network
    except ImportError as error:
        raise MissingExtraError("arboreto", "networks", needed_for="the GRNBoost2 baseline") from error
    if cells is not None and len(table) > cells:
        table = table.iloc[np.sort(np.random.default_rng(seed).permutation(len(table))[:cells])]
    factors = table[list(regulators)].to_numpy()
    found = []
    for target in targets:
        frame = infer_partial_network(
            regressor_type="GBM", regressor_kwargs=SGBM_KWARGS, tf_matrix=factors,
            tf_matrix_gene_names=list(regulators), target_gene_name=target,
            target_gene_expression=table[target].to_numpy(), include_meta=False,
            early_stop_window_length=EARLY_STOP_WINDOW_LENGTH, seed=seed,
        )  # fmt: skip
        found.append(frame)
    if not found:
        raise EvaluationError("no target", wanted="at least one", where="GRNBoost2")
    network = pd.concat(found, ignore_index=True)
    return network.rename(columns={"TF": "regulator", "importance": "weight"})[["regulator", "target", "weight"]]


def baseline_edges(cells: Any, *, regulators: Sequence[str], targets: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Method to edges: ``correlation``, ``random``, and ``grnboost2`` where arboreto is installed.

    Parameters
    ----------
    cells
        AnnData with raw counts on the genes that take part.
    regulators, targets
        Symbols in capitals, columns of the cells.
    """
    table = expression(cells)
    return {
        "correlation": correlation(table, regulators, targets),
        "grnboost2": grnboost2(table, regulators, targets),
        "random": random(regulators, targets),
    }
