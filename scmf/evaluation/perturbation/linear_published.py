"""The linear model of Ahlmann-Eltze et al. 2025 as their program has it, prediction or none.

Lives here: the model on pseudobulks. Lives elsewhere: the other baselines, ``linear_effects`` among them, which is a
model of ours with a prediction for every perturbation (baselines). Source:
const-ae/linear_perturbation_prediction-Paper 95e831e, ``run_linear_pretrained_model.R``.

Array legend: G genes, C conditions, K components, U used columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import EvaluationError

RIDGE, COMPONENTS = 0.1, 10


@dataclass(frozen=True)
class PublishedLinear:
    """A fitted model.

    Parameters
    ----------
    genes
        Names of the genes (G,).
    vectors
        Gene to vector (K,), of perturbed genes.
    mixing_GK
        Gene vectors times weights.
    center_G, control_G
        Mean change over the used columns, pseudobulk of the control.
    used
        Names of the used columns, the control among them as ``""``.
    """

    genes: np.ndarray
    vectors: Mapping[str, np.ndarray]
    mixing_GK: np.ndarray
    center_G: np.ndarray
    control_G: np.ndarray
    used: list[str]

    def predict(self, perturbed: Sequence[str]) -> np.ndarray | None:
        """Predicted pseudobulk (G,); None for a combination and for a gene without a vector. No gene is the control."""
        if len(perturbed) > 1 or (perturbed and perturbed[0] not in self.vectors):
            return None
        width = self.mixing_GK.shape[1]
        vector = self.vectors[perturbed[0]] if perturbed else np.zeros(width)
        predicted: np.ndarray = self.mixing_GK @ vector + self.center_G + self.control_G
        return predicted


def fit_published_linear(
    profiles: Mapping[tuple[str, ...], np.ndarray],
    control_G: np.ndarray,
    genes: np.ndarray,
    *,
    vectors: Mapping[str, np.ndarray] | None = None,
) -> PublishedLinear:
    """Fit the model.

    Parameters
    ----------
    profiles
        Perturbed genes of a training condition to its mean log expression (G,). All of them are in the principal
        components; the singles whose gene has a vector, and the control, are what the weights are fitted on.
    control_G
        Mean log expression of the control.
    genes
        Names of the genes.
    vectors
        Gene to vector of perturbed genes, for example of a model; rows of the principal components if not given.

    Raises
    ------
    EvaluationError
        Fewer than two used columns.
    """
    x_GC = np.stack([*profiles.values(), control_G], axis=1)
    left, sizes, _ = np.linalg.svd(x_GC - x_GC.mean(axis=0), full_matrices=False)
    scores_GK = (left * sizes)[:, :COMPONENTS]
    known = dict(zip(genes.tolist(), scores_GK, strict=True)) if vectors is None else dict(vectors)
    used = [name for name in profiles if len(name) == 1 and name[0] in known]
    if not used:
        raise EvaluationError(
            "no single training perturbation whose gene has a vector", wanted="one or more",
            where="linear_ahlmann_eltze", fix="the model predicts nothing on this screen; leave it out",
        )  # fmt: skip
    width = len(next(iter(known.values())))
    y_GU = np.stack([*(profiles[name] for name in used), control_G], axis=1) - control_G[:, None]
    q_KU = np.stack([*(known[name[0]] for name in used), np.zeros(width)], axis=1)
    center_G = y_GU.mean(axis=1)
    k = scores_GK.shape[1]
    inner = np.linalg.solve(scores_GK.T @ scores_GK + RIDGE * np.eye(k), scores_GK.T @ (y_GU - center_G[:, None]))
    weights_KK = np.linalg.solve(q_KU @ q_KU.T + RIDGE * np.eye(width), q_KU @ inner.T).T
    return PublishedLinear(genes, known, scores_GK @ weights_KK, center_G, control_G, [*(n[0] for n in used), ""])
