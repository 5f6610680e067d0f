"""The model card and what goes into it: scores with their baselines, licenses, and nothing that must stay here."""

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError
from scmf.core.paths import shipped
from scmf.core.shareable import published, published_command
from scmf.core.yaml import load_yaml
from scmf.data.cards.card import load_card
from scmf.hub.card import Subject, card_text, front_matter
from scmf.hub.results import Model, gather
from scmf.models.origin import Checkpoint, Link
from tests.results.pages.test_escape import EVIL, assert_harmless

LEDGER = shipped("recipes").parent / "leaderboard" / "results"
OF_MINI = LEDGER / "geneformer" / "mini" / "pancreas.donor"
SEEN = {
    "auto_class": "AutoModelForPreTraining", "class": "X", "dtype": "float32", "embedding_dim": 16, "genes": 1234,
    "max_length": 24, "parameters": 7_000, "tokenizer": "RankValueTokenizer", "torch": "2", "transformers": "5",
}  # fmt: skip
SCORE = {
    "benchmark": "annotation", "protocol": "linear_probe", "method": "pretrained", "metrics": {"accuracy": 0.5},
    "definitions": {"accuracy": "share of right | labels"}, "n_cells": 10, "n_train": 20, "seconds": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def mini():
    """What a run of geneformer's variant mini, seed 0, left: its digest is that of the recorded results."""
    stored = json.loads(next(OF_MINI.rglob("annotation.linear_probe.pretrained.seed0.json")).read_text())
    config = load_recipe("geneformer", variant="mini").config.model_dump(mode="json")
    return {
        "recipe": "geneformer", "variant": "mini", "seed": 0, "recipe_digest": stored["recipe_digest"],
        "config": config, "provenance": stored["provenance"],
    }  # fmt: skip


def checkpoint(folder, run, **others):
    return Checkpoint(folder, others.get("config", {}), others.get("record", {}), run, folder)


def subject(folder, run=None, *, results=(), license="Apache-2.0", links=(), cells=None, **others):
    place = checkpoint(folder, run or {}, **others)
    return Subject("lab/toy", place, Model.of(place), license, links, SEEN, cells, results)


def matter(text):
    return yaml.safe_load(text.split("---\n")[1])


# --- results --------------------------------------------------------------------------------------


def test_a_ledger_gives_the_results_of_this_run_and_its_baselines_alone(tmp_path, mini):
    found = gather([LEDGER], Model.of(checkpoint(tmp_path, mini)))
    assert {result.seed for result in found} == {0, None}
    methods = {result.method.partition("-")[0] for result in found}
    assert methods == {"pretrained", "untrained", "pca", "hvg", "majority"}
    assert {result.recipe_digest for result in found} == {mini["recipe_digest"]}
    with pytest.raises(ConfigError, match="none of geneformer mini, seed 7"):
        gather([LEDGER], Model.of(checkpoint(tmp_path, {**mini, "seed": 7})))


def test_a_result_of_another_run_is_refused(tmp_path, mini):
    result = json.loads(next(OF_MINI.rglob("annotation.linear_probe.pretrained.seed0.json")).read_text())
    file = tmp_path / "annotation.linear_probe.pretrained.seed100.json"
    file.write_text(json.dumps({**result, "seed": 100}))
    with pytest.raises(ConfigError, match="seed 100"):
        gather([file], Model.of(checkpoint(tmp_path, mini)))


def test_scores_of_evaluate_take_cells_and_split_from_the_run(tmp_path, mini):
    (tmp_path / "scores.json").write_text(json.dumps([SCORE]))
    (result,) = gather([tmp_path / "scores.json"], Model.of(checkpoint(tmp_path, mini)))
    assert (result.dataset, result.split, result.seed) == ("pancreas", "donor", 0)
    assert result.provenance["scores"]["file"] == "scores.json" and len(result.provenance["scores"]["sha256"]) == 64
    converted = Model.of(checkpoint(tmp_path, {}, config={"source_variant": "v1-10m"}))
    with pytest.raises(ConfigError, match="do not say on which cells"):
        gather([tmp_path / "scores.json"], converted)
    (tmp_path / "scores.json").write_text(
        json.dumps({**SCORE, "dataset": "pancreas", "split": "my/donor split.tsv.gz"})
    )
    (result,) = gather([tmp_path / "scores.json"], converted)
    assert (result.split, result.tier) == ("donor_split", "published")


@pytest.mark.parametrize("text", ["{", "[1]", '[{"benchmark": "annotation"}]', "[{}]", '[{"schema_version": 1}]'])
def test_a_file_that_is_no_result_is_one_clear_error(tmp_path, mini, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ConfigError, match=r"scores\.json"):
        gather([tmp_path / "scores.json"], Model.of(checkpoint(tmp_path, mini)))
    with pytest.raises(ConfigError, match="no such file"):
        gather([tmp_path / "none.json"], Model.of(checkpoint(tmp_path, mini)))


# --- the card -------------------------------------------------------------------------------------


def test_the_card_of_a_recorded_run_says_what_it_is_and_what_is_better(tmp_path, mini):
    model = Model.of(checkpoint(tmp_path, mini))
    made = subject(tmp_path, mini, results=gather([LEDGER], model), cells=load_card("pancreas"))
    text = card_text(made)
    assert text == card_text(made)
    assert text.startswith("---\n") and "# geneformer mini\n" in text
    for words in (
        "Exactly the configuration of the recipe", "Theodoris CV et al.", "CC-BY-4.0", "Xu C. et al.",
        r'AutoModelForPreTraining.from\_pretrained("lab/toy"'.replace("\\", ""), "It is no foundation model",
        "CELLxGENE Discover holds its training cells: yes", "Not validated for diagnosis",
        "| accuracy ↑ | linear probe | 0.5361 |", "unweighted mean of per-class F1",
        mini["recipe_digest"], mini["provenance"]["data"]["sha256"], mini["provenance"]["git"]["commit"],
    ):  # fmt: skip
        assert words in text, words
    limits = text.split("## Limitations")[1].split("##")[0]
    assert "HVG (linear probe) by" in limits, "the baseline that is better is named"
    (tmp_path / "README.md").write_text(text)
    loaded = ModelCard.load(tmp_path / "README.md")
    assert loaded.data.model_name == "geneformer mini" and loaded.data.license == "apache-2.0"
    values = {(r.metric_name, r.metric_value) for r in loaded.data.eval_results}
    assert ("accuracy (linear probe)", 0.5361139369277721) in values
    assert {r.metric_args["method"] for r in loaded.data.eval_results} == {"pretrained"}


def test_a_changed_key_is_listed(tmp_path, mini):
    config = json.loads(json.dumps(mini["config"]))
    config["training"]["max_epochs"] = 1
    text = card_text(subject(tmp_path, {**mini, "config": config}))
    assert "with 1 changes" in text and "training.max\\_epochs: 10 → 1" in text


def test_a_model_without_scores_says_so(tmp_path, mini):
    text = card_text(subject(tmp_path, mini))
    assert "No score of this model was given" in text and "model-index" not in matter(text)


def test_scores_without_a_baseline_are_marked(tmp_path, mini):
    (tmp_path / "scores.json").write_text(json.dumps([SCORE]))
    results = gather([tmp_path / "scores.json"], Model.of(checkpoint(tmp_path, mini)))
    text = card_text(subject(tmp_path, mini, results=results))
    assert "No baseline without a model stands beside these scores" in text
    assert "share of right \\| labels" in text


def test_converted_weights_name_their_source_and_whether_it_is_the_published_file(tmp_path):
    facts = {
        "source_repository": "authors/model", "source_revision": "abc", "source_sha256": "d" * 64,
        "source_verified": False, "source_file": "model.safetensors",
    }  # fmt: skip
    links = [Link(tmp_path, "weights of authors/model", "MIT", facts=facts)]
    config = {"source_variant": "v1-10m", "source_recipe": "geneformer"}
    text = card_text(subject(tmp_path, license="MIT", links=links, config=config))
    assert "[authors/model](https://huggingface.co/authors/model) at `abc`, converted and published" in text
    assert "not the file that its authors published" in text and "Not trained here" in text
    assert matter(text)["base_model"] == "authors/model" and "Variant `v1-10m`" in text


def test_geneformer_is_known_by_its_repository_also_where_the_recipe_lists_no_such_variant(tmp_path):
    config = {"source_variant": "gf-12l-95m", "source_repository": "ctheodoris/Geneformer"}
    text = card_text(subject(tmp_path, config=config))
    assert "# geneformer gf-12l-95m" in text and "Theodoris CV et al." in text
    own = {"recipe": "geneformer", "variant": "custom", "config": {"training": {"seed": 1}}}
    assert "Theodoris" not in card_text(subject(tmp_path, own)), "a file of one's own that is called the same"


def test_a_licence_that_the_hub_does_not_know_points_to_the_file(tmp_path):
    found = matter(f"---\n{front_matter(subject(tmp_path, license='My own words: ask me, please!'))}---\n")
    assert (found["license"], found["license_name"], found["license_link"]) == (
        "other", "my-own-words-ask-me-please", "LICENSE",
    )  # fmt: skip


def test_words_of_others_cannot_break_the_table_or_the_front_matter(tmp_path, mini):
    bad = 'no | table\n---\n<script>"no": yes'
    cells = load_card("pancreas").model_copy(update={"title": bad, "citation": bad, "license": bad})
    run = {**mini, "provenance": {**mini["provenance"], "cpu": bad}}
    text = card_text(subject(tmp_path, run, license=bad, cells=cells))
    assert "<script>" not in text.replace("\\<script", "") and text.count("\n---\n") == 1
    assert matter(text)["license"] == "other"


def test_the_log_gives_steps_and_last_losses(tmp_path, mini):
    (tmp_path / "pretraining").mkdir()
    lines = [
        '{"step": 1, "loss": 3.0}',
        '{"step": 2, "loss": 2.5}',
        '{"step": 2, "valid_loss": 2.75}',
        '{"step": 3, "l',
    ]
    (tmp_path / "pretraining" / "log.jsonl").write_text("\n".join(lines))
    assert "2 steps; last training loss 2.5000; last validation loss 2.7500." in card_text(subject(tmp_path, mini))
    shutil.rmtree(tmp_path / "pretraining")
    assert "last training loss" not in card_text(subject(tmp_path, mini))


# --- what stays here ------------------------------------------------------------------------------


def test_credentials_and_folders_stay_here(tmp_path, mini):
    config = json.loads(json.dumps(mini["config"]))
    config["data"] |= {
        "dataset": None, "files": ["/home/ann/patients/a.h5ad", "s3://bucket/deep/b.zarr"],
        "storage_options": {"key": "AKIA", "secret": "s3cr3t"}, "split": "private/donor.tsv",
    }  # fmt: skip
    command = (
        "scmf train --config /home/ann/patients/my.yaml --set data.storage_options.secret=s3cr3t "
        "--set training.lr=1e-3 --set data.split=private/donor.tsv --out /scratch/ann/run"
    )
    run = {**mini, "config": config, "provenance": {**mini["provenance"], "command": command}}
    text = card_text(subject(tmp_path, run)) + json.dumps(published(run))
    for word in ("s3cr3t", "AKIA", "ann", "patients/", "bucket", "scratch", "storage_options"):
        assert word not in text.replace("scanpy", "").replace("annotation", "").replace("anndata", ""), word
    assert "a.h5ad" in text and "b.zarr" in text
    assert published_command(command) == (
        "scmf train --config my.yaml --set training.lr=1e-3 --set data.split=donor.tsv --out run"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tissue == 'a/b' and x", "tissue == 'a/b' and x"),
        ("pancreas", "pancreas"),
        ("https://user:pw@host/x/y.h5ad?token=1", "y.h5ad"),
        ("C:\\Users\\ann\\x.h5ad", "x.h5ad"),
        ("../up/x.yaml", "x.yaml"),
        ("1e-3", "1e-3"),
    ],
)
def test_an_address_becomes_a_name_and_other_texts_stay(text, shown):
    assert published(text) == shown


