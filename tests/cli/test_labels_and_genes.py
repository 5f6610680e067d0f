"""Missing labels, unknown genes, batches and small numbers through the command line."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.cli import main as cli
from scmf.core.errors import DataError

GENES = [f"ENSG{i:011d}" for i in range(1, 61)]
PARTS = np.array(["train", "train", "train", "valid", "test", "test"])


def cells(n=120, *, seed=0, genes=GENES):
    """Three cell types with marker genes, six donors, two batches."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    rates = np.random.default_rng(99).gamma(0.4, 2.0, size=(3, len(genes)))
    for k in range(3):
        rates[k, k * 6 : (k + 1) * 6] += 8
    x = rng.poisson(rates[kind]).astype(np.float32)
    x[:, 0] += 1
    x[:, 1] += 1
    obs = pd.DataFrame(
        {
            "cell_type": np.array(["alpha", "beta", "delta"])[kind], "donor": [f"d{i % 6}" for i in range(n)],
            "batch": [f"b{i % 2}" for i in range(n)],
        },
        index=[f"cell{i}" for i in range(n)],
    )  # fmt: skip
    return ad.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=list(genes)))


def split_of(adata, path):
    parts = PARTS[np.arange(adata.n_obs) % 6]
    pd.DataFrame({"cell_id": adata.obs_names, "split": parts}).to_csv(path, sep="\t", index=False)
    return parts


CONFIG = """
data: {{files: [{file}]{data}}}
tokenizer: {{vocabulary: {vocabulary}, min_cells: 5, max_length: 32{tokenizer}}}
model: {{hidden_dim: 16, num_layers: 1, num_heads: 2, ffn_dim: 32{model}}}
training: {{batch_size: 32, max_epochs: 1{training}}}
eval: {{every_n_epochs: {every}, benchmarks: [{benchmarks}]{evaluation}}}
"""


