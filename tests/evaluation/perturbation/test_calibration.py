"""Calibration: what tells a repeat from another perturbation may head; nothing may where labels mean nothing."""

import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.core.files import sha256_file
from scmf.evaluation.perturbation.calibration import Calibrated, calibrate
from scmf.evaluation.perturbation.calibration_rule import ORDER, swap_bound, verdict_of, why_not
from tests.fixtures.commands import scmf
from tests.fixtures.perturbation_cells import screen

TEN = ("g0", "g1", "g2", "g3", "g0+g1", "g1+g2", "g0+g3", "g2+g3", "g1+g3", "g0+g2")
CARD = """
name: screen
title: a screen
kind: cells
organism: Homo sapiens
license: CC0-1.0
citation: made by the tests
files:
  - {{name: screen.h5ad, sha256: {sha256}, sources: [{{kind: mirror, path: screen.h5ad}}]}}
counts: X
gene_ids: var_names
"""


@pytest.fixture(scope="module")
def found():
    return calibrate(screen(n_cells=40, n_genes=40, conditions=TEN), splits=3)


def test_a_screen_with_effects_is_headed_by_a_metric_that_tells_them_apart(found):
    assert why_not(found["wmse"]) == [] and found["retrieval"].swap == found["wmse"].swap == 1
    verdict = verdict_of(found)
    assert verdict.head in ORDER and "tells perturbations apart" in verdict.sentence
    one = found["retrieval"]
    assert one.negative == 0.5 and one.units == 10, "the mean of the others is chance, whatever rounding leaves"
    assert found["pearson_delta_perturbed"].negative == 0 and found["r2w_delta"].negative <= 0
    assert found["overlap_top20"].name not in ORDER and why_not(found["overlap_top20"]) == ["reported only"]


def test_where_labels_mean_nothing_no_metric_may_head():
    swaps, perturbed = [], []
    for seed in range(3):
        truth = screen(n_cells=24, n_genes=40, conditions=TEN)
        conditions, rng = truth.conditions.copy(), np.random.default_rng(seed)
        treated = np.flatnonzero(conditions != "control")
        conditions[treated] = rng.permutation(conditions[treated])
        found = calibrate(replace(truth, conditions=conditions, _means={}), splits=3)
        verdict = verdict_of(found)
        assert verdict.head is None and verdict.sentence.startswith("not comparable: no metric separates")
        assert "nearest is" in verdict.sentence
        swaps += [metric.swap for name, metric in found.items() if name in ORDER]
        perturbed.append(found["pearson_delta_perturbed"].plain)
    assert np.mean(swaps) == pytest.approx(0.5, abs=0.1) and np.mean(perturbed) == pytest.approx(0, abs=0.1)


def test_an_unseen_type_is_told_from_the_other_types_by_its_change():
    kinds = tuple("abcdefgh")
    found = calibrate(screen(kinds=kinds, conditions=("g0",), n_cells=40, n_genes=40, held={"a": "test"}), splits=2)
    assert found["wmse"].units == 8 and "mmd_pca" not in found
    assert found["retrieval"].negative == 0.5 and found["mse_ratio"].drf > 0.8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"units": 7, "swap_units": 7}, "7 units, 8 at least"),
        ({"drf": 0.29}, "DRF 0.29"),
        ({"drf": float("nan")}, "DRF nan"),
        ({"bds": 0.79}, "BDS 0.79"),
        ({"swap": 0.79}, "swap 0.79"),
        ({"swap_units": 5}, "lower bound of recognized units"),
        ({"no_change": 0.54}, "no change reaches 0.10"),
        ({"plain_sd": 0.3}, "by two standard deviations"),
    ],
)
def test_each_threshold_keeps_a_metric_from_the_head(change, said):
    good = Calibrated(
        name="retrieval", positive=0.9, negative=0.5, plain=0.9, plain_sd=0.01, no_change=0.5, drf=0.8,
        drf_scperteval=0.8, bds=0.9, swap=0.9, swap_units=10, units=10,
    )  # fmt: skip
    assert why_not(good) == []
    reasons = why_not(replace(good, **change))
    assert len(reasons) == 1 and said in reasons[0]


def test_the_bound_of_clopper_and_pearson():
    assert swap_bound(8, 8) == pytest.approx(0.05 ** (1 / 8)) and swap_bound(0, 8) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cards of a screen and of cells that are none, without any split."""
    folder, rng = tmp_path_factory.mktemp("cards"), np.random.default_rng(0)
    names = np.repeat(["control", *(f"g{i}" for i in range(8))], 24)
    base = rng.gamma(1.0, 20.0, 40)
    rates = {name: base * np.exp(rng.normal(0, 0.5, 40)) for name in dict.fromkeys(names.tolist())}
    cells = ad.AnnData(
        sp.csr_matrix(np.stack([rng.poisson(rates[name]) for name in names]).astype(np.float32)),
        obs=pd.DataFrame({"condition": pd.Categorical(names)}, index=[f"cell{i}" for i in range(len(names))]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(40)]),
    )
    cells.write_h5ad(folder / "screen.h5ad")
    card = CARD.format(sha256=sha256_file(folder / "screen.h5ad"))
    for name, more in (
        ("cells", ""),
        ("screen", "perturbation: {key: condition, control: control}\n"),
        ("few", "perturbation: {key: condition, control: elsewhere}\n"),
    ):
        (folder / f"{name}.yaml").write_text(card.replace("name: screen\n", f"name: {name}\n", 1) + more)
    return folder


@pytest.fixture
def command(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SCMF_DATA_DIR", str(folder))
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        code, said = scmf("evaluate", *arguments), capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def test_the_table_of_a_screen_of_ones_own(command, folder, tmp_path):
    code, out, _ = command("calibrate", folder / "screen.yaml", "--json", "--results", "kept")
    found = json.loads(out)
    assert code == 0 and found["metrics"]["wmse"]["may_head"] and found["verdict"]["head"] in ORDER
    assert found["splits"] == 10 and found["thresholds"]["units"] == 8 and list(found["files"]) == ["screen.h5ad"]
    assert json.loads((tmp_path / "kept/screen.json").read_text()) == found
    code, out, said = command("calibrate", folder / "screen.yaml")
    assert code == 0 and "may head" in out and "tells perturbations apart" in out + said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("calibrate",), "scmf evaluate calibrate CARD"),
        (("run", "screen.yaml"), "one submission"),
        (("calibrate", "screen.yaml", "--tasks", "all"), "other options"),
        (("calibrate", "cells.yaml"), "no perturbation screen"),
        (("calibrate", "few.yaml"), "no control cells"),
        (("calibrate", "no-such-card"), "no-such-card"),
    ],
)
def test_what_cannot_be_calibrated_is_one_error(command, folder, arguments, said):
    paths = [folder / one if one.endswith(".yaml") else one for one in arguments]
    code, out, err = command(*paths)
    assert code > 1 and out == "" and said in err
