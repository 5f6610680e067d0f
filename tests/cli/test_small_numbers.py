"""Small numbers through the command line: an answer or one error, never a traceback."""

import json

import numpy as np
import pandas as pd
import pytest

from scmf.models.run_folder import RunFolder
from scmf.results.ledger import write_result
from tests.cli.test_labels_and_genes import base, cells, config, scmf, split_of  # noqa: F401  (fixtures)
from tests.fixtures.leaderboard_pages import result

FINETUNE = "finetune: {max_epochs: 1, batch_size: 32}"


def write(folder, adata, *, parts=None, benchmarks="annotation", every=1, **more):
    """Files of a run: cells, split, configuration."""
    adata.write_h5ad(folder / "cells.h5ad")
    found = split_of(adata, folder / "split.tsv")
    if parts is not None:
        found = np.asarray(parts)
        table = pd.DataFrame({"cell_id": adata.obs_names, "split": found})
        table.to_csv(folder / "split.tsv", sep="\t", index=False)
    data = f"split: {folder / 'split.tsv'}, label_key: cell_type, batch_key: batch"
    more = {"evaluation": FINETUNE, **more}
    return config(folder / "run.yaml", folder / "cells.h5ad", data=data, benchmarks=benchmarks, every=every, **more)


def both(scmf, folder, yaml):  # noqa: F811
    """Train, then evaluate: both exit codes and messages."""
    first = scmf("train", "--config", yaml, "--out", folder / "run", "--quiet")
    return first, scmf("evaluate", folder / "run", "--quiet", "--json") if first[0] == 0 else (None, "", "")


def test_one_class_is_one_error_and_is_said_before(scmf, tmp_path):  # noqa: F811
    adata = cells()
    adata.obs["cell_type"] = "alpha"
    (code, _, err), (later, out, _) = both(scmf, tmp_path, write(tmp_path, adata))
    assert code == 0 and "all training cells have the label 'alpha': nothing is probed" in err
    assert later == 6 and "training cells have the label 'alpha'" in json.loads(out)["found"]


def test_a_class_and_a_batch_of_one_cell_are_scored(scmf, tmp_path):  # noqa: F811
    adata = cells()
    adata.obs["cell_type"] = ["rare", *adata.obs["cell_type"][1:]]
    adata.obs["batch"] = ["single", *adata.obs["batch"][1:]]
    (code, _, err), (later, out, _) = both(scmf, tmp_path, write(tmp_path, adata))
    assert code == 0 and err == ""
    assert later == 0 and {score["protocol"] for score in json.loads(out)} >= {"linear_probe", "finetuned_head"}


@pytest.mark.parametrize("empty", ["train", "test", "valid"])
@pytest.mark.parametrize("stream", [False, True], ids=["memory", "stream"])
def test_an_empty_part_is_said_before_the_training(empty, stream, scmf, tmp_path):  # noqa: F811
    adata = cells()
    other = "test" if empty == "train" else "train"
    parts = np.where((found := split_of(adata, tmp_path / "s.tsv")) == empty, other, found)
    yaml = write(tmp_path, adata, parts=parts)
    if stream:
        yaml.write_text(yaml.read_text().replace("label_key:", "stream: {}, label_key:"))
    code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")
    if empty == "train":
        assert code == 3 and "is in split 'train'" in err
    elif empty == "test":
        assert code == 0 and "no labeled cells in split 'test'" in err
        code, _, err = scmf("evaluate", tmp_path / "run", "--quiet")
        assert code == 6 and "no cells in part 'test'" in err
    else:
        assert code == 0 and (stream or "no validation cell has a label: nothing is probed" in err)


def test_fewer_cells_than_neighbors(scmf, tmp_path):  # noqa: F811
    adata = cells(12)
    (code, _, err), (later, out, error) = both(scmf, tmp_path, write(tmp_path, adata, tokenizer="top_genes: 30"))
    assert code == 0, err
    assert later == 0, out + error


def test_integration_of_very_few_cells_is_one_error(scmf, tmp_path):  # noqa: F811
    yaml = write(tmp_path, cells(12), benchmarks="integration", evaluation="knn_neighbors: 5")
    (code, _, err), (later, out, _) = both(scmf, tmp_path, yaml)
    assert code == 0, err
    assert later == 6 and "batch" in json.loads(out)["wanted"]


