"""The six scores of the Virtual Cell Challenge 2026: perfect, control everywhere, order of cells and genes, errors."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.challenge_counts import Screen, common_response_cells, halves, jackknife, log_profile
from scmf.evaluation.perturbation.challenge_de import direction_scores, expression_tests, mann_whitney
from scmf.evaluation.perturbation.challenge_scale import (
    ERROR,
    SCALED,
    baseline,
    mean_of,
    replicate,
    scaled,
    score_screen,
)

GENES = np.array([f"g{i:02}" for i in range(50)])


def drawn(seed, *, n_cells=40, effect=True):
    """Five perturbations and control, counts."""
    rng, truth = np.random.default_rng(seed), np.random.default_rng(0)
    base = truth.gamma(1.0, 4.0, len(GENES)) + 0.5
    blocks, labels = [], []
    for name in ("control", *GENES[:5].tolist()):
        change = truth.normal(0, 1.0, len(GENES)) * (truth.random(len(GENES)) < 0.6)
        rate = base * np.exp(change if effect and name != "control" else 0)
        blocks.append(rng.poisson(rate, (n_cells, len(GENES))))
        labels += [name] * n_cells
    return Screen(sp.csr_matrix(np.concatenate(blocks), dtype=np.float64), np.array(labels), GENES, "control")


@pytest.fixture(scope="module")
def real():
    return drawn(1)


@pytest.fixture(scope="module")
def ends(real):
    return baseline(real), mean_of(replicate(real))


def test_the_truth_itself_reaches_every_ceiling(real):
    scores = score_screen(real, real).aggregate
    assert (
        scores["pds_cosine"] == scores["direction_fidelity"] == scores["direction_reach"] == scores["sig_jaccard"] == 1
    )
    assert scores["lfc_nmae"] == 0
    assert scores[ERROR] < 0, "the error of the truth is 0 less the noise of both sides"


def test_control_cells_are_the_floor(real):
    control = real.of("control")
    pasted = Screen(sp.csr_matrix(sp.vstack([control] * 5)), np.repeat(GENES[:5], 40), GENES, "control")
    scores = score_screen(pasted, real).aggregate
    assert scores["pds_cosine"] == 0.5 and scores["direction_fidelity"] == 0
    assert scores["lfc_nmae"] == pytest.approx(1) and scores[ERROR] == pytest.approx(1, abs=0.1)


def test_the_scale_runs_from_the_baseline_to_the_replicate(real, ends):
    b, r = ends
    assert scaled(b, b, r) == pytest.approx({**dict.fromkeys(SCALED, 0.0), "score": 0.0})
    assert scaled(r, b, r) == pytest.approx({**dict.fromkeys(SCALED, 1.0), "score": 1.0})
    good = scaled(score_screen(drawn(2), real).aggregate, b, r)
    assert good["score"] > 0.8
    lost = scaled({}, b, r)
    assert lost["lfc_nmae"] == -6 and lost[ERROR] == 0 and lost["pds_cosine"] == pytest.approx(-b["pds_cosine"] / (
        r["pds_cosine"] - b["pds_cosine"]))  # fmt: skip


def test_the_order_of_cells_and_genes_changes_nothing(real):
    rng, predicted = np.random.default_rng(3), drawn(4, n_cells=30)
    genes = rng.permutation(len(GENES))

    def shuffled(screen):
        rows = rng.permutation(len(screen.labels))
        return Screen(screen.counts_NG[rows][:, genes], screen.labels[rows], GENES[genes], "control")

    one, other = score_screen(predicted, real), score_screen(shuffled(predicted), shuffled(real))
    assert other.aggregate == pytest.approx(one.aggregate, abs=1e-10)


def test_the_jackknife_is_that_of_leaving_out_each_cell():
    counts = sp.csr_matrix(np.random.default_rng(5).poisson(2.0, (70, 9)), dtype=np.float64)
    sums = np.asarray(counts.sum(axis=0)).ravel()
    left = np.stack([log_profile(sums - counts[i].toarray().ravel()) for i in range(70)])
    assert jackknife(counts, sums) == pytest.approx(69 / 70 * ((left - left.mean(axis=0)) ** 2).sum(), rel=1e-12)
    assert jackknife(counts[:1], sums) == 0


def test_the_rank_sum_test_is_that_of_scipy():
    rng = np.random.default_rng(6)
    x, y = rng.poisson(1.0, (23, 30)).astype(float), rng.poisson(1.3, (41, 30)).astype(float)
    x[:, 0] = y[:, 0] = 2
    found = mannwhitneyu(x, y, axis=0, method="asymptotic", use_continuity=True).pvalue
    np.testing.assert_allclose(mann_whitney(x, y), found, rtol=1e-13)
    assert mann_whitney(x, y)[0] == 1


def test_ties_between_cells_of_other_depths_are_kept():
    counts = sp.csr_matrix(np.array([[1.0, 2.0], [3.0, 6.0]]))
    found = expression_tests(counts, counts)
    np.testing.assert_array_equal(found.fold, 0)
    np.testing.assert_array_equal(found.p, 1)


def test_silence_and_few_genes(real):
    calm = drawn(7, effect=False)
    tests = expression_tests(calm.of("g00"), calm.of("control"))
    scores = direction_scores(tests, tests, GENES, ("g00",))
    assert scores["sig_jaccard"] == 1 and np.isnan(scores["direction_fidelity"]) and np.isnan(scores["lfc_nmae"])


def test_halves_are_disjoint_and_hold_every_group(real):
    first, second = halves(real.labels, 7)
    assert not set(first) & set(second) and len(first) == len(second) == 6 * 20
    assert sorted(set(real.labels[first])) == sorted(set(real.labels))


def test_the_baseline_leaves_out_the_gene_that_is_targeted(real):
    cells = common_response_cells(real)
    assert cells.names == real.names and cells.counts_NG.shape == (200, 50)


def test_what_is_refused(real):
    with pytest.raises(EvaluationError, match="no control cells"):
        score_screen(real, Screen(real.counts_NG, real.labels, GENES, "nothing"))
    with pytest.raises(EvaluationError, match="no cells of 'g04'"):
        score_screen(real.taken(np.flatnonzero(real.labels != "g04")), real)
    negative = Screen(-real.counts_NG, real.labels, GENES, "control")
    with pytest.raises(EvaluationError, match="negative"):
        score_screen(real, negative)
