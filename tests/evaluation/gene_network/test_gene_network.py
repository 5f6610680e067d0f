"""The gene network benchmark: formulas against BEELINE's and scikit-learn's, properties, baselines."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import EvaluationError
from scmf.evaluation.gene_network.baselines import correlation, edge_table, grnboost2, random
from scmf.evaluation.gene_network.benchmark import GeneNetwork, network_genes, symbols_of
from scmf.evaluation.gene_network.metrics import RegulatorDraws, edge_scores, pairs_of, weight_matrix
from scmf.evaluation.gene_network.truth import NetworkTruth

TRUTH_DIR = Path(os.environ.get("SCMF_DATA_DIR", "/nowhere")) / "grn_truth"
needs_truth = pytest.mark.skipif(not TRUTH_DIR.is_dir(), reason="SCMF_DATA_DIR holds no grn_truth")


def truth_of(edges):
    return NetworkTruth("toy", frozenset(edges), "a toy", "0" * 64)


def beeline(weights, truth):
    """BEELINE's scores as its definition says, written apart: curves of scikit-learn, early precision by thresholds."""
    from sklearn.metrics import auc, precision_recall_curve, roc_curve

    false_rate, true_rate, _ = roc_curve(truth, weights, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(truth, weights)
    k = int(truth.sum())
    threshold = np.sort(weights)[::-1][k - 1]
    if (weights > 0).any():
        threshold = max(threshold, weights[weights > 0].min())
    early = truth[weights >= threshold].mean()
    return {
        "auroc": auc(false_rate, true_rate),
        "auprc_trapezoid": auc(recall, precision),
        "epr": early / truth.mean(),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 5, 1000]), st.integers(8, 200))
def test_scores_are_those_of_beeline_and_scikit_learn_ties_included(seed, levels, n):
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(seed)
    weights, truth = rng.integers(0, levels, n) / levels, rng.random(n) < 0.3
    truth[:2] = [True, False]
    found = edge_scores(weights, truth)
    wanted = beeline(weights, truth)
    assert found["average_precision"] == pytest.approx(average_precision_score(truth, weights), rel=1e-9)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    assert found["auprc_ratio"] == pytest.approx(found["average_precision"] / truth.mean(), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_order_of_pairs_and_scale_of_weights_change_nothing(seed, scale):
    rng = np.random.default_rng(seed)
    weights, truth = rng.integers(0, 30, 120) / 30, rng.random(120) < 0.2
    truth[:2] = [True, False]
    order = rng.permutation(120)
    assert edge_scores(weights[order], truth[order]) == pytest.approx(edge_scores(weights, truth), rel=1e-12)
    assert edge_scores(weights * scale, truth) == pytest.approx(edge_scores(weights, truth), rel=1e-9)


def test_perfect_weights_reach_one_and_constant_ones_are_chance():
    truth = np.arange(100) < 20
    best = edge_scores(truth.astype(float), truth)
    assert best["auroc"] == best["average_precision"] == best["auprc_trapezoid"] == 1
    assert best["epr"] == best["auprc_ratio"] == pytest.approx(5)
    flat = edge_scores(np.ones(100), truth)
    assert flat["auroc"] == pytest.approx(0.5) and flat["epr"] == flat["auprc_ratio"] == pytest.approx(1)
    assert edge_scores(np.ones(5), np.ones(5, bool)) == {}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4, 1000]))
