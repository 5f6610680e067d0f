"""Edges without a foundation model: correlation, GRNBoost2, random weights.

All three see log1p of counts per 10,000. Lives elsewhere: the boosting (grnboost2), the metrics (metrics), edges of a
model (scmf.evaluation.gene_network.model_edges).

Array legend: N cells, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from scmf.core.errors import EvaluationError
from scmf.evaluation.baselines import log_normalized
from scmf.evaluation.gene_network.benchmark import symbols_of
from scmf.evaluation.gene_network.grnboost2 import regulators_of

SEED = 0
CELLS = 400
"""Most cells that GRNBoost2 is run on."""


def expression(cells: Any) -> pd.DataFrame:
    """log1p of counts per 10,000 as a table (N, G), columns gene symbols in capitals."""
    x = log_normalized(cells).X
    return pd.DataFrame(np.asarray(x.todense() if hasattr(x, "todense") else x, np.float64), columns=symbols_of(cells))


def edge_table(
    weights: np.ndarray, regulators: Sequence[str], targets: Sequence[str], *, how: str = ""
) -> pd.DataFrame:
    """A matrix (R, T) as a table ``regulator, target, weight`` without self loops and zeros.

    Parameters
    ----------
    how
        How the weights were made, in words; stands in ``attrs`` and later in the details of scores.
    """
    i, j = np.nonzero((weights != 0) & (np.asarray(regulators)[:, None] != np.asarray(targets)[None]))
    names, others = np.asarray(regulators, dtype=object), np.asarray(targets, dtype=object)
    table = pd.DataFrame({"regulator": names[i], "target": others[j], "weight": weights[i, j]})
    table.attrs["how"] = how
    return table


def correlation(
    table: pd.DataFrame,
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    kind: Literal["pearson", "spearman"] = "pearson",
) -> pd.DataFrame:
    """|Correlation| over cells; 0 where a gene does not vary.

    Parameters
    ----------
    kind
        ``pearson``, or ``spearman``: Pearson's of ranks, ties at their mean rank.
    """
    x = table.to_numpy()
    if kind == "spearman":
        from scipy.stats import rankdata

        x = rankdata(x, axis=0)
    x = x - x.mean(axis=0)
    size = np.linalg.norm(x, axis=0)
    x = np.divide(x, size, out=np.zeros_like(x), where=size > 1e-12)
    place = {name: i for i, name in enumerate(table.columns)}
    rows, columns = [place[name] for name in regulators], [place[name] for name in targets]
    how = f"|{kind.capitalize()} correlation| of log1p of counts per 10,000 over {len(table):,} cells"
    return edge_table(np.abs(x[:, rows].T @ x[:, columns]), regulators, targets, how=how)


def random(regulators: Sequence[str], targets: Sequence[str], *, seed: int = SEED) -> pd.DataFrame:
    """Uniform weights."""
    weights = np.random.default_rng(seed).random((len(regulators), len(targets)))
    return edge_table(weights, regulators, targets, how=f"uniform draws, seed {seed}")


def grnboost2(
    table: pd.DataFrame,
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    cells: int | None = CELLS,
    max_targets: int | None = None,
    seed: int = SEED,
) -> pd.DataFrame:
    """GRNBoost2: importance of each regulator in stochastic gradient boosting of each target.

    Each target is boosted with the same ``seed``. What was left out stands in ``attrs["how"]``; a target that was left
    out has no edges.

    Parameters
    ----------
    cells, max_targets
        Most cells and most targets, drawn with ``seed``; None takes all.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    EvaluationError
        There is no target.
    """
    if not len(targets):
        raise EvaluationError("no target", wanted="at least one", where="GRNBoost2")
    rng, n_cells, n_targets = np.random.default_rng(seed), len(table), len(targets)
    if cells is not None and n_cells > cells:
        table = table.iloc[np.sort(rng.permutation(n_cells)[:cells])]
    if max_targets is not None and n_targets > max_targets:
        targets = [targets[i] for i in np.sort(rng.permutation(n_targets)[:max_targets])]
    factors_NR = table[list(regulators)].to_numpy()
    network = pd.concat(
        [regulators_of(target, table[target].to_numpy(), regulators, factors_NR, seed=seed) for target in targets],
        ignore_index=True,
    )
    network.attrs["how"] = (
        f"GRNBoost2, seed {seed}, {len(table):,} of {n_cells:,} cells, {len(targets):,} of {n_targets:,} targets"
    )
    return network


def baseline_edges(cells: Any, *, regulators: Sequence[str], targets: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Method to edges: ``correlation`` (Pearson's), ``grnboost2`` and ``random``.

    Parameters
    ----------
    cells
        AnnData with raw counts on the genes that take part.
    regulators, targets
        Symbols in capitals, columns of the cells.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed: a suite without one of its baselines would not be the suite.
    """
    table = expression(cells)
    return {
        "correlation": correlation(table, regulators, targets),
        "grnboost2": grnboost2(table, regulators, targets),
        "random": random(regulators, targets),
    }
