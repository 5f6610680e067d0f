"""`scmf models`: fetched at the pinned revision, verified, converted once; every way in which that is refused."""

import json
import shutil
import threading

import anndata as ad
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scmf.core.errors import ChecksumError, ConfigError, ModelError, SourceError
from scmf.core.files import sha256_file
from scmf.models.published import pull as pulling
from scmf.models.published.cards import published
from scmf.models.published.pull import pull
from tests.models.published.conftest import PATH, REPO

NAME = "geneformer@v2-104m"


def status(zoo, name):
    return next(row["status"] for row in zoo.json("models", "ls") if row["name"] == name)


def left_in(cache):
    return sorted(path.name for path in (cache / "models").rglob("*") if path.is_file() and path.name != ".scmf-lock")


def test_a_model_is_pulled_once_at_its_pinned_revision_and_embeds(zoo, official):
    assert status(zoo, NAME) == "fetched on first use"
    pulled = zoo.json("models", "pull", NAME)
    assert pulled["made"] and pulled["verified"] and pulled["license"] == "Apache-2.0"
    folder = zoo.folder(NAME)
    assert pulled["folder"] == str(folder) and status(zoo, NAME) == "here"
    state = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, official.bert.state_dict()[name]) for name, tensor in state.items())
    config = json.loads((folder / "config.json").read_text())
    assert config["source_revision"] == published(NAME).card.revision
    assert config["source_revision"] != zoo.hub.repositories[REPO].head, "the branch has moved on"
    assert (config["source_recipe"], config["source_variant"]) == ("geneformer", "v2-104m")
    assert not (zoo.cache / "models" / ".files").exists() or not list((zoo.cache / "models" / ".files").rglob("*.*"))

    asked, made = len(zoo.hub.requests), (folder / "checksums.json").stat().st_mtime_ns
    assert zoo.json("models", "pull", f"scmf://{NAME}")["made"] is False
    code, _, err = zoo("embed", official.cells, "--model", NAME, "-o", "out.h5ad", "--quiet")
    assert code == 0, err
    assert (len(zoo.hub.requests), (folder / "checksums.json").stat().st_mtime_ns) == (asked, made)
    vectors = ad.read_h5ad("out.h5ad").obsm["X_geneformer"]
    assert vectors.shape == (24, 16) and np.isfinite(vectors).all()
    info = zoo.json("models", "info", NAME)
    assert info["folder"] == str(folder) and info["made_of"]["verified"] is True


def test_ls_and_info_say_what_is_known_and_what_is_not(zoo):
    rows = {row["name"]: row for row in zoo.json("models", "ls")}
    assert {name.partition("@")[0] for name in rows} == {"geneformer", "scgpt", "scfoundation", "transcriptformer"}
    assert rows["geneformer@v2-316m"]["size"] == 1265455076 and len(rows["geneformer@v2-316m"]["sha256"][0]) == 64
    assert rows["scgpt@whole-human"]["sha256"] == [] and rows["scgpt@whole-human"]["size"] is None
    assert rows["scfoundation@cell"]["status"] == rows["geneformer@v1-40m"]["status"] == "needs a download"
    assert "none published" in zoo("models", "ls")[1]
    info = zoo.json("models", "info", "scgpt@brain")
    assert info["fetched_from"] is None and "Google Drive" in info["get"] and "--source FOLDER" in info["get"]
    assert zoo.json("models", "info", "scfoundation@cell")["may_publish"] is False


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scgpt@whole-human", ("Google Drive", "best_model.pt", "--source FOLDER --unverified")),
        ("scfoundation@cell", ("MODEL_LICENSE", "register", "models.ckpt", "--source FOLDER --unverified")),
        ("transcriptformer@sapiens", ("transcriptformer download tf-sapiens", "--source FOLDER --unverified")),
        ("geneformer@v1-40m", ("withdrew", "812f8d85e5ec", "--source FOLDER")),
    ],
)
def test_where_nothing_can_be_fetched_the_error_says_what_to_do(zoo, official, name, words):
    for command in (
        ("models", "pull", name),
        ("embed", official.cells, "--model", name),
        ("evaluate", name, "--tasks", "all"),
        ("publish", name, "--repo", "lab/mine", "--dry-run"),
    ):
        code, _, err = zoo(*command)
        assert code == ModelError.exit_code, err
        assert all(word in err for word in words), err
    assert zoo.hub.requests == []


@pytest.mark.parametrize("family", ["scgpt", "scfoundation"])
def test_a_folder_that_was_got_by_hand_is_pulled_by_its_sum(zoo, official, family):
    name = {"scgpt": "scgpt@whole-human", "scfoundation": "scfoundation@cell"}[family]
    source = getattr(official, family)
    sha256 = sha256_file(next(path for path in source.iterdir() if path.suffix in (".pt", ".ckpt")))
    code, _, err = zoo("models", "pull", name, "--source", source)
    assert code == ChecksumError.exit_code and sha256 in err and "--sha256" in err and "none was ever published" in err
    assert zoo("models", "pull", name, "--source", source, "--sha256", "0" * 64)[0] == ChecksumError.exit_code
    assert status(zoo, name) == "needs a download"
    pulled = zoo.json("models", "pull", name, "--source", source, "--sha256", sha256.upper())
    assert pulled["made"] and pulled["source_sha256"] == sha256 and pulled["verified"] is False
    assert zoo.json("models", "pull", name, "--source", source)["made"] is False, "the same file again"
    code, _, err = zoo("embed", official.cells, "--model", name, "-o", "out.h5ad", "--quiet")
    assert code == 0, err
    assert f"X_{family}" in ad.read_h5ad("out.h5ad").obsm
    code, _, err = zoo("publish", name, "--repo", "lab/mine", "--dry-run")
    assert code == ModelError.exit_code
    assert ("no redistribution" if family == "scfoundation" else "cannot be shown to be yours") in err


