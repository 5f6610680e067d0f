"""The metrics of the benchmark ``integration``, one table for each of its protocols, one entry a metric.

Lives elsewhere: the formulas (benchmark for ``scib``, composites for ``scgpt``).
"""

from __future__ import annotations

from scmf.results.metric import Metric, MetricTable

_BIO, _BATCH = "bio_conservation", "batch_correction"


def _mean_of(*names: str) -> str:
    return "mean of " + ", ".join(names)


SCIB_METRICS = MetricTable(
    Metric(
        "overall",
        "0.6 bio_conservation + 0.4 batch_correction (Luecken et al. 2022)",
        min_band=0.005,
        place="head",
    ),
    Metric(_BIO, "{bio_conservation}", min_band=0.005, place="head"),
    Metric(_BATCH, "{batch_correction}", min_band=0.005, place="head"),
    Metric(
        "isolated_labels",
        "label silhouette of the labels in fewest batches, rescaled to 0..1 ({by})",
        part_of=_BIO,
    ),
    Metric(
        "kmeans_nmi",
        "normalized mutual information of k-means clusters (k = number of labels) and labels ({by})",
        label="kmeans NMI",
        place="head",
        part_of=_BIO,
    ),
    Metric(
        "kmeans_ari",
        "adjusted Rand index of k-means clusters and labels ({by})",
        label="kmeans ARI",
        place="head",
        part_of=_BIO,
    ),
    Metric(
        "silhouette_label",
        "average silhouette width of labels, (s + 1) / 2 ({by})",
        place="head",
        part_of=_BIO,
    ),
    Metric(
        "clisi",
        "cLISI: local purity of labels among 90 exact neighbors, rescaled to 0..1 ({by})",
        label="cLISI",
        part_of=_BIO,
    ),
    Metric(
        "bras",
        "batch-removal-adapted silhouette, cosine distance ({by})",
        label="BRAS",
        part_of=_BATCH,
    ),
    Metric(
        "ilisi",
        "iLISI: local diversity of batches among 90 exact neighbors, rescaled to 0..1 ({by})",
        label="iLISI",
        place="head",
        part_of=_BATCH,
    ),
    Metric(
        "kbet",
        "kBET acceptance within each label that lies in two batches or more, on diffusion maps of the graph "
        "of 50 exact neighbors, alpha 0.05 ({by})",
        label="kBET",
        place="head",
        part_of=_BATCH,
    ),
    Metric(
        "graph_connectivity",
        "largest component of each label in the graph of 15 exact neighbors ({by})",
        part_of=_BATCH,
    ),
    Metric(
        "pcr_comparison",
        "fall of the variance that the batch explains, against 50 principal components "
        "of log-normalized highly variable genes ({by})",
        label="PCR comparison",
        part_of=_BATCH,
    ),
)
"""Of the protocol ``scib``."""

BIO, BATCH = SCIB_METRICS.parts(_BIO), SCIB_METRICS.parts(_BATCH)
"""Metrics that the two means of the protocol ``scib`` are over, in the order in which they are added."""

MEANS = {_BIO: _mean_of(*BIO), _BATCH: _mean_of(*BATCH)}
"""Definitions of the two means."""

SCGPT_METRICS = MetricTable(
    Metric("overall", "0.6 avg_bio + 0.4 avg_batch, nothing scaled (scGPT)", place="head"),
    Metric("avg_bio", "mean of nmi, ari, asw_label (scGPT)", place="head"),
    Metric("avg_batch", "mean of asw_batch, graph_conn (scGPT)", place="head"),
    Metric(
        "nmi",
        "normalized mutual information (arithmetic mean, {sklearn}) {clusters}",
        label="NMI",
        place="head",
        part_of="avg_bio",
    ),
    Metric("ari", "adjusted Rand index ({sklearn}) {clusters}", label="ARI", place="head", part_of="avg_bio"),
    Metric(
        "asw_label",
        "average silhouette width of labels, (s + 1) / 2, Euclidean (as scib 1.x; {sklearn})",
        label="ASW label",
        place="head",
        part_of="avg_bio",
    ),
    Metric(
        "asw_batch",
        "mean over labels of the mean of 1 - abs(s), s the silhouette width of batches within the label, "
        "Euclidean (as silhouette_batch of scib 1.x, ASW_label/batch; {sklearn})",
        label="ASW batch",
        place="head",
        part_of="avg_batch",
    ),
    Metric(
        "graph_conn",
        "mean over labels of the share of its cells in the largest component of the symmetric graph of "
        "{neighbors} exact neighbors (as scib 1.x; {scanpy})",
        place="head",
        part_of="avg_batch",
    ),
)
"""Of the protocol ``scgpt``."""
