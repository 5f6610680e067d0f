"""The cards of the leaderboard against their files: shapes, labels, splits, and what their descriptions claim.

Static facts (checksums of splits) are held everywhere; a card whose files cannot be had here is skipped.
"""

import gzip
import importlib.util
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmf.core.config.run import DataConfig
from scmf.core.errors import CountsError, SourceError
from scmf.core.files import sha256_file
from scmf.core.paths import shipped
from scmf.data.cards.card import list_cards, load_card
from scmf.data.cards.sources import fetch
from scmf.data.checks.authenticity import joint_detection_ratio, label_accuracy, shuffled_within
from scmf.data.checks.cards import evidence_labels
from scmf.data.loading.load import load_cells, read_file
from scmf.data.splits.read import split_file
from scmf.evaluation.perturbation.truth import PerturbationTruth, log_expression
from tests import ROOT

SUITE = ("kang_ifnb", "lung", "mcfaline", "norman", "sinoatrial", "vcc_h1")
SPLITS = [(card, name) for card in list_cards(kind="cells") for name in card.splits]
KANG_TYPES = {
    "CD4 T cells": 5214, "CD14+ Monocytes": 4295, "FCGR3A+ Monocytes": 1388, "B cells": 1334, "NK cells": 651,
    "CD8 T cells": 578, "Dendritic cells": 407, "Megakaryocytes": 132,
}  # fmt: skip


@cache
def had(name, log=False):
    return load_cells(DataConfig(dataset=name), log_expression=log)


def cells_of(name, split=None, log=False):
    try:
        cells = had(name, log).copy()
    except SourceError as error:
        pytest.skip(f"{name} cannot be fetched here: {error.found.splitlines()[0]}")
    if split:
        parts = parts_of(load_card(name), split).reindex(cells.obs_names)
        assert parts.notna().all()
        cells = replace(cells, split=parts.to_numpy(dtype=str))
    return cells


def parts_of(card, name):
    with gzip.open(split_file(card, name), "rt") as lines:
        return pd.read_csv(lines, sep="\t", dtype=str, index_col="cell_id")["part"]


# --- without the cells ----------------------------------------------------------------------------


@pytest.mark.parametrize(("card", "name"), SPLITS, ids=[f"{card.name}.{name}" for card, name in SPLITS])
def test_a_split_is_the_file_the_card_names_with_each_cell_once(card, name):
    assert sha256_file(split_file(card, name)) == card.splits[name].sha256
    parts = parts_of(card, name)
    assert parts.index.is_unique and len(parts) == card.n_cells and set(parts) <= {"train", "valid", "test"}


def test_every_card_of_cells_is_in_the_page_on_data_sets():
    page = (ROOT / "docs" / "datasets.md").read_text()
    assert not [card.name for card in list_cards(kind="cells") if f"| `{card.name}` |" not in page]


@pytest.mark.parametrize("card", [c for c in list_cards(kind="cells") if c.needs_download], ids=lambda card: card.name)
def test_a_card_without_files_says_where_they_are_and_what_is_unknown(card):
    assert re.search(r"[Ff]etch .*([a-z]+\.(com|org|edu)|GSE\d+|CELLxGENE)", card.needs_download)
    assert "Not held here" in card.description and not card.files and not card.splits
    with pytest.raises(SourceError, match="without files"):
        fetch(card)


# --- the cells ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "counts"),
    [
        ("kang_ifnb", "condition", {"train": 5559, "valid": 989, "test": 7451}),
        ("kang_ifnb", "cell_type", {"train": 8607, "valid": 361, "test": 5031}),
        ("lung", "krasnow", {"train": 1000, "test": 1000}),
        ("mcfaline", "cell_line", {"train": 1821, "test": 765}),
        ("mcfaline", "perturbation", {"train": 1806, "valid": 217, "test": 563}),
        ("norman", "combinations", {"train": 1895, "test": 1480}),
        ("norman", "gears", {"train": 1600, "valid": 480, "test": 1295}),
        ("sinoatrial", "random", {"train": 600, "valid": 150, "test": 250}),
        ("vcc_h1", "perturbation", {"train": 400, "test": 200}),
    ],
)
def test_cells_are_counts_of_the_frozen_size_and_parts(name, split, counts):
    card, cells = load_card(name), cells_of(name, split)
    assert cells.shape == (card.n_cells, card.n_genes)
    assert cells.X.dtype == np.float32 and (cells.X.data > 0).all() and (cells.X.data == np.rint(cells.X.data)).all()
    assert pd.Series(cells.split).value_counts().to_dict() == counts
    if card.label_key:
        known = set(cells.obs.loc[cells.split == "train", card.label_key])
        assert set(card.labels) - known == set(card.splits[split].unseen)
    if card.splits[split].by != "cell":
        assert (pd.Series(cells.split).groupby(cells.obs[card.splits[split].by].to_numpy()).nunique() == 1).all()


