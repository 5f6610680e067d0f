"""`check_file` says what a recipe would refuse; `check_card` holds a card against its files."""

import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from scmf.core.config.run import DataConfig, RunConfig
from scmf.core.errors import DataError
from scmf.core.files import sha256_file
from scmf.core.paths import data_dir
from scmf.data.cards.card import list_cards
from scmf.data.checks.file import check_card, check_file
from scmf.data.genes.vocabulary import GeneTables
from scmf.data.splits.read import write_split

N_GENES = 40
GENES = [f"ENSG{i:011d}" for i in range(1, N_GENES + 1)]
TABLES = GeneTables(
    token_ids={"<pad>": 0, **{gene: i + 1 for i, gene in enumerate(GENES)}},
    medians=dict.fromkeys(GENES, 1.0),
    aliases={"INS": GENES[0], "ENSG99999999999": GENES[1]},
)


def counts(n=30, genes=N_GENES, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson((0.8 + rng.gamma(1, 2, size=(n, 1))) * rng.gamma(0.5, 2, size=genes) + 0.05).astype(
        np.float32
    ) + np.eye(n, genes, dtype=np.float32)


def write(path, x, *, genes=GENES, obs_names=None, kinds=("a", "b"), **layers):
    n = len(x)
    obs = pd.DataFrame(
        {"kind": [kinds[i % len(kinds)] for i in range(n)]}, index=obs_names or [f"c{i}" for i in range(n)]
    )
    adata = ad.AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    for name, layer in layers.items():
        adata.layers[name] = layer
    adata.write_h5ad(path)
    return path


def finding(report, what, level=None):
    found = [f for f in report.findings if f.what == what and level in (None, f.level)]
    assert found, f"no finding {what!r} of level {level}: {report.rows()}"
    return found[0]


def test_good_cells_are_ok_and_every_row_has_four_parts(tmp_path):
    report = check_file(write(tmp_path / "a.h5ad", counts()), vocabulary=TABLES, label_key="kind", min_genes=5)
    assert report.ok, report.rows()
    assert {row[0] for row in report.rows()} == {"ok"}
    assert all(len(row) == 4 for row in report.rows())
    assert report.facts["vocabulary"]["found"] == N_GENES
    assert report.facts["vocabulary"]["count_share"] == pytest.approx(1)
    assert report.facts["cells"]["depth_quantiles"]["1.0"] == counts().sum(axis=1).max()


def test_the_report_is_strict_json(tmp_path):
    x = counts()
    x[0, 0] = np.nan
    for matrix in (x, counts(), np.log1p(counts())):
        report = check_file(write(tmp_path / "a.h5ad", matrix), vocabulary=TABLES, label_key="kind")
        assert json.loads(json.dumps(report.to_json(), allow_nan=False))["ok"] == report.ok


def test_each_matrix_gets_a_verdict_and_the_chosen_one_is_marked(tmp_path):
    path = write(tmp_path / "a.h5ad", np.log1p(counts()), counts=counts(), umi=counts())
    report = check_file(path)
    assert {row["where"]: (row["kind"], row["chosen"]) for row in report.facts["matrices"]} == {
        "layers/counts": ("counts", True),
        "X": ("not integers", False),
        "layers/umi": ("counts", False),
    }
    assert "layers/counts holds non-negative integers" in finding(report, "raw counts", "ok").found


def test_log_normalised_counts_are_an_error_with_advice(tmp_path):
    report = check_file(write(tmp_path / "a.h5ad", np.log1p(counts()), umi=counts()), vocabulary=TABLES)
    assert not report.ok
    assert "layers/umi" in finding(report, "raw counts", "error").do
    assert finding(report, "vocabulary", "ok"), "genes are looked at all the same"


def test_empty_small_and_repeated_cells_are_counted(tmp_path):
    x = counts()
    x[3] = 0
    x[5] = 0
    x[5, 0] = 2
    x[7] = x[9]
    x[8] = x[9]
    report = check_file(write(tmp_path / "a.h5ad", x), min_genes=5)
    assert "1 cells without a count, the first is 'c3'" in finding(report, "empty cells", "error").found
    assert "1 cells with fewer than 5 genes" in finding(report, "small cells", "warning").found
    assert "2 cells equal an earlier one, the first pair is 'c7', 'c8'" in finding(report, "identical cells").found


def test_duplicate_ids_of_genes_and_cells_are_errors(tmp_path):
    x = counts(n=10)
    path = write(tmp_path / "a.h5ad", x, genes=[*GENES[:-1], GENES[0]], obs_names=["x", "x", *map(str, range(8))])
    report = check_file(path)
    assert GENES[0] in finding(report, "duplicate ids", "error").found
    assert "1 stand more than once" in finding(report, "cell ids", "error").found


def test_versions_and_lower_case_that_hide_a_duplicate_are_found(tmp_path):
    genes = [f"{GENES[1]}.3", f"{GENES[1].lower()}", *GENES[2:]]
    report = check_file(write(tmp_path / "a.h5ad", counts(), genes=genes))
    assert GENES[1] in finding(report, "same gene twice", "warning").found
    assert "1 ids" in finding(report, "version suffixes").found


def test_retired_ids_and_symbols_are_mapped_and_their_collision_told(tmp_path):
    genes = ["ENSG99999999999", *GENES[1:]]
    report = check_file(write(tmp_path / "a.h5ad", counts(), genes=genes), vocabulary=TABLES)
    assert "1 symbols, aliases or retired ids" in finding(report, "other names").found
    assert f"ENSG99999999999, {GENES[1]}" in finding(report, "same gene twice").found


def test_no_gene_of_the_vocabulary_is_an_error_and_few_a_warning(tmp_path):
    mouse = [gene.replace("ENSG", "ENSMUSG") for gene in GENES]
    report = check_file(write(tmp_path / "a.h5ad", counts(), genes=mouse), vocabulary=TABLES)
    assert "Mus musculus" in finding(report, "gene ids").found
    assert "0 of 40 genes found" in finding(report, "vocabulary", "error").found
    few = [*GENES[:19], *mouse[19:]]
    report = check_file(write(tmp_path / "a.h5ad", counts(), genes=few), vocabulary=TABLES)
    assert "19 of 40 genes found (47.5%)" in finding(report, "vocabulary", "warning").found


def test_a_cell_without_a_gene_of_the_vocabulary_is_an_error(tmp_path):
    x = counts()
    x[4] = 0
    x[4, 39] = 5
    path = write(tmp_path / "a.h5ad", x, genes=[*GENES[:39], "ENSG00000999999"])
    assert "1 cells have no gene" in finding(check_file(path, vocabulary=TABLES), "empty cells", "error").found


def test_what_a_recipe_would_refuse_is_an_error(tmp_path):
    recipe = RunConfig(data=DataConfig(dataset="pancreas", label_key="kinds"))
    report = check_file(write(tmp_path / "a.h5ad", counts()), recipe_sections=recipe)
    assert "did you mean 'kind'" in finding(report, "label_key", "error").do


def test_cells_shuffled_gene_by_gene_are_told(tmp_path):
    rng = np.random.default_rng(0)
    x = np.stack([rng.permutation(column) for column in counts(n=400, genes=N_GENES).T], axis=1)
    x[x.sum(axis=1) == 0, 0] = 1
    report = check_file(write(tmp_path / "a.h5ad", x, kinds=("a",)), label_key="kind")
    assert "gene-wise shuffled" in finding(report, "real cells", "warning").do


def split_of(tmp_path, n=30, side=None):
    write_split(tmp_path / "s.tsv.gz", {f"c{i}": "train" if i < n // 2 else "test" for i in range(n)})
    if side is not None:
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(side))
    return tmp_path / "s.tsv.gz"


def test_a_split_is_audited_and_a_copy_in_two_parts_is_an_error(tmp_path):
    x = counts()
    assert check_file(write(tmp_path / "a.h5ad", x), split=split_of(tmp_path)).ok
    x[29] = x[2] = np.arange(N_GENES) % 5 + 1
    report = check_file(write(tmp_path / "a.h5ad", x), split=split_of(tmp_path))
    assert not report.ok and report.facts["split"] == {"train": 15, "valid": 0, "test": 15}
    assert "'c2' (train) and 'c29' (test)" in finding(report, "leaks", "error").found


def test_what_must_stay_whole_is_asked_for_or_stands_beside_the_split(tmp_path):
    path = write(tmp_path / "a.h5ad", counts())
    assert check_file(path, split=split_of(tmp_path)).ok
    for report in (
        check_file(path, split=split_of(tmp_path), donor_key="kind"),
        check_file(path, split=split_of(tmp_path, side={"by": ["kind"], "strategy": "group"})),
    ):
        assert "2 of 2 values of 'kind' lie in several parts" in finding(report, "leaks", "error").found


def test_a_split_that_does_not_fit_is_a_finding(tmp_path):
    path = write(tmp_path / "a.h5ad", counts())
    assert (
        "10 of 30 cells are not in" in finding(check_file(path, split=split_of(tmp_path, 20)), "split", "error").found
    )
    report = check_file(path, split=split_of(tmp_path), donor_key="kinds")
    assert "did you mean 'kind'" in finding(report, "split", "error").do
    log = write(tmp_path / "b.h5ad", np.log1p(counts()))
    assert "without counts" in finding(check_file(log, split=split_of(tmp_path)), "leaks", "error").found


def test_a_file_that_cannot_be_read_is_an_exception(tmp_path):
    (tmp_path / "a.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(DataError, match="not a readable"):
        check_file(tmp_path / "a.h5ad")


def test_checking_does_not_import_torch(tmp_path):
    path = write(tmp_path / "a.h5ad", counts())
    program = (
        f"import sys; from scmf.data.checks.file import check_file; check_file({str(path)!r}); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# --- cards ----------------------------------------------------------------------------------------


@pytest.fixture
def card(tmp_path):
    """Write a good card; keys given change it."""
    path = write(tmp_path / "a.h5ad", counts())
    split = {f"c{i}": ("train", "train", "valid", "train", "train", "test")[i // 5] for i in range(30)}

    def make(split=split, **over):
        sha256 = write_split(tmp_path / "mine.tsv.gz", split)
        parts = {part: ["a", "b"] for part in ("train", "valid", "test")}
        text = {
            "name": "mine", "title": "t", "kind": "cells", "organism": "o", "license": "l", "citation": "c",
            "label_key": "kind", "labels": ["a", "b"], "n_cells": 30, "n_genes": N_GENES,
            "files": [
                {"name": "a.h5ad", "sha256": sha256_file(path), "sources": [{"kind": "mirror", "path": "a.h5ad"}]}
            ],
            "splits": {"s": {"file": "mine.tsv.gz", "sha256": sha256, "by": "cell", "description": "d"}},
            **over,
        }  # fmt: skip
        if "by" in over:
            text["splits"]["s"] |= {"by": text.pop("by"), "parts": parts}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(text))
        return tmp_path / "mine.yaml"

    return make


def test_a_true_card_is_ok(card):
    report = check_card(card())
    assert report.ok and {"cells", "genes", "labels", "split s"} <= {f.what for f in report.findings}


@pytest.mark.parametrize(
    ("over", "what", "says"),
    [
        ({"n_cells": 31}, "cells", "30, the card says 31"),
        ({"n_genes": 1}, "genes", "the card says 1"),
        ({"labels": ["a", "b", "c"]}, "labels", "the card says"),
        ({"labels": ["a"]}, "DataError", "label 'b'"),
        ({"split": {f"c{i}": "train" for i in range(29)}}, "split s", "1 cell ids differ"),
        ({"split": {f"c{i}": "test" if i % 2 else "train" for i in range(30)}}, "split s", "no training cell of ['b']"),
        ({"by": "kind"}, "split s", "'a' in ['test', 'train', 'valid']"),
    ],
)
def test_what_a_card_says_wrongly_is_an_error(card, over, what, says):
    report = check_card(card(**over))
    assert not report.ok
    assert says in finding(report, what, "error").found


def test_a_card_whose_split_has_a_copy_of_a_cell_in_two_parts_is_an_error(card, tmp_path):
    x = counts()
    x[29] = x[2] = np.arange(N_GENES) % 5 + 1
    path = write(tmp_path / "a.h5ad", x)
    files = [{"name": "a.h5ad", "sha256": sha256_file(path), "sources": [{"kind": "mirror", "path": "a.h5ad"}]}]
    assert "'c2' (train) and 'c29' (test)" in finding(check_card(card(files=files)), "leaks s", "error").found


def test_a_changed_file_is_an_error_of_the_card(card, tmp_path):
    path = card()
    write(tmp_path / "a.h5ad", counts(seed=1))
    report = check_card(path)
    assert finding(report, "ChecksumError", "error").do


FAST = ("vcc_h1", "encode-chipseq")
"""A card of cells and one of a table; the cells of others: tests/repository/test_suite_datasets.py, the recipes."""


@pytest.mark.parametrize(
    "shipped",
    [pytest.param(card, marks=[] if card.name in FAST else [pytest.mark.nightly]) for card in list_cards()],
    ids=lambda card: card.name,
)
def test_the_shipped_cards_are_true(shipped):
    if shipped.name.startswith("geneformer") and data_dir() is None:
        pytest.skip("SCMF_DATA_DIR is not set; the Hub is not asked by tests")
    report = check_card(shipped)
    if any(finding.what == "SourceError" for finding in report.findings):
        pytest.skip(f"{shipped.name} cannot be fetched here")
    assert report.ok, report.rows()
