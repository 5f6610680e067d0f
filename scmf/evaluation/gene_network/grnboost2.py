"""GRNBoost2: regulators of a gene by stochastic gradient boosting, on scikit-learn.

The settings, the early stopping and the weights are those of arboreto 0.1.6, whose edges come out to the digit;
arboreto itself binds its users to a dask of 2024. Lives elsewhere: which cells and genes take part (baselines).

Source: Moerman et al., Bioinformatics 35, 2159 (2019); scikit-learn's ``GradientBoostingRegressor``.

Array legend: N cells, R regulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.errors import MissingExtraError

SETTINGS = {"learning_rate": 0.01, "n_estimators": 5000, "max_features": 0.1, "subsample": 0.9}
WINDOW = 25
"""Trees over which the gain on the cells that a tree has not seen is averaged; boosting stops where it is negative."""


def regulators_of(
    target: str, expression_N: np.ndarray, regulators: Sequence[str], factors_NR: np.ndarray, *, seed: int
) -> pd.DataFrame:
    """Weights of the regulators of one gene.

    Parameters
    ----------
    target, expression_N
        The gene and its expression.
    regulators, factors_NR
        Genes that may regulate it and their expression. The gene itself is left out.
    seed
        Seed of the boosting.

    Returns
    -------
    pandas.DataFrame
        ``regulator, target, weight``, the largest weight first. A weight is the feature importance times the number of
        trees: a gene that is predicted well stops later and weighs more. Regulators without weight are left out.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import GradientBoostingRegressor
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "eval", needed_for="the GRNBoost2 baseline") from error
    others = np.flatnonzero(np.asarray(regulators, dtype=object) != target)
    if len(others) == 0:
        return pd.DataFrame({"regulator": [], "target": [], "weight": []})
    model = GradientBoostingRegressor(random_state=seed, **SETTINGS)
    model.fit(factors_NR[:, others], expression_N, monitor=_gains_nothing)
    weights = model.feature_importances_ * len(model.estimators_)
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] > 0]
    names = np.asarray(regulators, dtype=object)[others[order]]
    return pd.DataFrame({"regulator": names, "target": target, "weight": weights[order]})


def _gains_nothing(n_before: int, model: Any, _: Any) -> bool:
    """Whether the last trees made predictions worse, on average, for the cells that they were not fitted to."""
    n_trees = n_before + 1
    return bool(n_trees >= WINDOW and np.mean(model.oob_improvement_[n_trees - WINDOW : n_trees]) < 0)
