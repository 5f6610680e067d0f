"""Our perturbation metrics against the packages that define them: cell-eval, pertpy, scanpy, scipy."""

import importlib.util

import numpy as np
import pytest

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.benchmark import Perturbation, pertpy_distance
from scmf.evaluation.perturbation.metrics import cosine, pearson, top_de
from scmf.evaluation.perturbation.ranks import (
    challenge_score,
    differential_expression,
    discrimination,
    expression_overlap,
    perturbench_rank,
)
from tests.fixtures.perturbation_cells import screen

needs_pertpy = pytest.mark.skipif(importlib.util.find_spec("pertpy") is None, reason="pertpy is not installed")


def noisy(truth, seed=1):
    """A prediction that is neither perfect nor hopeless: other cells of the truth with noise."""
    rng = np.random.default_rng(seed)
    found = {}
    for pair in truth.pairs:
        cells = truth.cells(pair)
        found[pair] = np.maximum(cells[rng.permutation(len(cells))] * rng.uniform(0.6, 1.4, cells.shape[1]), 0)
    return found


def frames(truth, prediction):
    """CellLabels and prediction as cell-eval reads them: the control cells of the truth stand in both."""
    import anndata as ad
    import pandas as pd

    control = truth.cells(("k562", "control"), None)
    made = []
    for cells in ({pair: truth.cells(pair) for pair in truth.pairs}, prediction):
        names = ["control"] * len(control)
        blocks = [control]
        for pair in truth.pairs:
            names += [pair[1]] * len(cells[pair])
            blocks.append(cells[pair])
        obs = pd.DataFrame({"target": pd.Categorical(names)}, index=[f"c{i}" for i in range(len(names))])
        made.append(ad.AnnData(np.concatenate(blocks), obs=obs, var=pd.DataFrame(index=truth.genes)))
    return made


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Results of cell-eval's evaluator by perturbation, with ours beside them."""
    pytest.importorskip("cell_eval")
    from cell_eval import MetricsEvaluator

    truth = screen(n_cells=60, seed=5)
    prediction = noisy(truth)
    real, predicted = frames(truth, prediction)
    evaluator = MetricsEvaluator(
        adata_pred=predicted, adata_real=real, control_pert="control", pert_col="target", num_threads=1,
        outdir=str(tmp_path_factory.mktemp("cell-eval")),
    )  # fmt: skip
    results, _ = evaluator.compute(profile="full", write_csv=False, break_on_error=True)
    table = {row["perturbation"]: row for row in results.iter_rows(named=True)}
    score = next(iter(Perturbation(draws=10).run(truth, {"mine": prediction})))
    return truth, table, score


@pytest.mark.parametrize(
    ("ours", "name"), [("mae", "mae"), ("mse", "mse"), ("pearson_delta", "pearson_delta"), ("des", "overlap_at_N")]
)
def test_means_over_perturbations_are_those_of_cell_eval(theirs, ours, name):
    truth, table, score = theirs
    wanted = np.mean([table[condition][name] for _, condition in truth.pairs])
    assert score.metrics[ours] == pytest.approx(wanted, abs=1e-6)


def test_the_discrimination_score_is_that_of_cell_eval(theirs):
    truth, table, score = theirs
    # the evaluator takes the gene named as the whole condition out; ours takes out each perturbed gene
    wanted = np.mean([table[condition]["discrimination_score_l1"] for _, condition in truth.pairs])
    effects = np.stack([truth.mean(*pair) - truth.control_mean("k562") for pair in truth.pairs])
    predicted = noisy(truth)
    guesses = np.stack([predicted[pair].mean(axis=0) - truth.control_mean("k562") for pair in truth.pairs])
    same = discrimination(guesses, effects, truth.genes, [(condition,) for _, condition in truth.pairs])
    assert same.mean() == pytest.approx(wanted, abs=1e-6)
    assert 0 <= score.metrics["pds"] <= 1


def test_the_score_of_the_challenge_is_that_of_cell_eval():
    pl = pytest.importorskip("polars")
    from cell_eval import score_agg_metrics

    user = {"mae": 0.02, "pds": 0.7, "des": 0.3}
    base = {"mae": 0.027, "pds": 0.514, "des": 0.106}
    names = {"mae": "mae", "pds": "discrimination_score_l1", "des": "overlap_at_N"}
    table = [
        pl.DataFrame({"statistic": ["mean"], **{names[key]: [value] for key, value in row.items()}})
        for row in (user, base)
    ]
    wanted = dict(score_agg_metrics(*table).iter_rows())
    assert challenge_score(user, base) == pytest.approx(wanted["avg_score"], abs=1e-9)
    assert challenge_score(base, base) == 0
    assert challenge_score({"mae": 1, "pds": 0, "des": 0}, base) == 0


