"""The tables of metrics of all benchmarks."""

import pytest

from scmf.evaluation.annotation.metric_table import CROSS_VALIDATION_METRICS
from scmf.evaluation.annotation.metric_table import METRICS as ANNOTATION
from scmf.evaluation.gene_network.metric_table import METRICS as GENE_NETWORK
from scmf.evaluation.integration.metric_table import BATCH, BIO, SCGPT_METRICS, SCIB_METRICS
from scmf.evaluation.perturbation.metric_table import METRICS as PERTURBATION
from scmf.evaluation.pretraining_metrics import METRICS as PRETRAINING
from scmf.experiments.reproduce import MIN_BANDS

TABLES = {
    "annotation": ANNOTATION, "cross_validated": CROSS_VALIDATION_METRICS, "scib": SCIB_METRICS,
    "scgpt": SCGPT_METRICS, "perturbation": PERTURBATION, "gene_network": GENE_NETWORK, "pretraining": PRETRAINING,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_a_head_first_and_a_mean_for_its_parts(name):
    entries = list(TABLES[name])
    assert entries[0].place == "head"
    means = {metric.name for metric in entries}
    assert {metric.part_of for metric in entries} - {""} <= means


def test_what_is_judged_and_what_is_a_part_of_a_mean():
    assert set(MIN_BANDS) == {
        "accuracy", "macro_f1", "overall", "bio_conservation", "batch_correction", "valid_loss"
    }  # fmt: skip
    assert BIO == ("isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label", "clisi")
    assert BATCH == ("bras", "ilisi", "kbet", "graph_connectivity", "pcr_comparison")


def test_labels_are_written_as_the_field_writes_them():
    facts = ANNOTATION.facts(["accuracy", "macro_f1", "unseen_detection_auroc"], sklearn="scikit-learn")
    assert facts["labels"] == {"macro_f1": "macro F1", "unseen_detection_auroc": "unseen detection AUROC"}
