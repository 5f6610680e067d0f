"""Differentially expressed genes against scipy and scanpy, where few perturbed cells meet many control cells."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from scipy.stats import ttest_ind, ttest_ind_from_stats

from scmf.evaluation.perturbation.metrics import top_de

G = 80
GENES = np.array([f"g{i:03d}" for i in range(G)])


def cells(n_perturbed, n_control, seed):
    """Log-normalized cells; genes differ in mean, variance and in how much the perturbation moves them."""
    rng = np.random.default_rng(seed)
    mean, spread, effect = rng.gamma(2.0, 0.5, G), rng.uniform(0.1, 1.0, G), rng.normal(0, 0.3, G)
    control = mean * rng.lognormal(0, spread, (n_control, G))
    return mean * np.exp(effect) * rng.lognormal(0, 1.1 - spread, (n_perturbed, G)), control


def order(t):
    return GENES[np.argsort(-np.abs(t), kind="stable")].tolist()


@pytest.mark.parametrize(("n_perturbed", "n_control"), [(3, 200), (6, 150), (40, 12)])
def test_the_order_is_that_of_welch_with_the_control_as_small_as_the_perturbed_cells(n_perturbed, n_control):
    perturbed, control = cells(n_perturbed, n_control, seed=1)
    moments = (perturbed.mean(0), perturbed.std(0, ddof=1), n_perturbed, control.mean(0), control.std(0, ddof=1))
    wanted = order(ttest_ind_from_stats(*moments, n_perturbed, equal_var=False).statistic)
    found = top_de(sp.csr_matrix(perturbed), sp.csr_matrix(control), GENES, G)
    assert GENES[found].tolist() == wanted
    assert GENES[top_de(sp.csr_matrix(perturbed), sp.csr_matrix(control), GENES, 7)].tolist() == wanted[:7]
    # these cells tell Welch's own t and the biased variance apart
    assert wanted[:20] != order(ttest_ind(perturbed, control, equal_var=False).statistic)[:20]
    biased = (perturbed.mean(0), perturbed.std(0), n_perturbed, control.mean(0), control.std(0))
    assert wanted[:20] != order(ttest_ind_from_stats(*biased, n_perturbed, equal_var=False).statistic)[:20]


def test_the_order_is_that_of_scanpy():
    perturbed, control = cells(6, 150, seed=2)
    obs = pd.DataFrame({"kind": pd.Categorical(["control"] * 150 + ["x"] * 6)}, index=[f"c{i}" for i in range(156)])
    adata = ad.AnnData(np.concatenate([control, perturbed]), obs=obs, var=pd.DataFrame(index=GENES))
    sc.tl.rank_genes_groups(
        adata, "kind", groups=["x"], reference="control", method="t-test_overestim_var", rankby_abs=True
    )
    wanted = adata.uns["rank_genes_groups"]["names"]["x"].tolist()
    found = top_de(sp.csr_matrix(perturbed), sp.csr_matrix(control), GENES, G)
    assert GENES[found].tolist() == wanted


def test_a_gene_that_never_varies_is_first_where_it_moved_and_last_where_it_did_not():
    perturbed, control = cells(6, 30, seed=3)
    perturbed[:, 5], control[:, 5] = 2.0, 1.0
    perturbed[:, 9], control[:, 9] = 1.5, 1.5
    found = top_de(sp.csr_matrix(perturbed), sp.csr_matrix(control), GENES, G).tolist()
    assert (found[0], found[-1]) == (5, 9)
