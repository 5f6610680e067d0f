"""The metrics of the benchmark ``perturbation`` with own controls, one entry each.

Lives elsewhere: the formulas (units, weighted, midranks, set_distances, hits), the metrics with shared controls, which
tasks in use keep (metric_table).
"""

from __future__ import annotations

from scmf.evaluation.perturbation.metric_table import COMPONENTS, SET_CELLS
from scmf.results.metric import Metric, MetricTable

_OVER = "mean over test perturbations that have a value"
_WEIGHTS = (
    "weights: |Welch's t| of true cells against those of the other perturbations, taken to [0, 1], squared (Mejia 2025)"
)
_MEANS = (
    "against the mean of training perturbations, one half of their cells for the prediction, the other for the truth"
)
_CONTROL = "against control, one half of the control cells for the prediction and the models, the other for the truth"
_SPACE = f"{COMPONENTS} principal components of true test and control cells ({{sklearn}})"

OWN_METRICS = MetricTable(
    Metric(
        "retrieval",
        f"share of true changes that lie farther from the predicted one than the own, by cosine, {_MEANS}; without all "
        f"perturbed genes of the table; 1 best, .5 chance, equal ones half; {_OVER} (ours, after NIR, Systema, PDS)",
        place="head",
    ),
    Metric(
        "wmse",
        f"weighted squared error of mean log-normalized expression; {_WEIGHTS}; 0 best; {_OVER} "
        "(scperteval 0.2.0, wmse_exp2)",
        label="wMSE",
        higher_is_better=False,
        place="head",
    ),
    Metric(
        "r2w_delta",
        f"weighted R2 of changes {_MEANS}; {_WEIGHTS}; 1 best, the perturbed mean at most 0; {_OVER} (Mejia 2025)",
        label="R2w delta",
        place="head",
    ),
    Metric(
        "mmd_pca",
        f"unbiased squared maximum mean discrepancy of predicted and true cells, Gaussian kernel as wide as the median "
        f"distance of true test and control cells, {_SPACE}, sets of equal size, at most {SET_CELLS}; 0 best, may be "
        f"below; {_OVER} (scperteval 0.2.0 but for the width)",
        label="MMD (PCA)",
        higher_is_better=False,
        place="head",
    ),
    Metric(
        "mse_ratio",
        "squared error over the squared change of the truth, both less the noise of the cells; 0 best, 1 the control; "
        "ratio of sums over test perturbations (ours, after the Virtual Cell Challenge 2026)",
        label="MSE ratio",
        higher_is_better=False,
        place="head",
    ),
    Metric(
        "pearson_delta_perturbed",
        f"Pearson correlation of changes {_MEANS}, all genes; 0 if a side does not vary; chance 0; {_OVER} (Systema)",
        label="Pearson delta (perturbed)",
        place="head",
    ),
    Metric(
        "pearson_delta",
        f"Pearson correlation of changes {_CONTROL}, all genes; 0 where a side does not vary; as high for a wrong "
        f"perturbation as the response is common; {_OVER} (Nicol 2026)",
        place="column",
    ),
    Metric(
        "sign_accuracy",
        f"share of truly significant genes (Welch, FDR .05, 10 or more) whose change {_CONTROL} has the right sign; no "
        f"change is wrong, .5 a guess; {_OVER}",
        place="column",
    ),
    Metric(
        "nir",
        f"normalized inverse rank: as retrieval by Euclidean distance of profiles, all genes; .5 chance; grows with "
        f"the size of predictions; {_OVER} (Miller 2025, scperteval 0.2.0)",
        label="NIR",
        place="column",
    ),
    Metric("r2w_delta_control", f"weighted R2 of changes {_CONTROL}; {_WEIGHTS}; {_OVER}; reported only"),
    Metric(
        "pearson_delta_shared",
        f"Pearson correlation of changes against the mean of all control cells on both sides, whose noise both share: "
        f"too high where control cells are few; for the literature, reported only; {_OVER}",
    ),
    Metric(
        "overlap_top20",
        f"share of the 20 genes with the largest |Welch's t| among those with the largest predicted change {_CONTROL}; "
        f"chance 20 / genes and far higher with common responses; {_OVER}; reported only",
    ),
    Metric(
        "mse",
        f"mean squared error of mean log-normalized expression, all genes; best by shrinking; {_OVER}; reported only",
        label="MSE",
        higher_is_better=False,
    ),
    Metric(
        "mae",
        f"mean absolute error of mean log-normalized expression, all genes; best by shrinking; {_OVER}; reported only",
        label="MAE",
        higher_is_better=False,
    ),
    Metric(
        "energy_u",
        f"energy distance of predicted and true cells, Euclidean, U-statistic; {_SPACE}, sets of equal size, at most "
        f"{SET_CELLS}; 0 best, may be below; {_OVER} (scperteval 0.2.0)",
        higher_is_better=False,
    ),
    *(
        Metric(
            f"hit_recall_{percent}",
            f"share of the tenth of perturbations with the largest effect on a gene among the {percent} % with the "
            f"largest predicted one, increases and decreases apart; chance {percent} %; mean over genes "
            "(perturb-hd 0.1.0); from 50 perturbations on",
        )
        for percent in (5, 10, 20)
    ),
)
"""Metrics that may head a table come first; which of them does on a data set is the business of its calibration."""
