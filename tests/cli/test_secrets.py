"""Planted secrets and names: no verb writes or prints them, and a run with secrets resumes all the same."""

import io
import json
import os
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from scmf.cli import main as cli
from scmf.core.config.recipe import load_recipe
from scmf.core.redact import HIDDEN
from tests import ROOT
from tests.conftest import RECIPE

SECRETS = {
    "password": "pl4nted-Passw0rd",
    "signature": "pl4ntedSignature9",
    "option": "pl4nted0ptionKey",
    "env": "hf_pl4ntedT0kenOfTheEnvironment",
}
USER = "planted-person"
SUITE = """tasks:
  toy-labels: {{benchmark: annotation, dataset: {card}, split: donor, description: labels, protocols: [knn_probe]}}
"""
SEEN = {
    "auto_class": "AutoModel", "dtype": "float32", "embedding_dim": 16, "genes": 119, "max_length": 24,
    "parameters": 1, "tokenizer": "RankValueTokenizer", "torch": "-", "transformers": "-",
}  # fmt: skip


@pytest.fixture(scope="module")
def played(toy, tmp_path_factory):
    """Every verb run once in one folder with secrets and names all around: the folder, what was printed, exit codes."""
    fsspec = pytest.importorskip("fsspec")
    root = tmp_path_factory.mktemp("secrets")
    home, work = root / "home" / USER, root / "work"
    for folder in (home / "patients", work):
        folder.mkdir(parents=True)
    cells = (toy / "mirror" / "toy" / "toy.h5ad").read_bytes()
    (home / "patients" / "cells.h5ad").write_bytes(cells)
    for name in ("toy.yaml", "toy.donor.tsv.gz", "expected.yaml"):
        (home / name).write_bytes((toy / name).read_bytes())
    (home / "recipe.yaml").write_text(RECIPE.format(card=home / "toy.yaml"))
    (home / "suite.yaml").write_text(SUITE.format(card=home / "toy.yaml"))
    place = f"ann:{SECRETS['password']}@bucket/cells.h5ad?sig={SECRETS['signature']}"
    fsspec.filesystem("memory").pipe(f"/{place}", cells)
    option = f"data.storage_options.secret={SECRETS['option']}"
    stream = [
        "--config", home / "recipe.yaml", "--set", f'data.files=["memory://{place}"]', "--set", option,
        "--set", "data.storage_options.region=eu-west-1", "--set", "data.stream={buffer_blocks: 4}",
        "--set", f"data.split={home / 'toy.donor.tsv.gz'}", "--set", "data.label_key=cell_type",
        "--set", "training.max_steps=2", "--set", "eval.every_n_epochs=0",
    ]  # fmt: skip
    verbs = {
        "train": ["train", *stream, "--out", work / "run"],
        "again": ["train", *stream, "--out", work / "run"],
        "evaluate": ["evaluate", work / "run", "--tasks", "all", "--suite", home / "suite.yaml"],
        "evaluate-own": ["evaluate", work / "run"],
        "compare": ["compare", work / "run", "--out", work / "board"],
        "publish": ["publish", work / "run", "--repo", "lab/toy", "--dry-run", "--results", work / "run" / "results"],
        "embed": ["embed", home / "patients" / "cells.h5ad", "--model", work / "run", "-o", work / "embedded.h5ad"],
        "check": ["check", f"memory://{place}", "--split", home / "toy.donor.tsv.gz"],
        "stats": ["data", "stats", f"memory://{place}", "--out", work / "stats.json"],
        "convert": ["data", "convert", home / "patients" / "cells.h5ad", "--out", work / "cells.zarr"],
        "stats-here": ["data", "stats", home / "patients" / "cells.h5ad", "--out", work / "local" / "stats.json"],
        "genes": ["data", "genes", f"memory://{place}", "--vocabulary", "no-such-vocabulary"],
        "nothing": ["data", "genes", f"memory://{place}x", "--vocabulary", "human_protein_coding"],
        "reproduce": [
            "reproduce", home, "--tier", "mini", "--set", option, "--set", "training.max_steps=2",
            "--set", "eval.benchmarks=[]",
        ],
        "refused": ["train", "--config", home / "recipe.yaml", "--out", work / "no", "--set", f"{option}: [", ],
        "bad-option": ["train", *stream, "--out", work / "no", "--set", option.replace("=", "=[") + "]"],
    }  # fmt: skip
    printed, codes = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "HOME": str(home), "USER": USER, "LOGNAME": USER, "HF_TOKEN": SECRETS["env"],
            "AWS_SECRET_ACCESS_KEY": SECRETS["env"], "SCMF_DATA_DIR": str(toy / "mirror"),
            "SCMF_CACHE_DIR": str(root / "cache"),
        }.items():  # fmt: skip
            patch.setenv(name, value)
        patch.chdir(work)
        patch.setattr("scmf.hub.publish.check_alone", lambda *_, **__: SEEN)
        patch.setattr("scmf.results.pages.reproduction._figures", lambda *_: ([], []))
        patch.setattr("scmf.results.pages.leaderboard_plots.draw", lambda *_: [])
        with _watch(ROOT) as touched:
            for name, words in verbs.items():
                codes[name], printed[name] = _run(patch, words)
    return SimpleNamespace(
        root=root, home=home, work=work, codes=codes, printed=printed, stream=stream, touched=touched
    )