def test_another_file_than_the_one_that_is_here_is_not_taken_for_it(zoo, official, tmp_path):
    zoo.json("models", "pull", "scgpt@brain", "--source", official.scgpt, "--unverified")
    other = shutil.copytree(official.scgpt, tmp_path / "other")
    state = torch.load(other / "best_model.pt", weights_only=True)  # noqa: TID251
    state["decoder.fc.0.bias"] += 1
    torch.save(state, other / "best_model.pt")
    arguments = ("models", "pull", "scgpt@brain", "--source", other, "--unverified")
    code, _, err = zoo(*arguments)
    assert code == ModelError.exit_code and "--again" in err
    assert zoo.json(*arguments, "--again")["source_sha256"] == sha256_file(other / "best_model.pt")
    saved = load_file(zoo.folder("scgpt@brain") / "model.safetensors")
    assert torch.equal(saved["decoder.fc.0.bias"], state["decoder.fc.0.bias"])


def test_a_file_that_is_not_the_published_one_is_not_kept(zoo, official):
    zoo.hub.repositories[REPO].commits[1][1][PATH] = type(zoo.hub.repositories[REPO].files[PATH])(b"spoilt", large=True)
    code, _, err = zoo("models", "pull", NAME)
    assert code == ChecksumError.exit_code and "sha256" in err
    assert left_in(zoo.cache) == []
    code, _, err = zoo("embed", official.cells, "--model", NAME)
    assert code == ChecksumError.exit_code


@pytest.mark.parametrize("fault", [404, None])
def test_a_hub_that_does_not_deliver_is_one_error(zoo, fault):
    zoo.hub.faults[f"HEAD /{REPO}/resolve"] = fault
    code, _, err = zoo("models", "pull", NAME)
    assert code == SourceError.exit_code and "--source FOLDER" in err
    assert left_in(zoo.cache) == []
    zoo.hub.faults.clear()
    assert zoo.json("models", "pull", NAME)["made"]


def test_a_fetched_file_survives_what_goes_wrong_after_it(zoo, monkeypatch):
    def broken(*_, **__):
        raise ModelError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(pulling, "quiet_transformers", broken)
        assert zoo("models", "pull", NAME)[0] == ModelError.exit_code
    assert left_in(zoo.cache) == ["model.safetensors"] and status(zoo, NAME) == "fetched on first use"
    fetched = next((zoo.cache / "models" / ".files").rglob("model.safetensors"))
    fetched.with_name(".hub.killed").mkdir()
    zoo.hub.faults["GET /"] = zoo.hub.faults["HEAD /"] = 500
    assert zoo.json("models", "pull", NAME)["made"], "without the network"


def test_one_process_makes_it_and_the_others_wait(zoo, monkeypatch):
    found, makes = [], pulling._make

    def slow(*arguments):
        threading.Event().wait(0.8)
        return makes(*arguments)

    monkeypatch.setattr(pulling, "_make", slow)
    threads = [threading.Thread(target=lambda: found.append(pull(NAME))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.made for one in found) == [False, False, True]
    assert {one.folder for one in found} == {zoo.folder(NAME)}


def test_a_folder_that_is_not_what_the_card_says_is_made_anew(zoo):
    zoo.json("models", "pull", NAME)
    (zoo.folder(NAME) / "vocab.json").unlink()
    assert status(zoo, NAME) == "fetched on first use"
    assert zoo.json("models", "pull", NAME)["made"]
    zoo.change("geneformer", "about 104 million cells", "other words")
    assert zoo.json("models", "pull", NAME)["made"]
    (zoo.folder(NAME) / "checksums.json").write_text("{")
    assert zoo.json("models", "pull", NAME)["made"]
    assert zoo.json("models", "pull", NAME)["made"] is False


def test_a_changed_weight_in_the_cache_is_refused_when_it_is_loaded(zoo, official):
    zoo.json("models", "pull", NAME)
    weights = zoo.folder(NAME) / "model.safetensors"
    state = load_file(weights)
    state["cls.predictions.bias"] = state["cls.predictions.bias"] + 1
    save_file(state, weights, {"format": "pt"})
    code, _, err = zoo("embed", official.cells, "--model", NAME)
    assert code == ModelError.exit_code and "changed since it was saved" in err
    assert f"scmf models pull {NAME} --again" in err
    assert zoo.json("models", "pull", NAME, "--again")["made"]
    assert zoo("embed", official.cells, "--model", NAME, "-o", "out.h5ad", "--quiet")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((NAME, "--genes", "mouse.h5", "--out", "new"), "--genes"),
        ((NAME, "--match-official", "--out", "new"), "--match-official"),
        ((NAME, "--no-tokenizer"), "--out"),
        (("scgpt@own", "--source", "."), "--out"),
        (("transcriptformer@sapiens", "--match-official"), "--out"),
        (("geneformer@own", "--out", "new"), "did you mean"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_fetched(zoo, arguments, word):
    code, _, err = zoo("models", "pull", *arguments)
    assert code == ConfigError.exit_code and word in err
    assert zoo.hub.requests == []


def test_a_copy_in_a_folder_of_ones_own(zoo, official, tmp_path):
    code, out, err = zoo("models", "pull", "scgpt@own", "--source", official.scgpt, "--unverified", "--out", "mine")
    assert code == 0, err
    assert zoo("embed", official.cells, "--model", "mine", "-o", "out.h5ad", "--quiet")[0] == 0
    assert "X_scgpt" in ad.read_h5ad("out.h5ad").obsm
    assert zoo("models", "pull", "scgpt@own", "--source", official.scgpt, "--unverified", "--out", "mine")[0] == 4
