"""The metrics of the benchmark ``perturbation``, one entry each.

Lives elsewhere: the formulas (metrics, ranks, energy_distance), means over perturbations (benchmark).
"""

from __future__ import annotations

from scmf.evaluation.perturbation.metrics import PSEUDOCOUNT, TOP_DE, TOP_EXPRESSED
from scmf.results.metric import Metric, MetricTable

COMPONENTS, SET_CELLS = 50, 500
"""Principal components, and most cells of a set, for energy distances."""

_MEANS = "of mean log-normalized expression"
_TOP = (
    f"the {TOP_DE} genes of the truth with the largest |t| (Welch's t-test of perturbed against control cells of the "
    "same cell type, variance of the control divided by the smaller number, as scanpy's t-test_overestim_var)"
)
_NONDROPOUT = (
    f"the {TOP_DE} genes of the truth with the largest |t| (Welch's t-test against control cells) among those that the "
    "perturbed cells express, or that neither they nor control cells do (GEARS f374e43)"
)
_MUCH = f"the {TOP_EXPRESSED} genes most expressed in control cells, where there are more (Ahlmann-Eltze et al. 2025)"
_OVER = "mean over test perturbations; what is not a number counts 0 (GEARS f374e43)"
_SPACE = (
    f"cells in {COMPONENTS} principal components of true test and control cells ({{sklearn}}), at most {SET_CELLS} a "
    "set"
)

METRICS = MetricTable(
    Metric(
        "pearson_delta",
        "Pearson correlation of changes against the mean of the true control cells, all genes; "
        f"{_OVER} (scGPT cebd6fa)",
        place="head",
    ),
    Metric(
        "pearson_delta_top20",
        f"Pearson correlation of changes against control on {_TOP}; {_OVER}",
        place="head",
    ),
    Metric(
        "mse_top20",
        f"mean squared error on {_TOP}; mean over test perturbations",
        label="MSE top20",
        higher_is_better=False,
        place="head",
    ),
    Metric(
        "l2_top1000",
        f"Euclidean norm of the error on {_MUCH}; mean over test perturbations; no mean over genes in it",
        label="L2 top1000",
        higher_is_better=False,
        place="head",
    ),
    Metric(
        "rank_cosine_logfc",
        "share of predictions nearer to the truth than the own one, by cosine of log fold changes; "
        "0 best, (P - 1) / 2P of P perturbations chance, equal ones half; mean over test perturbations "
        "(PerturBench d357daf)",
        label="rank cosine logFC",
        higher_is_better=False,
        place="head",
    ),
    Metric(
        "pds",
        "perturbation discrimination score: 1 - rank of the own true change among all, by L1 distance, without the "
        "perturbed genes; 1 best, (P + 1) / 2P of P perturbations chance, more for no change where targets are knocked "
        "down; mean over test perturbations (as cell-eval 0.8.2)",
        label="PDS",
        place="head",
    ),
    Metric(
        "des",
        "differential expression score: share of truly significant genes (Mann-Whitney U, FDR .05) among as many "
        "predicted ones, by |log2 fold change|; mean over test perturbations (as cell-eval 0.8.2)",
        label="DES",
        place="head",
    ),
    Metric(
        "energy_distance_pertpy",
        "energy distance of predicted and true cells as pertpy and cell-eval define it "
        f"(Euclidean, V-statistic); {_SPACE}; mean over test perturbations",
        higher_is_better=False,
        place="head",
    ),
    Metric(
        "energy_distance_scperturb",
        "energy distance of predicted and true cells as scPerturb defines it (squared "
        f"Euclidean, U-statistic); {_SPACE}; mean over test perturbations",
        higher_is_better=False,
    ),
    Metric("pearson", f"Pearson correlation {_MEANS}, all genes; {_OVER}"),
    Metric("pearson_top20", f"Pearson correlation {_MEANS} on {_TOP}; {_OVER}"),
    Metric(
        "pearson_delta_top20_nondropout",
        f"Pearson correlation of changes against control on {_NONDROPOUT}; {_OVER}",
    ),
    Metric(
        "mse_top20_nondropout",
        f"mean squared error on {_NONDROPOUT}; mean over test perturbations",
        label="MSE top20 non-dropout",
        higher_is_better=False,
    ),
    Metric("pearson_delta_top1000", f"Pearson correlation of changes against control on {_MUCH}; {_OVER}"),
    Metric(
        "cosine_logfc",
        f"cosine of log2((mean + {PSEUDOCOUNT}) / (control mean + {PSEUDOCOUNT})), predicted and true, all genes; "
        "mean over test perturbations (PerturBench d357daf)",
        label="cosine logFC",
    ),
    Metric(
        "mse",
        f"mean squared error {_MEANS}, all genes; mean over test perturbations (GEARS f374e43)",
        label="MSE",
        higher_is_better=False,
    ),
    Metric(
        "rmse",
        f"root mean squared error {_MEANS}, all genes; mean over test perturbations (PerturBench d357daf)",
        label="RMSE",
        higher_is_better=False,
    ),
    Metric(
        "mae",
        f"mean absolute error {_MEANS}, all genes; mean over test perturbations (cell-eval 0.8.2, mae)",
        label="MAE",
        higher_is_better=False,
    ),
    Metric(
        "rank_rmse",
        "share of predictions nearer to the truth than the own one, by root mean squared error; 0 best, "
        "(P - 1) / 2P of P perturbations chance, equal ones half; mean over test perturbations (PerturBench d357daf)",
        label="rank RMSE",
        higher_is_better=False,
    ),
    Metric(
        "vcc_score",
        "mean of MAE, PDS and DES, each 0 at the train mean and 1 at best (as cell-eval 0.8.2)",
    ),
)

SUBGROUP = "; test perturbations of the group {group} alone"
"""What is added to the definition of a metric of one subgroup."""


def pertpy_metric(name: str) -> Metric:
    """The metric of a distance of sets of cells by its name in pertpy; its definition asks for a field ``pertpy``."""
    return Metric(
        f"distance_{name}",
        f"pertpy.tools.Distance({name!r}), {{pertpy}}, of predicted and true cells in the space of the energy "
        "distances; mean over test perturbations",
        higher_is_better=False,
    )
