"""Through the command line: tampered models and runs are refused, a refused command changes nothing."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from scmf.models.run_folder import RunFolder
from tests.fixtures.commands import SMALL, edit, everything
from tests.training.test_checkpoints import flip


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
