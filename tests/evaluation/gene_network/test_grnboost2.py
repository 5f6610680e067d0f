"""GRNBoost2 on scikit-learn against edges that arboreto made, and what it leaves out."""

import sys

import numpy as np
import pandas as pd
import pytest

from scmf.core.errors import EvaluationError, MissingExtraError
from scmf.evaluation.gene_network.baselines import grnboost2

ARBORETO = {
    "A": {"I": 19.600212074730425, "B": 3.469384530610933, "C": 2.930403394658644},
    "I": {"A": 21.816380636029926, "B": 2.1881856569293143, "C": 1.9954337070407582},
    "J": {"B": 20.002096205055523, "I": 2.524469375630259, "A": 1.8333920615507335, "C": 1.6400423577634842},
    "K": {},
    "L": {"B": 8.14170754425811, "C": 8.13157299773676, "I": 7.382043701875129, "A": 3.344675756130004},
}
"""Target to weights: ``infer_partial_network`` of arboreto 0.1.6, its ``SGBM_KWARGS``, seed 5, scikit-learn 1.9.1."""


def cells():
    """80 cells in which A drives I, B represses J, and K does not vary."""
    rng = np.random.default_rng(0)
    x = rng.poisson(3, (80, 12)).astype(float)
    x[:, 8] = 2 * x[:, 0] + rng.poisson(1, 80)
    x[:, 9] = np.maximum(0, 6 - x[:, 1] + rng.poisson(1, 80))
    x[:, 10] = 1.0
    return pd.DataFrame(x, columns=list("ABCDEFGHIJKL"))


def test_the_edges_are_those_of_arboreto():
    found = grnboost2(cells(), ["A", "B", "C", "I"], list(ARBORETO), cells=None, seed=5)
    edges = {
        target: dict(zip(rows["regulator"], rows["weight"], strict=True)) for target, rows in found.groupby("target")
    }
    assert edges == {target: pytest.approx(wanted, rel=1e-9) for target, wanted in ARBORETO.items() if wanted}


def test_where_arboreto_is_installed_it_agrees():
    core = pytest.importorskip("arboreto.core", reason="arboreto is not installed: its recorded edges are tested above")
    table, names = cells(), list("ABCDE")
    for target in ("B", "H"):
        theirs = core.infer_partial_network(
            regressor_type="GBM", regressor_kwargs=core.SGBM_KWARGS, tf_matrix=table[names].to_numpy(),
            tf_matrix_gene_names=names, target_gene_name=target, target_gene_expression=table[target].to_numpy(),
            seed=2,
        )  # fmt: skip
        ours = grnboost2(table, names, [target], cells=None, seed=2)
        assert ours.to_numpy().tolist() == theirs[["TF", "target", "importance"]].to_numpy().tolist()


def test_a_gene_that_only_it_itself_could_regulate_has_no_edge():
    assert grnboost2(cells(), ["A"], ["A"]).empty


def test_it_says_what_it_left_out():
    found = grnboost2(cells(), ["A", "B"], list("CDEF"), cells=40, max_targets=2)
    assert found["target"].nunique() <= 2 and found.attrs["how"].endswith("40 of 80 cells, 2 of 4 targets")
    with pytest.raises(EvaluationError, match="no target"):
        grnboost2(cells(), ["A"], [])


def test_it_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(MissingExtraError, match="scikit-learn"):
        grnboost2(cells(), ["A"], ["B"])
