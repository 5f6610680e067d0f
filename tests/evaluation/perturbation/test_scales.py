"""Predicted cells through the command line: other scales, other spellings of a condition, missing conditions."""

import gzip
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml

from scmf.cli import main as cli
from scmf.core.files import sha256_file

SINGLES, DOUBLES = ["g0", "g1", "g2", "g3"], ["g0+g1", "g1+g2", "g2+g3"]
CELLS, GENES = 8, 40

CARD = """
name: screen
title: a screen
kind: cells
organism: Homo sapiens
license: CC0-1.0
citation: made by the tests
files:
  - {{name: screen.h5ad, sha256: {sha256}, sources: [{{kind: mirror, path: screen/screen.h5ad}}]}}
counts: X
gene_ids: var_names
perturbation: {{key: condition, control: control, separator: "+"}}
splits:
  doubles:
    file: split.tsv.gz
    sha256: {split_sha256}
    by: condition
    description: doubles are held out
    parts: {{train: [g0, g1, g2, g3, control], test: [{tested}]}}
"""


def counts_of(rng, names):
    base = np.random.default_rng(5).gamma(1.0, 30.0, GENES)
    effect = {name: np.random.default_rng(i).normal(0, 0.6, GENES) for i, name in enumerate(SINGLES)}
    rates = [base * np.exp(sum((effect[g] for g in name.split("+") if g in effect), np.zeros(GENES))) for name in names]
    return rng.poisson(np.repeat(rates, CELLS, axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A folder with a card, a suite and a screen in which one combination is spelled in two ways."""
    folder = tmp_path_factory.mktemp("screen")
    (folder / "mirror/screen").mkdir(parents=True)
    names = ["control", *SINGLES, *DOUBLES, "g1+g0"]
    conditions = np.repeat(np.array(names, object), CELLS)
    adata = ad.AnnData(
        sp.csr_matrix(counts_of(np.random.default_rng(0), names)), obs=pd.DataFrame({"condition": conditions}),
        var=pd.DataFrame(index=[f"g{i}" for i in range(GENES)]),
    )  # fmt: skip
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    parts = np.where(["+" in one for one in conditions], "test", "train")
    adata.obs.loc[adata.obs_names[-2:], "condition"] = np.nan
    adata.obs["condition"] = pd.Categorical(adata.obs["condition"])
    adata.write_h5ad(folder / "mirror/screen/screen.h5ad")
    table = pd.DataFrame({"cell_id": adata.obs_names, "split": parts})
    split = folder / "split.tsv.gz"
    split.write_bytes(gzip.compress(table.to_csv(sep="\t", index=False).encode(), mtime=0))
    sums = {"sha256": sha256_file(folder / "mirror/screen/screen.h5ad"), "split_sha256": sha256_file(split)}
    (folder / "screen.yaml").write_text(CARD.format(**sums, tested=", ".join([*DOUBLES, "g1+g0"])))
    task = {"benchmark": "perturbation", "dataset": f"{folder / 'screen.yaml'}", "split": "doubles", "description": "-"}
    (folder / "suite.yaml").write_text(
        yaml.safe_dump({"tasks": {"doubles": task, "doubles-2": task | {"options": {"controls": "halves"}}}})
    )
    return folder


@pytest.fixture
def predict(screen, monkeypatch, capsys, tmp_path):
    """Score predicted cells: exit code, results or None, stderr."""
    monkeypatch.setenv("SCMF_DATA_DIR", str(screen / "mirror"))
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))

    def run(values, conditions, task="doubles"):
        adata = ad.AnnData(values, obs=pd.DataFrame({"condition": np.repeat(conditions, CELLS)}))
        adata.var_names = [f"g{i}" for i in range(GENES)]
        adata.write_h5ad(tmp_path / "predicted.h5ad")
        words = ["evaluate", tmp_path / "predicted.h5ad", "--tasks", task, "--suite", screen / "suite.yaml",
                 "--as", "me/v1", "--results", tmp_path / "results", "--json", "--quiet"]  # fmt: skip
        monkeypatch.setattr("sys.argv", ["scmf", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, json.loads(out), " ".join(err.split())

    return run


def normalized(names=DOUBLES):
    counts = counts_of(np.random.default_rng(1), names).astype(np.float64)
    return counts / counts.sum(axis=1, keepdims=True) * 1e4


def logs(names=DOUBLES):
    return np.log1p(normalized(names))


def test_both_spellings_of_a_combination_are_one_condition(predict):
    code, found, err = predict(logs(), DOUBLES)
    assert code == 0
    assert "2 of 72 cells have no condition" in err
    one = next(result for result in found if result["method"] == "predicted")
    each = one["details"]["per_perturbation"]["pearson_delta"]
    assert list(each) == DOUBLES and one["n_cells"] == (len(DOUBLES) + 1) * CELLS - 2
    turned = ["g1+g0", "g2+g1", "g3+g2"]
    code, again, _ = predict(logs(), turned)
    assert code == 0
    assert next(r for r in again if r["method"] == "predicted")["metrics"] == one["metrics"]


def test_a_task_with_halves_of_the_control_says_what_it_does_not_file(predict):
    code, found, _ = predict(logs(), DOUBLES, task="doubles-2")
    one = next(result for result in found if result["method"] == "predicted")
    assert code == 0 and one["protocol"] == "unseen_combination_own_controls"
    assert {"retrieval", "wmse", "r2w_delta", "mmd_pca"} <= set(one["metrics"])
    assert (
        "pearson_delta" not in one["metrics"]
        and "saw all control cells" in one["details"]["not_filed"]["pearson_delta"]
    )


def test_of_three_perturbations_the_values_are_listed_and_no_interval_is_given(predict):
    _, found, _ = predict(logs(), DOUBLES)
    one = next(result for result in found if result["method"] == "predicted")
    assert one["intervals"] == {}
    listed = one["details"]["units"]
    assert listed["unit"] == "perturbations" and list(listed["values"]["pearson_delta"]) == DOUBLES
    assert np.mean(list(listed["values"]["mae"].values())) == pytest.approx(one["metrics"]["mae"])


SCALES = {
    "counts per 10,000": (lambda: normalized(), "more than log1p of 10,000 (9.21)"),
    "one value above": (lambda: np.where(np.arange(GENES) == 3, 9.5, logs()), "values up to 9.5"),
    "small normalized values": (lambda: normalized() / 2e3, "cells that all add up to 5"),
    "counts": (lambda: counts_of(np.random.default_rng(1), DOUBLES), "whole numbers up to"),
    "small counts": (lambda: np.minimum(counts_of(np.random.default_rng(1), DOUBLES), 6), "whole numbers up to 6"),
    "z-scores": (lambda: (logs() - logs().mean(axis=0)) / 2, "negative values"),
    "differences": (lambda: logs() - logs(["control"] * 3).mean(axis=0), "negative values"),
}


@pytest.mark.parametrize("scale", SCALES)
def test_predictions_that_are_not_log_normalized_are_told_apart(scale, predict):
    make, message = SCALES[scale]
    code, error, _ = predict(make(), DOUBLES)
    assert code == 6 and message in error["found"] and "log1p of counts per 10,000" in error["wanted"]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "sparse", "noise"])
def test_predictions_that_are_log_normalized_pass(kind, predict):
    values = logs()
    if kind == "noise":  # a model may fall a little below zero
        values = values + np.random.default_rng(2).normal(0, 0.05, values.shape)
        values[:, :8] = np.random.default_rng(3).normal(0, 0.02, (len(values), 8))
    values = sp.csr_matrix(values) if kind == "sparse" else values.astype("float32" if kind == "noise" else kind)
    code, found, err = predict(values, DOUBLES)
    assert code == 0, err
    assert next(result for result in found if result["method"] == "predicted")["metrics"]["mae"] < 1.1, (
        "as without the change"
    )
