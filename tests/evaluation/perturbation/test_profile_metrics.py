"""Every metric of a mean profile, on more genes than the top ones, against scipy and plain formulas."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr, ttest_ind, ttest_ind_from_stats

from scmf.evaluation.perturbation.benchmark import Perturbation
from tests.fixtures.perturbation_cells import screen

G, N_CELLS = 1200, 7


@pytest.fixture(scope="module")
def case():
    """A screen with continuous values, so that nothing ties, predicted profiles, and what the benchmark says."""
    rng = np.random.default_rng(0)
    truth = screen(n_genes=G, n_cells=N_CELLS, seed=1)
    x_NG = truth.x_NG.toarray() * rng.uniform(0.8, 1.2, truth.x_NG.shape) + rng.uniform(0, 0.3, truth.x_NG.shape)
    parts = truth.parts.copy()
    parts[np.flatnonzero(truth.conditions == "control")[:3]] = "test"  # control cells count in every part
    truth = replace(truth, x_NG=sp.csr_matrix(x_NG, dtype=np.float32), parts=parts, _means={})
    profiles = {pair: np.maximum(truth.mean(*pair) * rng.uniform(0.5, 1.5, G) - 0.1, 0) for pair in truth.pairs}
    (score,) = Perturbation(draws=5).run(truth, {"mine": profiles})
    return truth, profiles, score.metrics


def by_hand(truth, condition, predicted):
    x = truth.x_NG.toarray().astype(np.float64)
    cells, controls = x[truth.conditions == condition], x[truth.conditions == "control"]
    true, control = cells.mean(0), controls.mean(0)
    t = ttest_ind_from_stats(
        true, cells.std(0, ddof=1), N_CELLS, control, controls.std(0, ddof=1), N_CELLS, equal_var=False
    ).statistic
    de, high = np.argsort(-np.abs(t))[:20], np.argsort(-control)[:1000]
    welch = ttest_ind(cells, controls, equal_var=False).statistic
    kept = (true != 0) | (control == 0)
    whole = np.argsort(-np.where(kept, np.nan_to_num(np.abs(welch)), -1), kind="stable")[:20]
    fold, true_fold = (np.log2(profile + 0.1) - np.log2(control + 0.1) for profile in (predicted, true))
    error, delta, wanted = predicted - true, predicted - control, true - control
    return {
        "pearson": pearsonr(predicted, true)[0],
        "pearson_delta": pearsonr(delta, wanted)[0],
        "pearson_top20": pearsonr(predicted[de], true[de])[0],
        "pearson_delta_top20": pearsonr(delta[de], wanted[de])[0],
        "pearson_delta_top1000": pearsonr(delta[high], wanted[high])[0],
        "pearson_delta_top20_nondropout": pearsonr(delta[whole], wanted[whole])[0],
        "mse_top20_nondropout": (error[whole] ** 2).mean(),
        "cosine_logfc": 1 - cosine(fold, true_fold),
        "mse": (error**2).mean(),
        "mse_top20": (error[de] ** 2).mean(),
        "l2_top1000": np.sqrt((error[high] ** 2).sum()),
        "rmse": np.sqrt((error**2).mean()),
        "mae": np.abs(error).mean(),
    }


def test_each_metric_is_the_mean_of_its_formula_over_the_test_conditions(case):
    truth, profiles, metrics = case
    rows = [by_hand(truth, condition, profiles[kind, condition]) for kind, condition in truth.pairs]
    assert len(rows) == 4
    for name in rows[0]:
        assert metrics[name] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-5), name


def test_the_variable_genes_are_those_of_the_training_cells(case):
    truth = case[0]
    training = truth.x_NG.toarray()[truth.parts == "train"]
    wanted = np.sort(np.argsort(-training.var(0))[:50])
    small = truth.on_variable_genes(50)
    assert small.genes.tolist() == truth.genes[wanted].tolist()
    assert np.array_equal(small.x_NG.toarray(), truth.x_NG.toarray()[:, wanted])
