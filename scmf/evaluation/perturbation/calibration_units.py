"""One split of a screen into truths and duplicates: the candidates whose scores say what a metric can tell.

Lives here: halves of every unit and of the control, what the others of a unit are, the candidates' profiles and cells.
Lives elsewhere: their scores and what follows (calibration), the rule for the head of a table (calibration_rule).

Array legend: P units, G genes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scmf.evaluation.perturbation.truth import Pair, PerturbationTruth
from scmf.evaluation.perturbation.units import Units
from scmf.evaluation.perturbation.welch import Moments, moments, pooled, welch

LEAST_CELLS = 4
"""A unit with fewer cells has no two halves that scatter."""

LEAST_OTHERS = 3
"""With fewer other perturbations in its cell type, the weights of a unit come from its control cells."""


def units_of(truth: PerturbationTruth) -> list[Pair]:
    """The units of a screen that can be halved, whatever the split says."""
    chosen = truth.conditions != truth.control
    pairs = sorted(set(zip(truth.covariates[chosen].tolist(), truth.conditions[chosen].tolist(), strict=True)))
    return [pair for pair in pairs if len(truth.rows(*pair)) >= LEAST_CELLS]


@dataclass(frozen=True)
class HalvedScreen:
    """Halves of one split: T and B of the truth, D and A of the candidates.

    Parameters
    ----------
    truth
        The screen.
    pairs
        Its units.
    rows_t, rows_d
        Unit, or covariate and control, to its cells in each half.
    """

    truth: PerturbationTruth
    pairs: list[Pair]
    rows_t: Mapping[Pair, np.ndarray]
    rows_d: Mapping[Pair, np.ndarray]

    @classmethod
    def drawn(cls, truth: PerturbationTruth, pairs: list[Pair], seed: int) -> HalvedScreen:
        """Halves of every unit and of the control cells of its covariate, in sorted order."""
        rng, first, second = np.random.default_rng(seed), {}, {}
        controls = [(covariate, truth.control) for covariate in {covariate for covariate, _ in pairs}]
        for pair in sorted([*pairs, *controls]):
            rows = rng.permutation(truth.rows(*pair))
            half = len(rows) // 2
            first[pair], second[pair] = rows[:half], rows[half : 2 * half]
        return cls(truth, pairs, first, second)

    @cached_property
    def by_type(self) -> bool:
        """Whether the others of a unit are other cell types: no covariate has two perturbations."""
        covariates = [covariate for covariate, _ in self.pairs]
        return len(set(covariates)) == len(covariates) > 1

    @cached_property
    def t(self) -> dict[Pair, Moments]:
        """Truths, and B."""
        return {pair: moments(self.truth.x_NG[rows]) for pair, rows in self.rows_t.items()}

    @cached_property
    def d(self) -> dict[Pair, Moments]:
        """Duplicates, and A."""
        return {pair: moments(self.truth.x_NG[rows]) for pair, rows in self.rows_d.items()}

    def others(self, pair: Pair) -> list[Pair]:
        """Other units of the covariate; the same perturbation in other types where those are compared."""
        column = 1 if self.by_type else 0
        return [other for other in self.pairs if other != pair and other[column] == pair[column]]

    def moved(self, half: Mapping[Pair, Moments], pair: Pair) -> list[Moments]:
        """The others of a unit in a half; those of other types by the difference of the control means."""
        found = []
        for other in self.others(pair):
            shift = half[pair[0], self.truth.control].mean - half[other[0], self.truth.control].mean
            found.append(half[other]._replace(mean=half[other].mean + shift))
        return found

    @cached_property
    def scored(self) -> list[Pair]:
        """Units that have another one."""
        return [pair for pair in self.pairs if self.others(pair)]

    def _mean(self, half: Mapping[Pair, Moments], pair: Pair) -> np.ndarray:
        mean: np.ndarray = np.mean([one.mean for one in self.moved(half, pair)], axis=0)
        return mean

    @cached_property
    def negative_PG(self) -> np.ndarray:
        """N: mean of the duplicates of the others."""
        return np.stack([self._mean(self.d, pair) for pair in self.scored])

    @cached_property
    def plain_PG(self) -> np.ndarray:
        """D: the duplicates."""
        return np.stack([self.d[pair].mean for pair in self.scored])

    @cached_property
    def interpolated_PG(self) -> np.ndarray:
        """D where a gene differs from the cells of the others, N where it does not (Miller 2025)."""
        rows = []
        for pair, other in zip(self.scored, self.negative_PG, strict=True):
            alpha = 1 - welch(self.d[pair], pooled([self.d[one] for one in self.others(pair)])).adjusted
            rows.append(alpha * self.d[pair].mean + (1 - alpha) * other)
        return np.stack(rows)

    @cached_property
    def control_PG(self) -> np.ndarray:
        """A: the control cells that candidates may see."""
        return np.stack([self.d[pair[0], self.truth.control].mean for pair in self.scored])

    def swapped(self, seed: int) -> np.ndarray:
        """Place of a random other unit for each unit (P,)."""
        rng, places = np.random.default_rng(seed), {pair: i for i, pair in enumerate(self.scored)}
        chosen = []
        for pair in self.scored:
            others = [places[other] for other in self.others(pair) if other in places]
            chosen.append(int(rng.choice(others)))
        return np.array(chosen)

    def other_PG(self, swap: np.ndarray) -> np.ndarray:
        """The duplicate of another unit for each unit; one of another type by its change."""
        found = self.plain_PG[swap]
        return found - self.control_PG[swap] + self.control_PG if self.by_type else found

    @cached_property
    def units(self) -> Units:
        """The units with the plain duplicate as prediction; `with_profiles` exchanges it."""
        pairs, control = self.scored, self.truth.control
        b = [self.t[pair[0], control] for pair in pairs]
        against = [welch(self.t[pair], one) for pair, one in zip(pairs, b, strict=True)]
        many = [not self.by_type and len(self.others(pair)) >= LEAST_OTHERS for pair in pairs]
        tests = [
            welch(self.t[pair], pooled(self.moved(self.t, pair))) if use else control_test
            for pair, use, control_test in zip(pairs, many, against, strict=True)
        ]
        rivals = None
        if self.by_type:
            rivals = {
                i: np.stack([self.t[pair].mean, *(one.mean for one in self.moved(self.t, pair))])
                for i, pair in enumerate(pairs)
            }
        return Units(
            genes=self.truth.genes,
            targets=[self.truth.genes_of(condition) for _, condition in pairs],
            groups=np.array([covariate for covariate, _ in pairs]),
            predicted_PG=self.plain_PG,
            true_PG=np.stack([self.t[pair].mean for pair in pairs]),
            control_a_PG=self.control_PG,
            control_b_PG=np.stack([one.mean for one in b]),
            mean_a_PG=self.negative_PG,
            mean_b_PG=np.stack([self._mean(self.t, pair) for pair in pairs]),
            tests=tests,
            control_tests=against,
            noise_hat_P=np.array([self.d[pair].noise for pair in pairs]),
            noise_P=np.array([self.t[pair].noise for pair in pairs]),
            control_noise_P=np.array([one.noise for one in b]),
            rivals=rivals,
        )

    def with_profiles(self, profiles_PG: np.ndarray, noise_P: np.ndarray | None = None) -> Units:
        """The units with another prediction; a profile has no noise."""
        noise = np.zeros(len(profiles_PG)) if noise_P is None else noise_P
        return replace(self.units, predicted_PG=profiles_PG, noise_hat_P=noise)
