"""Parts of perturbation conditions: unseen genes, unseen combinations, the simulation of GEARS.

A condition is a text such as ``KLF1``, ``KLF1+ctrl`` or ``CEBPA+KLF1``: the names of what was perturbed, with a
separator between them. Controls (``control``, ``ctrl``; ``ctrl+ctrl``) are always in train, and so are all spellings of
one condition (``A+B``, ``B+A``) in one part.

Terms, as GEARS (Roohani et al. 2023) has them. A combination in test is *seen k* when k of its genes occur in a
condition of train or valid (for valid: of train); a single is *unseen* when its gene does not:

    unseen_single   combo_seen0   combo_seen1   combo_seen2

The rule of GEARS stands here once (`_simulation`), with three ways to draw: the random numbers of GEARS itself
(`gears_simulation`), those of `scmf.data.splits.make.make_split`, and those of the frozen split ``norman.gears``.

Lives here: which condition goes where and what it is then. Lives elsewhere: how a condition is read (conditions), cells
(make), rules that need no such search (held_out), the search for whole groups (assign). A published split is held fast
by its lists of conditions (``hold_out``), never by a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from scmf.core.errors import DataError
from scmf.data.splits.assign import SPLITS, assign_groups
from scmf.data.splits.conditions import CONTROLS, genes_of, one_spelling

VALID_SHARE = 0.9
"""What the second step of GEARS keeps for training."""

STRATEGIES = ("unseen", "combinations", "simulation")
"""``unseen``: genes are dealt out, a condition lies in the last part of its genes, so that no gene of test occurs in
train or valid. ``combinations``: singles train, combinations are dealt out whole. ``simulation``: that of GEARS."""


def assign_conditions(
    sizes: Mapping[str, int],
    *,
    strategy: str,
    shares: Sequence[float],
    hold_out: Mapping[str, int],
    separator: str,
    controls: Sequence[str],
    train_genes: float,
    rng: np.random.Generator,
) -> dict[str, int]:
    """Condition -> part (0 train, 1 valid, 2 test).

    Parameters
    ----------
    sizes
        Condition -> cells.
    strategy
        One of `STRATEGIES`.
    shares
        Wanted shares of the parts: of the cells with a perturbation (``unseen``), of the cells of combinations
        (``combinations``); ``simulation`` does not use them.
    hold_out
        Gene (``unseen``, ``simulation``) or condition in any spelling (``combinations``) -> part, settled.
    separator, controls
        How a condition is read.
    train_genes
        ``simulation``: share of the genes that are train genes; combinations of two of them are in train with the
        same share. Valid is made from train in the same way with 0.9.
    rng
        Draws.
    """
    kept = one_spelling(sizes, separator=separator, controls=controls)
    together = dict.fromkeys(kept.values(), 0)
    for name, size in sizes.items():
        together[kept[name]] += size
    genes = {name: genes_of(name, separator=separator, controls=controls) for name in together}
    every = sorted({gene for some in genes.values() for gene in some})
    if not every:
        raise DataError(
            "no condition with a perturbation",
            wanted=f"names other than {', '.join(controls)}, with {separator!r} between those of a combination",
            fix="name the column in by=, the separator and the control",
        )
    allowed = set(together) if strategy == "combinations" else set(every)
    if strange := sorted(set(hold_out) - allowed):
        kind = "condition" if strategy == "combinations" else "perturbed gene"
        raise DataError(
            f"no {kind} {strange[0]!r}", wanted=f"one of {len(allowed)}", where="hold_out", fix="correct the name"
        )
    if strategy == "unseen":
        part = _unseen(together, genes, every, shares, hold_out, rng)
    elif strategy == "combinations":
        part = _combinations(together, genes, shares, hold_out, rng)
    else:
        part = _simulation(genes, hold_out, (train_genes, VALID_SHARE), _Permuted(rng))
    return {name: part[kept[name]] for name in sizes}


def gears_simulation(
    conditions: Sequence[str],
    *,
    separator: str | None = "+",
    controls: Sequence[str] = CONTROLS,
    seed: int = 1,
    train_share: float = 0.75,
    valid_share: float = VALID_SHARE,
    draws: Literal["gears", "rounded"] = "gears",
) -> dict[str, str]:
    """Condition to part, as the ``simulation`` split of GEARS draws them.

    Three quarters of the genes are training genes. Single perturbations of the others and combinations with one or both
    of the others are test (unseen single, seen 1, seen 0); of the combinations of two training genes a quarter is test
    (seen 2). Validation is drawn from what is left in the same way, with nine tenths.

    Parameters
    ----------
    conditions
        Names. The order does not matter; they are drawn in sorted order, all spellings of one condition as the first
        of them, while GEARS draws spellings one by one.
    separator, controls
        How a condition is read; a control trains.
    seed
        Of the draws.
    train_share, valid_share
        Shares of genes, and of combinations of two of them, that are kept for training in the two steps.
    draws
        ``gears``: the random numbers and the rounding (down) of GEARS: the same split for the same conditions and seed.
        ``rounded``: numpy's ``default_rng`` and numbers of genes and combinations rounded to the nearest; the frozen
        split ``norman.gears`` was made so, and nothing else should be.

    Notes
    -----
    Source: snap-stanford/GEARS f374e43, `gears/data_utils.py`.
    """
    kept = one_spelling(conditions, separator=separator, controls=controls)
    genes = {name: genes_of(name, separator=separator, controls=controls) for name in sorted(set(kept.values()))}
    how: _Draws = _OfGears(seed) if draws == "gears" else _Rounded(np.random.default_rng(seed))
    parts = _simulation(genes, {}, (train_share, valid_share), how)
    return {name: SPLITS[parts[one]] for name, one in kept.items()}


def gears_groups(
    conditions: Sequence[str],
    *,
    separator: str | None = "+",
    controls: Sequence[str] = CONTROLS,
    seed: int = 1,
) -> dict[str, str]:
    """Held-out condition to its subgroup as GEARS has it: by the genes that were drawn as seen, not by what trains.

    Of `gears_simulation` with the same conditions and seed; `subgroups` says what training conditions really hold.
    """
    kept = one_spelling(conditions, separator=separator, controls=controls)
    genes = {name: genes_of(name, separator=separator, controls=controls) for name in sorted(set(kept.values()))}
    groups: dict[str, str] = {}
    _simulation(genes, {}, (0.75, VALID_SHARE), _OfGears(seed), groups)
    return {name: groups[one] for name, one in kept.items() if one in groups}


def _unseen(
    sizes: Mapping[str, int],
    genes: Mapping[str, tuple[str, ...]],
    every: Sequence[str],
    shares: Sequence[float],
    hold_out: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, int]:
    weight = dict.fromkeys(every, 0.0)
    for name, some in genes.items():
        for gene in some:
            weight[gene] += sizes[name] / len(some)
    part = _dealt([weight[gene] for gene in every], every, shares, hold_out, rng)
    return {name: max((part[gene] for gene in some), default=0) for name, some in genes.items()}


def _combinations(
    sizes: Mapping[str, int],
    genes: Mapping[str, tuple[str, ...]],
    shares: Sequence[float],
    hold_out: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, int]:
    combos = sorted(name for name, some in genes.items() if len(some) > 1)
    if not combos:
        raise DataError("no combination", wanted="conditions of two genes or more", fix="check the separator")
    free = sum(name not in hold_out for name in combos)
    if free < np.count_nonzero(shares) and len(combos) < len(genes):
        shares = [0.0, *shares[1:]]  # singles and controls are in train, which needs no combination then
    part = _dealt([float(sizes[name]) for name in combos], combos, shares, hold_out, rng)
    return {name: part.get(name, hold_out.get(name, 0)) for name in genes}


def _dealt(
    weights: Sequence[float],
    names: Sequence[str],
    shares: Sequence[float],
    hold_out: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, int]:
    fixed = np.array([hold_out.get(name, -1) for name in names])
    settled = set(hold_out.values())
    open_shares = np.array([0.0 if part in settled else share for part, share in enumerate(shares)])
    if not open_shares.any():
        open_shares[0] = 1.0
    try:
        parts = assign_groups(np.array(weights)[:, None], open_shares, rng=rng, fixed_G=fixed)
    except ValueError as error:
        raise DataError(str(error), wanted="at least one for each part", fix="ask for fewer parts") from error
    return dict(zip(names, parts.tolist(), strict=True))


class _Draws(Protocol):
    """How the simulation draws: ``n`` things by their sorted order, of which some are taken."""

    def count(self, n: int, share: float) -> int:
        """How many of ``n`` are kept for training."""

    def unseen(self, n: int, count: int) -> set[int]:
        """The ``count`` genes of ``n`` that are held out."""

    def kept(self, n: int, count: int) -> set[int]:
        """The ``count`` combinations of ``n`` that are kept."""


class _Permuted:
    """The draws of make_split: the first of a permutation are taken."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def count(self, n: int, share: float) -> int:
        return int(n * share)

    def unseen(self, n: int, count: int) -> set[int]:
        return self.kept(n, count)

    def kept(self, n: int, count: int) -> set[int]:
        return set(self.rng.permutation(n)[:count].tolist())


