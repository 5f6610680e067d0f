"""The command line: answers on stdout, one clear error on stderr, verbs in sequence, a real kill -9."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.cli import main as cli
from scmf.experiments import reproduce as reproduction
from tests.conftest import synthetic_cells
from tests.fixtures import commands
from tests.fixtures.forked import Forked
from tests.fixtures.forked import command as train


def scmf(capsys, monkeypatch, *arguments):
    """Run a command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["scmf", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capsys.readouterr()
    return exit_.value.code or 0, out, err


@pytest.fixture
def command(capsys, monkeypatch):
    return lambda *arguments: scmf(capsys, monkeypatch, *arguments)


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """Folder of a run made by `scmf train`."""
    out = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["train", "--config", toy / "recipe.yaml", "--out", out, "--json", "--quiet"]
    said, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(errors):
        patch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
        patch.setenv("SCMF_CACHE_DIR", str(out.parent / "cache"))
        assert commands.scmf(*arguments) == 0
    assert json.loads(said.getvalue())["model"] == str(out / "model")
    assert errors.getvalue() == ""
    return out


def test_ctrl_c_is_one_line_and_exit_130():
    program = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
        "import scmf.data.cards.card\n"
        "def slow():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
        "scmf.data.cards.card.list_cards = slow\n"
        "sys.argv = ['scmf', 'data', 'ls']\n"
        "from scmf.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped; repeat the command to resume\n")


# --- chains ---------------------------------------------------------------------------------------


def test_evaluate_scores_the_model_beside_its_baselines(trained, toy_env, command):
    code, out, _ = command("evaluate", trained, "--json", "--quiet")
    rows = json.loads(out)
    assert code == 0
    assert {row["method"] for row in rows} == {"majority", "pretrained", "untrained", "hvg", "pca"}
    assert all(row["definitions"] for row in rows)


def test_evaluate_takes_a_bare_checkpoint_with_a_recipe(trained, toy_env, command):
    code, out, _ = command("evaluate", trained / "model", "--config", toy_env / "recipe.yaml", "--json", "--quiet")
    assert code == 0 and json.loads(out)


def test_embed_writes_obsm_of_a_copy(trained, toy_env, tmp_path, command):
    cells = synthetic_cells(30, seed=3)
    cells.write_h5ad(tmp_path / "mine.h5ad")
    before = (tmp_path / "mine.h5ad").read_bytes()
    code, out, _ = command("embed", tmp_path / "mine.h5ad", "--model", trained, "--json", "--quiet")
    answer = json.loads(out)
    made = ad.read_h5ad(answer["file"])
    assert code == 0 and answer["key"] == "X_toy"
    assert made.obsm["X_toy"].shape == (30, 16)
    assert (made.X != cells.X).nnz == 0 and list(made.obs_names) == list(cells.obs_names)
    assert (tmp_path / "mine.h5ad").read_bytes() == before


def test_permuted_genes_and_versions_change_nothing_missing_ones_little(trained, toy_env, tmp_path, command):
    cells = synthetic_cells(30, seed=3)
    order = np.random.default_rng(0).permutation(cells.n_vars)
    files = {"plain": cells, "permuted": cells[:, order].copy(), "fewer": cells[:, :-20].copy()}
    versions = cells.copy()
    versions.var_names = [f"{gene}.7" for gene in cells.var_names]
    files["versions"] = versions
    vectors = {}
    for name, adata in files.items():
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        code, out, _ = command("embed", tmp_path / f"{name}.h5ad", "--model", trained, "--json", "--quiet")
        assert code == 0
        vectors[name] = ad.read_h5ad(json.loads(out)["file"]).obsm["X_toy"]
    assert np.allclose(vectors["plain"], vectors["versions"], atol=1e-6)
    # equal values are ordered by column: ties of the toy may move, what they are may not
    assert np.abs(vectors["plain"] - vectors["permuted"]).mean() < 0.1
    assert vectors["fewer"].shape == vectors["plain"].shape
    assert not np.allclose(vectors["fewer"], vectors["plain"])


@pytest.mark.nightly  # tests/hub/test_hub.py loads the published folder so
def test_the_model_folder_loads_in_a_process_without_scmf(trained, tmp_path):
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "scmf" or name.startswith("scmf."):
            raise ImportError("scmf is not here")
sys.meta_path.insert(0, Blocked())
import numpy as np, scipy.sparse as sp, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
genes = [token for token in tokenizer.get_vocab() if token.startswith("ENSG")]
counts = sp.csr_matrix(np.arange(1, len(genes) + 1, dtype=np.float32)[None, :])
batch = tokenizer(counts, genes, return_tensors="pt")
batch.pop("length")
print(tuple(model.embed(**batch).shape))
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(trained / "model")],
        env=environment, capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 16)"