def test_draws_of_regulators_are_scored_as_their_pairs_put_together(seed, levels):
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(8)]
    weights, is_edge = rng.integers(0, levels, (8, 8)) / levels, rng.random((8, 8)) < 0.3
    universe = pairs_of(names, names)
    drawn = rng.integers(8, size=8)
    mine = universe[drawn]
    wanted = edge_scores(weights[drawn][mine], is_edge[drawn][mine])
    found = RegulatorDraws(weights, is_edge, universe)(drawn)
    assert set(found) == set(wanted) and found == pytest.approx(wanted, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_order_of_genes_and_edges_signs_and_lesser_doubles_change_nothing(seed):
    rng = np.random.default_rng(seed)
    genes = [f"g{i}" for i in range(12)]
    pairs = [(a, b) for a in genes[:5] for b in genes if a != b]
    truth = truth_of({pair for pair in pairs if rng.random() < 0.3} | {pairs[0]})
    table = pd.DataFrame(pairs, columns=["regulator", "target"]).assign(weight=rng.integers(0, 9, len(pairs)) / 9)
    other = pd.concat([table.assign(weight=-table["weight"]), table.assign(weight=table["weight"] / 2)])
    other = other.sample(frac=1, random_state=seed)
    a, b = (
        next(iter(GeneNetwork(draws=5).run({"mine": edges}, truth, names)))
        for edges, names in ((table, genes), (other, rng.permutation(genes).tolist()))
    )
    assert a.metrics == b.metrics and a.intervals == b.intervals and a.details == b.details


def test_random_weights_are_chance():
    rng = np.random.default_rng(0)
    truth = rng.random(40_000) < 0.05
    found = edge_scores(rng.random(40_000), truth)
    assert found["auroc"] == pytest.approx(0.5, abs=0.02) and found["epr"] == pytest.approx(1, abs=0.2)


def test_the_universe_is_regulators_by_targets_without_self_loops():
    truth = truth_of({("A", "X"), ("A", "Y"), ("B", "A"), ("Q", "X")})
    table = pd.DataFrame({"regulator": ["A", "A", "A", "B"], "target": ["X", "X", "A", "A"], "weight": [1, -3, 9, 2.0]})
    score = next(iter(GeneNetwork(draws=5).run({"mine": table}, truth, ["A", "B", "X", "Y", "Z"])))
    # rows A, B; columns A, X, Y; the pair (A, A) is left out
    assert score.n_cells == 5 and score.details["n_edges"] == 3
    assert "5 ordered pairs of 2 regulators" in score.definitions["auroc"]
    matrix = weight_matrix(table, ["A", "B"], ["A", "X", "Y"])
    assert matrix.tolist() == [[9, 3, 0], [2, 0, 0]]
    assert pairs_of(["A", "B"], ["A", "X"]).tolist() == [[False, True], [True, True]]
    assert score.protocol == "toy" and score.intervals == {}, "two regulators are no draw"
    assert score.details["units"] == {"unit": "regulators", "values": {"auroc": {"B": 1.0}}}, "all pairs of A are edges"


def test_a_matrix_with_names_is_a_table_of_edges():
    matrix = pd.DataFrame([[0.0, -2.0], [1.0, 3.0], [7.0, 7.0]], index=["A", "B", "?"], columns=["X", "Y"])
    table = {"regulator": ["A", "B", "B"], "target": ["Y", "X", "Y"], "weight": [2, 1, 3]}
    names = ["A", "B", "C"], ["Y", "X", "Z"]
    assert weight_matrix(matrix, *names).tolist() == weight_matrix(table, *names).tolist()
    assert weight_matrix(matrix, *names).tolist() == [[2, 0, 0], [3, 1, 0], [0, 0, 0]]


def test_all_ordered_pairs_of_genes_are_a_protocol_of_their_own():
    truth = truth_of({("A", "X"), ("A", "Y"), ("B", "A"), ("Q", "X")})
    table = pd.DataFrame({"regulator": ["A", "X"], "target": ["X", "Y"], "weight": [2, 1.0]})
    ask = {"truth": truth, "genes": ["A", "B", "X", "Y", "Z"], "universe": "genes"}
    score = next(iter(GeneNetwork(draws=5).run({"mine": table}, **ask)))
    assert score.protocol == "toy-all_genes" and score.n_cells == 4 * 3 and score.details["n_edges"] == 3
    # the pair (X, Y) outranks two edges without a weight
    assert score.metrics["epr"] == pytest.approx((1 / 2) / (3 / 12))


def test_what_a_method_says_nothing_of_stands_beside_its_score():
    truth = truth_of({("A", "X"), ("A", "Y"), ("B", "X"), ("B", "Z")})
    table = pd.DataFrame({"regulator": ["A", "A"], "target": ["X", "Z"], "weight": [2, 1.0]})
    table.attrs["how"] = "two of them"
    score = next(iter(GeneNetwork(draws=5).run({"mine": table}, truth, ["A", "B", "X", "Y", "Z"])))
    found = score.details["weighted"]
    assert found["pairs"] == pytest.approx(2 / 6, abs=1e-6) and found["edges"] == 1 / 4
    assert found["metrics"]["auroc"] == 1 and score.metrics["auroc"] < 1
    assert score.details["how"] == "two of them"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"regulator": ["A"], "target": ["X"]}, "without 'weight'"),
        ({"regulator": ["A"], "target": ["X"], "weight": [np.nan]}, "not finite"),
        ({"regulator": ["A"], "target": ["X"], "weight": ["much"]}, "no numbers"),
    ],
)
def test_bad_edges_are_refused(table, said):
    with pytest.raises(EvaluationError, match=said):
        next(iter(GeneNetwork().run({"mine": pd.DataFrame(table)}, truth_of({("A", "X")}), ["A", "X", "Y"])))