class _Rounded(_Permuted):
    """As `_Permuted`, but seen genes are drawn and not unseen ones, and numbers are rounded to the nearest."""

    def count(self, n: int, share: float) -> int:
        return round(n * share)

    def unseen(self, n: int, count: int) -> set[int]:
        return set(range(n)) - self.kept(n, n - count)


class _OfGears:
    """The draws of GEARS: seen genes are drawn, and the generator starts anew for every draw."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def count(self, n: int, share: float) -> int:
        return int(n * share)

    def unseen(self, n: int, count: int) -> set[int]:
        return set(range(n)) - self.kept(n, n - count)

    def kept(self, n: int, count: int) -> set[int]:
        # numpy.random.seed(seed) and numpy.random.choice of GEARS give the same numbers
        return set(np.random.RandomState(self.seed).choice(n, count, replace=False).tolist()) if n else set()


def _simulation(
    genes: Mapping[str, tuple[str, ...]],
    hold_out: Mapping[str, int],
    shares: tuple[float, float],
    draws: _Draws,
    groups: dict[str, str] | None = None,
) -> dict[str, int]:
    """Two steps of GEARS: test is split off, then valid from what is left; ``groups`` takes the subgroups of both."""
    part = dict.fromkeys(genes, 0)
    left = {name: some for name, some in genes.items() if some}
    for number, share in zip((2, 1), shares, strict=True):
        here = sorted({gene for some in left.values() for gene in some})
        forced = {gene for gene in here if hold_out.get(gene) == number}
        candidates = [gene for gene in here if gene not in forced and hold_out.get(gene) is None]
        n_unseen = max(len(here) - draws.count(len(here), share) - len(forced), 0)
        n_unseen = min(n_unseen, len(candidates))
        unseen = forced | {candidates[i] for i in draws.unseen(len(candidates), n_unseen)}
        both = sorted(name for name, some in left.items() if len(some) > 1 and not unseen & set(some))
        kept = draws.kept(len(both), draws.count(len(both), share))
        out = {name for name, some in left.items() if unseen & set(some)}
        out |= {name for i, name in enumerate(both) if i not in kept}
        part |= dict.fromkeys(out, number)
        if groups is not None:
            for name in out:
                some = left[name]
                groups[name] = f"combo_seen{len(set(some) - unseen)}" if len(some) > 1 else "unseen_single"
        left = {name: some for name, some in left.items() if name not in out}
    return part


def subgroups(
    part: Mapping[str, int], *, separator: str = "+", controls: Sequence[str] = CONTROLS
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Part (valid, test) -> subgroup -> conditions, in the terms of this module.

    Parameters
    ----------
    part
        Condition -> part.
    separator, controls
        How a condition is read.
    """
    genes = {name: genes_of(name, separator=separator, controls=controls) for name in part}
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for number, name_of_part in ((1, "valid"), (2, "test")):
        known = {gene for name, some in genes.items() if part[name] < number for gene in some}
        groups: dict[str, list[str]] = {}
        for name in sorted(name for name in part if part[name] == number):
            some = genes[name]
            seen = len(known & set(some))
            if len(some) == 1:
                kind = "seen_single" if seen else "unseen_single"
            else:
                kind = f"combo_seen{seen}" if some else "control"
            groups.setdefault(kind, []).append(name)
        found[name_of_part] = {kind: tuple(groups[kind]) for kind in sorted(groups)}
    return found