def config(path, file, *, vocabulary="fit", every=0, benchmarks="annotation", **more):
    """A configuration file; sections get what ``more`` adds to them."""
    keys = {name: f", {more[name]}" if name in more else "" for name in
            ("data", "tokenizer", "model", "training", "evaluation")}  # fmt: skip
    path.write_text(CONFIG.format(file=file, vocabulary=vocabulary, every=every, benchmarks=benchmarks, **keys))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with cells, their split, and a model trained on them."""
    folder = tmp_path_factory.mktemp("base")
    adata = cells()
    adata.write_h5ad(folder / "base.h5ad")
    split_of(adata, folder / "split.tsv")
    data = f"split: {folder / 'split.tsv'}, label_key: cell_type, batch_key: batch"
    config(folder / "model.yaml", folder / "base.h5ad", data=data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["scmf", "train", "--config", f"{folder / 'model.yaml'}", "--out", f"{folder / 'model'}"]
        )
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
    return folder


@pytest.fixture
def scmf(capsys, monkeypatch):
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["scmf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, " ".join(err.split())

    return run


# --- missing labels ------------------------------------------------------------------------------------


MISSING = {
    "nan in categories": lambda labels, lost: pd.Categorical(np.where(lost, None, labels)),
    "text nan": lambda labels, lost: np.where(lost, "nan", labels),
    "text None": lambda labels, lost: np.where(lost, "None", labels),
    "text <NA>": lambda labels, lost: np.where(lost, "<NA>", labels),
    "white space": lambda labels, lost: np.where(lost, np.where(np.arange(len(lost)) % 2, "", "  "), labels),
    "float nan": lambda labels, lost: np.where(lost, np.nan, pd.factorize(labels, sort=True)[0].astype(float)),
}


@pytest.mark.parametrize("how", MISSING)
def test_cells_without_a_label_are_left_out_and_counted(how, scmf, tmp_path):
    adata = cells()
    parts = split_of(adata, tmp_path / "split.tsv")
    lost = np.random.default_rng(0).random(adata.n_obs) < 0.4
    adata.obs["cell_type"] = MISSING[how](adata.obs["cell_type"].to_numpy(str), lost)
    adata.write_h5ad(tmp_path / "nan.h5ad")
    yaml = config(
        tmp_path / "nan.yaml", tmp_path / "nan.h5ad", every=1,
        data=f"split: {tmp_path / 'split.tsv'}, label_key: cell_type, batch_key: batch",
        evaluation="finetune: {max_epochs: 1, batch_size: 32}" if how == "nan in categories" else "knn_neighbors: 5",
    )  # fmt: skip
    code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")
    assert code == 0
    assert f"{lost.sum()} of 120 cells have no label in 'cell_type'" in err
    log = [json.loads(line) for line in (tmp_path / "run/pretraining/log.jsonl").read_text().splitlines()]
    assert any("valid_linear_probe_accuracy" in line for line in log)
    code, out, err = scmf("evaluate", tmp_path / "run", "--quiet", "--json")
    assert code == 0 and f"{lost.sum()} of 120 cells have no label" in err
    for score in json.loads(out):
        assert score["n_cells"] == ((parts == "test") & ~lost).sum()
        assert score["n_train"] == ((parts == "train") & ~lost).sum()
    if how == "nan in categories":
        heads = list((tmp_path / "run").rglob("finetuned*"))
        assert any(score["protocol"] == "finetuned_head" for score in json.loads(out)), heads


def test_a_column_without_any_label_is_refused(scmf, tmp_path):
    adata = cells()
    split_of(adata, tmp_path / "split.tsv")
    adata.obs["cell_type"] = "nan"
    adata.write_h5ad(tmp_path / "none.h5ad")
    yaml = config(
        tmp_path / "none.yaml", tmp_path / "none.h5ad", data=f"split: {tmp_path / 'split.tsv'}, label_key: cell_type"
    )
    code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")
    assert code == 6 and "no value in column 'cell_type' of 120 cells" in err


def test_genes_without_id_are_no_token(scmf, tmp_path):
    adata = cells()
    adata.var["gene_ids"] = pd.Categorical([None, "", "nan", "<NA>", "  ", *GENES[5:]])
    adata.var_names = [f"SYM{i}" for i in range(60)]
    adata.write_h5ad(tmp_path / "noid.h5ad")
    yaml = config(tmp_path / "noid.yaml", tmp_path / "noid.h5ad", benchmarks="", data="gene_ids: gene_ids")
    code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")
    assert code == 0 and "5 genes without id" in err
    vocabulary = json.loads((tmp_path / "run/model/vocab.json").read_text())
    genes = [token for token in vocabulary if not token.startswith("<")]
    assert genes and set(genes) <= set(GENES[5:])


# --- genes ---------------------------------------------------------------------------------------------


def test_antibodies_are_no_genes(scmf, tmp_path):
    rna = cells()
    rna.var = pd.DataFrame({"gene_ids": GENES, "feature_types": "Gene Expression"}, index=[f"S{i}" for i in range(60)])
    names = [f"CD{i}_TotalC" for i in range(10)]
    tags = ad.AnnData(
        sp.csr_matrix(np.full((120, 10), 60, np.float32)), obs=rna.obs.copy(),
        var=pd.DataFrame({"gene_ids": names, "feature_types": "Antibody Capture"}, index=names),
    )  # fmt: skip
    rna.write_h5ad(tmp_path / "rna.h5ad")
    ad.concat([rna, tags], axis=1, merge="first").write_h5ad(tmp_path / "cite.h5ad")
    code, out, _ = scmf("check", tmp_path / "cite.h5ad", "--json")
    assert code == 0 and any(row["what"] == "feature types" for row in json.loads(out)["findings"])
    tables = {}
    for name in ("rna", "cite"):
        arguments = ("--out", tmp_path / f"{name}.json", "--exact", "--quiet", "--json")
        assert scmf("data", "stats", tmp_path / f"{name}.h5ad", *arguments)[0] == 0
        tables[name] = pd.read_csv(tmp_path / f"{name}.tsv.gz", sep="\t")
    pd.testing.assert_frame_equal(tables["rna"], tables["cite"])
    chosen = tmp_path / "hvg.txt"
    arguments = ("--out", chosen, "--n-top-genes", "20", "--flavor", "seurat")
    assert scmf("data", "hvg", tmp_path / "cite.h5ad", *arguments)[0] == 0
    assert set(chosen.read_text().split()) <= set(GENES)
    yaml = config(tmp_path / "cite.yaml", tmp_path / "cite.h5ad", benchmarks="")
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")[0] == 0
    assert "TotalC" not in (tmp_path / "run/model/vocab.json").read_text()


def few_known(folder, *, known=3, strong=0):
    adata = cells(genes=[*GENES[:known], *(f"ENSG9{i:010d}" for i in range(60 - known))])
    adata.X = adata.X.toarray()
    adata.X[:, 0] += 1 + strong
    adata.write_h5ad(folder / "few.h5ad")
    split_of(adata, folder / "split.tsv")
    return folder / "few.h5ad"


@pytest.mark.parametrize("strong", [0, 1000], ids=["few genes and counts", "few genes with most of the counts"])
def test_few_known_genes_are_refused_unless_they_are_allowed(strong, scmf, base, tmp_path):
    file = few_known(tmp_path, strong=strong)
    embed = ("embed", file, "--model", base / "model", "-o", tmp_path / "out.h5ad", "--quiet")
    code, _, err = scmf(*embed)
    assert code == 3 and "knows 3 of 60 genes (5.0%) and " in err and "% of the counts" in err
    assert "--allow-low-coverage" in err and not (tmp_path / "out.h5ad").exists()
    code, _, err = scmf(*embed, "--allow-low-coverage")
    assert code == 0 and "warning" in err and "knows 3 of 60 genes" in err


def test_every_verb_with_a_vocabulary_refuses_few_known_genes(scmf, base, tmp_path):
    file = few_known(tmp_path)
    data = f"split: {tmp_path / 'split.tsv'}, label_key: cell_type"
    yaml = config(tmp_path / "few.yaml", file, vocabulary=base / "model/model", data=data)
    stream = config(tmp_path / "stream.yaml", file, vocabulary=base / "model/model", data="stream: {}", benchmarks="")
    tokenize = ("data", "tokenize", file, "--vocabulary", base / "model/model", "--max-length", "32")
    verbs = {
        "train": ("train", "--config", yaml, "--out", tmp_path / "run"),
        "stream": ("train", "--config", stream, "--out", tmp_path / "streamed"),
        "evaluate": ("evaluate", base / "model", "--config", yaml),
        "tokenize": (*tokenize, "--out", tmp_path / "tokens"),
    }
    for name, words in verbs.items():
        code, _, err = scmf(*words, "--quiet")
        assert code == 3 and "3 of 60 genes" in err and "--allow-low-coverage" in err, (name, err)
        code, _, err = scmf(*words, "--allow-low-coverage", "--quiet")
        assert code == 0 and "3 of 60 genes" in err, (name, err)
    code, out, _ = scmf("check", file, "--config", yaml, "--json")
    row = next(row for row in json.loads(out)["findings"] if row["what"] == "vocabulary")
    assert code == 1 and row["level"] == "error" and "3 of 60 genes of the file" in row["found"]
    code, out, _ = scmf("check", file, "--config", yaml, "--json", "--allow-low-coverage")
    row = next(row for row in json.loads(out)["findings"] if row["what"] == "vocabulary")
    assert row["level"] == "warning"


def test_two_species_in_one_file_are_told(scmf, base, tmp_path):
    adata = cells(genes=[gene if i % 2 else gene.replace("ENSG", "ENSMUSG") for i, gene in enumerate(GENES)])
    adata.write_h5ad(tmp_path / "two.h5ad")
    code, out, _ = scmf("check", tmp_path / "two.h5ad", "--json")
    row = next(row for row in json.loads(out)["findings"] if row["what"] == "species")
    assert row["level"] == "warning" and "30 of Homo sapiens" in row["found"] and "30 of Mus musculus" in row["found"]
    code, _, err = scmf("embed", tmp_path / "two.h5ad", "--model", base / "model", "-o", tmp_path / "o.h5ad", "--quiet")
    assert code == 0 and "genes of several species" in err


# --- said while it happens -----------------------------------------------------------------------------


def test_what_embed_replaces_is_said(scmf, base, tmp_path):
    words = ("embed", base / "base.h5ad", "--model", base / "model", "--key", "X_mine", "--quiet")
    code, out, err = scmf(*words, "-o", tmp_path / "one.h5ad", "--batch-size", "7", "--device", "cpu", "--json")
    assert code == 0 and err == "" and json.loads(out)["cells"] == 120
    code, _, err = scmf("embed", tmp_path / "one.h5ad", *words[2:], "-o", tmp_path / "two.h5ad")
    assert code == 0 and "obsm['X_mine'] in place of" in err
    one, two = (ad.read_h5ad(tmp_path / f"{name}.h5ad").obsm["X_mine"] for name in ("one", "two"))
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("verb", ["sweep", "reproduce"])
def test_low_coverage_can_be_allowed_in_the_verbs_that_train_more_than_once(verb, scmf, monkeypatch, tmp_path):
    where = {"sweep": "tokenizer_grid.sweep_tokenizers", "reproduce": "reproduce.reproduce"}[verb]
    asked = []

    def stop(*_, overrides, **__):
        asked.append(overrides)
        raise DataError("enough")

    monkeypatch.setattr(f"scmf.experiments.{where}", stop)
    words = {"sweep": ("--tokenizers", "binned", "--model", "m", "--out", tmp_path), "reproduce": ("geneformer",)}[verb]
    for more in ((), ("--allow-low-coverage",)):
        code, _, err = scmf(verb, *words, "--set", "training.lr=1", *more)
        assert code == 3 and "enough" in err
    assert asked == [("training.lr=1",), ("training.lr=1", "data.allow_low_coverage=true")]


@pytest.mark.parametrize("verb", ["embed", "evaluate"])
def test_a_device_that_is_not_there_is_one_error(verb, scmf, base, tmp_path):
    words = {
        "embed": ("embed", base / "base.h5ad", "--model", base / "model", "-o", tmp_path / "o.h5ad"),
        "evaluate": ("evaluate", base / "model"),
    }
    code, _, err = scmf(*words[verb], "--device", "cuda:77", "--quiet")
    assert code == 2 and "device 'cuda:77'" in err and "cpu" in err


def test_labels_that_cannot_be_scored_are_said_before_the_training(scmf, tmp_path):
    adata = cells()
    parts = split_of(adata, tmp_path / "split.tsv")
    labels = adata.obs["cell_type"].to_numpy(object)
    labels[np.flatnonzero(parts == "test")[:4]] = "epsilon"
    labels[np.flatnonzero(parts == "valid")[:3]] = "zeta"
    adata.obs["cell_type"] = labels
    adata.write_h5ad(tmp_path / "cells.h5ad")
    data = f"split: {tmp_path / 'split.tsv'}, label_key: cell_type"
    yaml = config(tmp_path / "c.yaml", tmp_path / "cells.h5ad", every=1, data=data)
    for more in ((), ("--split", tmp_path / "split.tsv")):
        code, out, _ = scmf("check", tmp_path / "cells.h5ad", "--config", yaml, *more, "--json")
        rows = [row for row in json.loads(out)["findings"] if row["what"] == "labels 'cell_type'"]
        assert code == 1
        assert {row["level"]: row["found"] for row in rows} == {
            "error": "no training cell has the label 'epsilon' (4 test cells)",
            "warning": "no training cell has the label 'zeta' (3 valid cells)",
        }
    code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")
    assert code == 0 and "'epsilon' (4 test cells): `scmf evaluate` will refuse" in err
    assert "the label of 3 validation cells (zeta): nothing is probed during training" in err
    code, _, err = scmf("evaluate", tmp_path / "run", "--quiet")
    assert code == 6 and "label missing in the training split: epsilon (4 test cells)" in err


# --- batches -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_batch(base):
    """A model whose embedding depends on the batch."""
    yaml = config(
        base / "batches.yaml", base / "base.h5ad", benchmarks="", data=f"split: {base / 'split.tsv'}, batch_key: batch",
        model="architecture: generative_transformer, options: {batch_labels: true, batch_norm: per_batch}",
        training="pretraining_task: masked_value_prediction", tokenizer="strategy: binned",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["scmf", "train", "--config", f"{yaml}", "--out", f"{base / 'batches'}", "--quiet"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
    return base / "batches"


def test_a_model_with_batch_labels_embeds_by_the_batch_of_its_run_or_one_that_is_named(scmf, base, by_batch, tmp_path):
    words = ("embed", base / "base.h5ad", "--model", by_batch, "--key", "X", "--quiet")
    assert scmf(*words, "-o", tmp_path / "own.h5ad")[0] == 0
    adata = cells()
    adata.obs = adata.obs.rename(columns={"batch": "study"})
    adata.obs["other"] = "b9"
    adata.obs["gaps"] = pd.Categorical(["b0", None] * 60)
    adata.write_h5ad(tmp_path / "study.h5ad")
    words = ("embed", tmp_path / "study.h5ad", "--model", by_batch, "--key", "X", "--quiet")
    code, _, err = scmf(*words, "-o", tmp_path / "no.h5ad")
    assert code == 3 and "no column 'batch' in obs" in err and "--batch-key" in err
    assert scmf(*words, "-o", tmp_path / "named.h5ad", "--batch-key", "study")[0] == 0
    own, named = (ad.read_h5ad(tmp_path / f"{name}.h5ad").obsm["X"] for name in ("own", "named"))
    np.testing.assert_array_equal(own, named)
    code, _, err = scmf(*words, "-o", tmp_path / "no.h5ad", "--batch-key", "other")
    assert code == 3 and "batch 'b9'" in err and "one of b0, b1" in err
    code, _, err = scmf(*words, "-o", tmp_path / "no.h5ad", "--batch-key", "gaps")
    assert code == 3 and "60 of 120 cells have no batch in 'gaps'" in err
    assert not (tmp_path / "no.h5ad").exists()


def test_a_missing_batch_is_no_batch(scmf, base, tmp_path):
    adata = cells()
    split_of(adata, tmp_path / "split.tsv")
    adata.obs["batch"] = pd.Categorical(["b0", "b1", None] * 40)
    adata.write_h5ad(tmp_path / "gaps.h5ad")
    data = f"split: {tmp_path / 'split.tsv'}, label_key: cell_type, batch_key: batch"
    yaml = config(tmp_path / "gaps.yaml", tmp_path / "gaps.h5ad", data=data)
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")[0] == 0
    assert json.loads((tmp_path / "run/model/config.json").read_text())["batch_names"] == ["b0", "b1"]
    code, _, err = scmf("evaluate", tmp_path / "run", "--quiet")
    assert code == 0 and "40 of 120 cells have no batch in 'batch'" in err
    yaml = config(
        tmp_path / "reads.yaml", tmp_path / "gaps.h5ad", benchmarks="", data=data,
        model="architecture: generative_transformer, options: {batch_labels: true}",
        training="pretraining_task: masked_value_prediction", tokenizer="strategy: binned",
    )  # fmt: skip
    code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / "reads", "--quiet")
    assert code == 3 and "cells have no batch in 'batch'" in err


@pytest.mark.parametrize("column", ["part", "split"])
def test_a_column_called_part_or_split_is_data(column, scmf, tmp_path):
    adata = cells()
    adata.obs[column] = ["train"] * 100 + ["test"] * 20
    adata.write_h5ad(tmp_path / "organ.h5ad")
    for name, data in (("memory", {}), ("stream", {"data": "stream: {}"})):
        yaml = config(tmp_path / f"{name}.yaml", tmp_path / "organ.h5ad", benchmarks="", **data)
        code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / name)
        assert code == 0 and "pretraining on 120 cells" in err