def test_de_genes_are_those_of_scanpy():
    import anndata as ad
    import pandas as pd
    import scanpy as sc

    truth = screen(n_cells=40, seed=2)
    pair = truth.pairs[0]
    control, perturbed = truth.rows("k562", "control"), truth.rows(*pair)
    rows = np.concatenate([control, perturbed])
    obs = pd.DataFrame({"kind": pd.Categorical(["control"] * len(control) + ["x"] * len(perturbed))})
    obs.index = [f"c{i}" for i in range(len(obs))]
    adata = ad.AnnData(truth.x_NG[rows].astype(np.float64), obs=obs, var=pd.DataFrame(index=truth.genes))
    sc.tl.rank_genes_groups(
        adata, "kind", groups=["x"], reference="control", method="t-test_overestim_var", rankby_abs=True
    )
    wanted = adata.uns["rank_genes_groups"]["names"]["x"][:10].tolist()
    assert truth.genes[top_de(truth.x_NG[perturbed], truth.x_NG[control], truth.genes, 10)].tolist() == wanted


def test_differential_expression_is_that_of_pdex():
    pdex = pytest.importorskip("pdex")
    truth = screen(n_cells=50, seed=4)
    real, _ = frames(truth, noisy(truth))
    table = pdex.pdex(
        real, groupby="target", reference="control", is_log1p=True, epsilon=0.0, as_pandas=True, threads=1
    )
    control = truth.cells(("k562", "control"), None)
    for pair in truth.pairs[:2]:
        mine = differential_expression(truth.cells(pair), control)
        rows = table[table["target"] == pair[1]].set_index("feature").loc[truth.genes]
        assert mine.fdr == pytest.approx(rows["fdr"].to_numpy(), rel=1e-6)
        finite = np.isfinite(mine.fold)
        assert mine.fold[finite] == pytest.approx(rows["log2_fold_change"].to_numpy()[finite], rel=1e-6)
    assert expression_overlap(mine, mine) in (0.0, 1.0)


@needs_pertpy
def test_distances_of_pertpy_agree():
    truth = screen(n_cells=30)
    x, y = truth.cells(truth.pairs[0]), truth.cells(truth.pairs[1])
    ask = {name: float(pertpy_distance(name)(x, y)) for name in ("mse", "pearson_distance")}
    error = x.mean(axis=0) - y.mean(axis=0)
    assert ask["mse"] == pytest.approx(float(np.mean(error**2)), rel=1e-6) or ask["mse"] == pytest.approx(
        float(np.linalg.norm(error) ** 2), rel=1e-6
    )
    assert ask["pearson_distance"] == pytest.approx(1 - pearson(x.mean(axis=0), y.mean(axis=0)), rel=1e-5)


@needs_pertpy
def test_other_distances_of_pertpy_are_taken_by_name_and_jax_is_left_as_it_was():
    import jax

    wide = jax.config.jax_enable_x64
    truth = screen(n_cells=20)
    score = next(iter(Perturbation(draws=5, distances=("euclidean", "mse")).run(truth, {"mine": noisy(truth)})))
    assert {"distance_euclidean", "distance_mse"} <= set(score.metrics)
    assert not score.higher_is_better["distance_mse"] and "pertpy" in score.definitions["distance_mse"]
    with pytest.raises(EvaluationError, match="distance"):
        Perturbation(distances=("no such",))
    assert jax.config.jax_enable_x64 == wide  # pertpy turns it on, and scib-metrics fails with it


def test_rank_of_perturbench_by_hand():
    true = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert perturbench_rank(true, true, similarity="cosine").tolist() == [0, 0, 0]
    assert perturbench_rank(true, true, similarity="rmse").tolist() == [0, 0, 0]
    swapped = true[[1, 0, 2]]
    assert perturbench_rank(swapped, true, similarity="rmse").tolist() == pytest.approx([2 / 3, 2 / 3, 0])
    same = np.ones((3, 2))
    assert perturbench_rank(same, true, similarity="rmse").tolist() == pytest.approx([1 / 3] * 3)


def test_correlations_are_those_of_scipy():
    from scipy.spatial.distance import cosine as distance
    from scipy.stats import pearsonr

    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert pearson(x, y) == pytest.approx(pearsonr(x, y)[0], rel=1e-12)
    assert cosine(x, y) == pytest.approx(1 - distance(x, y), rel=1e-12)
    assert pearson(x, np.ones(50)) == cosine(x, np.zeros(50)) == 0
