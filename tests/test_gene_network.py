"""The gene network benchmark: formulas against BEELINE's and scikit-learn's, properties, real truth files."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.errors import ConfigError, EvaluationError
from scmf.eval.gene_network import GeneNetwork
from scmf.eval.gene_network_baselines import correlation, edge_table, grnboost2, random
from scmf.eval.gene_network_metrics import edge_scores, pairs_of, weight_matrix
from scmf.eval.network_truth import NetworkTruth, read_truth

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
    assert score.protocol == "toy" and score.intervals["auroc"].unit == "regulators"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"regulator": ["A"], "target": ["X"]}, "without 'weight'"),
        ({"regulator": ["A"], "target": ["X"], "weight": [np.nan]}, "not finite"),
    ],
)
def test_bad_edges_are_refused(table, said):
    with pytest.raises(EvaluationError, match=said):
        next(iter(GeneNetwork().run({"mine": pd.DataFrame(table)}, truth_of({("A", "X")}), ["A", "X", "Y"])))


def test_a_truth_without_an_edge_in_the_data_and_an_unknown_one_are_refused():
    with pytest.raises(EvaluationError, match="no edge of 'toy'"):
        next(iter(GeneNetwork().run({}, truth_of({("A", "X")}), ["B", "C"])))
    with pytest.raises(ConfigError, match="did you mean 'collectri'"):
        read_truth("colectri")


@needs_truth
def test_the_example_of_beeline_is_scored_as_beeline_does():
    pytest.importorskip("arboreto")
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
    assert scores["grnboost2"]["average_precision"] > scores["random"]["average_precision"]
    again = grnboost2(cells, genes[:3], genes[:3], cells=100)
    assert again.equals(grnboost2(cells, genes[:3], genes[:3], cells=100))


@needs_truth
@pytest.mark.parametrize(
    ("name", "n_regulators", "fewest"),
    [
        ("collectri", 1178, 42_000),
        ("trrust", 794, 8_000),
        ("dorothea_chip", 296, 129_000),
        ("dorothea_curated", 593, 188_000),
    ],
)
def test_truth_files_hold_what_their_provenance_says(name, n_regulators, fewest):
    truth = read_truth(name)
    assert len(truth.regulators) == n_regulators and len(truth.edges) > fewest
    assert all(a != b for a, b in truth.edges)


def test_inferred_edges_of_dorothea_never_count(tmp_path, monkeypatch):
    from scmf.eval import network_truth

    table = pd.DataFrame({
        "tf": ["A", "B", "C"], "target": ["X", "Y", "Z"],
        "is_evidence_chip_seq": [True, False, False], "is_evidence_curated": [False, True, False],
        "is_evidence_inferred": [True, True, True],
    })  # fmt: skip
    table.to_parquet(tmp_path / "d.parquet")
    monkeypatch.setattr(network_truth, "fetch_file", lambda *_, **__: tmp_path / "d.parquet")
    assert read_truth("dorothea_chip").edges == {("A", "X")}
    assert read_truth("dorothea_curated").edges == {("B", "Y")}


def test_correlation_is_numpys_and_self_loops_are_left_out():
    rng = np.random.default_rng(0)
    cells = pd.DataFrame(rng.normal(size=(40, 4)), columns=list("ABCD")).assign(D=1.0)
    table = correlation(cells, ["A", "B"], list("ABCD"))
    wanted = np.abs(np.corrcoef(cells["A"], cells["C"])[0, 1])
    row = table[(table["regulator"] == "A") & (table["target"] == "C")]
    assert float(row["weight"].iloc[0]) == pytest.approx(wanted)
    assert not ((table["regulator"] == table["target"]) | (table["target"] == "D")).any()
    assert len(edge_table(np.ones((2, 2)), ["A", "B"], ["A", "B"])) == 2