@pytest.mark.slow
def test_kill_9_and_go_on_gives_the_losses_of_the_uninterrupted_run(toy, tmp_path):
    environment = {"SCMF_DATA_DIR": str(toy / "mirror"), "SCMF_CACHE_DIR": str(tmp_path / "cache")}

    def start(out):
        settings = ["training.max_epochs=10", "training.checkpoint_every_n_steps=7", "eval.every_n_epochs=5"]
        sets = [part for text in settings for part in ("--set", text)]
        arguments = ["train", "--config", toy / "recipe.yaml", "--out", out, "--json", "--quiet", *sets]
        return Forked(train, *arguments, environment=environment)

    def log(out):
        path = out / "pretraining" / "log.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    whole = start(tmp_path / "whole")
    killed = 0
    while killed < 2:
        process = start(tmp_path / "parts")
        seen = len(log(tmp_path / "parts"))
        while process.returncode is None and len(log(tmp_path / "parts")) < seen + 20:
            time.sleep(0.005)
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        if process.returncode == 0:
            break
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    last = start(tmp_path / "parts")
    answer = json.loads(last.communicate()[0])
    assert last.returncode == 0 and whole.wait() == 0
    assert answer["resumed_from"] > 0
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


# --- answers --------------------------------------------------------------------------------------


def test_data_ls_info_and_fetch_answer_in_json(toy_env, command):
    names = [card["name"] for card in json.loads(command("data", "ls", "--json")[1])]
    assert {"pancreas", "pbmc68k_reduced", "geneformer-v1", "geneformer-v2"} <= set(names)
    code, out, _ = command("data", "info", "pancreas", "--json")
    assert code == 0 and json.loads(out)["license"] == "CC-BY-4.0"
    code, out, _ = command("data", "fetch", toy_env / "toy.yaml", "--json", "--quiet")
    assert code == 0 and json.loads(out)["toy.h5ad"].endswith("toy.h5ad")
    code, out, _ = command("data", "check", toy_env / "toy.yaml", "--json")
    assert code == 0, out


def test_tables_are_for_people_and_json_for_programs(toy_env, command):
    code, out, _ = command("data", "ls")
    assert code == 0 and "pancreas" in out
    code, out, _ = command("data", "info", "pancreas")
    assert code == 0 and "citation" in out


def test_schema_is_json_and_can_be_a_file(command, tmp_path):
    code, out, _ = command("schema")
    assert code == 0 and {"data", "tokenizer", "model", "training", "eval"} < set(json.loads(out)["properties"])
    assert command("schema", "--out", tmp_path / "s.json")[0] == 0
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(out)


def test_the_schema_accepts_the_shipped_recipe(command):
    import jsonschema

    from scmf.core.paths import shipped
    from scmf.core.yaml import load_yaml

    schema = json.loads(command("schema")[1])
    recipe = load_yaml(shipped("recipes") / "geneformer" / "recipe.yaml")
    jsonschema.validate(recipe, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**recipe, "trainin": {}}, schema)


def test_check_accepts_good_cells_and_says_no_to_bad_ones(toy_env, tmp_path, command):
    cells = synthetic_cells(60)
    cells.write_h5ad(tmp_path / "good.h5ad")
    code, out, _ = command("check", tmp_path / "good.h5ad", "--json")
    assert code == 0, out
    cells.X = np.log1p(cells.X.toarray())
    cells.write_h5ad(tmp_path / "bad.h5ad")
    code, out, _ = command("check", tmp_path / "bad.h5ad")
    assert code == 1 and "error" in out


# --- bad input: one clear error each --------------------------------------------------------------


def spoil_log(cells):
    cells.X = sp.csr_matrix(np.log1p(cells.X.toarray()))


def spoil_nan(cells):
    cells.X.data[3] = np.nan


def spoil_negative(cells):
    cells.X.data[3] = -1


def spoil_genes(cells):
    cells.var_names = [f"ENSG9999{i:07d}" for i in range(cells.n_vars)]


def spoil_duplicate(cells):
    cells.var_names = [cells.var_names[0], cells.var_names[0], *cells.var_names[2:]]


