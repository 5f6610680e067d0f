"""The verb `publish`: to a Hub on loopback, back again where scmf is not, and every way in which it fails."""

import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file

from scmf.cli import main as cli
from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError, ModelError
from scmf.evaluation.evaluate_run import evaluate_folder
from scmf.hub import upload
from scmf.hub.check import check_alone
from scmf.hub.publish import publish
from scmf.models.checkpoint import load_run_model
from scmf.training.data import prepare
from scmf.training.pretrain import pretrain
from tests.conftest import synthetic_cells
from tests.fixtures.hub_server import TOKEN, File, Repository, serve


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """Folder of a run, and a file with its scores."""
    out = tmp_path_factory.mktemp("hub") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
        patch.setenv("SCMF_CACHE_DIR", str(out.parent / "cache"))
        recipe = load_recipe(toy / "recipe.yaml", overrides=("training.max_epochs=1",))
        pretrain(recipe, prepare(recipe.config), out)
        scores = [score.to_json() for score in evaluate_folder(out)]
    (out.parent / "scores.json").write_text(json.dumps(scores))
    return out


@pytest.fixture(scope="module")
def ready(trained):
    """The folder that is published, made once."""
    out = trained.parent / "ready"
    publish(trained, "lab/toy", out=out, results=(trained.parent / "scores.json",), dry_run=True)
    return out


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that this process talks to, with a token."""
    with serve() as hub:
        for name, value in hub.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        # read once, at import
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield hub


@pytest.fixture
def unchecked(monkeypatch):
    """Leave out the clean process, where a test is about what comes before or after it."""
    seen = {
        "auto_class": "AutoModel", "dtype": "float32", "embedding_dim": 16, "genes": 119, "max_length": 24,
        "parameters": 1, "tokenizer": "RankValueTokenizer", "torch": "-", "transformers": "-",
    }  # fmt: skip
    monkeypatch.setattr("scmf.hub.publish.check_alone", lambda *_, **__: seen)


@pytest.fixture
def command(capsys, monkeypatch):
    """Run a command in this process: exit code, stdout, stderr."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["scmf", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        return exit_.value.code or 0, *capsys.readouterr()

    return run_command


def send(folder, *, name="lab/toy", private=False, update=False):
    """Look and push, as `publish` does, without making the folder again."""
    return upload.push(folder, upload.look(name, private=private, update=update), private=private, message="test")


ELSEWHERE = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "scmf" or name.startswith("scmf."):
            raise ImportError("scmf is not here")
