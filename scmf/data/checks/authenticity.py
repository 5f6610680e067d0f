"""Is a count matrix real cells? Two small statistics with their controls.

Some public "test data" are real data sets in which every gene was shuffled among the cells of one label.
Means, sparsity and marker genes survive that, so a plot looks right; co-expression does not, so nothing
that a foundation model is for can be measured on them.

Lives here: joint detection against independence, labels against expression with a permutation control.
Lives elsewhere: what a card says about them (cards.card), when it is asked (file, cards).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from scmf.data.splits.findings import CheckReport
from scmf.data.stores.missing import is_missing

_SHUFFLED = 1.5
"""Below this a matrix looks shuffled: real cells lie above 3, gene-wise shuffled ones at 1."""
_MIN_CELLS = 10
"""A label with fewer cells has no variance worth the name."""


def joint_detection_ratio(
    counts: sparse.csr_matrix | sparse.csr_array, labels: Sequence[str] | np.ndarray
) -> dict[str, float]:
    r"""Variance of genes detected per cell, against what independent genes would give, within each label.

    With :math:`p_g` the share of the label's cells in which gene *g* is detected and :math:`D_i` the number
    of genes detected in cell *i*, the ratio is :math:`\mathrm{Var}(D) / \sum_g p_g (1 - p_g)`; the
    denominator is the variance of a sum of independent Bernoulli variables. Depth and co-expression make
    it 3 to 2,000 in real cells (more genes and more uneven depth, more); shuffling each gene within the
    label makes it 1.

    Parameters
    ----------
    counts
        Counts, cells x genes.
    labels
        One label a cell.

    Returns
    -------
    dict
        Label -> ratio, for labels with at least ten cells and one gene of varying detection.
    """
    detected = sparse.csr_matrix(counts, copy=False).astype(bool).astype(np.float64)
    labels = np.asarray(labels).astype(str)
    ratios = {}
    for label in np.unique(labels):
        block = detected[labels == label]
        n_cells = block.shape[0]
        if n_cells < _MIN_CELLS:
            continue
        rate = np.asarray(block.mean(axis=0)).ravel()
        independent = float((rate * (1 - rate)).sum()) * n_cells / (n_cells - 1)
        if independent > 0:
            ratios[str(label)] = float(np.asarray(block.sum(axis=1)).ravel().var(ddof=1) / independent)
    return ratios


def shuffled_within(
    counts: sparse.csr_matrix | sparse.csr_array, labels: Sequence[str] | np.ndarray, *, seed: int = 0
) -> sparse.csr_matrix:
    """Copy in which each gene is permuted among the cells of a label: what a fake looks like.

    Parameters
    ----------
    counts
        Counts, cells x genes.
    labels
        One label a cell.
    seed
        Seed of the permutations.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels).astype(str)
    columns = sparse.csc_matrix(counts, copy=True)
    rows, n_cells = columns.indices, columns.shape[0]
    code = np.unique(labels, return_inverse=True)[1]
    members = [np.flatnonzero(code == k) for k in range(code.max() + 1)]
    shuffled = np.empty_like(rows)
    for gene in range(columns.shape[1]):
        start, stop = columns.indptr[gene : gene + 2]
        of_gene = code[rows[start:stop]]
        for k in np.unique(of_gene):
            at = start + np.flatnonzero(of_gene == k)
            shuffled[at] = rng.choice(members[k], size=at.size, replace=False)
    result = sparse.csc_matrix((columns.data, shuffled, columns.indptr), shape=(n_cells, columns.shape[1])).tocsr()
    result.sort_indices()
    return result


def label_accuracy(
    counts: sparse.csr_matrix | sparse.csr_array,
    labels: Sequence[str] | np.ndarray,
    *,
    permute: bool = False,
    seed: int = 0,
) -> float:
    """Accuracy of nearest centroids (cosine, log1p of counts per 10,000), trained on half of the cells.

    Parameters
    ----------
    counts
        Counts, cells x genes.
    labels
        One label a cell.
    permute
        Permute the labels first: the control, which should not beat guessing.
    seed
        Seed of the halves and of the permutation.

    Returns
    -------
    float
        Accuracy on the other half.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels).astype(str)
    if permute:
        labels = rng.permutation(labels)
    x = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    depth = np.asarray(x.sum(axis=1)).ravel()
    x = sparse.diags(1e4 / np.maximum(depth, 1)) @ x
    x.data = np.log1p(x.data)
    order = rng.permutation(x.shape[0])
    train, test = order[: x.shape[0] // 2], order[x.shape[0] // 2 :]
    names, code = np.unique(labels[train], return_inverse=True)
    one_hot = sparse.csr_matrix((np.ones(train.size), (code, np.arange(train.size))), shape=(names.size, train.size))
    centroids = np.asarray((one_hot @ x[train]).todense()) / np.bincount(code)[:, None]
    centroids -= centroids.mean(axis=0)
    centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    predicted = names[np.argmax(x[test] @ centroids.T, axis=1)]
    return float(np.mean(predicted == labels[test]))


def check_authentic(report: CheckReport, x: sparse.csr_matrix, labels: pd.Series) -> None:
    """Add to ``report`` whether the cells look real; says nothing where no label has enough cells.

    Parameters
    ----------
    report
        Where the finding goes.
    x
        Counts, cells x genes.
    labels
        One label a cell; cells without one are left out.
    """
    known = ~is_missing(labels)
    ratios = joint_detection_ratio(x[known], labels[known].astype(str).to_numpy())
    if not ratios:
        return
    ratio = float(np.median(list(ratios.values())))
    report.facts["joint_detection_ratio"] = ratio
    if ratio < _SHUFFLED:
        found = f"genes are detected independently within labels (variance ratio {ratio:.2f}; real cells: above 3)"
        report.add("warning", "real cells", found, do="this looks like a gene-wise shuffled copy: ask where it is from")
    else:
        report.add("ok", "real cells", f"joint detection ratio {ratio:.1f} within labels (shuffled: 1)")
