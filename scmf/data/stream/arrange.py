"""The order of the cells inside a fetch, and how far it mixes.

Lives here: plain shuffle, batches of similar length, batches of one group, batches with every group; the entropy of a
batch. Lives elsewhere: which cells a fetch holds (plan).

Legend: P places of a fetch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Arrangement = Literal["shuffle", "length", "group", "stratify"]
"""``shuffle``; ``length``: batches of similar length; ``group``: batches of one group as far as its cells fill them;
``stratify``: every batch holds the groups in the shares of the fetch."""

MEGA_BATCH = 50
"""Batches that are sorted by length together, as in the sampler of transformers that Geneformer was trained with."""


def arrange(
    edges: np.ndarray,
    rng: np.random.Generator,
    *,
    how: Arrangement = "shuffle",
    lengths: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Order of the places of a fetch; batch i takes ``order[edges[i]:edges[i + 1]]``.

    Parameters
    ----------
    edges
        Edges of the batches, the last is P.
    rng
        Random numbers of this fetch.
    how
        See `Arrangement`.
    lengths
        Length of each row (P,), for ``length``.
    groups
        Group of each cell as an integer code (P,), for ``group`` and ``stratify``.

    Returns
    -------
    numpy.ndarray
        A permutation of the places, int64 (P,).
    """
    order = rng.permutation(int(edges[-1]))
    if how == "length":
        assert lengths is not None
        for start in range(0, len(edges) - 1, MEGA_BATCH):
            stop = min(start + MEGA_BATCH, len(edges) - 1)
            part = order[edges[start] : edges[stop]]
            order[edges[start] : edges[stop]] = part[np.argsort(-lengths[part], kind="stable")]
        return _shuffle_batches(order, edges, rng)
    if how == "group":
        assert groups is not None
        order = order[np.argsort(groups[order], kind="stable")]
        return _shuffle_batches(order, edges, rng)
    if how == "stratify":
        assert groups is not None
        return _stratified(order, groups[order], rng)
    return order


def _shuffle_batches(order: np.ndarray, edges: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute whole batches; those of another size than the first (at the end of an epoch) keep their place."""
    sizes = np.diff(edges)
    movable = np.flatnonzero(sizes == sizes[0])
    parts = [order[edges[i] : edges[i + 1]] for i in range(len(sizes))]
    taken = list(parts)
    for to, source in zip(movable, rng.permutation(movable), strict=True):
        taken[to] = parts[source]
    return np.concatenate(taken)


def _stratified(order: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spread each group evenly over the whole stretch: its k-th of n cells stands near ``(k + u) / n``."""
    _, code, counts = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = np.argsort(code, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.empty(len(order), np.int64)
    rank[by_group] = np.arange(len(order)) - np.repeat(starts, counts)
    position = (rank + rng.random(len(counts))[code]) / counts[code]
    return order[np.argsort(position, kind="stable")]


def entropy_bits(labels: np.ndarray) -> float:
    """Shannon entropy of the shares of ``labels`` in bits; its maximum is ``log2(len(labels))``.

    With the source block of each cell of a batch as label this says how well a stream mixes; with the donor or the
    batch of each cell, how mixed a batch is (the measure that scDataset and annbatch report).
    """
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() + 0.0)
