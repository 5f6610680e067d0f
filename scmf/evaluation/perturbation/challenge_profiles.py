"""Two scores of the Virtual Cell Challenge 2026 on group profiles: ``pds_cosine`` and the noise-corrected error.

Lives here: terms by perturbation; the error is a ratio of their sums. Lives elsewhere: profiles (challenge_counts),
ranks (midranks). Definitions: cell_eval2 0.20.0, preset ``vcc2026``.

Array legend: P perturbations, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scmf.evaluation.perturbation.challenge_counts import Groups
from scmf.evaluation.perturbation.midranks import retrieval


@dataclass(frozen=True)
class ErrorTerms:
    """Terms of the noise-corrected error by perturbation, each (P,), and what bounds the correction.

    Parameters
    ----------
    uncapped
        Squared error less the noise of both sides.
    numerator
        Squared error less the noise of the truth and that of the prediction, which counts at most as much as that of
        the truth, and in all at most as much as the predictions differ between perturbations.
    denominator
        Squared change of the truth less its noise and that of the control.
    budget, claim
        How much the predictions differ; how much noise they claim.
    """

    uncapped: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray
    budget: float
    claim: float

    @property
    def ratio(self) -> float:
        """``expr_mse_unbiased_capped_norm``: 0 is perfect, 1 is the control; below 0 is noise and kept."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total != 0 else float("nan")


def error_terms(
    predicted_PG: np.ndarray,
    true_PG: np.ndarray,
    control_G: np.ndarray,
    *,
    noise_hat_P: np.ndarray,
    noise_P: np.ndarray,
    control_noise: float,
    scored_PG: np.ndarray,
) -> ErrorTerms:
    """Terms of `ErrorTerms`.

    Parameters
    ----------
    predicted_PG, true_PG, control_G
        Profiles.
    noise_hat_P, noise_P, control_noise
        Sampling variance of each profile, summed over genes.
    scored_PG
        Which genes count for which perturbation: all but those it targets.
    """
    size_P = scored_PG.sum(axis=1)
    error_P = (np.where(scored_PG, predicted_PG - true_PG, 0.0) ** 2).sum(axis=1)
    change_P = (np.where(scored_PG, true_PG - control_G, 0.0) ** 2).sum(axis=1)
    capped_P = np.minimum(noise_hat_P, noise_P)
    budget, claim = spread(predicted_PG, scored_PG), float((capped_P / size_P).sum())
    share = min(1.0, budget / claim) if claim > 0 else 1.0
    return ErrorTerms(
        uncapped=(error_P - noise_hat_P - noise_P) / size_P,
        numerator=(error_P - share * capped_P - noise_P) / size_P,
        denominator=(change_P - noise_P - control_noise) / size_P,
        budget=budget,
        claim=claim,
    )


def spread(predicted_PG: np.ndarray, scored_PG: np.ndarray) -> float:
    """Weighted squares of predictions about their mean, gene by gene; a gene that counts once at most adds 0."""
    weight_PG = scored_PG / scored_PG.sum(axis=1, keepdims=True)
    total_G = weight_PG.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_G = np.where(total_G > 0, (weight_PG * predicted_PG).sum(axis=0) / total_G, 0.0)
    squares_G = (weight_PG * (predicted_PG - mean_G) ** 2).sum(axis=0)
    return float(squares_G[scored_PG.sum(axis=0) >= 2].sum())


def pds_cosine(
    predicted: Groups,
    true: Groups,
    control_G: np.ndarray,
    true_control_G: np.ndarray,
    *,
    genes: np.ndarray,
    targets: Sequence[Sequence[str]],
) -> np.ndarray:
    """Score of each perturbation, (P,): see `scmf.evaluation.perturbation.midranks.retrieval`."""
    return retrieval(predicted.profiles_PG - control_G, true.profiles_PG - true_control_G, genes, targets)