def test_the_published_configuration_is_one_that_trains(tmp_path, mini):
    from scmf.core.yaml import dump_yaml
    from scmf.hub.card import training_yaml

    (tmp_path / "training.yaml").write_text(dump_yaml(training_yaml(mini)))
    assert load_yaml(tmp_path / "training.yaml")["data"]["dataset"] == "pancreas"
    again = load_recipe(tmp_path / "training.yaml")
    assert again.digest == load_recipe("geneformer", variant="mini").digest


def test_payloads_of_a_run_and_of_converted_weights_are_text_on_the_card(tmp_path, mini):
    config = json.loads(json.dumps(mini["config"]))
    config["data"] |= {"dataset": None, "files": [f"{EVIL}.h5ad"], "label_key": EVIL}
    provenance = {
        "packages": {EVIL: EVIL},
        "python": EVIL,
        "cpu": EVIL,
        "git": {"commit": EVIL},
        "command": f"scmf {EVIL}",
    }
    run = {
        **mini,
        "recipe": EVIL,
        "variant": EVIL,
        "config": config,
        "provenance": {**provenance, "data": {"dataset": EVIL}},
    }
    facts = {f"source_{name}": EVIL for name in ("repository", "revision", "sha256", "file")} | {
        "source_verified": False
    }
    links = (Link(tmp_path, "converted", EVIL, facts=facts),)
    (tmp_path / "scores.json").write_text(
        json.dumps(
            [{**SCORE, "definitions": {"accuracy": EVIL}, "metrics": {"accuracy": 0.5}, "dataset": "x", "split": "y"}]
        )
    )
    results = gather([tmp_path / "scores.json"], Model.of(checkpoint(tmp_path, mini)))
    for made in (
        subject(tmp_path, run, license=EVIL, links=links, results=results),
        subject(tmp_path, {}, license=EVIL, links=links, config={"source_recipe": EVIL, "source_variant": EVIL}),
    ):
        text = card_text(made)
        front = next(yaml.safe_load_all(text))
        assert front["license"] == "other" and set(front) <= {
            "license", "license_name", "license_link", "library_name", "pipeline_tag", "tags", "model-index",
        }  # fmt: skip
        body = text.split("---\n", 2)[2]
        assert_harmless(body)
        assert "\x1b" not in text and "\x9b" not in text
