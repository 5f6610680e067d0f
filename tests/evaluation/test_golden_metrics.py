"""Published values recomputed by our metric code from the files that their authors committed.

The tests walk over the collection of published values: each row of level A (recomputed exactly) or A-derived (computed
from a committed file) is recomputed here, or stands in `NOT_RECOMPUTED` with a reason; one that is neither is an error.
"""

import json
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from scmf.evaluation.annotation.label_scores import from_confusion, per_class, score
from scmf.evaluation.integration.composites import composites
from tests.reference.response import binary, continuous, over_folds

SHARED = Path(os.environ["SCMF_DATA_DIR"]).parent if os.environ.get("SCMF_DATA_DIR") else None
HERE = SHARED is not None and (SHARED / "specs" / "published_values.yaml").is_file()
pytestmark = pytest.mark.skipif(
    not HERE, reason="SCMF_DATA_DIR is not set, or has no ../specs/published_values.yaml beside it"
)

STRICTEST = 1e-6
"""What is asked of values that were not rounded."""

LEVELS = {"A": 26, "A-derived": 124}
"""Rows of the collection that hold a value recomputed from a file."""

NOT_RECOMPUTED: dict[str, str] = {}
"""Rows of those levels that our code cannot recompute, with the reason; there is none."""

OTHER_LEVELS = {
    "m296": "Spearman with EpiSen scores, which are not among the committed files",
    "m297": "as m296",
    "m298": "as m296",
    "m299": "as m296",
}
"""Rows of other levels that look as if the committed predictions gave them, and why they do not."""

SCAD = {"AUROC": "auroc", "average_precision": "average_precision"}
DEEPCDR = {"Pearson": "pearson", "Spearman": "spearman", "RMSE": "rmse"}
DEEPCDR_RUNS = {
    "scFoundation+DeepCDR": "DeepCDR_without_mut_with_gexp_without_methy_256_256_256_bn_relu_GAP_50M-0.1B-res.npz",
    "DeepCDR gene-expression baseline": "DeepCDR_without_mut_with_gexp_without_methy_256_256_256_bn_relu_GAP.npz",
}


