"""How much of a file a vocabulary knows: what is refused, what is said, what is neither."""

import logging

import numpy as np
import pytest

from scmf.core.errors import GeneError
from scmf.data.genes.known_share import KnownShare


def share(*, known, of, vocabulary, sums=None):
    """A file of ``of`` genes of which the first ``known`` are in the vocabulary."""
    columns = np.arange(of) < known
    return KnownShare.of(columns, n_vocabulary=vocabulary, n_found=known, sums=sums)


def test_a_chosen_set_of_genes_that_is_there_as_a_whole_is_neither_refused_nor_warned_of(caplog):
    counts = np.where(np.arange(1000) < 50, 1, 100)  # the 50 genes hold less than a hundredth of the counts
    with caplog.at_level(logging.INFO, logger="scmf"):
        share(known=50, of=1000, vocabulary=50, sums=counts).tell("cells", allow=False)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert "0.1% of the counts; 50 of its 50 genes" in caplog.text


@pytest.mark.parametrize("known", [3, 50])
def test_few_known_genes_and_few_known_counts_are_refused_unless_allowed(known, caplog):
    counts = np.where(np.arange(1000) < known, 1, 100)
    found = share(known=known, of=1000, vocabulary=100, sums=counts)
    with pytest.raises(GeneError, match="at least 20% of the genes and of the counts"):
        found.tell("cells", allow=False)
    with caplog.at_level(logging.INFO, logger="scmf"):
        found.tell("cells", allow=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_without_counts_the_genes_decide():
    assert share(known=19, of=100, vocabulary=100).is_low
    assert not share(known=20, of=100, vocabulary=100).is_low
    assert share(known=20, of=100, vocabulary=100).is_half
