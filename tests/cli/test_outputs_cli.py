"""Outputs and foreign files through the command line: nothing is computed first, nothing foreign is rewritten."""

import json
import os
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from scmf.evaluation import embedder, evaluate_run
from tests.cli.test_cli import command  # noqa: F401  (fixture)
from tests.conftest import synthetic_cells
from tests.fixtures.small_world import CONFIG, make_files


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The small folder with a run in it."""
    from scmf.core.config.recipe import load_recipe
    from scmf.training.data import prepare
    from scmf.training.pretrain import pretrain

    root = tmp_path_factory.mktemp("small")
    make_files(root)
    here = Path.cwd()
    os.chdir(root)
    try:
        recipe = load_recipe("config.yaml")
        pretrain(recipe, prepare(recipe.config), root / "run")
    finally:
        os.chdir(here)
    return root


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "here"


@pytest.fixture
def no_model(monkeypatch):
    """The work begins with the model: whoever loads it before the output was tried fails."""

    def load(folder):
        raise AssertionError("the model was loaded before the output was tried")

    for module in (evaluate_run, embedder):
        monkeypatch.setattr(module, "load_run_model", load)


# --- outputs are tried before the work --------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["-o", "notes.txt/x.h5ad"], 8, "a file where a folder is needed"),
        (["-o", "toy"], 2, "ends in .h5ad"),
        (["-o", "toy.h5ad/"], 8, "a folder"),
        (["-o", "out.zarr"], 2, "ends in .h5ad"),
        (["-o", "cells.h5ad"], 2, "output is the input"),
        (["-o", "./toy/../cells.h5ad"], 2, "output is the input"),
        (["-o", "x" * 300 + ".h5ad"], 8, "too long"),
        (["-o", "s3://bucket/x.h5ad"], 2, "address"),
        (["--key", "a/b"], 2, "without /"),
        (["--key", ""], 2, "without /"),
    ],
)
def test_embed_tries_its_output_first(folder, command, no_model, more, code, words):  # noqa: F811
    (folder / "toy.h5ad").mkdir()
    before = sorted(path.name for path in folder.iterdir())
    found, out, err = command("embed", "cells.h5ad", "--model", "run", *more)
    assert (found, out) == (code, "") and words in err
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "config.yaml", "--out", "notes.txt"],
        [
            "sweep",
            "--tokenizers",
            "binned",
            "--model",
            "transformer_encoder",
            "--config",
            "config.yaml",
            "--out",
            "notes.txt",
        ],
        ["reproduce", "recipe", "--runs", "notes.txt"],
        ["reproduce", "recipe", "--results", "notes.txt"],
        ["reproduce", "recipe", "--reports", "notes.txt/x"],
        ["evaluate", "run", "--tasks", "all", "--suite", "suite.yaml", "--results", "notes.txt"],
        ["compare", "run", "--out", "notes.txt"],
        ["compare", "run", "--history", "notes.txt/x.md"],
        ["publish", "run", "--repo", "a/b", "--dry-run", "--out", "notes.txt"],
        ["schema", "--out", "toy"],
        ["data", "stats", "cells.h5ad", "--out", "notes.txt/x.json"],
        ["data", "convert", "cells.h5ad", "--out", "notes.txt"],
        ["data", "tokenize", "cells.h5ad", "--vocabulary", "run/model", "--out", "notes.txt"],
        ["data", "hvg", "cells.h5ad", "--out", "toy"],
        ["data", "split", "cells.h5ad", "--by", "donor_id", "--out", "notes.txt/x.tsv"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_verb_tries_its_output_and_leaves_what_is_there(folder, command, words):  # noqa: F811
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = command(*words)
    assert code == 8 and out == "" and err.splitlines()[-5].startswith("ResourceError"), err
    assert "where: --" in err and "do: " in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("verb", ["stats", "hvg", "split", "convert", "tokenize"])
def test_an_output_that_is_the_input_is_refused(folder, command, verb):  # noqa: F811
    (folder / "in.json").hardlink_to(folder / "few.h5ad")
    more = {"split": ["--by", "donor_id"], "tokenize": ["--vocabulary", "run/model"]}.get(verb, [])
    name = "in.json" if verb == "stats" else "few.h5ad"
    before = (folder / "few.h5ad").read_bytes()
    code, _, err = command("data", verb, "few.h5ad", "--out", name, *more)
    assert code == 2 and "output is the input" in err
    assert (folder / "few.h5ad").read_bytes() == before


def test_a_disk_that_becomes_full_is_one_error_and_leaves_nothing(folder, command, monkeypatch):  # noqa: F811
    def full(*args):
        raise OSError(28, "No space left on device", "out.h5ad")

    monkeypatch.setattr("shutil.copyfile", full)
    code, _, err = command("embed", "cells.h5ad", "--model", "run", "-o", "out.h5ad")
    assert code == 8 and "no space left on the disk" in err and "out.h5ad" in err
    assert not [path for path in folder.iterdir() if "out.h5ad" in path.name]


# --- a copy with vectors, nothing foreign rewritten --------------------------------------------------


def embed(command, *words):  # noqa: F811
    code, out, err = command("embed", *words, "--json", "--quiet")
    assert code == 0, err
    return json.loads(out)


def foreign_parts(folder):
    """What a file of others holds, as SeuratDisk and newer programs write it."""
    with h5py.File(folder / "cells.h5ad", "a") as file:
        text = h5py.string_dtype()
        file.copy("var", "raw/var") if "raw" in file else file.create_group("raw")
        if "var" not in file["raw"]:
            file.copy("var", "raw/var")
            file.copy("X", "raw/X")
            file["raw"].attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        table = file["raw/var"]
        names = table[table.attrs["_index"]][()]
        del table[table.attrs["_index"]]
        for name in ("_index", "features"):
            node = table.create_dataset(name, data=names, dtype=text)
            node.attrs["encoding-type"], node.attrs["encoding-version"] = "string-array", "0.2.0"
        table.attrs["_index"], table.attrs["column-order"] = "features", np.array(["_index"], dtype=text)
        node = file.require_group("uns").create_dataset("future", data=np.arange(3))
        node.attrs["encoding-type"], node.attrs["encoding-version"] = "awesome-array", "9.9.9"
        file.create_group("uns/a").create_dataset("b/c", data=1)
        file.create_group("mine").attrs["of"] = "somebody"
        file.attrs["encoding-type"] = "AnnData"


def test_embed_copies_and_adds(folder, command):  # noqa: F811
    foreign_parts(folder)
    stored = (folder / "cells.h5ad").read_bytes()
    answer = embed(command, "cells.h5ad", "--model", "run", "-o", "out.h5ad", "--key", "X_new")
    assert (folder / "cells.h5ad").read_bytes() == stored
    with h5py.File(folder / "cells.h5ad") as old, h5py.File(folder / answer["file"]) as new:
        before, after = [], []
        old.visit(before.append)
        new.visit(after.append)
        added = {name for name in set(after) - set(before) if not name.startswith("uns/scmf")}
        assert added == {"obsm/X_new"} and set(before) <= set(after) and "uns/scmf/X_new/model_sha256" in after
        for name in before:
            assert dict(new[name].attrs).keys() == dict(old[name].attrs).keys()
            if isinstance(old[name], h5py.Dataset):
                np.testing.assert_array_equal(new[name][()], old[name][()])
        assert new["obsm/X_new"].shape == (48, 8) and new["mine"].attrs["of"] == "somebody"


def test_embed_replaces_vectors_of_the_same_key_in_the_copy_alone_and_says_so(folder, command):  # noqa: F811
    cells = synthetic_cells(48)
    cells.obsm["X_own"] = np.zeros((48, 3))
    cells.write_h5ad(folder / "own.h5ad")
    code, _, err = command("embed", "own.h5ad", "--model", "run", "--key", "X_own", "-o", "out.h5ad")
    assert code == 0 and "X_own" in err and "in place of" in err
    assert ad.read_h5ad(folder / "own.h5ad").obsm["X_own"].shape == (48, 3)
    assert ad.read_h5ad(folder / "out.h5ad").obsm["X_own"].shape == (48, 8)


def test_obsm_of_before_anndata_07_is_kept(folder, command):  # noqa: F811
    with h5py.File(folder / "cells.h5ad", "a") as file:
        del file["obsm"]
        file["obsm"] = np.zeros(48, dtype=[("X_pca", "f4", (2,)), ("X_umap", "f4", (2,))])
    out = embed(command, "cells.h5ad", "--model", "run", "-o", "out.h5ad")["file"]
    with h5py.File(folder / out) as file:
        assert set(file["obsm"]) == {"X_pca", "X_umap", "X_config"} and file["obsm/X_pca"].shape == (48, 2)


@pytest.mark.parametrize("version", [2, 3])
def test_embed_takes_a_zarr_group_and_makes_one(folder, command, version):  # noqa: F811
    shutil.rmtree(folder / "cells.zarr")
    ad.settings.zarr_write_format = version
    try:
        ad.read_h5ad(folder / "cells.h5ad").write_zarr(folder / "cells.zarr")
    finally:
        ad.settings.zarr_write_format = 2
    answer = embed(command, "cells.zarr", "--model", "run")
    assert answer["file"] == "cells.config.zarr"
    of_file = embed(command, "cells.h5ad", "--model", "run")
    vectors = [ad.io.read_elem(zarr.open_group(answer["file"], mode="r")["obsm"][answer["key"]])]
    vectors.append(ad.read_h5ad(of_file["file"]).obsm[of_file["key"]])
    np.testing.assert_array_equal(*vectors)
    assert ad.read_zarr(answer["file"]).obsm[answer["key"]].shape == (48, 8)
    code, _, err = command("embed", "cells.zarr", "--model", "run")
    assert code == 2 and "exists" in err


def test_embed_of_several_stores_and_addresses_needs_a_name_for_the_vectors(folder, command):  # noqa: F811
    for file, words in (("*.h5ad", "3 files"), ("s3://bucket/x.h5ad?token=secret", "the address s3://bucket/x.h5ad")):
        for more in ([], ["--in-place"]):
            code, _, err = command("embed", file, "--model", "run", *more)
            assert code == 2 and words in err and "-o vectors.h5ad" in err and "secret" not in err


# --- what is not known to this anndata is left out, by name ------------------------------------------


def test_elements_that_nobody_needs_do_not_stop_a_command(folder, command):  # noqa: F811
    cells = ad.read_h5ad(folder / "cells.h5ad")
    cells.obsm["table"] = pd.DataFrame(np.ones((48, 2)), index=cells.obs_names, columns=["x", "y"])
    cells.write_h5ad(folder / "cells.h5ad")
    with h5py.File(folder / "cells.h5ad", "a") as file:
        group = file["obsm/table"]
        index = group.attrs["_index"]
        group[index][...] = np.array([str(i) for i in range(48)], dtype=object)
        file["obs/depth"].attrs["encoding-type"] = "awesome-array"
    for words in (["check", "cells.h5ad"], ["train", "--config", "config.yaml", "--out", "new"]):
        code, _, err = command(*words)
        assert code == 0 and "obsm/table" in err and "obs/depth" in err, err
    assert embed(command, "cells.h5ad", "--model", "run")["cells"] == 48


def test_counts_that_cannot_be_read_are_an_error_and_no_other_matrix_is_taken(folder, command):  # noqa: F811
    cells = ad.read_h5ad(folder / "cells.h5ad")
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad(folder / "cells.h5ad")
    with h5py.File(folder / "cells.h5ad", "a") as file:
        file["layers/counts"].attrs["encoding-type"] = "awesome-matrix"
    code, _, err = command("check", "cells.h5ad")
    assert code == 3 and "layers/counts" in err


# --- zarr, folders and patterns in memory; the run's folder as model.checkpoint -----------------------


def test_files_may_be_zarr_folders_and_patterns_without_a_stream(folder, command):  # noqa: F811
    (folder / "one").mkdir()
    shutil.copy(folder / "cells.h5ad", folder / "one" / "cells.h5ad")
    losses = set()
    for number, name in enumerate(("cells.h5ad", "cells.zarr", "one", "one/*.h5ad", "file://cells.h5ad")):
        words = ["train", "--config", "config.yaml", "--out", f"new{number}", "--set", f"data.files={name}", "--quiet"]
        code, _, err = command(*words)
        assert code == 0, err
        losses.add((folder / f"new{number}" / "pretraining" / "log.jsonl").read_text())
    assert len(losses) == 1
    assert command("evaluate", "new1", "--quiet")[0] == 0


def test_a_streamed_run_can_be_evaluated(folder, command):  # noqa: F811
    code, _, err = command(
        "train", "--config", "streamed.yaml", "--out", "st", "--set", "data.label_key=cell_type", "--quiet"
    )
    assert code == 0, err
    code, out, err = command("evaluate", "st", "--json", "--quiet")
    assert code == 0 and json.loads(out), err


def test_the_folder_of_a_run_is_a_checkpoint(folder, command):  # noqa: F811
    for number, name in enumerate(("run", "run/model")):
        words = ["--set", f"model.checkpoint={name}", "--set", "tokenizer.vocabulary=run/model", "--quiet"]
        code, _, err = command("train", "--config", "config.yaml", "--out", f"more{number}", *words)
        assert code == 0, err


# --- hints that can be followed ----------------------------------------------------------------------


def test_a_cell_without_counts_is_named(folder, command):  # noqa: F811
    cells = ad.read_h5ad(folder / "cells.h5ad")
    dense = cells.X.toarray()
    dense[7] = 0
    cells.X = dense
    cells.write_h5ad(folder / "cells.h5ad")
    code, _, err = command("embed", "cells.h5ad", "--model", "run")
    assert code == 3 and "'cell7'" in err and "empty=" not in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["data", "stats", "cells.h5ad", "--out", "q.json", "--n-counts", "donor_id"], 3, "total counts of each cell"),
        (["data", "stats", "cells.h5ad", "--out", "q.json", "--target", "-1"], 2, "above 0"),
        (["data", "stats", "cells.h5ad", "--out", "q.json", "--target", "nan"], 2, "above 0"),
        (["train", "--config", "config.yaml", "--out", "s", "--set", "training.seed=99999999999999999999"], 2, "seed"),
        (["train", "--config", "config.yaml", "--out", "s", "--set", "model.hidden_dim=1000000000"], 8, "memory"),
        (["reproduce", "recipe", "--seeds", "0-99999999"], 2, "seeds"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_values_that_make_no_sense_are_one_error(folder, command, words, code, said):  # noqa: F811
    found, out, err = command(*words)
    assert (found, out) == (code, "") and said in err


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"recipe": 3}', '{"recipe": "a", "config": []}', "[" * 9999])
def test_a_damaged_note_of_a_run_is_one_error(folder, command, content):  # noqa: F811
    (folder / "run" / "run.json").write_text(content)
    code, _, err = command("embed", "cells.h5ad", "--model", "run")
    assert code == 2 and "run.json" in err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.json"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_model_is_one_error(folder, command, name, share):  # noqa: F811
    path = folder / "run" / "model" / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    code, _, err = command("embed", "cells.h5ad", "--model", "run")
    assert code == 4 and "run/model" in err, err


def test_a_damaged_log_is_cut_where_it_can_be_read(folder, command):  # noqa: F811
    log = folder / "run" / "pretraining" / "log.jsonl"
    log.write_bytes(b"\xff\n{}\n[1]\n" + log.read_bytes() + b'{"step": ')
    assert command("train", "--config", "config.yaml", "--out", "run", "--quiet")[0] == 0
    assert all("step" in json.loads(line) for line in log.read_text().splitlines())
    assert CONFIG["training"]["max_steps"] == 2
