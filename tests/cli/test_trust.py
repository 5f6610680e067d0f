"""Through the command line: tampered models and runs are refused, nobody's files are lost, no code of others is run."""

import contextlib
import json
import pickle  # noqa: TID251  # planted, to see that nobody opens it
import shutil
import socket
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from scmf.cli import main as cli
from scmf.core.errors import ModelError
from scmf.core.locks import one_writer
from scmf.hub.folder import copy_checkpoint
from scmf.models.origin import Checkpoint
from scmf.models.run_folder import RunFolder
from tests.conftest import synthetic_cells
from tests.training.test_checkpoints import Marker, flip

SMALL = ("--set", "training.max_epochs=1", "--set", "eval.every_n_epochs=0")


def scmf(*arguments):
    """Run a command in this process; its exit code."""
    before, sys.argv = sys.argv, ["scmf", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    finally:
        sys.argv = before
    return exit_.value.code or 0


@pytest.fixture
def command(capsys):
    """Run a command: exit code, and all that it printed."""

    def run(*arguments):
        capsys.readouterr()
        code = scmf(*arguments)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return run


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """Folder of a run of two epochs."""
    out = tmp_path_factory.mktemp("trust") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
        patch.setenv("SCMF_CACHE_DIR", str(out.parent / "cache"))
        assert scmf("train", "--config", toy / "recipe.yaml", "--out", out, *SMALL, "--quiet") == 0
    return out


@pytest.fixture
def run(trained, toy_env, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "mine.h5ad"
    synthetic_cells(20, seed=3).write_h5ad(path)
    return path


@pytest.fixture
def again(toy_env, command):
    """Give the command of the run again."""
    return lambda out, *more: command("train", "--config", toy_env / "recipe.yaml", "--out", out, *SMALL, *more)


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- tampered models and runs -----------------------------------------------------------------------


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rotate(table):
    genes = [name for name in table if not name.startswith("<")]
    ids = [table[name] for name in genes]
    table.update(zip(genes, [*ids[1:], ids[0]], strict=True))


def other_weights(path):
    tensors = load_file(path)
    name = next(iter(sorted(tensors)))
    save_file({**tensors, name: tensors[name] + 1e-3}, path, metadata={"format": "pt"})


TAMPERED = {
    "bit": ("model.safetensors", flip, "weights"),
    "weights": ("model.safetensors", other_weights, "weights"),
    "vocabulary": ("vocab.json", lambda path: edit(path, rotate), "vocabulary"),
    "medians": (
        "gene_medians.json", lambda path: edit(path, lambda t: t.update({g: 2 * v for g, v in t.items()})),
        "gene medians",
    ),
    "heads": ("config.json", lambda p: edit(p, lambda c: c.update(num_attention_heads=1)), "configuration of the net"),
    "activation": ("config.json", lambda p: edit(p, lambda c: c.update(hidden_act="gelu")), "configuration of the net"),
    "tokenizer": (
        "tokenizer_config.json", lambda p: edit(p, lambda c: c.update(max_length=12)), "configuration of the tokenizer",
    ),
    "code": ("transformer_encoder.py", lambda path: path.write_text(path.read_text() + "\n# more\n"), "code"),
    "gone": ("vocab.json", lambda path: path.unlink(), "vocabulary"),
    "added": ("adapter_model.safetensors", lambda p: shutil.copy(p.with_name("model.safetensors"), p), ""),
    "manifest": ("checksums.json", flip, "checksums.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_model_is_refused_by_every_verb_that_reads_it(run, cells, toy_env, tmp_path, command, name):
    file, tamper, part = TAMPERED[name]
    tamper(run / "model" / file)
    before = everything(run)
    config = ("--config", toy_env / "recipe.yaml", *SMALL)
    start = ("--set", f"model.checkpoint={run / 'model'}")
    verbs = {
        "embed": ("embed", cells, "--model", run, "--output", tmp_path / "out.h5ad"),
        "evaluate": ("evaluate", run),
        "evaluate model": ("evaluate", run / "model", *config[:2]),
        "publish": ("publish", run, "--repo", "a/b", "--out", tmp_path / "ready", "--dry-run"),
        "train from it": ("train", *config, *start, "--out", tmp_path / "other"),
        "its tokenizer": (
            "train", *config, "--set", f"tokenizer.vocabulary={run / 'model'}", "--out", tmp_path / "third",
        ),
    }  # fmt: skip
    for verb, words in verbs.items() if name == "vocabulary" else [("embed", verbs["embed"])]:
        code, said = command(*words, "--quiet")
        assert code in (2, 4), (verb, said)
        assert part in said and (file in said or name == "added"), (verb, said)
    assert everything(run) == before
    assert not (tmp_path / "out.h5ad").exists() and not (tmp_path / "ready").exists()


def test_the_command_of_the_run_mends_its_model(run, trained, again, cells, tmp_path, command):
    flip(run / "model" / "model.safetensors")
    assert again(run)[0] == 0
    assert (run / "model" / "model.safetensors").read_bytes() == (trained / "model/model.safetensors").read_bytes()
    assert command("embed", cells, "--model", run, "--output", tmp_path / "out.h5ad")[0] == 0


def test_a_run_json_that_was_changed_or_is_of_another_run_is_refused(run, cells, tmp_path, command):
    note, words = run / "run.json", ("embed", cells, "--model", run, "--output", tmp_path / "out.h5ad")
    whole = note.read_text()
    edit(note, lambda facts: facts["config"]["eval"].update(pooling="max"))
    code, said = command(*words)
    assert code == 2 and "changed after the run was made" in said
    facts = json.loads(whole)
    del facts["sha256"]
    RunFolder(run).write({**facts, "seed": 7})
    for verb in (words, ("evaluate", run), ("publish", run, "--repo", "a/b", "--out", tmp_path / "p", "--dry-run")):
        code, said = command(*verb)
        assert code == 4 and "weights of seed 0" in said and "seed 7" in said


@pytest.mark.parametrize("harm", [flip, lambda path: path.write_text("{"), lambda path: path.unlink()])
def test_a_damaged_run_json_is_written_anew_from_a_run_whose_checkpoints_are_whole(run, trained, again, harm):
    if harm is not flip:
        harm(run / "run.json")
    else:
        edit(run / "run.json", lambda facts: facts.update(parameters=1))
    was_there = (run / "run.json").is_file()
    code, said = again(run)
    assert code == 0 and (not was_there or "damaged" in said)
    assert RunFolder(run).fact("parameters") == RunFolder(trained).fact("parameters")
    code, said = again(shutil.copytree(run, run.with_name("other")), "--seed", "3")
    assert code == 5


def test_a_model_of_before_is_read_with_a_warning(run, cells, tmp_path, command):
    (run / "model" / "checksums.json").unlink()
    code, said = command("embed", cells, "--model", run, "--output", tmp_path / "out.h5ad")
    assert code == 0 and "has no checksums.json" in said


def test_a_published_folder_carries_its_checksums(run, cells, tmp_path, command, monkeypatch):
    seen = {
        "auto_class": "AutoModel", "dtype": "float32", "embedding_dim": 16, "genes": 119, "max_length": 24,
        "parameters": 1, "tokenizer": "RankValueTokenizer", "torch": "-", "transformers": "-",
    }  # fmt: skip
    monkeypatch.setattr("scmf.hub.publish.check_alone", lambda *_, **__: seen)
    ready = tmp_path / "ready"
    assert command("publish", run, "--repo", "a/b", "--out", ready, "--dry-run")[0] == 0
    (ready / "README.md").write_text("my own words")
    assert command("embed", cells, "--model", ready, "--output", tmp_path / "out.h5ad")[0] == 0
    flip(ready / "vocab.json")
    code, said = command("embed", cells, "--model", ready, "--output", tmp_path / "out.h5ad")
    assert code == 4 and "vocabulary (vocab.json): changed" in said


@pytest.mark.parametrize("change", [("--seed", "5"), ("--set", "training.lr=0.5"), ("--set", "data.split=null")])
@pytest.mark.parametrize("without_checkpoints", [True, False])
def test_a_refused_second_train_changes_nothing(run, again, change, without_checkpoints):
    if without_checkpoints:
        shutil.rmtree(run / "pretraining")
    before = everything(run)
    code, said = again(run, *change)
    assert code == 5 and "another run" in said and "choose another --out" in said
    assert everything(run) == before


# --- nobody's files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "pretraining", "run.json"])
def test_train_leaves_the_files_of_others_alone(tmp_path, again, name):
    out = tmp_path / "mine"
    if name == "run.json":
        out.mkdir()
        (out / name).write_text('{"speed": 3}')
    else:
        (out / name).mkdir(parents=True)
        (out / name / "thesis.txt").write_text("years of work")
    before = everything(out)
    code, said = again(out)
    assert code in (2, 4) and "did not write" in said, said
    assert everything(out) == before


def test_a_strangers_model_beside_a_run_json_of_ours_is_kept(run, again):
    shutil.rmtree(run / "model")
    (run / "model").mkdir()
    (run / "model" / "thesis.txt").write_text("years of work")
    code, said = again(run)
    assert code == 4 and "did not write" in said
    assert (run / "model" / "thesis.txt").read_text() == "years of work"


def test_what_others_put_into_a_model_of_ours_stays_in_it(run, again):
    (run / "model" / "plots").mkdir()
    (run / "model" / "plots" / "mine.png").write_text("mine")
    (run / "model" / "notes.txt").write_text("mine")
    (run / "slurm.out").write_text("mine")
    assert again(run)[0] == 0
    kept = everything(run)
    assert [str(p) for p, data in kept.items() if data == b"mine"] and sum(d == b"mine" for d in kept.values()) == 3


def test_compare_leaves_the_files_of_others_alone(tmp_path, command):
    for name in ("README.md", "index.html", "leaderboard.csv"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("mine")
        code, said = command("compare", "geneformer", "--out", out, "--quiet")
        assert code == 2 and "did not write" in said
        assert everything(out).popitem()[1] == b"mine"
    out = tmp_path / "pages"
    (out / "plots").mkdir(parents=True)
    (out / "plots" / "mine.png").write_bytes(b"mine")
    assert command("compare", "geneformer", "--out", out, "--quiet")[0] == 0
    assert command("compare", "geneformer", "--out", out, "--quiet")[0] == 0
    assert (out / "plots" / "mine.png").read_bytes() == b"mine"


def test_sweep_leaves_the_files_of_others_alone(tmp_path, toy_env, command):
    (tmp_path / "sweep.md").write_text("mine")
    code, said = command(
        "sweep", "--tokenizers", "rank_value", "--model", "transformer_encoder", "--config", toy_env / "recipe.yaml",
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 2 and "did not write" in said and (tmp_path / "sweep.md").read_text() == "mine"


def test_reproduce_leaves_pages_of_others_alone(tmp_path, toy_env, command):
    (tmp_path / "toy.md").write_text("mine")
    code, said = command(
        "reproduce", toy_env / "recipe.yaml", "--tier", "mini", "--reports", tmp_path, "--runs", tmp_path / "r",
        "--results", tmp_path / "l",
    )  # fmt: skip
    assert code == 2 and "did not write" in said and everything(tmp_path) == {Path("toy.md"): b"mine"}


# --- code of others ---------------------------------------------------------------------------------


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


# --- bytes of other files ---------------------------------------------------------------------------


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
        ("data", "genes", theirs, "--vocabulary", "geneformer-v2"),
        ("train", *recipe, "--set", f"data.files=[{theirs}]", "--out", tmp_path / "o"),
    ):
        code, said = command(*words)
        assert code in (1, 3) and "takes content from elsewhere" in said, (words, said)
    assert not (tmp_path / "out.h5ad").exists()


# --- processes --------------------------------------------------------------------------------------


def test_a_second_train_on_one_folder_is_refused_while_the_first_runs(run, again, command):
    before = everything(run)
    with one_writer(run, "scmf train"):
        code, said = again(run)
    assert code == 5 and "is writing here" in said and "scmf train, process" in said
    assert {k: v for k, v in everything(run).items() if k.name != ".scmf-lock"} == {
        k: v for k, v in before.items() if k.name != ".scmf-lock"
    }
    assert again(run)[0] == 0


def test_leftovers_of_a_killed_run_are_swept(run, again, trained):
    for name in (".model.scmf-part", ".model.scmf-old"):
        shutil.copytree(run / "model", run / name / "model")
    (run / ".run.json.elsewhere-1-abcdefgh.json").write_text("{}")  # of another machine: nobody can tell
    left = run / f".run.json.{socket.gethostname()[:64]}-4194000-abcdefgh.json"
    left.write_text("{}")
    assert again(run)[0] == 0
    assert sorted(path.name for path in run.iterdir()) == [
        ".run.json.elsewhere-1-abcdefgh.json", ".scmf-lock", "model", "pretraining", "run.json",
    ]  # fmt: skip


def test_a_model_that_was_being_replaced_when_the_run_was_killed_is_put_back(run, again):
    (run / "model" / "notes.txt").write_text("mine")
    (run / "model").rename(run / ".model.scmf-old")
    assert again(run)[0] == 0
    assert (run / "model" / "notes.txt").read_text() == "mine" and not (run / ".model.scmf-old").exists()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK 2 of WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT is not set"),
    ],
)
def test_an_environment_of_several_processes_that_lacks_something_is_one_error(
    tmp_path, again, monkeypatch, environment, named
):
    monkeypatch.setattr("scmf.core.distributed.leave", lambda code: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SCMF_RANK_TIMEOUT", "2")
    stdout = sys.stdout
    try:
        code, said = again(tmp_path / "out")
    finally:
        sys.stdout = stdout
    assert code == 5 and named in said and said.count("found:") == 1


def test_a_rank_alone_in_the_environment_does_not_make_a_run_write_nothing(tmp_path, again, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert again(tmp_path / "out")[0] == 0 and (tmp_path / "out/model/model.safetensors").is_file()
