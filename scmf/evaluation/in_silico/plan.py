"""Which genes are changed in which cells: before anything is tokenized again or embedded.

Lives here: `Targets` (what is changed together), `plan` (the edits of some cells, and the cells that are left out) and
samples of cells. Lives elsewhere: names of genes (genes), what an edit does to a cell (edits).

Legend: N cells, T targets, E edits: a cell and what is changed in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["delete", "overexpress"]
KINDS: tuple[Kind, ...] = ("delete", "overexpress")

SEED = 42
"""Seed of the official samples of cells."""


@dataclass(frozen=True)
class Targets:
    """Genes to change, each target in its turn.

    Parameters
    ----------
    tokens
        Token ids that are changed together, for each target.
    every
        Whether each gene of each cell is changed alone; ``tokens`` are then all genes of the vocabulary.
    """

    tokens: tuple[tuple[int, ...], ...]
    every: bool = False


class Plan(NamedTuple):
    """The edits of some cells, longest cells first.

    Parameters
    ----------
    cell_E, target_E
        int64: the cell and the target of each edit.
    lacking_T
        int64: cells without a gene of the target, which are left out.
    emptied_T
        int64: cells that have no other gene, which are left out.
    """

    cell_E: np.ndarray
    target_E: np.ndarray
    lacking_T: np.ndarray
    emptied_T: np.ndarray

    def limited(self, n_cells: int, *, seed: int) -> Plan:
        """At most so many cells of each target."""
        kept = np.zeros(len(self.cell_E), bool)
        in_file = np.lexsort((self.cell_E, self.target_E))
        firsts = np.flatnonzero(np.diff(self.target_E[in_file], prepend=-1))
        for mine in np.split(in_file, firsts[1:]):
            kept[mine[sample(len(mine), n_cells, seed=seed)]] = True
        return self._replace(cell_E=self.cell_E[kept], target_E=self.target_E[kept])


def sample(n: int, most: int | None, *, seed: int) -> np.ndarray:
    """``most`` of ``n`` cells, int64 in rising order; all of them where they are no more.

    The draw is that of the official code: ``Dataset.shuffle(seed)`` of Hugging Face datasets, then the first.
    """
    if most is None or n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def plan(
    offsets: np.ndarray, tokens: np.ndarray, targets: Targets, *, emptying: bool, needs_gene: bool, skip_first: bool
) -> Plan:
    """The edits of cells.

    Parameters
    ----------
    offsets, tokens
        Genes of cell n without special tokens: ``tokens[offsets[n]:offsets[n + 1]]``.
    targets
        What is changed.
    emptying
        A cell of the genes of a target alone is left out: without them nothing is left to embed, or to compare.
    needs_gene
        Cells that lack a gene of the target are left out.
    skip_first
        Under ``targets.every`` the first gene of a cell is not changed: it stands in front already.
    """
    lengths_N = np.diff(offsets)
    cell_P = np.repeat(np.arange(len(lengths_N)), lengths_N)
    n_targets = len(targets.tokens)
    lacking_T, emptied_T = np.zeros(n_targets, np.int64), np.zeros(n_targets, np.int64)
    if targets.every:
        cell_E, target_E, place_E, n_genes_N = _every(cell_P, tokens, targets, offsets, skip_first=skip_first)
        if emptying:
            alone_E = n_genes_N[cell_E] == 1
            np.add.at(emptied_T, target_E[alone_E], 1)
            cell_E, target_E, place_E = cell_E[~alone_E], target_E[~alone_E], place_E[~alone_E]
    else:
        cells, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        by_token = np.argsort(tokens, kind="stable")
        sorted_P = tokens[by_token]

        def holders(token: int) -> np.ndarray:
            first, last = np.searchsorted(sorted_P, [token, token + 1])
            return cell_P[by_token[first:last]]

        for number, group in enumerate(targets.tokens):
            has_N = np.ones(len(lengths_N), bool)
            if needs_gene:
                for token in group:
                    holds_N = np.zeros(len(lengths_N), bool)
                    holds_N[holders(token)] = True
                    has_N &= holds_N
                lacking_T[number] = int((~has_N).sum())
            if emptying:
                mine = np.concatenate([holders(token) for token in set(group)])
                others_N = lengths_N > np.bincount(mine, minlength=len(lengths_N))
                emptied_T[number] = int((has_N & ~others_N).sum())
                has_N &= others_N
            cells.append(np.flatnonzero(has_N))
            numbers.append(np.full(int(has_N.sum()), number, np.int64))
        cell_E, target_E = np.concatenate(cells), np.concatenate(numbers)
        place_E = target_E
    order = np.lexsort((place_E, cell_E, -lengths_N[cell_E]))
    return Plan(cell_E[order], target_E[order], lacking_T, emptied_T)


def _every(
    cell_P: np.ndarray, tokens: np.ndarray, targets: Targets, offsets: np.ndarray, *, skip_first: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cell, target and place of each gene of each cell, and the genes of each cell.

    A gene that stands in a cell twice counts once.
    """
    number = np.full(max((group[0] for group in targets.tokens), default=0) + 1, -1, np.int64)
    for target, group in enumerate(targets.tokens):
        number[group[0]] = target
    target_P = number[tokens]
    _, first = np.unique(cell_P * len(targets.tokens) + target_P, return_index=True)
    kept = np.zeros(len(tokens), bool)
    kept[first] = True
    n_genes_N = np.bincount(cell_P[kept], minlength=len(offsets) - 1)
    if skip_first:
        kept[offsets[:-1][np.diff(offsets) > 0]] = False
    place_P = np.arange(len(tokens)) - offsets[cell_P]
    return cell_P[kept], target_P[kept], place_P[kept], n_genes_N