def test_a_truth_without_an_edge_in_the_data_is_refused():
    with pytest.raises(EvaluationError, match="no edge of 'toy'"):
        next(iter(GeneNetwork().run({}, truth_of({("A", "X")}), ["B", "C"])))


@needs_truth
def test_the_example_of_beeline_is_scored_as_beeline_does():
    edges = pd.read_csv(TRUTH_DIR / "beeline_GSD_GroundTruthNetwork.csv")
    pairs = {(a, b) for a, b in zip(edges["Gene1"], edges["Gene2"], strict=True) if a != b}
    cells = pd.read_csv(TRUTH_DIR / "beeline_GSD_ex1_ExpressionData.csv", index_col=0).T
    genes = sorted(cells.columns)
    found = {
        "correlation": correlation(cells, genes, genes),
        "grnboost2": grnboost2(cells, genes, genes, cells=300),
        "random": random(genes, genes),
    }
    everything = pairs_of(genes, genes)
    is_edge = np.array([[(a, b) in pairs for b in genes] for a in genes])
    scores = {}
    for name, table in found.items():
        weights = weight_matrix(table, genes, genes)[everything]
        scores[name] = edge_scores(weights, is_edge[everything])
        for metric, value in beeline(weights, is_edge[everything]).items():
            assert scores[name][metric] == pytest.approx(value, rel=1e-9)
        truth = NetworkTruth("gsd", frozenset(pairs), "GSD", "0" * 64)
        score = next(iter(GeneNetwork(draws=2).run({name: table}, truth, genes, universe="genes")))
        assert score.n_cells == len(genes) * (len(genes) - 1) and score.metrics == pytest.approx(scores[name])
    assert scores["grnboost2"]["average_precision"] > scores["random"]["average_precision"]
    again = grnboost2(cells, genes[:3], genes[:3], cells=100)
    assert again.equals(grnboost2(cells, genes[:3], genes[:3], cells=100))


def test_correlation_is_numpys_and_self_loops_are_left_out():
    rng = np.random.default_rng(0)
    cells = pd.DataFrame(rng.normal(size=(40, 4)), columns=list("ABCD")).assign(D=1.0)
    table = correlation(cells, ["A", "B"], list("ABCD"))
    wanted = np.abs(np.corrcoef(cells["A"], cells["C"])[0, 1])
    row = table[(table["regulator"] == "A") & (table["target"] == "C")]
    assert float(row["weight"].iloc[0]) == pytest.approx(wanted)
    assert not ((table["regulator"] == table["target"]) | (table["target"] == "D")).any()
    assert len(edge_table(np.ones((2, 2)), ["A", "B"], ["A", "B"])) == 2


def test_spearman_is_scipys_and_says_so():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    cells = pd.DataFrame(rng.integers(0, 5, (40, 3)).astype(float), columns=list("ABC"))
    table = correlation(cells, ["A"], ["C"], kind="spearman")
    assert table["weight"].item() == pytest.approx(abs(spearmanr(cells["A"], cells["C"]).statistic))
    assert table.attrs["how"].startswith("|Spearman correlation|")


def test_ensembl_ids_are_named_by_the_human_gene_table(monkeypatch):
    rows = pd.DataFrame({"gene": ["ENSG00000000001", "ENSG00000000002"], "symbol": ["GATA1", "KLF1"]})
    monkeypatch.setattr("scmf.evaluation.gene_network.benchmark.annotation", lambda *_, **__: rows)
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(2, (30, 3)).astype(np.float32))
    names = ["ENSG00000000001.4", "ENSG00000000002", "ENSG00000000003"]
    cells = ad.AnnData(counts, var=pd.DataFrame(index=names))
    chosen, regulators, targets = network_genes(cells, [truth_of({("GATA1", "KLF1")})])
    assert regulators == ["GATA1"] and targets == ["GATA1", "KLF1"]
    assert symbols_of(chosen).tolist() == ["GATA1", "KLF1"] and list(chosen.var_names) == names[:2]
    with pytest.raises(EvaluationError, match="no transcription factor"):
        network_genes(cells, [truth_of({("SOX2", "KLF1")})])
