"""Baselines of a perturbation screen: effects that need no foundation model, and the replicates of the truth.

Every one of them is an effect, a change of the mean profile; predicted cells are control cells of the truth scaled
gene by gene, so that their mean is control mean plus effect exactly. Lives elsewhere: metrics, the truth
(truth).

Array legend: P perturbations, G genes, K components.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.splits.held_out import TEST
from scmf.evaluation.perturbation.truth import Pair, PerturbationTruth, Prediction

RIDGE, COMPONENTS = 0.1, 10


@dataclass(frozen=True)
class Moved(Mapping[Pair, np.ndarray]):
    """Control cells moved by an effect, made when they are asked for: (cells, genes) float64 for each pair."""

    truth: PerturbationTruth
    effects: Mapping[Pair, np.ndarray]

    def __getitem__(self, pair: Pair) -> np.ndarray:
        """Cells of a pair."""
        return moved(self.truth.cells((pair[0], self.truth.control), None), self.effects[pair])

    def profile(self, pair: Pair) -> np.ndarray:
        """Control mean plus effect, not the mean of the moved cells, which rounding keeps from it."""
        return self.truth.control_mean(pair[0]) + self.effects[pair]

    def __iter__(self) -> Iterator[Pair]:
        """The pairs."""
        return iter(self.effects)

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.effects)


def moved(control_NG: np.ndarray, effect_G: np.ndarray) -> np.ndarray:
    """Cells whose mean is that of the control plus the effect, (N, G): a gene is found in more or in fewer of them.

    The expected level of a gene stays that of the control cells that express it (1 where none does); the share of cells
    that express it changes, and what is left is made up by a factor. Adding the effect to every cell would make each
    gene with the smallest effect significant, since no two cells of the sets would tie; a factor alone would change no
    rank of the many zeros. Which cells change is no draw: seats are spread evenly, from a start that the gene
    decides. Where control plus effect is below zero no cell expresses the gene, and one carries what is missing, so
    that the mean stays exact.
    """
    n_cells, cells = len(control_NG), control_NG.copy()
    mean_G = control_NG.mean(axis=0)
    goal_G = mean_G + effect_G
    for gene in np.flatnonzero(effect_G != 0):
        goal, column = goal_G[gene], cells[:, gene]
        if goal <= 0:
            column[:] = 0
            column[gene % n_cells] = goal * n_cells
            continue
        on = np.flatnonzero(column > 0)
        level = column[on].mean() if len(on) else 1.0
        wanted = int(np.clip(round(goal / level * n_cells), 1, n_cells))
        if wanted < len(on):
            column[on[_spread(len(on), len(on) - wanted, int(gene))]] = 0
        elif wanted > len(on):
            off = np.flatnonzero(column <= 0)
            column[off[_spread(len(off), wanted - len(on), int(gene))]] = level
        column *= goal / column.mean()
    return cells


def _spread(size: int, count: int, start: int) -> np.ndarray:
    """``count`` of ``size`` seats, spread evenly."""
    return (start + np.arange(count) * size // count) % size


def training_effects(truth: PerturbationTruth) -> dict[Pair, np.ndarray]:
    """Mean of the training cells of each pair minus the control mean of its covariate, float64 (G,)."""
    return {pair: truth.mean(*pair, "train") - truth.control_mean(pair[0]) for pair in truth.training_pairs}


def no_change(truth: PerturbationTruth) -> Prediction:
    """The control cells."""
    return Moved(truth, {pair: np.zeros(len(truth.genes)) for pair in truth.pairs})


def train_mean(truth: PerturbationTruth) -> Prediction:
    """The mean training effect.

    Of the same perturbation in other cell types where training has it, else of all perturbations in the same cell type,
    else of all.
    """
    effects = training_effects(truth)

    def of(pair: Pair) -> np.ndarray:
        same = [effect for (_, condition), effect in effects.items() if condition == pair[1]]
        here = [effect for (covariate, _), effect in effects.items() if covariate == pair[0]]
        return np.mean(same or here or list(effects.values()), axis=0)

    _need(effects)
    return Moved(truth, {pair: of(pair) for pair in truth.pairs})


def additive(truth: PerturbationTruth) -> Prediction:
    """The sum of the single effects; a gene whose single perturbation is not in training adds nothing."""
    effects = training_effects(truth)

    def single(covariate: str, gene: str) -> np.ndarray:
        here = effects.get((covariate, gene))
        other = [effect for (_, condition), effect in effects.items() if condition == gene]
        return here if here is not None else np.mean(other, axis=0) if other else np.zeros(len(truth.genes))

    found = {}
    for covariate, name in truth.pairs:
        found[covariate, name] = np.sum([single(covariate, gene) for gene in truth.genes_of(name)], axis=0)
    return Moved(truth, found)


def linear(truth: PerturbationTruth, *, gene_embeddings: Mapping[str, np.ndarray] | None = None) -> Prediction:
    """The linear model of Ahlmann-Eltze et al. 2025: Y ~ G W P' + b.

    Y (G, P) are training effects, G the first principal components of its genes, P the vectors of the perturbed genes
    (rows of G, or ``gene_embeddings``), b the mean effect; W by ridge regression (.1). A combination has the sum of the
    vectors of its genes; a gene without a vector has zeros, so that b is predicted.

    Parameters
    ----------
    truth
        The screen.
    gene_embeddings
        Gene to vector, for example of a foundation model: does it know what training cannot say?
    """
    effects = training_effects(truth)
    _need(effects)
    pairs = list(effects)
    y_GP = np.stack([effects[pair] for pair in pairs], axis=1)
    b_G = y_GP.mean(axis=1)
    left, sizes, _ = np.linalg.svd(y_GP - b_G[:, None], full_matrices=False)
    kept = int((sizes > 1e-10 * max(float(sizes.max(initial=0.0)), 1e-300)).sum())
    g_GK = (left * sizes)[:, : min(COMPONENTS, kept)]
    table = _vectors(truth, g_GK, gene_embeddings)
    p_PK = np.stack([_of_genes(truth.genes_of(name), table) for _, name in pairs])
    left_K = np.linalg.solve(g_GK.T @ g_GK + RIDGE * np.eye(g_GK.shape[1]), g_GK.T @ (y_GP - b_G[:, None]))
    w_KK = np.linalg.solve(p_PK.T @ p_PK + RIDGE * np.eye(p_PK.shape[1]), p_PK.T @ left_K.T).T
    found = {}
    for pair in truth.pairs:
        found[pair] = g_GK @ (w_KK @ _of_genes(truth.genes_of(pair[1]), table)) + b_G
    return Moved(truth, found)


def nearest(truth: PerturbationTruth) -> Prediction:
    """The effect of the most similar training perturbation.

    In another cell type: the same perturbation in the training cell type whose control cells are most correlated.
    Otherwise: training perturbations that share a gene, their mean; else the one whose gene has the most similar
    (cosine) row among the principal components of the training effects; else the mean effect.
    """
    effects = training_effects(truth)
    _need(effects)
    y_GP = np.stack(list(effects.values()), axis=1)
    left, sizes, _ = np.linalg.svd(y_GP - y_GP.mean(axis=1, keepdims=True), full_matrices=False)
    table = _vectors(truth, (left * sizes)[:, :COMPONENTS], None)
    return Moved(truth, {pair: _nearest(truth, pair, effects, table) for pair in truth.pairs})


def _nearest(
    truth: PerturbationTruth, pair: Pair, effects: Mapping[Pair, np.ndarray], table: Mapping[str, np.ndarray]
) -> np.ndarray:
    covariate, condition = pair
    same = {other: effect for (other, name), effect in effects.items() if name == condition}
    if same:
        mine = truth.control_mean(covariate)
        like = {other: float(np.corrcoef(mine, truth.control_mean(other))[0, 1]) for other in same}
        return same[max(sorted(like), key=like.__getitem__)]
    here = {name: effect for (other, name), effect in effects.items() if other == covariate}
    here = here or {name: effect for (_, name), effect in effects.items()}
    genes = set(truth.genes_of(condition))
    shared = [effect for name, effect in sorted(here.items()) if genes & set(truth.genes_of(name))]
    if shared:
        return np.mean(shared, axis=0)
    mine = _of_genes(tuple(sorted(genes)), table)
    found = {name: _cosine(mine, _of_genes(truth.genes_of(name), table)) for name in sorted(here)}
    best = max(found, key=found.__getitem__)
    return here[best] if found[best] > 0 else np.mean(list(here.values()), axis=0)


def replicates(truth: PerturbationTruth, *, seed: int = 0) -> tuple[Prediction, PerturbationTruth]:
    """One random half of the test cells of every pair, and a truth that holds the other half: the ceiling.

    A pair needs four cells. The ceiling is lower than that of a perfect prediction of the expectation, since both
    halves are noisy; it says what a repeated experiment of half the size would reach.
    """
    rng = np.random.default_rng(seed)
    parts, found = truth.parts.copy(), {}
    for pair in truth.pairs:
        rows = rng.permutation(truth.rows(*pair, TEST))
        if len(rows) < 4:
            raise EvaluationError(
                f"{len(rows)} test cells of {pair[1]!r}", wanted="four or more", where="replicate ceiling",
                fix="leave perturbations with so few cells out of the split",
            )  # fmt: skip
        held = np.sort(rows[: len(rows) // 2])
        found[pair] = truth.x_NG[held].toarray().astype(np.float64)
        parts[held] = "replicate"
    return found, replace(truth, parts=parts, _means={})


# --- vectors of genes -----------------------------------------------------------------------------


def _vectors(
    truth: PerturbationTruth, g_GK: np.ndarray, given: Mapping[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Gene to vector; given ones are reduced to as many components as there are, of unit scale."""
    if given is None:
        return {str(gene): g_GK[row] for row, gene in enumerate(truth.genes)}
    if not given:
        return {"": np.zeros(1)}
    names = sorted(given)
    x = np.stack([np.asarray(given[name], np.float64) for name in names])
    x = x - x.mean(axis=0)
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    kept = min(COMPONENTS, int((sizes > 1e-10 * max(float(sizes.max(initial=0.0)), 1e-300)).sum()) or 1)
    scores = (left * sizes)[:, :kept]
    return dict(zip(names, scores / max(float(np.abs(scores).max()), 1e-300), strict=True))


def _of_genes(genes: tuple[str, ...], table: Mapping[str, np.ndarray]) -> np.ndarray:
    width = len(next(iter(table.values())))
    return np.sum([table.get(gene, np.zeros(width)) for gene in genes], axis=0)


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 1e-12 else 0.0


def _need(effects: Mapping[Pair, np.ndarray]) -> None:
    if not effects:
        raise EvaluationError(
            "no perturbed training cells",
            wanted="training perturbations",
            where="data.split",
            fix="choose another split",
        )
