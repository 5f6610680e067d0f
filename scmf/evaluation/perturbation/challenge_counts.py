"""Group profiles of the Virtual Cell Challenge 2026: sums of counts by perturbation, their sampling noise, halves.

Lives here: `Screen` (raw counts with labels), `Groups` (log profiles, jackknife terms), the halves of a replicate and
the common-response baseline. Lives elsewhere: the scores (challenge_profiles, challenge_de), scaling (challenge_scale).
Definitions: cell_eval2 0.20.0, preset ``vcc2026``.

Array legend: N cells, G genes, P groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from scmf.core.errors import EvaluationError

TARGET_SUM = 5e4
"""What the counts of a group are scaled to before the logarithm."""

LARGEST = 1e6
"""More counts than this in one cell are an error."""

SPLITS, BLOCK = 5, 32
"""Replicates, and cells that are dense at a time."""


@dataclass(frozen=True)
class Screen:
    """Raw counts of all genes of one side.

    Parameters
    ----------
    counts_NG
        Counts, CSR float64.
    labels
        Perturbation of each cell, str (N,).
    genes
        Names of the columns, str (G,).
    control
        Label of the control cells.
    targets
        Label to the genes that it perturbs; a label that is not there perturbs the gene of its own name.
    """

    counts_NG: sp.csr_matrix
    labels: np.ndarray
    genes: np.ndarray
    control: str
    targets: Mapping[str, Sequence[str]] | None = None

    @cached_property
    def names(self) -> list[str]:
        """Labels, sorted, without the control."""
        return sorted(set(self.labels.tolist()) - {self.control})

    def targets_of(self, name: str) -> tuple[str, ...]:
        """Perturbed genes of a label that are measured."""
        known = set(self.genes.tolist())
        given = (name,) if self.targets is None or name not in self.targets else tuple(self.targets[name])
        return tuple(gene for gene in given if gene in known)

    def of(self, name: str) -> sp.csr_matrix:
        """Counts of one group."""
        return self.counts_NG[np.flatnonzero(self.labels == name)]

    def taken(self, rows: np.ndarray) -> Screen:
        """The screen with these cells alone."""
        return replace(self, counts_NG=self.counts_NG[rows], labels=self.labels[rows])

    def check(self, *, where: object) -> None:
        """Raise `EvaluationError` unless these are counts with control cells and two perturbations."""
        data = self.counts_NG.data
        totals = np.asarray(self.counts_NG.sum(axis=1)).ravel()
        found = ""
        if not np.isfinite(data).all() or (data < 0).any():
            found = "values that are negative or not finite"
        elif (totals > LARGEST).any():
            found = f"a cell with {totals.max():.0f} counts"
        elif not (self.labels == self.control).any():
            found = f"no control cells ({self.control!r})"
        elif not self.names:
            found = "no perturbed cells"
        if found:
            raise EvaluationError(found, wanted="raw counts of all genes, perturbed and control cells", where=where)


@dataclass(frozen=True)
class Groups:
    """Profiles of groups of cells.

    Parameters
    ----------
    names
        Labels of the rows.
    profiles_PG
        log(1 + 5e4 x share of the counts of the group), 0 for a group without counts.
    noise_P
        Jackknife estimate of the sampling variance of each profile, summed over all genes.
    """

    names: list[str]
    profiles_PG: np.ndarray
    noise_P: np.ndarray

    @classmethod
    def of(cls, screen: Screen, names: Sequence[str]) -> Groups:
        """Profiles of the named groups."""
        parts = [screen.of(name) for name in names]
        sums = [np.asarray(part.sum(axis=0)).ravel() for part in parts]
        noise = [jackknife(part, total) for part, total in zip(parts, sums, strict=True)]
        return cls(list(names), np.stack([log_profile(total) for total in sums]), np.array(noise))

    def row(self, name: str) -> int:
        """Row of a label."""
        return self.names.index(name)


def log_profile(sums_G: np.ndarray) -> np.ndarray:
    """log(1 + 5e4 x share of the counts), (..., G); 0 where there are none."""
    total = sums_G.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, np.log1p(TARGET_SUM * sums_G / total), 0.0)


def jackknife(counts_NG: sp.csr_matrix, sums_G: np.ndarray) -> float:
    """Delete-one estimate of the variance of `log_profile`, summed over genes; 0 for fewer than two cells."""
    n = counts_NG.shape[0]
    if n < 2:
        return 0.0
    center_G = log_profile(sums_G)
    first_G, second_G = np.zeros(len(sums_G)), np.zeros(len(sums_G))
    for start in range(0, n, BLOCK):
        off = log_profile(np.maximum(sums_G - counts_NG[start : start + BLOCK].toarray(), 0)) - center_G
        first_G += off.sum(axis=0)
        second_G += (off * off).sum(axis=0)
    return float((n - 1) / n * (second_G - first_G**2 / n).sum())


def half_seeds(count: int = SPLITS) -> list[int]:
    """Seeds of the halves of a replicate."""
    return [int(seed) for seed in np.random.SeedSequence(0).generate_state(count)]


def halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two disjoint halves of every group, the control among them: the truth, the prediction."""
    rng, first, second = np.random.default_rng(seed), [], []
    for name in sorted(set(labels.tolist())):
        rows = rng.permutation(np.flatnonzero(labels == name))
        half = len(rows) // 2
        first.append(rows[:half])
        second.append(rows[half : 2 * half])
    return np.concatenate(first), np.concatenate(second)


def common_response(screen: Screen) -> np.ndarray:
    """Mean counts over perturbations, each gene without those that target it, (G,). It knows the evaluated cells."""
    total_G, count_G = np.zeros(len(screen.genes)), np.zeros(len(screen.genes))
    for name in screen.names:
        free = ~np.isin(screen.genes, list(screen.targets_of(name)))
        total_G += np.where(free, np.asarray(screen.of(name).mean(axis=0)).ravel(), 0.0)
        count_G += free
    return np.where(count_G > 0, total_G / np.maximum(count_G, 1), 0.0)


def common_response_cells(screen: Screen) -> Screen:
    """Control cells drawn anew for every perturbation, scaled gene by gene to `common_response`: the baseline."""
    control = screen.of(screen.control)
    mean_G = np.asarray(control.mean(axis=0)).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        factor_G = np.where(mean_G > 0, common_response(screen) / mean_G, 0.0)
    rng, parts, labels = np.random.default_rng(0), [], []
    for name in screen.names:
        size = int((screen.labels == name).sum())
        parts.append(control[rng.integers(0, control.shape[0], size)])
        labels += [name] * size
    drawn = sp.csr_matrix(sp.vstack(parts) @ sp.diags(factor_G))
    return replace(screen, counts_NG=drawn, labels=np.array(labels))