def spoil_empty(cells):
    dense = cells.X.toarray()
    dense[4] = 0
    cells.X = sp.csr_matrix(dense)


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [
        (spoil_log, "CountsError", "counts"),
        (spoil_nan, "CountsError", "NaN"),
        (spoil_negative, "CountsError", "negative"),
        (spoil_genes, "DataError", "gene"),
        (spoil_duplicate, "GeneError", "ENSG00000000001"),
        (spoil_empty, "DataError", "cell"),
    ],
)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_bad_cells_are_one_clear_error(trained, toy_env, tmp_path, command, spoil, name, words):
    cells = synthetic_cells(20)
    spoil(cells)
    cells.write_h5ad(tmp_path / "bad.h5ad")
    code, out, err = command("embed", tmp_path / "bad.h5ad", "--model", trained, "--quiet")
    assert code == 3 and out == ""
    assert err.startswith(f"{name}\nfound: ") and words.lower() in err.lower()
    assert "wanted: " in err and "where: " in err and "do: " in err
    assert "Traceback" not in err
    assert not (tmp_path / "bad.toy.h5ad").exists()


def test_a_truncated_file_is_one_clear_error(trained, toy_env, tmp_path, command):
    synthetic_cells(20).write_h5ad(tmp_path / "cut.h5ad")
    whole = (tmp_path / "cut.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    code, _, err = command("embed", tmp_path / "cut.h5ad", "--model", trained, "--quiet")
    assert code == 3 and err.startswith("DataError\nfound: ") and "cut.h5ad" in err


def test_a_wrong_checksum_is_one_clear_error(toy_env, tmp_path, monkeypatch, command):
    mirror = tmp_path / "mirror" / "toy"
    mirror.mkdir(parents=True)
    (mirror / "toy.h5ad").write_bytes(b"not the file")
    monkeypatch.setenv("SCMF_DATA_DIR", str(mirror.parent))
    code, _, err = command("data", "fetch", toy_env / "toy.yaml", "--quiet")
    assert code == 3 and err.startswith("ChecksumError\nfound: ")


def test_an_unknown_key_is_one_clear_error(toy_env, tmp_path, command):
    code, _, err = command(
        "train", "--config", toy_env / "recipe.yaml", "--out", tmp_path / "o", "--set", "training.learning_rat=1"
    )
    assert code == 2 and "unknown key 'training.learning_rat'" in err
    assert not (tmp_path / "o").exists()


def test_a_label_missing_in_the_training_split_is_one_clear_error(trained, toy_env, tmp_path, command):
    cells = synthetic_cells()
    split = tmp_path / "by_type.tsv"
    part = np.where(cells.obs["cell_type"] == "beta", "test", "train")
    split.write_text("cell_id\tpart\n" + "".join(f"{c}\t{p}\n" for c, p in zip(cells.obs_names, part, strict=True)))
    code, _, err = command("evaluate", trained, "--set", f"data.split={split}", "--quiet")
    assert code == 6 and "label missing in the training split: beta" in err


def test_errors_are_json_when_json_was_asked_for(command, tmp_path):
    code, out, err = command("reproduce", "genformer", "--json")
    answer = json.loads(out)
    assert code == 2 and err == ""
    assert answer["error"] == "ConfigError" and "geneformer" in answer["do"]


def test_reproduce_prints_both_tiers_and_says_no(toy_env, tmp_path, monkeypatch, command):
    for name in ("recipe.yaml", "expected.yaml"):
        (tmp_path / name).write_text((toy_env / name).read_text())
    (tmp_path / "parity_toy.py").write_text(
        "from scmf.results.parity import ParityCase\n"
        "def cases(folder, data_dir=None):\n"
        "    yield ParityCase('tok/a', '3 cells', True, 0.0, 0.0)\n"
        "    yield ParityCase('tok/b', '3 cells', False, float('nan'), 0.0, 'cell 2 differs')\n"
    )
    monkeypatch.setenv("SCMF_REFERENCE_DIR", str(tmp_path))
    monkeypatch.setattr(reproduction, "write_report", lambda *arguments, **keywords: [])  # of pages: test_reproduce
    folders = ["--runs", tmp_path / "r", "--results", tmp_path / "l", "--reports", tmp_path / "p"]
    code, out, err = command("--trust", "reproduce", tmp_path, *folders)
    assert code == 1
    assert "1 of 2 cases" in out and "cell 2 differs" in out and "majority class" in out and "NOT reproduced" in out
    assert "pretraining on" in err
    code, out, _ = command("--trust", "reproduce", tmp_path, "--tier", "parity", "--json", "--quiet")
    answer = json.loads(out)
    assert code == 1 and [case["difference"] for case in answer["parity"]] == [0.0, None]


def test_an_unknown_tier_and_bad_seeds_are_refused(command):
    assert command("reproduce", "geneformer", "--tier", "embeded")[0] == 2
    assert command("reproduce", "geneformer", "--seeds", "one")[0] == 2