LARGE = ("kang_ifnb", "lung", "sinoatrial")  # the same numbers of more genes or cells


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if name in LARGE else []) for name in SUITE]
)
def test_the_evidence_in_the_cards_is_what_the_code_computes(name):
    card, cells = load_card(name), cells_of(name)
    labels, said = evidence_labels(cells, card).astype(str).to_numpy(), card.authenticity
    # shuffling the 59,046 genes of lung takes longer than the rest of this file
    fake = shuffled_within(cells.X, labels) if cells.n_vars < 50_000 else None
    found = (
        np.median(list(joint_detection_ratio(cells.X, labels).values())),
        said.joint_detection_ratio_shuffled
        if fake is None
        else np.median(list(joint_detection_ratio(fake, labels).values())),
        label_accuracy(cells.X, labels),
        label_accuracy(cells.X, labels, permute=True),
    )
    assert found == pytest.approx(tuple(said.model_dump().values()), rel=0.005, abs=0.002)
    assert said.joint_detection_ratio > 2 * said.joint_detection_ratio_shuffled


def test_kang_is_joined_to_the_cells_whose_counts_it_carries():
    cells = cells_of("kang_ifnb")
    assert cells.obs["condition"].value_counts().to_dict() == {"IFN-beta": 7451, "control": 6548}
    assert cells.obs["cell_type"].value_counts().to_dict() == KANG_TYPES
    other = read_file(fetch(load_card("kang_ifnb"))["PBMC.h5ad"])
    barcode = cells.obs_names.str.extract(r"([ACGT]+)", expand=False)
    place = pd.Series(range(other.n_obs), index=other.obs_names.str[:14] + other.obs["sample"].astype(str).to_numpy())
    sample = np.where(cells.obs["condition"] == "control", "control", "stimul")
    theirs = sparse.csr_matrix(other.X)[place[barcode + sample].to_numpy()]
    mine = cells[:, other.var_names].X
    assert (mine != theirs.astype(np.float32)).nnz == 0


def test_lung_labels_are_those_of_both_atlases_and_five_types_have_no_training_cell():
    cells = cells_of("lung", "krasnow")
    table = pd.crosstab(cells.obs["label"].astype(str).to_numpy(), cells.split)
    assert table.loc["macrophage"].to_dict() == {"train": 370, "test": 217}
    assert table.index[table["train"] == 0].tolist() == sorted(load_card("lung").splits["krasnow"].unseen)
    assert table.index[table["test"] == 0].tolist() == ["club cell", "pulmonary ionocyte"]
    assert cells.obs["platform"].value_counts().to_dict() == {"10x 3' v3": 955, "10x 3' v2": 869, "Smart-seq2": 176}
    reads = cells[(cells.obs["platform"] == "Smart-seq2").to_numpy()].X
    assert reads.max() == 963_768 and set(cells.obs["donor"]) == {"TSP1", "TSP2", "TSP14", "1", "2", "3"}


def test_sinoatrial_vectors_lie_beside_their_cells():
    cells = cells_of("sinoatrial")
    vectors = cells.obsm["X_transcriptformer_sapiens"]
    assert vectors.shape == (1000, 2048) and np.isfinite(vectors).all() and cells.obs["donor_id"].nunique() == 1
    chosen = np.flatnonzero(cells.obs["cell_type"] == "fibroblast")
    x = log_expression(cells)[chosen].toarray()
    x = x[:, np.argsort(x.var(axis=0))[-500:]]

    def distances(points):
        some, rest = points[:300].astype(np.float64), points[300:].astype(np.float64)
        return np.sqrt((some**2).sum(axis=1)[:, None] + (rest**2).sum(axis=1) - 2 * some @ rest.T)

    near = distances(x)
    right, wrong = (
        np.corrcoef(near.ravel(), distances(vectors[rows]).ravel())[0, 1] for rows in (chosen, chosen[::-1])
    )
    assert len(chosen) == 611 and right > 0.4 > 0.2 > abs(wrong)


