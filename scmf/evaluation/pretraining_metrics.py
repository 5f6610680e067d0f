"""The metric of pretraining: the loss of the validation cells. What the loss is, the objective says."""

from __future__ import annotations

from scmf.results.metric import Metric, MetricTable

METRICS = MetricTable(
    Metric("valid_loss", "{objective}", higher_is_better=False, min_band=0.005, place="head"),
)
