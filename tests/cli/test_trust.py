"""Through the command line: no code of others is run unasked, no bytes of other files are taken."""

import contextlib
import json
import pickle  # noqa: TID251  # planted, to see that nobody opens it
import shutil

import anndata as ad
import h5py
import numpy as np
import pytest

from scmf.core.errors import ModelError
from scmf.hub.folder import copy_checkpoint
from scmf.models.origin import Checkpoint
from tests.conftest import synthetic_cells
from tests.fixtures.commands import SMALL, edit
from tests.training.test_checkpoints import Marker


# --- code of others ---------------------------------------------------------------------
def test_pickles_in_the_folder_of_a_stranger_never_run(run, again, tmp_path, command):
    marker = tmp_path / "marker"
    heads = run / "finetuning" / "pretrained" / "checkpoints" / "step-00000003"
    heads.mkdir(parents=True)
    for folder in (*(run / "pretraining" / "checkpoints").iterdir(), heads, run / "model"):
        for name in ("custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "pytorch_model.bin"):
            (folder / name).write_bytes(pickle.dumps(Marker(marker)))
        (folder / "checksums.json").unlink(missing_ok=True)
    again(run)
    command("evaluate", run, "--set", "eval.finetune.max_epochs=1")
    with contextlib.suppress(ModelError):
        copy_checkpoint(Checkpoint.at(run), tmp_path / "p")
    assert not marker.exists() and not list(tmp_path.glob("p/*.bin"))


def test_auto_map_to_another_folder_asks_for_trust_before_publish_runs_it(run, tmp_path, command):
    marker, evil = tmp_path / "marker", tmp_path / "evil"
    evil.mkdir()
    (evil / "theirs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    for name, where in (("config.json", "AutoModel"), ("tokenizer_config.json", "AutoTokenizer")):
        copy = shutil.copytree(run, tmp_path / name)
        (copy / "model" / "checksums.json").unlink()
        reference = f"{evil}--theirs.Model"
        edit(copy / "model" / name, lambda c: c["auto_map"].update({where: reference}))  # noqa: B023
        code, said = command("publish", copy, "--repo", "a/b", "--out", tmp_path / "p", "--dry-run")
        assert code == 4 and "--trust" in said and reference in said
    assert not marker.exists()


@pytest.mark.parametrize("what", ["adapter", "kernel"])
def test_weights_and_kernels_of_elsewhere_ask_for_trust(run, cells, tmp_path, command, what):
    (run / "model" / "checksums.json").unlink()
    if what == "adapter":
        (run / "model" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    else:
        edit(run / "model" / "config.json", lambda c: c.update(attn_implementation="evil/kernel"))
    for words in (
        ("embed", cells, "--model", run, "--output", tmp_path / "out.h5ad"),
        ("publish", run, "--repo", "a/b", "--out", tmp_path / "p", "--dry-run"),
    ):
        code, said = command(*words)
        assert code == 2 and "--trust" in said and ("adapter_config" in said or "evil/kernel" in said)


def test_parity_of_a_strangers_recipe_asks_for_trust(toy_env, tmp_path, monkeypatch, command):
    marker, recipe = tmp_path / "marker", tmp_path / "recipe"
    recipe.mkdir()
    for name in ("recipe.yaml", "expected.yaml"):
        shutil.copy(toy_env / name, recipe / name)
    body = "def cases(folder, data_dir=None):\n    yield from ()\n"
    (recipe / "parity_theirs.py").write_text(f"open({str(marker)!r}, 'w')\n{body}")
    monkeypatch.setenv("SCMF_REFERENCE_DIR", str(tmp_path))
    for tiers in (("--tier", "parity"), ()):
        code, said = command("reproduce", recipe, *tiers)
        assert code == 2 and "parity_theirs.py" in said and "--trust" in said
    assert not marker.exists()
    command("--trust", "reproduce", recipe, "--tier", "parity")
    assert marker.exists()


def test_a_package_in_the_current_folder_that_a_card_names_is_not_run(tmp_path, monkeypatch, command):
    marker = tmp_path / "marker"
    package = tmp_path / "theirs" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (package / "cells.h5ad").write_text("cells")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("theirs.inner", "theirs", "os.path", "__main__"):
        (tmp_path / "theirs.yaml").write_text(json.dumps({
            "name": "theirs", "title": "t", "kind": "cells", "organism": "Homo sapiens", "license": "CC0-1.0",
            "citation": "c", "n_cells": 1, "n_genes": 1, "counts": "X", "gene_ids": "var_names",
            "files": [{"name": "cells.h5ad", "sha256": "0" * 64, "sources": [
                {"kind": "installed", "package": name, "path": "cells.h5ad"}]}],
        }))  # fmt: skip
        code, said = command("data", "fetch", tmp_path / "theirs.yaml")
        assert code == 3, said
    assert not marker.exists()


@pytest.mark.parametrize("column", ["donor_id", "_index"])
def test_a_pickle_in_a_zarr_store_is_never_opened(run, toy_env, tmp_path, command, column):
    marker, store = tmp_path / "marker", tmp_path / "cells.zarr"
    cells = synthetic_cells(20, seed=3)
    cells.obs["donor_id"] = cells.obs["donor_id"].astype(str)
    with ad.settings.override(zarr_write_format=2):
        cells.write_zarr(store)
    folder = store / "obs" / column
    shutil.rmtree(folder)
    folder.mkdir()
    array = {
        "zarr_format": 2, "shape": [20], "chunks": [20], "dtype": "|O", "compressor": None, "fill_value": None,
        "order": "C", "filters": [{"id": "pickle", "protocol": 4}],
    }  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(array))
    (folder / ".zattrs").write_text(json.dumps({"encoding-type": "string-array", "encoding-version": "0.2.0"}))
    (folder / "0").write_bytes(pickle.dumps(Marker(marker)))
    (store / ".zmetadata").unlink(missing_ok=True)
    recipe = ("--config", toy_env / "recipe.yaml", "--set", "data.dataset=null", "--set", "data.split=null", *SMALL)
    for words in (
        ("data", "convert", store, "--out", tmp_path / "zarr"),
        ("data", "split", store, "--out", tmp_path / "split.tsv", "--by", "donor_id"),
        ("embed", store, "--model", run, "--output", tmp_path / "out.zarr"),
        ("train", *recipe, "--set", f"data.files=[{store}]", "--set", "data.stream={}", "--out", tmp_path / "o"),
    ):
        command(*words)
        assert not marker.exists(), words


# --- bytes of other files ---------------------------------------------------------------------
def outside(cells, path, secret, kind):
    """A copy of an .h5ad file whose ``obs/donor_id/codes`` (or a part of it) lies in another file."""
    shutil.copy(cells, path)
    with h5py.File(path, "r+") as file:
        n = file["obs"].attrs["column-order"]
        assert len(n)
        if kind == "link":
            with h5py.File(secret, "w") as other:
                other["x"] = np.arange(20)
            file["uns/more"] = h5py.ExternalLink(str(secret), "x")
        elif kind == "raw":
            secret.write_bytes(b"secret of the user!!")
            file.create_dataset("obsm/X_theirs", (20, 1), "u1", external=[(str(secret), 0, 20)])
        else:
            with h5py.File(secret, "w") as other:
                other["x"] = np.arange(20)
            layout = h5py.VirtualLayout((20, 1), "i8")
            layout[:, 0] = h5py.VirtualSource(str(secret), "x", (20,))
            file.create_virtual_dataset("obsm/X_theirs", layout)
    return path


@pytest.mark.parametrize("kind", ["link", "raw", "virtual"])
def test_a_file_that_takes_bytes_of_another_file_is_refused_by_every_verb(run, cells, tmp_path, toy_env, command, kind):
    theirs = outside(cells, tmp_path / "theirs.h5ad", tmp_path / "secret", kind)
    recipe = ("--config", toy_env / "recipe.yaml", "--set", "data.dataset=null", "--set", "data.split=null")
    for words in (
        ("embed", theirs, "--model", run, "--output", tmp_path / "out.h5ad"),
        ("check", theirs),
        ("data", "stats", theirs, "--out", tmp_path / "stats.json"),
        ("data", "convert", theirs, "--out", tmp_path / "zarr"),
        ("train", *recipe, "--set", f"data.files=[{theirs}]", "--out", tmp_path / "o"),
    ):
        code, said = command(*words)
        assert code in (1, 3) and "takes content from elsewhere" in said, (words, said)
    assert not (tmp_path / "out.h5ad").exists()
