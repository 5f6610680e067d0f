"""Results of earlier versions of the JSON, read as those of today.

Lives here: the version, and what version 1 left to the pages (labels, columns) or called otherwise. Lives elsewhere:
what a result is (result), the metrics of today (the tables of scmf.evaluation). The script that rewrites the committed
files is ``leaderboard/upgrade_results.py``.

What changed from 1 to 2: the tier ``embedded`` is called ``mini``; labels, columns and heads of tables, which pages
knew by the names of metrics, stand in the result. Numbers, intervals, details and names of files are the same.
"""

from __future__ import annotations

import re
from typing import Any, Final

SCHEMA_VERSION: Final = 2
"""Version that is written."""

_COLUMNS_1: dict[tuple[str, str], tuple[str, ...]] = {
    ("annotation", "cross_validated"): ("accuracy", "f1", "accuracy_lr", "accuracy_knn", "accuracy_rf", "auroc"),
    ("annotation", ""): ("accuracy", "macro_f1", "accuracy_all", "unseen_share", "unseen_detection_auroc"),
    ("integration", "scib"): (
        "overall", "bio_conservation", "batch_correction", "kmeans_nmi", "kmeans_ari", "silhouette_label", "ilisi",
        "kbet",
    ),
    ("integration", "scgpt"): ("overall", "avg_bio", "avg_batch", "nmi", "ari", "asw_label", "asw_batch", "graph_conn"),
    ("perturbation", ""): (
        "pearson_delta", "pearson_delta_top20", "mse_top20", "l2_top1000", "rank_cosine_logfc", "pds", "des",
        "energy_distance_pertpy",
    ),
    ("gene_network", ""): ("epr", "auroc", "average_precision", "auprc_trapezoid", "auprc_ratio"),
    ("pretraining", ""): ("valid_loss",),
}  # fmt: skip
"""Columns of version 1 by benchmark and protocol."""

_NO_HEAD_1 = ("unseen_share", "unseen_detection_auroc")
"""Columns that say something of the split and not of the method alone."""

_WORDS_1 = {
    word.lower(): word
    for word in (
        "F1", "NMI", "ARI", "ASW", "PCR", "MSE", "MAE", "L2", "RMSE", "EPR", "AUROC", "AUPRC", "PDS", "DES", "kNN",
        "LR", "RF", "iLISI", "cLISI", "kBET", "logFC", "BRAS",
    )
}  # fmt: skip
"""Words of labels that are not written as in the name."""

_SPELLING = {
    "neighbour": "neighbor", "normalise": "normalize", "flavour": "flavor", "summaris": "summariz",
    "standardis": "standardiz", "recognis": "recogniz", "optimis": "optimiz", "colour": "color",
}  # fmt: skip
"""British and American spelling of what stands in definitions."""


def upgrade(value: Any) -> Any:
    """A JSON value of any version as one of `SCHEMA_VERSION`; what is no result of version 1 is returned as it is."""
    if not isinstance(value, dict) or value.get("schema_version", SCHEMA_VERSION) != 1:
        return value
    return _from_1(value)


def _from_1(old: dict[str, Any]) -> dict[str, Any]:
    new = {**old, "schema_version": 2}
    if new.get("tier") == "embedded":
        new["tier"] = "mini"
    if isinstance(new.get("command"), str):
        new["command"] = re.sub(r"--tier embedded\b", "--tier mini", new["command"])
    if isinstance(new.get("definitions"), dict):
        new["definitions"] = {name: _american(text) for name, text in new["definitions"].items()}
    metrics = new.get("metrics")
    if isinstance(metrics, dict):
        new["labels"] = {name: label for name in metrics if (label := _label(name)) != name.replace("_", " ")}
    here = (new.get("benchmark"), new.get("protocol"))
    columns = _COLUMNS_1.get(here) or _COLUMNS_1.get((here[0], ""), ())  # type: ignore[arg-type]
    new["columns"] = list(columns)
    new["heads"] = [name for name in columns if name not in _NO_HEAD_1]
    return new


def _label(name: str) -> str:
    metric, point, group = name.partition(".")
    return " ".join(_WORDS_1.get(part, part) for part in metric.split("_")) + point + group.replace("_", " ")


def _american(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    for british, american in _SPELLING.items():
        text = re.sub(british, american, text)
    return text
