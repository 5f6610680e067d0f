"""The metrics of the benchmark ``gene_network``, one entry each.

Lives elsewhere: the formulas (metrics).
"""

from __future__ import annotations

from scmf.results.metric import Metric, MetricTable

METRICS = MetricTable(
    Metric(
        "epr",
        "early precision ratio: precision among as many top pairs as there are true ones, ties included and "
        "pairs without a weight left out, over the share of true pairs (as BEELINE 3746408), over {universe}; 1 is "
        "chance",
        label="EPR",
        place="head",
    ),
    Metric(
        "auroc",
        "area under the ROC curve over {universe}; a pair without a weight has 0",
        label="AUROC",
        place="head",
    ),
    Metric(
        "average_precision",
        "average precision, sum of precision times step of recall (as scikit-learn) over {universe}",
        place="head",
    ),
    Metric(
        "auprc_trapezoid",
        "area under the precision-recall points by the trapezoid rule (as BEELINE 3746408) over {universe}",
        label="AUPRC trapezoid",
        place="head",
    ),
    Metric(
        "auprc_ratio",
        "average precision over the share of true pairs, over {universe}; 1 is chance",
        label="AUPRC ratio",
        place="head",
    ),
)
