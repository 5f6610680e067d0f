"""Whole groups into parts, as near to the wanted shares as whole groups allow.

Lives here: the search, on a table of group sizes. Lives elsewhere: what a group is, and which are held out
(make), conditions of perturbations (perturbation).

Legend: G groups, L labels, P parts, K columns of the cost.
"""

from __future__ import annotations

import numpy as np

SPLITS = ("train", "valid", "test")
"""The parts of a split, in this order."""

_STARTS = 8
"""Random starts of which the best is kept."""
_FEW = 2000
"""Up to so many groups are searched from `_STARTS` starts, more from one: then every group is small."""
_FEW_SWAPS = 200
"""Up to so many groups are exchanged in pairs, too."""
_PASSES = 20
_NOISE = 0.5
"""Spread of the logarithm by which sizes are blurred for the order of a start."""


def assign_groups(
    sizes_GL: np.ndarray, shares_P: np.ndarray, *, rng: np.random.Generator, fixed_G: np.ndarray | None = None
) -> np.ndarray:
    """Part of each group.

    The cost of an assignment is the misfit of the sizes, ``sum_p |n_p - share_p N| / N``, plus, with more than one
    label, the same misfit of each label, averaged over labels, so that a rare label weighs as much as a frequent one.
    From several starts (groups large to small with some noise, each to the part where it costs least) single groups
    are moved and pairs exchanged as long as that lowers the cost; the best end is taken. Every part with a share gets
    a group. The result is a local optimum and depends on nothing but the arguments.

    Parameters
    ----------
    sizes_GL
        Cells of each group and label, integer (G, L); L is 1 without labels.
    shares_P
        Wanted share of each part (P,), at least 0, of the cells of the groups that are not fixed.
    rng
        Draws order and ties.
    fixed_G
        Part of each group where it is settled, else -1, integer (G,). The cells of settled groups are not counted.

    Returns
    -------
    numpy.ndarray
        int64 (G,), 0 to P-1.

    Raises
    ------
    ValueError
        There are fewer groups to assign than parts with a share.
    """
    part_G = np.full(len(sizes_GL), -1) if fixed_G is None else fixed_G.astype(np.int64)
    free = np.flatnonzero(part_G < 0)
    wanted = np.flatnonzero(shares_P > 0)
    if not len(free):
        return part_G
    if len(free) < len(wanted):
        raise ValueError(f"{len(free)} groups for {len(wanted)} parts")
    x_GK = _scaled(sizes_GL[free].astype(np.float64))
    shares = shares_P[wanted] / shares_P[wanted].sum()
    target_PK = shares[:, None] * x_GK.sum(axis=0)
    best, lowest = None, np.inf
    for _ in range(_STARTS if len(free) <= _FEW else 1):
        found = _greedy(x_GK, target_PK, rng=rng)
        cost = _improve(found, x_GK, target_PK, rng=rng)
        if cost < lowest - 1e-12:
            best, lowest = found, cost
    part_G[free] = wanted[best]
    return part_G


def _scaled(sizes_GL: np.ndarray) -> np.ndarray:
    """Columns whose absolute misfits add up to the cost: all cells, then each label."""
    total = sizes_GL.sum(axis=1, keepdims=True) / max(sizes_GL.sum(), 1)
    if sizes_GL.shape[1] == 1:
        return total
    of_label = sizes_GL.sum(axis=0)
    there = sizes_GL[:, of_label > 0] / of_label[of_label > 0]
    return np.hstack([total, there / max(there.shape[1], 1)])


def _greedy(x_GK: np.ndarray, target_PK: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Each group, large ones first, to the part where it costs least; then a group to each empty part."""
    order = np.argsort(-x_GK[:, 0] * np.exp(_NOISE * rng.standard_normal(len(x_GK))), kind="stable")
    part_G, open_PK = np.full(len(x_GK), -1), target_PK.copy()
    for group in order.tolist():
        gain = np.abs(open_PK).sum(axis=1) - np.abs(open_PK - x_GK[group]).sum(axis=1)
        part = int(np.argmax(gain))
        part_G[group] = part
        open_PK[part] -= x_GK[group]
    for part in np.flatnonzero(np.bincount(part_G, minlength=len(target_PK)) == 0).tolist():
        spare = np.flatnonzero(np.bincount(part_G, minlength=len(target_PK))[part_G] > 1)
        after = [np.abs(target_PK[part] - x_GK[group]).sum() for group in spare]
        part_G[spare[int(np.argmin(after))]] = part
    return part_G


def _improve(part_G: np.ndarray, x_GK: np.ndarray, target_PK: np.ndarray, *, rng: np.random.Generator) -> float:
    """Move and exchange groups in place until nothing is gained; the cost."""
    open_PK = target_PK.copy()
    np.subtract.at(open_PK, part_G, x_GK)
    members = np.bincount(part_G, minlength=len(target_PK))
    for _ in range(_PASSES if len(part_G) <= _FEW else 2):
        gained = False
        for group in rng.permutation(len(part_G)).tolist():
            gained |= _move(group, part_G, x_GK, open_PK, members)
            if len(part_G) <= _FEW_SWAPS:
                gained |= _exchange(group, part_G, x_GK, open_PK)
        if not gained:
            break
    return float(np.abs(open_PK).sum())


def _move(group: int, part_G: np.ndarray, x_GK: np.ndarray, open_PK: np.ndarray, members: np.ndarray) -> bool:
    here = part_G[group]
    if members[here] == 1:
        return False
    x = x_GK[group]
    now = np.abs(open_PK).sum(axis=1)
    leave = np.abs(open_PK[here] + x).sum() - now[here]
    change = np.abs(open_PK - x).sum(axis=1) - now + leave
    change[here] = 0.0
    there = int(np.argmin(change))
    if change[there] > -1e-12:
        return False
    open_PK[here] += x
    open_PK[there] -= x
    members[here] -= 1
    members[there] += 1
    part_G[group] = there
    return True


def _exchange(group: int, part_G: np.ndarray, x_GK: np.ndarray, open_PK: np.ndarray) -> bool:
    here = part_G[group]
    others = np.flatnonzero(part_G != here)
    if not len(others):
        return False
    difference = x_GK[group] - x_GK[others]
    theirs = open_PK[part_G[others]]
    change = np.abs(open_PK[here] + difference).sum(axis=1) - np.abs(open_PK[here]).sum()
    change += np.abs(theirs - difference).sum(axis=1) - np.abs(theirs).sum(axis=1)
    best = int(np.argmin(change))
    if change[best] > -1e-12:
        return False
    other = int(others[best])
    there = part_G[other]
    open_PK[here] += difference[best]
    open_PK[there] -= difference[best]
    part_G[group], part_G[other] = there, here
    return True