@pytest.mark.parametrize(("name", "below"), [("norman", 1.0), ("mcfaline", 0.99)])
def test_counts_of_the_screens_give_their_expression_back(name, below):
    cells, plain = cells_of(name), cells_of(name, log=True)
    assert plain.facts.counts is None and plain.facts.expression == "log1p"
    again = np.log1p(cells.X.toarray() / cells.obs["n_counts"].to_numpy()[:, None] * 1e4)
    np.testing.assert_allclose(again, plain.X.toarray(), rtol=3e-7, atol=0)
    np.testing.assert_allclose(log_expression(cells).toarray(), plain.X.toarray(), rtol=1e-6)
    # the depth before genes were filtered is in the file: an upper limit that the search did not know of
    ratio = cells.obs["n_counts"] / cells.obs["ncounts"]
    assert 0.3 < ratio.min() < ratio.max() < below
    if name == "norman":
        assert ratio.min() > 0.98, "a depth that is off by a factor of two would be at .5"


@pytest.mark.parametrize(("name", "ratio"), [("norman", 9.2), ("vcc_h1", 0.033)])
def test_the_one_perturbed_gene_that_is_in_the_matrix_was_activated_or_repressed(name, ratio):
    cells = cells_of(name)
    keys = cells.facts.perturbation
    condition = cells.obs[keys.key].astype(str).to_numpy()
    depth = cells.obs["n_counts"] if "n_counts" in cells.obs else np.asarray(cells.X.sum(axis=1)).ravel()
    gene = cells.X[:, [cells.var["symbol"].tolist().index("TMSB4X")]].toarray().ravel() / np.asarray(depth)
    assert gene[condition == "TMSB4X"].mean() / gene[condition == keys.control].mean() == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize(
    ("name", "split", "kind", "tested"),
    [
        ("norman", "combinations", "unseen_combination", 15),
        ("norman", "gears", "unseen_perturbation", 13),
        ("mcfaline", "cell_line", "unseen_cell_type", 9),
        ("mcfaline", "perturbation", "unseen_perturbation", 6),
        ("kang_ifnb", "cell_type", "unseen_cell_type", 2),
        ("vcc_h1", "perturbation", "unseen_perturbation", 2),
    ],
)
def test_a_screen_holds_out_what_its_split_says_and_controls_train(name, split, kind, tested):
    truth = PerturbationTruth.of(cells_of(name, split, log=True))
    assert truth.kind == kind and len(truth.pairs) == tested
    assert set(truth.parts[truth.conditions == truth.control]) == {"train"}


def test_combinations_of_norman_fall_into_no_one_and_both_genes_seen():
    truth = PerturbationTruth.of(cells_of("norman", "combinations", log=True))
    found = pd.Series([truth.subgroup(condition) for _, condition in truth.pairs]).value_counts().to_dict()
    assert found == {"seen0": 7, "seen1": 3, "seen2": 5}


def test_counts_are_refused_where_a_card_cannot_give_them(tmp_path):
    text = (shipped("datasets") / "norman.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("derive:")]
    (tmp_path / "norman.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(CountsError, match="log-normalized expression and no counts"):
        load_cells(DataConfig(dataset=str(tmp_path / "norman.yaml")))


def test_the_frozen_splits_are_what_their_program_makes(tmp_path, monkeypatch, capsys):
    folder = shipped("datasets")
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("make_suite_splits", folder / "make_suite_splits.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    monkeypatch.setattr(
        program, "load_cells", lambda config, log_expression=False: cells_of(config.dataset, log=log_expression)
    )
    program.main()
    sys.modules.pop("make_splits", None)
    made = {path.name: sha256_file(path) for path in tmp_path.glob("*.tsv.gz")}
    assert made == {Path(split.file).name: split.sha256 for name in SUITE for split in load_card(name).splits.values()}
    assert "kang_ifnb.condition" in capsys.readouterr().out