@cache
def rows():
    """All rows of the collection."""
    text = (SHARED / "specs" / "published_values.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["values"]


def published(path):
    return SHARED / "published" / path


def of(*sources):
    """Rows of level A and A-derived of these sources; none where the collection is not at hand."""
    found = [row for row in rows() if row["source"] in sources and row["level"] in LEVELS] if HERE else []
    return pytest.mark.parametrize("row", found, ids=lambda row: row["id"])


def agrees(row, value):
    """The value within the tolerance that the row states: 1e-9 to 1e-6, more where the value was rounded further."""
    assert value == pytest.approx(row["value"], rel=0, abs=row["tolerance"]), row["id"]


@cache
def scad_folds(file):
    """Metrics of each fold of one table of predictions: fold, cell, label, score."""
    table = pd.read_csv(published(file), sep="\t", header=None, names=["fold", "cell", "label", "score"])
    return {fold: binary(part["score"], part["label"]) for fold, part in table.groupby("fold")}


@cache
def deepcdr(model):
    with np.load(published("scFoundation/DeepCDR/published") / DEEPCDR_RUNS[model]) as arrays:
        return continuous(arrays["pred"], arrays["test"])


@cache
def scperturbench(top):
    table = pd.read_csv(published(f"scperturbench/genetic_combo_performance_top{top}.csv.gz"))
    return table.groupby(["method", "DataSet"])["cor"].agg(["mean", "size"])


@cache
def langcell():
    cases = json.loads(published("wu2025/confusion_golden.json").read_text())["cases"]
    return {int(np.sum(case["rows_true_cols_pred"])): case for case in cases}


# --- nothing is left out --------------------------------------------------------------------------

WALKED = ("scf_scad", "scf_cdr", "wu_cm", "gf_cardio", "scpb")
"""Sources that a test below walks over, every row of them."""


def test_every_row_of_level_a_is_recomputed_or_has_a_reason():
    counts = Counter(row["level"] for row in rows() if row["level"] in LEVELS)
    assert counts == LEVELS, "the collection has changed: are the new rows recomputed?"
    walked = {row["id"] for row in rows() if row["level"] in LEVELS and row["source"] in WALKED}
    every = {row["id"] for row in rows() if row["level"] in LEVELS}
    assert every == walked | set(NOT_RECOMPUTED)
    assert not walked & set(NOT_RECOMPUTED)


def test_reasons_belong_to_rows_of_the_collection():
    levels = {row["id"]: row["level"] for row in rows()}
    assert all(levels[name] not in LEVELS and reason for name, reason in OTHER_LEVELS.items())


# --- drug response --------------------------------------------------------------------------------


@of("scf_scad")
def test_scad_mean_of_five_folds(row):
    folds = scad_folds(row["file"])
    assert len(folds) == 5
    assert row["tolerance"] <= STRICTEST
    agrees(row, over_folds(folds)[SCAD[row["metric"]]])


@pytest.mark.parametrize("row", [r for r in rows() if r["source"] == "scf_scad" and r["metric"] == "AUROC"]
                         if HERE else [], ids=lambda row: row["id"])  # fmt: skip
def test_scad_each_fold_as_the_log_of_its_authors_has_it(row):
    log = published(row["file"].replace("_predicted_y.tsv", ".tsv")).read_text()
    printed = re.findall(r"-- Split (\w+) --\n.*Test AUC: (\S+)\s+Test APR: (\S+)", log)
    assert len(printed) == 5
    folds = scad_folds(row["file"])
    for fold, auroc, precision in printed:
        assert folds[fold]["auroc"] == pytest.approx(float(auroc), abs=STRICTEST)
        assert folds[fold]["average_precision"] == pytest.approx(float(precision), abs=STRICTEST)


@of("scf_cdr")
def test_deepcdr_from_the_committed_arrays(row):
    agrees(row, deepcdr(row["model"])[DEEPCDR[row["metric"]]])
    decimals = len(str(row["value"]).partition(".")[2])
    assert round(deepcdr(row["model"])[DEEPCDR[row["metric"]]], decimals) == row["value"]


# --- labels ---------------------------------------------------------------------------------------


@of("wu_cm")
def test_langcell_from_the_printed_confusion_matrix(row):
    case = langcell()[int(re.search(r"\((\d+) cells\)", row["dataset"])[1])]
    agrees(row, from_confusion(case["rows_true_cols_pred"])[row["metric"]])


@of("gf_cardio")
def test_geneformer_cardiomyopathy_from_the_printed_confusion_matrix(row):
    agrees(row, from_confusion([[3794, 385, 328], [562, 8680, 566], [13, 485, 2415]])[row["metric"]])


def one_label_a_cell(matrix):
    """Predicted and true labels that have this confusion matrix."""
    matrix = np.asarray(matrix)
    true, predicted = np.indices(matrix.shape)
    counts = matrix.ravel()
    return [np.repeat(which.ravel(), counts).astype(str) for which in (predicted, true)]


def test_labels_score_as_their_confusion_matrix_does_and_each_class_as_printed():
    for case in langcell().values():
        predicted, true = one_label_a_cell(case["rows_true_cols_pred"])
        whole, counted = score(predicted, true), from_confusion(case["rows_true_cols_pred"])
        assert whole == pytest.approx({name: counted[name] for name in whole}, abs=1e-12)
        classes = per_class(predicted, true, true)
        in_order = [classes[name] for name in sorted(classes, key=int)]
        report = case["printed_report"]
        for name in ("precision", "recall"):
            assert np.mean([one[name] for one in in_order]) == pytest.approx(report[f"macro_{name}"], abs=5.1e-5)
        if "f1_per_class" in report:
            assert [one["f1"] for one in in_order] == pytest.approx(report["f1_per_class"], abs=5.1e-5)


# --- composites -----------------------------------------------------------------------------------

PARTS = ("NMI_cell", "ARI_cell", "ASW_cell", "ASW_batch", "GraphConn")
WHOLES = {"AvgBIO": "avg_bio", "AvgBATCH": "avg_batch", "Overall": "overall"}


def table_s2():
    """(model, dataset) -> metric -> value, of the rows that hold all parts and all composites."""
    found = {}
    for row in rows() if HERE else []:
        if row["source"] == "scgpt_pre" and row.get("table") == "Table S2":
            found.setdefault((row["model"], row["dataset"]), {})[row["metric"]] = row["value"]
    return {key: values for key, values in found.items() if {*PARTS, *WHOLES} <= set(values)}


def test_table_s2_is_whole():
    assert len(table_s2()) == 15
    assert len({dataset for _, dataset in table_s2()}) == 3


@pytest.mark.parametrize(("key", "values"), table_s2().items(), ids=str)
def test_composites_of_scgpt_agree_with_the_printed_ones_within_rounding(key, values):
    # Parts and composites are printed to three decimals: half a unit of the last from each side.
    ours = composites(*(values[name] for name in PARTS))
    assert {name: ours[short] for name, short in WHOLES.items()} == pytest.approx(
        {name: values[name] for name in WHOLES}, abs=0.001 + 1e-9
    )
    assert 0.6 * values["AvgBIO"] + 0.4 * values["AvgBATCH"] == pytest.approx(values["Overall"], abs=0.001 + 1e-9)


# --- perturbation ---------------------------------------------------------------------------------


@of("scpb")
def test_scperturbench_means_of_the_committed_rows(row):
    # The correlations themselves need their expression data, which are not committed; the rows and means are.
    top = re.search(r"top (\d+) DE genes", row["metric"])[1]
    found = scperturbench(top).loc[(row["model"], row["dataset"])]
    assert int(found["size"]) == row["n_rows"]
    agrees(row, float(found["mean"]))