@pytest.mark.parametrize("case", ["one gene", "no count", "one cell", "one donor"])
def test_verbs_of_data_end_in_an_answer_or_one_error(case, scmf, base, tmp_path):  # noqa: F811
    adata = {
        "one gene": lambda: cells()[:, :1].copy(), "one cell": lambda: cells()[:1].copy(), "no count": cells,
        "one donor": cells,
    }[case]()  # fmt: skip
    if case == "no count":
        adata.X = adata.X.toarray()
        adata.X[3] = 0
    if case == "one donor":
        adata.obs["donor"] = "d0"
    file = tmp_path / "cells.h5ad"
    adata.write_h5ad(file)
    out = tmp_path / "out"
    verbs = {
        "check": ("check", file),
        "stats": ("data", "stats", file, "--out", out / "stats.json", "--quiet"),
        "split": ("data", "split", file, "--by", "donor", "--out", out / "split.tsv"),
        "random": ("data", "split", file, "--strategy", "random", "--out", out / "random.tsv"),
        "embed": ("embed", file, "--model", base / "model", "-o", tmp_path / "embedded.h5ad", "--quiet"),
    }
    for flavor in ("seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper", "pearson_residuals"):
        verbs[flavor] = ("data", "hvg", file, "--flavor", flavor, "--n-top-genes", "20", "--out", out / "genes.txt")
    out.mkdir()
    for name, words in verbs.items():
        code, printed, err = scmf(*words)
        assert code in (0, 1, 3), (name, err)
        assert code != 3 or "do:" in err, (name, err)
        assert name != "check" or printed
        if (case, name) == ("no count", "embed"):
            assert code == 3 and "cell3" in err
        if (case, name) == ("one donor", "split"):
            assert code == 3 and "donor" in err
        if (case, name) == ("one cell", "embed"):
            assert code == 0


@pytest.mark.parametrize("case", ["one gene", "no count", "one donor"])
def test_training_on_little_ends_in_an_answer_or_one_error(case, scmf, tmp_path):  # noqa: F811
    adata = cells()[:, :1].copy() if case == "one gene" else cells()
    if case == "no count":
        adata.X = adata.X.toarray()
        adata.X[3] = 0
    if case == "one donor":
        adata.obs["donor"] = "d0"
    (code, _, err), (later, out, _) = both(scmf, tmp_path, write(tmp_path, adata))
    assert (code == 3 and "cell3" in err) if case == "no count" else code == 0, err
    assert later == {"one gene": 6, "no count": None, "one donor": 0}[case], out


def test_top_genes_gives_as_many_or_says_why_not(scmf, tmp_path):  # noqa: F811
    yaml = write(tmp_path, cells(), benchmarks="", tokenizer="top_genes: 2000", evaluation="knn_neighbors: 5")
    code, _, err = scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")
    assert code == 0 and "60 genes instead of 2,000: there are 60 genes" in err
    words = ("data", "hvg", tmp_path / "cells.h5ad", "--flavor", "seurat", "--out", tmp_path / "genes.txt")
    code, out, err = scmf(*words, "--n-top-genes", "2000", "--json")
    assert code == 0 and json.loads(out)["chosen"] == 60 and "there are 60 genes" in err
    code, out, err = scmf(*words, "--n-top-genes", "20", "--json")
    assert code == 0 and json.loads(out)["chosen"] == 20 and err == ""


@pytest.mark.parametrize("scale", ["per million", "per million of some genes", "per 10,000"])
def test_rounded_normalized_values_are_no_counts(scale, scmf, tmp_path):  # noqa: F811
    adata = cells()
    x = adata.X.toarray()
    target = 1e4 if scale == "per 10,000" else 1e6
    x = np.rint(x / x.sum(axis=1, keepdims=True) * target).astype(np.float32)
    adata.X = x
    if scale == "per million of some genes":
        adata = adata[:, 10:50].copy()
    adata.write_h5ad(tmp_path / "cpm.h5ad")
    code, _, err = scmf("data", "stats", tmp_path / "cpm.h5ad", "--out", tmp_path / "s.json", "--quiet")
    assert code == 3 and "whole numbers up to" in err and "rounded" in err or "per million" in err
    assert scmf("check", tmp_path / "cpm.h5ad")[0] == 1
    yaml = config(tmp_path / "c.yaml", tmp_path / "cpm.h5ad", benchmarks="")
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")[0] == 3


def test_counts_drawn_down_to_one_depth_are_counts(scmf, tmp_path):  # noqa: F811
    rng = np.random.default_rng(0)
    adata = cells()
    p = adata.X.toarray() + 0.1
    adata.X = np.stack([rng.multinomial(2000, row / row.sum()) for row in p]).astype(np.float32)
    adata.write_h5ad(tmp_path / "down.h5ad")
    assert scmf("data", "stats", tmp_path / "down.h5ad", "--out", tmp_path / "s.json", "--quiet")[0] == 0