@contextmanager
def _watch(folder):
    """Paths below ``folder`` that are opened for writing, made, renamed or removed; compiled code aside."""
    touched, watching = [], [True]

    def hook(event, arguments):
        if not watching or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        for path in arguments[: 2 if event == "os.rename" else 1]:
            if isinstance(path, str | bytes | os.PathLike):
                whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  (no look at the disk)
                if whole.startswith(f"{folder}/") and "__pycache__" not in whole and "/.cache/numba/" not in whole:
                    touched.append((event, whole))

    sys.addaudithook(hook)  # for as long as the process lives
    yield touched
    watching.clear()


def _run(patch, words):
    """Exit code of a command, and all that it printed."""
    patch.setattr(sys, "argv", ["scmf", *map(str, words)])
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code or 0, out.getvalue()


def test_no_verb_touches_a_file_of_the_package_or_the_checkout(played):
    assert played.touched == [], "so a read-only installation serves as well"


def files_of(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


FAIL = {"genes": 2, "nothing": 3, "refused": 2, "bad-option": 2, "evaluate-own": 2, "reproduce": 1}


def test_every_verb_does_its_work_or_says_why_not(played):
    for name, code in played.codes.items():
        assert code == FAIL.get(name, 0), (name, code, played.printed[name])
        assert "Traceback" not in played.printed[name], name
    assert json.loads((played.work / "run" / "run.json").read_text())


def test_no_secret_is_in_any_file(played):
    found = files_of(played.work)
    assert len(found) > 30
    for path in found:
        content = path.read_bytes()
        for name, secret in SECRETS.items():
            assert secret.encode() not in content, f"{name} in {path.relative_to(played.work)}"
            assert secret not in str(path)


def test_no_secret_is_printed(played):
    for verb, text in played.printed.items():
        for name, secret in SECRETS.items():
            assert secret not in text, f"{name} printed by {verb}: {text}"


@pytest.mark.parametrize(
    "folder",
    ["run/results", "board", "run.published", "runs/reproduce/toy/results", "stats.json", "local", "cells.zarr"],
)
def test_no_folder_and_no_name_of_the_user_is_in_what_others_read(played, folder):
    at = played.work / folder
    found = files_of(at) if at.is_dir() else [at]
    assert found
    for path in found:
        content = path.read_bytes().decode("utf-8", "replace")
        for word in (USER, str(played.root), "patients/", "/home/"):
            assert word not in content, f"{word} in {path.relative_to(played.work)}: {_around(content, word)}"


def _around(text, word):
    at = text.index(word)
    return text[max(0, at - 80) : at + 80]


def test_the_record_of_a_run_names_what_it_lacks_and_the_run_resumes_and_is_evaluated(played):
    note = json.loads((played.work / "run" / "run.json").read_text())
    assert note["left_out"] == ["data.files", "data.storage_options.secret"]
    assert note["config"]["data"]["storage_options"] == {"region": "eu-west-1"}, "what is no secret stays"
    assert note["config"]["data"]["files"] == [f"memory://{HIDDEN}@bucket/cells.h5ad?sig={HIDDEN}"]
    assert "resumed_from: 2" in played.printed["again"]
    said = played.printed["evaluate-own"]
    assert "credentials were left out" in said or "data.storage_options.secret" in said
    assert "--set" in said


def test_the_digest_does_not_depend_on_secrets(played):
    words = [str(word) for word in played.stream]
    overrides = [word for word, before in zip(words[1:], words, strict=False) if before == "--set"]
    first = load_recipe(played.home / "recipe.yaml", overrides=tuple(overrides)).digest
    other = tuple(
        word.replace(SECRETS["option"], "another").replace(SECRETS["signature"], "re-signed") for word in overrides
    )
    assert other != tuple(overrides)
    assert load_recipe(played.home / "recipe.yaml", overrides=other).digest == first
    without = tuple(word for word in overrides if "storage_options.secret" not in word)
    assert load_recipe(played.home / "recipe.yaml", overrides=without).digest == first
    moved = tuple(word.replace("eu-west-1", "us-east-1") for word in overrides)
    assert load_recipe(played.home / "recipe.yaml", overrides=moved).digest != first


def test_commands_of_results_work_from_the_folder_they_were_typed_in(played):
    files = files_of(played.work / "run" / "results")
    commands = {json.loads(path.read_text())["command"] for path in files}
    assert commands == {"scmf evaluate run --tasks toy-labels --suite suite.yaml"}
