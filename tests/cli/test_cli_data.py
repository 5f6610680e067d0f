"""``scmf data`` in sequence, on files with permuted, missing and duplicate genes: convert, look, tokenize, train."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from scmf.cli.main import app
from tests.conftest import synthetic_cells

runner = CliRunner()


def scmf(*arguments):
    done = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files: all genes, genes in another order, a third of the genes missing and one with a version."""
    folder = tmp_path_factory.mktemp("chain")
    rng = np.random.default_rng(0)
    adata = synthetic_cells(420)
    adata.obs_names = [f"c{i}" for i in range(420)]
    adata[:150].write_h5ad(folder / "a.h5ad")
    adata[150:300, rng.permutation(adata.n_vars)].copy().write_h5ad(folder / "b.h5ad")
    less = adata[300:, : adata.n_vars * 2 // 3].copy()
    less.var_names = [f"{name}.7" if i == 3 else name for i, name in enumerate(less.var_names)]
    less.write_h5ad(folder / "c.h5ad")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def collection(folder):
    answer = json.loads(
        scmf("data", "convert", folder / "*.h5ad", "--out", folder / "corpus.zarr", "--json", "--quiet")
    )
    assert answer["cells"] == 420
    return folder / "corpus.zarr"


def test_convert_keeps_every_cell_with_its_counts(folder, collection):
    datasets = sorted(collection.glob("dataset_*"))
    found = ad.concat([ad.read_zarr(path) for path in datasets], join="outer")
    inputs = [ad.read_h5ad(folder / f"{name}.h5ad") for name in "abc"]
    assert found.n_obs == 420
    assert float(found.X.sum()) == sum(float(adata.X.sum()) for adata in inputs)
    order = [f"{source}:{row}" for source, row in zip(found.obs["source"], found.obs["source_row"], strict=True)]
    assert len(set(order)) == 420
    assert [f"{name}:{i}" for i in range(10) for name in ("a.h5ad",)] != order[:10]


def test_convert_again_returns_the_report_and_another_seed_is_refused(folder, collection):
    again = json.loads(scmf("data", "convert", folder / "*.h5ad", "--out", collection, "--json", "--quiet"))
    assert again["cells"] == 420
    from scmf.core.errors import ScmfError

    arguments = ["data", "convert", str(folder / "*.h5ad"), "--out", str(collection), "--seed", "1", "--quiet"]
    refused = runner.invoke(app, arguments)
    assert isinstance(refused.exception, ScmfError)
    assert "with other arguments" in str(refused.exception)


def test_statistics_of_files_and_of_their_conversion_are_the_same(folder, collection, tmp_path):
    tables = []
    for name, files in (("files", folder / "*.h5ad"), ("zarr", collection)):
        answer = json.loads(scmf("data", "stats", files, "--out", tmp_path / f"{name}.json", "--json", "--quiet"))
        assert answer["cells"] == 420
        tables.append(pd.read_csv(tmp_path / f"{name}.tsv.gz", sep="\t", index_col=0).query("n_cells > 0"))
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_genes_says_what_a_vocabulary_holds(folder, tmp_path):
    (tmp_path / "genes.txt").write_text("\n".join(synthetic_cells(1).var_names[:60]))
    report = json.loads(scmf("data", "genes", folder / "a.h5ad", "--vocabulary", tmp_path / "genes.txt", "--json"))
    assert "60" in json.dumps(report)


def test_split_then_train_streamed_then_tokenise_with_its_tokenizer(folder, collection, tmp_path):
    split = tmp_path / "split.tsv.gz"
    scmf("data", "split", collection, "--by", "donor_id", "--out", split, "--json")
    config = {
        "data": {"files": [str(collection)], "split": str(split), "stream": {"block_cells": 8, "buffer_blocks": 8}},
        "tokenizer": {"min_cells": 5, "max_length": 40},
        "model": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16},
        "training": {"max_epochs": 2, "batch_size": 32},
        "eval": {"every_n_epochs": 1, "benchmarks": []},
    }
    (tmp_path / "my.yaml").write_text(json.dumps(config))
    answer = json.loads(scmf("train", "--config", tmp_path / "my.yaml", "--out", tmp_path / "run", "--json", "--quiet"))
    parts = pd.read_csv(split, sep="\t")["split"].value_counts()
    assert answer["steps"] == 2 * -(-parts["train"] // 32)
    losses = [json.loads(line) for line in (tmp_path / "run/pretraining/log.jsonl").open()]
    assert "valid_loss" in losses[-1]

    scmf(
        "data", "tokenize", folder / "*.h5ad", "--out", tmp_path / "tokens", "--vocabulary", tmp_path / "run/model",
        "--max-length", "40", "--column", "cell_type", "--quiet",
    )  # fmt: skip
    datasets = pytest.importorskip("datasets")
    tokens = datasets.load_from_disk(str(tmp_path / "tokens"))
    assert len(tokens) == 420
    assert max(tokens["length"]) <= 40

    config["data"] = {"tokens": str(tmp_path / "tokens")}
    config["tokenizer"]["vocabulary"] = str(tmp_path / "run/model")
    (tmp_path / "tokens.yaml").write_text(json.dumps(config))
    again = scmf("train", "--config", tmp_path / "tokens.yaml", "--out", tmp_path / "run2", "--json", "--quiet")
    assert json.loads(again)["steps"] == 2 * -(-420 // 32)


def test_highly_variable_genes_become_a_vocabulary(collection, tmp_path):
    out = tmp_path / "hvg.txt"
    scmf("data", "hvg", collection, "--out", out, "--flavor", "seurat", "--n-top-genes", "30", "--json")
    assert len(out.read_text().split()) == 30