def test_corrected_counts_are_rounded_in_every_verb_that_reads_them(scmf, base, tmp_path):  # noqa: F811
    adata = cells()
    x = adata.X.toarray()
    rng = np.random.default_rng(0)
    x[x > 3] -= rng.random(int((x > 3).sum())).astype(np.float32) * 0.4
    adata.X = x
    file = tmp_path / "soup.h5ad"
    adata.write_h5ad(file)
    verbs = {
        "stats": ("data", "stats", file, "--out", tmp_path / "s.json", "--quiet"),
        "hvg": ("data", "hvg", file, "--flavor", "seurat", "--out", tmp_path / "g.txt", "--n-top-genes", "20"),
        "convert": ("data", "convert", file, "--out", tmp_path / "zarr", "--quiet"),
        "genes": ("data", "genes", file, "--vocabulary", tmp_path / "list.txt", "--quiet"),
        "tokenize": ("data", "tokenize", file, "--vocabulary", base / "model/model", "--max-length", "32", "--out",
                     tmp_path / "tokens", "--quiet"),
        "embed": ("embed", file, "--model", base / "model", "-o", tmp_path / "e.h5ad", "--quiet"),
        "check": ("check", file),
    }  # fmt: skip
    (tmp_path / "list.txt").write_text("\n".join(adata.var_names[:40]) + "\n")
    for name, words in verbs.items():
        code, _, err = scmf(*words)
        assert code == (1 if name == "check" else 3), (name, err)
        assert name == "check" or "counts_rounding" in err
        code, _, err = scmf(*words, "--counts-rounding", "round")
        assert code == 0, (name, err)
    assert scmf("check", file, "--counts-rounding", "up")[0] == 2
    code, _, err = scmf("data", "convert", file, "--out", tmp_path / "z2", "--counts-rounding", "accept")
    assert code == 2 and "whole counts" in err
    yaml = config(tmp_path / "c.yaml", file, benchmarks="", data="counts_rounding: accept", tokenizer="top_genes: 20")
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet")[0] == 0


@pytest.mark.parametrize("same_seed", [False, True], ids=["seeds", "one seed"])
def test_compare_names_runs_by_their_folder_and_lists_few_donors(same_seed, scmf, tmp_path):  # noqa: F811
    """Two donors give no interval: their values stand there. Two runs of one seed are two rows, none is lost."""
    folders = [tmp_path / place / "run" for place in ("first", "second")]
    for number, folder in enumerate(folders):
        each = {"d4": 0.75 + number / 100, "d5": 0.85 + number / 100}
        few = {"units": {"unit": "donors", "values": {"accuracy": each}}}
        metrics, seed = {"accuracy": 0.8 + number / 100}, 0 if same_seed else number
        write_result(RunFolder(folder).results, result("pretrained", metrics=metrics, seed=seed, details=few))
    pages = tmp_path / "pages"
    words = ("--results", tmp_path / "none", "--out", pages, "--quiet")
    code, out, err = scmf("compare", folders[0], *words)
    assert code == 0, err
    assert "pretrained [run]" in out and "d4: 0.7500, d5: 0.8500" in (pages / "README.md").read_text()
    assert "d4: 0.7500, d5: 0.8500" in (pages / "index.html").read_text()
    code, _, err = scmf("compare", *folders, *words)
    assert code == 0, err
    (table,) = json.loads((pages / "leaderboard.json").read_text())["tables"]
    rows = {row["name"].partition("[")[2]: row["metrics"]["accuracy"] for row in table["rows"]}
    if same_seed:
        assert {name: row["value"] for name, row in rows.items()} == {"first/run]": 0.8, "second/run]": 0.81}
        assert rows["first/run]"]["each"] == {"d4": 0.75, "d5": 0.85}
        assert {row["mark"] for row in rows.values()} == {"one sample: not compared", "best"}
    else:
        assert rows["first/run, second/run]"]["each"] == pytest.approx({"d4": 0.755, "d5": 0.855})
        assert rows["first/run, second/run]"]["seeds"] == {"0": 0.8, "1": 0.81}


def test_compare_of_runs_without_numbers_is_one_error(scmf, tmp_path):  # noqa: F811
    RunFolder(tmp_path / "run").results.mkdir(parents=True)
    code, _, err = scmf("compare", tmp_path / "run", "--out", tmp_path / "pages")
    assert code == 2 and "a run without results" in err and "scmf evaluate" in err