sys.meta_path.insert(0, Blocked())
import numpy as np, scipy.sparse as sp
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoTokenizer
folder = snapshot_download("lab/toy")
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained("lab/toy", trust_remote_code=True)
cells = np.load("cells.npz")
counts, genes = sp.csr_matrix(cells["counts"]), cells["genes"].tolist()
print(json.dumps(model.embed(**tokenizer(counts, genes, return_tensors="pt")).tolist()))
"""


@pytest.mark.slow
def test_a_published_model_comes_back_with_equal_embeddings_where_scmf_is_not(
    trained, hub, unchecked, command, tmp_path
):
    out, scores = tmp_path / "folder", trained.parent / "scores.json"
    code, stdout, err = command(
        "publish", trained, "--repo", "lab/toy", "--out", out, "--results", scores, "--json", "--quiet"
    )
    answer = json.loads(stdout)
    assert code == 0 and err == ""
    assert answer["url"] == f"{hub.url}/lab/toy" and answer["commit"] == hub.repositories["lab/toy"].head
    assert answer["license"] == "Apache-2.0"

    held = {path: file.content for path, file in hub.repositories["lab/toy"].files.items()}
    del held[".gitattributes"]
    assert held == {path.name: path.read_bytes() for path in out.iterdir()}
    assert {"README.md", "LICENSE", "provenance.json", "training.yaml", "results.json"} < set(held)

    cells = synthetic_cells(7, seed=5)
    np.savez(tmp_path / "cells.npz", counts=cells.X.toarray(), genes=np.array(cells.var_names, dtype=str))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    embedded = json.loads(done.stdout.splitlines()[-1])
    model, tokenizer = load_run_model(trained)
    wanted = model.embed(**tokenizer(cells.X, cells.var_names, return_tensors="pt"))
    assert torch.equal(torch.tensor(embedded), wanted)


def test_the_hub_reads_licence_tags_and_scores_from_the_card(trained, ready, hub):
    send(ready)
    info = huggingface_hub.HfApi(endpoint=hub.url).model_info("lab/toy")
    assert info.library_name == "transformers" and {"single-cell", "toy"} <= set(info.tags)
    card = ModelCard.load(ready / "README.md")
    assert card.data.license == "apache-2.0"
    wanted = {
        (f"{metric} ({score['protocol'].replace('_', ' ')})", value)
        for score in json.loads((trained.parent / "scores.json").read_text())
        if score["method"] == "pretrained"
        for metric, value in score["metrics"].items()
    }
    assert {(r.metric_name, r.metric_value) for r in card.data.eval_results} == wanted
    assert all(r.metric_args["definition"] for r in card.data.eval_results)


def test_a_dry_run_makes_the_folder_and_asks_no_hub(trained, hub, unchecked, command, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, out, _ = command("publish", trained, "--repo", "lab/toy", "--out", tmp_path / "o", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["commit"] is None
    assert hub.requests == [] and (tmp_path / "o" / "README.md").is_file()


# --- the repository -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["toy", "lab/", "/toy", "lab/a/b", "lab/a--b", "lab/.a", "-lab/a", "lab/ä", "lab/a.git", "lab/" + "a" * 97]
)
def test_a_wrong_name_is_refused_before_anything_else(name, tmp_path):
    with pytest.raises(ConfigError, match="owner/name"):
        publish(tmp_path / "nowhere", name)


def test_a_repository_with_files_is_left_alone_unless_update_replaces_them(ready, hub):
    repository = hub.repositories["lab/toy"] = Repository()
    repository.commit({**repository.files, "old.txt": File(b"old"), "README.md": File(b"---\nlicense: mit\n---\n")})
    with pytest.raises(ConfigError, match="exists and holds 2 files") as refused:
        send(ready)
    assert "--update" in refused.value.fix and len(repository.commits) == 2
    send(ready, update=True)
    assert len(repository.commits) == 3 and "old.txt" not in repository.files
    assert repository.files["README.md"].content == (ready / "README.md").read_bytes()


def test_private_is_private_and_a_public_repository_does_not_become_so_silently(ready, hub):
    send(ready, private=True)
    assert hub.repositories["lab/toy"].private
    hub.repositories["lab/open"] = Repository()
    with pytest.raises(ConfigError, match="is public"):
        send(ready, name="lab/open", private=True)


@pytest.mark.parametrize(
    ("fault", "answer"),
    [("PUT /lfs/", 400), ("POST /api/models/lab/toy/commit", 500), ("POST /api/models/lab/toy/commit", None)],
)
def test_an_upload_that_breaks_shows_nothing_and_the_same_command_goes_on(ready, hub, fault, answer):
    hub.faults[fault] = answer
    with pytest.raises(ModelError, match="nothing of it is visible"):
        send(ready)
    assert set(hub.repositories["lab/toy"].files) == {".gitattributes"}
    hub.faults.clear()
    send(ready)
    assert len(hub.repositories["lab/toy"].commits) == 2


def test_what_arrives_is_compared_with_what_was_sent(ready, hub):
    hub.spoil["model.safetensors"] = b"something else"
    with pytest.raises(ModelError, match=r"model\.safetensors of commit .* another content"):
        send(ready)
    hub.spoil = {"LICENSE": b"x" * (ready / "LICENSE").stat().st_size}
    with pytest.raises(ModelError, match="LICENSE of commit"):
        send(ready, name="lab/other")


def test_someone_who_commits_meanwhile_is_not_overwritten(ready, hub):
    repository = upload.look("lab/toy", private=False, update=False)
    upload.push(ready, repository, private=False, message="ours")
    seen = upload.look("lab/toy", private=False, update=True)
    hub.repositories["lab/toy"].commit({"theirs.txt": File(b"theirs")})
    with pytest.raises(ModelError, match="did not finish"):
        upload.push(ready, seen, private=False, message="late")
    assert set(hub.repositories["lab/toy"].files) == {"theirs.txt"}


def test_a_missing_token_is_one_clear_error(trained, hub, command, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = command("publish", trained, "--repo", "lab/toy", "--out", tmp_path / "o")
    assert code == 2 and out == "" and err.startswith("ConfigError\nfound: no token") and "HF_TOKEN" in err
    assert not (tmp_path / "o").exists() and hub.requests == []


@pytest.mark.parametrize("token", [f"{TOKEN}_wrong", TOKEN])
def test_a_token_without_the_right_to_write_is_one_clear_error(ready, hub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match="could not be made") as refused:
        send(ready, name="others/toy")
    assert "may write to 'others'" in refused.value.fix and not hub.repositories


def test_no_network_is_one_clear_error(trained, hub, monkeypatch, command):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = command("publish", trained, "--repo", "lab/toy")
    assert code == 4 and err.startswith("ModelError\nfound: the Hub did not say") and "Traceback" not in err
    assert "check the network" in err and not trained.with_name("run.published").exists()


# --- the folder -----------------------------------------------------------------------------------


def test_no_folder_and_no_weights_are_clear_errors(trained, tmp_path, unchecked):
    with pytest.raises(ModelError, match="no such folder"):
        publish(tmp_path / "nowhere", "lab/toy", dry_run=True)
    with pytest.raises(ModelError, match=r"no config\.json"):
        publish(tmp_path, "lab/toy", dry_run=True)
    for number, (gone, words) in enumerate(
        {"model.safetensors": "no weights", "tokenizer_config.json": "no a tokenizer", "*.py": "no code"}.items()
    ):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(trained, copy)
        for path in (copy / "model").glob(gone):
            path.unlink()
        (copy / "model" / "checksums.json").unlink()  # which would say so first
        with pytest.raises(ModelError, match=words.replace("no a", "no a?")):
            publish(copy, "lab/toy", dry_run=True)
        assert not list(tmp_path.glob(f"*copy{number}.p*")), "nothing is left of an attempt"


@pytest.mark.slow
def test_a_damaged_weight_file_does_not_load_and_is_not_published(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    weights = tmp_path / "run" / "model" / "model.safetensors"
    weights.with_name("provenance.json").unlink(missing_ok=True)  # it would say that these are other weights
    weights.with_name("checksums.json").unlink()  # the same
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not load and embed") as refused:
        publish(tmp_path / "run", "lab/toy", dry_run=True)
    assert "safetensor" in refused.value.found.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.nightly  # the damaged weights above are found by the same process
def test_weights_that_lack_a_tensor_are_found_by_the_clean_process(trained, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    lost = state.popitem()[0]
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"1 missing keys, the first {lost}"):
        check_alone(tmp_path / "model")


def test_code_of_others_runs_only_when_trusted(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "model", tmp_path / "model")
    with (tmp_path / "model" / "rank_value.py").open("a") as file:
        file.write("import pathlib; pathlib.Path('ran').touch()\n")
    with pytest.raises(ModelError, match=r"not of this installation: rank_value\.py") as refused:
        check_alone(tmp_path / "model")
    assert "--trust" in refused.value.fix
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, '{"started": true}'))
    assert check_alone(tmp_path / "model", trust=True) == {"started": True}


def test_only_what_belongs_to_a_checkpoint_goes_along(trained, tmp_path, unchecked):
    shutil.copytree(trained, tmp_path / "run")
    for name in ("optimizer.bin", "notes.md", ".secret.json", "patients.csv", "gene_vectors.npz"):
        (tmp_path / "run" / "model" / name).write_text("x")
    (tmp_path / "run" / "model" / "checksums.json").unlink()  # a model of before
    answer = publish(tmp_path / "run", "lab/toy", dry_run=True)
    assert answer["left_behind"] == [".secret.json", "notes.md", "optimizer.bin", "patients.csv"]
    made = tmp_path / "run.published"
    held = {path.name for path in made.iterdir()}
    assert answer["folder"] == str(made) and not set(answer["left_behind"]) & held and "gene_vectors.npz" in held


def test_the_folder_takes_its_name_whole_and_only_its_own_kind_is_replaced(trained, tmp_path, unchecked):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="a folder that scmf did not write, with thesis.txt"):
        publish(trained, "lab/toy", out=mine, dry_run=True)
    assert (mine / "thesis.txt").is_file()
    for _ in range(2):
        publish(trained, "lab/toy", out=tmp_path / "out", dry_run=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(record["files"]) == {path.name for path in (tmp_path / "out").iterdir()} - {"provenance.json"}
