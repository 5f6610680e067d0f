"""LISI: scib-metrics on our neighbors against the values of the R package, and against the definition in numpy.

Neighbors count the cell itself among 90 and leave it out of the sum, in R as in scib-metrics. Their agreement is
that of float32, which scib-metrics computes in; so there is no LISI of our own.
"""

import numpy as np
import pandas as pd
import pytest

from scmf.core.paths import data_dir
from scmf.evaluation.integration.benchmark import NEIGHBORS, _scib_metrics, exact_neighbors

PERPLEXITY = 30


def lisi_by_hand(x_ND, labels, *, neighbors=NEIGHBORS, perplexity=PERPLEXITY):
    """Inverse Simpson index of labels among neighbors, Gaussian weights of one perplexity, float64 (N,)."""
    found = []
    for row, point in enumerate(x_ND):
        distance = np.sqrt(((x_ND - point) ** 2).sum(axis=1))
        near = [other for other in distance.argsort(kind="stable") if other != row][: neighbors - 1]
        low, high, beta = 0.0, np.inf, 1.0
        for _ in range(200):
            weight = np.exp(-distance[near] * beta)
            chance = weight / weight.sum()
            entropy = np.log(weight.sum()) + beta * (distance[near] * chance).sum()
            if abs(entropy - np.log(perplexity)) < 1e-12:
                break
            low, high = (beta, high) if entropy > np.log(perplexity) else (low, beta)
            beta = beta * 2 if np.isinf(high) else (low + high) / 2
        shares = [chance[labels[near] == label].sum() for label in np.unique(labels)]
        found.append(1 / np.square(shares).sum())
    return np.array(found)


@pytest.fixture(scope="module")
def oracle():
    """Points, labels and the LISI of the R package: Korsunsky et al. 2019, by way of harmonypy."""
    folder = data_dir() / "harmony_lisi_oracle" if data_dir() else None
    if folder is None or not folder.is_dir():
        pytest.skip("no harmony_lisi_oracle below SCMF_DATA_DIR")
    x, labels, lisi = (pd.read_csv(folder / f"lisi_{name}.tsv.gz", sep="\t") for name in ("x", "metadata", "lisi"))
    return x.to_numpy(), labels, lisi


@pytest.mark.parametrize("column", ["label1", "label2"])
def test_lisi_of_every_cell_equals_that_of_r(oracle, column):
    x_ND, labels, lisi = oracle
    _scib_metrics()
    from scib_metrics import lisi_knn

    found = lisi_knn(exact_neighbors(x_ND, NEIGHBORS), labels[column].to_numpy())
    # measured: 9e-7 and 1.6e-6 at most, 2e-7 in the median
    np.testing.assert_allclose(found, lisi[column], rtol=5e-6)


@pytest.mark.parametrize("column", ["label1", "label2"])
def test_the_definition_in_numpy_equals_r_as_well(oracle, column):
    x_ND, labels, lisi = oracle
    # R stops its search when the entropy is within 1e-5
    np.testing.assert_allclose(lisi_by_hand(x_ND, labels[column].to_numpy()), lisi[column], rtol=5e-6)


def test_one_neighbor_too_many_is_seen(oracle):
    x_ND, labels, lisi = oracle
    found = lisi_by_hand(x_ND, labels["label2"].to_numpy(), neighbors=NEIGHBORS + 1)
    assert np.abs(found / lisi["label2"] - 1).max() > 1e-4


def test_the_medians_that_we_report_are_those_of_r(oracle):
    x_ND, labels, lisi = oracle
    scib = _scib_metrics()
    near = exact_neighbors(x_ND, NEIGHBORS)
    for column in ("label1", "label2"):  # two labels each: (median - 1) / (2 - 1)
        wanted = float(np.median(lisi[column])) - 1
        assert float(scib.ilisi_knn(near, labels[column].to_numpy())) == pytest.approx(wanted, abs=1e-5)
        assert float(scib.clisi_knn(near, labels[column].to_numpy())) == pytest.approx(1 - wanted, abs=1e-5)
