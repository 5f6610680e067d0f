"""The two statistics that tell real cells from a gene-wise shuffled copy."""

import numpy as np
import pytest
from scipy import sparse

from scmf.core.config.run import DataConfig
from scmf.core.errors import SourceError
from scmf.data.cards.card import load_card
from scmf.data.checks.authenticity import joint_detection_ratio, label_accuracy, shuffled_within
from scmf.data.loading.load import load_cells


@pytest.fixture(scope="module")
def simulated():
    """Poisson counts of 300 cells whose depth varies tenfold: two labels, 40 marker genes each."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 150)
    rate = rng.gamma(0.5, 1.0, size=400)
    rates = np.tile(rate, (300, 1))
    rates[:150, :40] += 2
    rates[150:, 40:80] += 2
    depth = np.exp(rng.normal(0, 0.8, size=(300, 1)))
    return sparse.csr_matrix(rng.poisson(rates * depth).astype(np.float32)), labels


def test_cells_of_varying_depth_lie_far_above_one_and_their_shuffled_copy_at_one(simulated):
    counts, labels = simulated
    real = joint_detection_ratio(counts, labels)
    fake = joint_detection_ratio(shuffled_within(counts, labels), labels)
    assert set(real) == {"a", "b"}
    assert min(real.values()) > 10
    assert max(fake.values()) < 1.5


def test_the_ratio_is_one_for_independent_genes():
    rng = np.random.default_rng(1)
    counts = sparse.csr_matrix((rng.random((2000, 300)) < rng.random(300)).astype(float))
    (ratio,) = joint_detection_ratio(counts, ["a"] * 2000).values()
    assert ratio == pytest.approx(1, abs=0.1)  # standard error of a variance: sqrt(2 / 2000) = 0.03


def test_a_label_with_few_cells_says_nothing(simulated):
    counts, labels = simulated
    assert set(joint_detection_ratio(counts[:155], labels[:155])) == {"a"}


def test_shuffling_keeps_each_gene_within_its_label(simulated):
    counts, labels = simulated
    fake = shuffled_within(counts, labels)
    for label in ("a", "b"):
        real, copy = (np.sort(m[labels == label].toarray(), axis=0) for m in (counts, fake))
        np.testing.assert_array_equal(real, copy)
    assert (fake != counts).nnz > 0
    assert (shuffled_within(counts, labels) != fake).nnz == 0, "the same seed gives the same copy"


def test_labels_are_found_in_the_counts_and_permuted_labels_are_not(simulated):
    counts, labels = simulated
    assert label_accuracy(counts, labels) > 0.95
    assert label_accuracy(counts, labels, permute=True) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("name", [pytest.param("pancreas", marks=pytest.mark.nightly), "pbmc68k_reduced"])  # the same
def test_the_evidence_in_the_cards_is_what_the_code_computes(name):
    try:
        cells = load_cells(DataConfig(dataset=name))
    except SourceError as error:
        pytest.skip(f"{name} cannot be fetched here: {error.found.splitlines()[0]}")
    said = load_card(name).authenticity
    labels = cells.obs[cells.facts.label_key].astype(str).to_numpy()
    fake = shuffled_within(cells.X, labels)
    found = (
        np.median(list(joint_detection_ratio(cells.X, labels).values())),
        np.median(list(joint_detection_ratio(fake, labels).values())),
        label_accuracy(cells.X, labels),
        label_accuracy(cells.X, labels, permute=True),
    )
    wanted = (
        said.joint_detection_ratio,
        said.joint_detection_ratio_shuffled,
        said.label_accuracy,
        said.label_accuracy_permuted,
    )
    assert found == pytest.approx(wanted, rel=0.005, abs=0.002)
