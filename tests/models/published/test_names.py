"""A model by name wherever a command takes one: names, folders, Hub ids; what they lead to and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import scmf
from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError, ModelError
from scmf.core.yaml import dump_yaml
from scmf.models.origin import Checkpoint, judge, trace
from scmf.models.published.cards import list_models, nearest, published
from scmf.models.published.names import find_here, find_model
from tests.fixtures.hub_server import File, Repository
from tests.models.published.conftest import REPO

NAME = "geneformer@v2-104m"
UNCHECKED = {
    "auto_class": "AutoModel", "dtype": "float32", "embedding_dim": 16, "genes": 119, "max_length": 24,
    "parameters": 1, "tokenizer": "RankValueTokenizer", "torch": "-", "transformers": "-",
}  # fmt: skip


def vectors(zoo, model, output="out.h5ad", key=()):
    code, _, err = zoo("embed", zoo.official.cells, "--model", model, "-o", output, "--quiet", *key)
    assert code == 0, err
    obsm = ad.read_h5ad(output).obsm
    return next(iter(obsm.keys())), np.asarray(next(iter(obsm.values())))


@pytest.fixture
def config(zoo, official):
    """A YAML file that trains further from the published weights, for one step."""
    text = dump_yaml({
        "data": {"files": [str(official.cells)]},
        "tokenizer": {"vocabulary": str(official.root / "tiny-ranks.yaml"), "max_length": 40, "special_tokens": True},
        "model": {"checkpoint": NAME},
        "training": {"batch_size": 8, "max_steps": 1, "lr": 1e-3, "warmup_steps": 0},
        "eval": {"every_n_epochs": 0, "benchmarks": []},
    })  # fmt: skip
    Path("mine.yaml").write_text(text)
    return "mine.yaml"


def test_every_spelling_means_the_same_model(zoo, tmp_path):
    key, by_name = vectors(zoo, NAME)
    assert key == "X_geneformer"
    for word in (f"scmf://{NAME}", str(zoo.folder(NAME))):
        assert (vectors(zoo, word)[1] == by_name).all()
    found = find_model(NAME)
    assert (found.folder, found.word, found.recipe, found.variant) == (zoo.folder(NAME), NAME, "geneformer", "v2-104m")
    assert find_here(NAME) == zoo.folder(NAME) and find_here("geneformer@v1-10m") is None
    model, tokenizer = scmf.load_run_model(NAME)
    assert len(tokenizer) == model.config.vocab_size == 124
    (tmp_path / NAME).mkdir()
    assert find_model(NAME).folder.resolve() == tmp_path / NAME, "a folder that exists comes first"
    assert find_model(f"scmf://{NAME}").folder == zoo.folder(NAME)


@pytest.mark.parametrize(
    "word",
    ["geneformer@v2", "scmf://geneformer@v2", "scModelForge://geneformer-v2", "scmodelforge://geneformer-v2-316m"],
)
def test_a_short_name_means_what_the_authors_give_by_default(zoo, word):
    assert published(word).name == "geneformer@v2-316m"
    info = zoo.json("models", "info", word)
    assert info["name"] == "geneformer@v2-316m" and info["also"] == ["geneformer@v2"]


def test_the_scheme_of_the_long_name_is_taken_by_commands(zoo):
    wanted = vectors(zoo, NAME)[1]
    assert (vectors(zoo, "scModelForge://geneformer-v2-104m")[1] == wanted).all()


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("geneformer@v2-104", NAME),
        ("genefomer@v2-104m", NAME),
        ("scmf://Geneformer@v2-104m", NAME),
        ("scgpt@whole_human", "scgpt@whole-human"),
        ("scmf://geneformer", "geneformer@v1-10m"),
        ("scModelForge://genefomer-v2-104m", NAME),
    ],
)
def test_an_unknown_name_is_one_error_with_the_nearest_names(zoo, config, word, hint):
    cells = zoo.official.cells
    for command in (
        ("embed", cells, "--model", word),
        ("evaluate", word),
        ("evaluate", word, "--tasks", "all"),
        ("publish", word, "--repo", "lab/mine", "--dry-run"),
        ("train", "--config", config, "--set", f"model.checkpoint={word}", "--out", "run"),
        ("models", "info", word),
        ("models", "pull", word),
    ):
        code, _, err = zoo(*command)
        assert code == ConfigError.exit_code, (command, err)
        assert "did you mean" in err and hint in err, err
    assert zoo.hub.requests == []


def test_a_word_that_is_nothing_is_one_error(zoo):
    for word in ("runs", "geneformer", "./nothing/here"):
        code, _, err = zoo("embed", zoo.official.cells, "--model", word)
        assert code == ModelError.exit_code and "no such folder" in err and "check the path" in err
    assert "geneformer@" in nearest("geneformer") and "scgpt@brain" in nearest("brain")


def test_training_goes_on_from_a_name_and_the_license_follows(zoo, config, monkeypatch):
    monkeypatch.setattr("scmf.hub.publish.check_alone", lambda *_, **__: UNCHECKED)
    code, _, err = zoo("train", "--config", config, "--out", "run", "--quiet")
    assert code == 0, err
    facts = json.loads((zoo.cards.parent / "run" / "run.json").read_text())
    assert facts["config"]["model"]["checkpoint"] == NAME
    started, ended = (scmf.load_run_model(word)[0].state_dict() for word in (NAME, "run"))
    change = max(float((ended[name] - started[name]).abs().max()) for name in started)
    assert 0 < change < 0.01, "one step from the published weights"
    checkpoint = Checkpoint.at("run")
    assert checkpoint.start == zoo.folder(NAME)
    assert judge(checkpoint, trace(checkpoint)) == "Apache-2.0"
    answer = zoo.json("publish", "run", "--repo", "lab/mine", "--dry-run", "--quiet")
    assert answer["license"] == "Apache-2.0"


def test_a_published_model_is_published_under_its_own_license_and_no_other(zoo, monkeypatch):
    monkeypatch.setattr("scmf.hub.publish.check_alone", lambda *_, **__: UNCHECKED)
    code, _, err = zoo("publish", NAME, "--repo", "lab/copy", "--dry-run", "--license", "MIT", "--quiet")
    assert code == ConfigError.exit_code and "Apache-2.0" in err
    answer = zoo.json("publish", NAME, "--repo", "lab/copy", "--dry-run", "--quiet")
    assert answer["license"] == "Apache-2.0"
    assert answer["folder"] == str(zoo.cards.parent / f"{NAME}.published"), "not in the cache"
    record = json.loads((zoo.cards.parent / f"{NAME}.published" / "provenance.json").read_text())
    assert (record["recipe"], record["variant"], record["source_verified"]) == ("geneformer", "v2-104m", True)


def test_evaluate_takes_a_name(zoo, toy, monkeypatch):
    monkeypatch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
    code, out, err = zoo("evaluate", NAME, "--config", toy / "recipe.yaml", "--json", "--quiet")
    assert code == 0, err
    methods = {score["method"] for score in json.loads(out)}
    assert {"pretrained", "untrained", "pca"} <= methods


# --- the Hub --------------------------------------------------------------------------------------


@pytest.fixture
def shared(zoo):
    """A repository on the Hub with a converted model, a pickle that nobody needs, and a later commit."""
    zoo.json("models", "pull", NAME)
    files = {path.name: File(path.read_bytes()) for path in zoo.folder(NAME).iterdir() if path.is_file()}
    repository = zoo.hub.repositories["lab/mine"] = Repository()
    first = repository.commit({**repository.files, **files, "training_args.bin": File(b"\x80\x04.")})
    changed = json.loads(files["config.json"].content) | {"note": "later"}
    repository.commit({**repository.files, "config.json": File(json.dumps(changed).encode())})
    return first


def test_a_model_on_the_hub_is_taken_by_its_id(zoo, shared):
    wanted = vectors(zoo, NAME)[1]
    key, found = vectors(zoo, f"lab/mine@{shared}")
    assert key == "X_mine" and (found == wanted).all()
    assert not any("training_args.bin" in request for request in zoo.hub.requests)
    model = find_model(f"hf://lab/mine@{shared}")
    assert model.word == f"lab/mine@{shared}" and find_here(model.word) == model.folder
    code, _, err = zoo("embed", zoo.official.cells, "--model", "lab/mine", "-o", "out.h5ad")
    assert code == ModelError.exit_code and "changed since it was saved" in err, "today's main is not as it was saved"


def test_a_model_on_the_hub_that_is_here_needs_no_network(zoo, shared):
    wanted = vectors(zoo, f"lab/mine@{shared}")[1]
    zoo.hub.faults["GET /"] = zoo.hub.faults["HEAD /"] = None
    assert (vectors(zoo, f"lab/mine@{shared}")[1] == wanted).all()


def test_of_a_repository_of_another_kind_nothing_large_is_fetched(zoo):
    other = {"config.json": File(b'{"model_type": "bert"}'), "model.safetensors": File(b"large", large=True)}
    zoo.hub.repositories["lab/other"] = Repository()
    zoo.hub.repositories["lab/other"].commit(other)
    code, _, err = zoo("evaluate", "lab/other", "--tasks", "all")
    assert code == ModelError.exit_code and "model_type 'bert'" in err
    assert not any("safetensors" in request for request in zoo.hub.requests)


def test_what_would_load_other_weights_from_the_hub_needs_trust(zoo, shared):
    repository = zoo.hub.repositories["lab/mine"]
    repository.commit({**repository.commits[1][1], "adapter_config.json": File(b"{}")})
    code, _, err = zoo("embed", zoo.official.cells, "--model", "lab/mine", "-o", "out.h5ad")
    assert code == ConfigError.exit_code and "--trust" in err


def test_official_repositories_and_missing_ones_are_told_apart(zoo, tmp_path):
    code, _, err = zoo("embed", zoo.official.cells, "--model", REPO)
    assert code == ConfigError.exit_code and NAME in err
    code, _, err = zoo("embed", zoo.official.cells, "--model", "lab/nothing")
    assert code == ModelError.exit_code and "no folder lab/nothing here" in err
    asked = len(zoo.hub.requests)
    (tmp_path / "runs").mkdir()
    code, _, err = zoo("embed", zoo.official.cells, "--model", "runs/frist")
    assert code == ModelError.exit_code and "no such folder" in err
    assert len(zoo.hub.requests) == asked, "a mistyped path is not asked for on the Hub"


# --- the shipped cards ----------------------------------------------------------------------------


def test_the_shipped_cards_are_whole_and_agree_with_the_recipes():
    models = list_models()
    assert len({model.name for model in models}) == len(models) == 22
    for model in models:
        recipe = load_recipe(model.card.recipe)
        assert recipe.identity is not None
        assert published(model.name) == model
        assert model.how and model.card.url.startswith("https://")
        assert (model.source is not None) == (model.card.repository == REPO and "withdrawn" not in model.facts.title)
        if model.card.recipe == "geneformer" and model.variant in recipe.variants:
            config = load_recipe(model.card.recipe, variant=model.variant).config
            shape, sizes = model.facts.shape, config.model
            assert [shape[key] for key in ("num_layers", "hidden_dim", "num_heads", "ffn_dim", "dropout")] == [
                sizes.num_layers, sizes.hidden_dim, sizes.num_heads, sizes.ffn_dim, sizes.dropout
            ]  # fmt: skip
            assert shape["max_positions"] == config.tokenizer.max_length
            assert shape["special_tokens"] == config.tokenizer.special_tokens
            assert model.facts.vocabulary == config.tokenizer.vocabulary


def test_listing_and_looking_imports_nothing_heavy():
    code = (
        "import sys; from scmf.models.published.cached import here; "
        "from scmf.models.published.cards import list_models; [here(m) for m in list_models()]; "
        "print(sorted({'torch', 'anndata', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
