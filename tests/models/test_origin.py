"""Where weights come from: chains of folders, licenses that forbid, origins that nobody can read."""

import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from scmf.core.errors import ConfigError, ModelError
from scmf.core.files import sha256_file
from scmf.hub.publish import _terms, publish
from scmf.models.origin import Checkpoint, judge, spdx, trace, training_record
from scmf.models.published.pull import pull
from tests.fixtures.zoo import use_cards

FORBIDDEN = {
    "weights_license": "Model license: non-commercial research, no redistribution",
    "may_publish": False,
    "allowed": "research of your own with a copy from the authors",
}
OPEN = {"weights_license": "MIT", "may_publish": True, "source_repository": "authors/model"}


def weights(folder, *, record=None, config=None, content=b"w"):
    """A folder with weights and whatever is said about them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    (folder / "model.safetensors").write_bytes(content)
    if record is not None:
        (folder / "provenance.json").write_text(json.dumps(record))
    return folder


def trained(folder, *, start=None, record=None, config=None, tokenizer=None, data=None):
    """The folder of a run that began with the weights in ``start``, or with random ones."""
    weights(folder / "model", record=record, config=config, content=folder.name.encode())
    sections = {
        "model": {"checkpoint": None if start is None else str(start)},
        "tokenizer": tokenizer or {"vocabulary": "fit"},
        "data": data or {},
    }
    (folder / "run.json").write_text(json.dumps({"recipe": "toy", "variant": "tiny", "config": sections}))
    return folder


def license(folder):
    """What `publish` asks first: the license, or the error."""
    checkpoint = Checkpoint.at(folder)
    return judge(checkpoint, trace(checkpoint))


def test_weights_trained_from_random_ones_are_the_publishers_own(tmp_path):
    run = trained(tmp_path / "run")
    assert license(run) is None and license(run / "model") is None


def test_a_licence_that_forbids_is_named_with_what_it_allows(tmp_path):
    with pytest.raises(ModelError) as refused:
        publish(weights(tmp_path / "w", record=FORBIDDEN), "lab/toy", dry_run=True)
    assert FORBIDDEN["weights_license"] in refused.value.found
    assert FORBIDDEN["allowed"] in refused.value.fix
    assert not (tmp_path / "w.published").exists()


def test_it_is_inherited_through_every_run(tmp_path):
    start = weights(tmp_path / "w", record=FORBIDDEN)
    first = trained(tmp_path / "first", start=start)
    second = trained(tmp_path / "second", start=first / "model")
    for folder in (first, second, second / "model"):
        with pytest.raises(ModelError, match="no redistribution") as refused:
            license(folder)
    assert refused.value.where == f"{second / 'model'} <- {first / 'model'} <- {start}"


def test_a_chain_that_ends_in_an_open_licence_keeps_it(tmp_path):
    start = weights(tmp_path / "w", record=OPEN)
    run = trained(tmp_path / "run", start=start)
    assert license(start) == license(run) == "MIT"
    other = weights(tmp_path / "v", record={**OPEN, "weights_license": "cc-by-4.0"}, config={"source_license": "mit"})
    assert license(other) == "CC-BY-4.0 AND MIT"


def test_an_origin_that_cannot_be_read_is_refused_with_what_to_do(tmp_path):
    for folder in (
        weights(tmp_path / "bare"),
        trained(tmp_path / "run", start=tmp_path / "gone"),
        trained(tmp_path / "of_bare", start=tmp_path / "bare"),
        weights(tmp_path / "odd", config={"source_license": "custom terms"}),
        weights(tmp_path / "half", record={"weights_license": "MIT"}),
        weights(tmp_path / "text", record={"weights_license": "MIT", "may_publish": "yes"}),
        weights(tmp_path / "empty", record={"weights_license": " ", "may_publish": True}),
    ):
        with pytest.raises(ModelError, match="cannot be shown") as refused:
            license(folder)
        assert '"checked"' in refused.value.fix and '"may_publish": true' in refused.value.fix


def test_the_word_of_a_person_lifts_a_doubt_and_never_a_no(tmp_path):
    word = {"weights_license": "CC-BY-4.0", "may_publish": True, "checked": "by the lab's counsel on 2026-11-01"}
    run = trained(tmp_path / "run", start=tmp_path / "gone", record=word)
    assert license(run) == "CC-BY-4.0"
    start = weights(tmp_path / "w", record=FORBIDDEN)
    with pytest.raises(ModelError, match="must not be published"):
        license(trained(tmp_path / "no", start=start, record=word))
    marked = {"source_license": "custom", "source_may_publish": False}
    with pytest.raises(ModelError, match="must not be published"):
        license(weights(tmp_path / "marked", record=word, config=marked))
    alone = {"checked": "I am sure"}
    with pytest.raises(ModelError, match="cannot be shown"):
        license(weights(tmp_path / "alone", record=alone))


def test_a_run_json_copied_beside_other_weights_does_not_hide_their_mark(tmp_path):
    mark = {"source_license": "custom", "source_may_publish": False, "source_repository": "authors/model"}
    copied = trained(tmp_path / "run", config=mark)
    with pytest.raises(ModelError, match="'custom'"):
        license(copied)


def test_a_record_of_other_weights_counts_for_nothing(tmp_path):
    sums = {"model.safetensors": "0" * 64}
    with pytest.raises(ModelError, match="was written for other weights"):
        license(weights(tmp_path / "w", record={**OPEN, "weights_sha256": sums}))
    right = {"model.safetensors": sha256_file(tmp_path / "w" / "model.safetensors")}
    assert license(weights(tmp_path / "v", record={**OPEN, "weights_sha256": right})) == "MIT"
    with pytest.raises(ModelError, match="no redistribution"):
        license(weights(tmp_path / "u", record={**FORBIDDEN, "weights_sha256": sums}))


def test_runs_that_name_each_other_do_not_go_round_for_ever(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    trained(one, start=two / "model")
    trained(two, start=one / "model")
    with pytest.raises(ModelError, match="cannot be shown"):
        license(one)


def test_what_is_saved_with_the_tokenizer_has_a_licence_too(tmp_path):
    assert license(trained(tmp_path / "a", tokenizer={"vocabulary": "geneformer-v1"})) is None
    assert license(trained(tmp_path / "b", tokenizer={"vocabulary": str(tmp_path / "mine.json")})) is None
    start = weights(tmp_path / "w", record=FORBIDDEN)
    with pytest.raises(ModelError, match="no redistribution"):
        license(trained(tmp_path / "c", tokenizer={"vocabulary": str(start)}))


def test_training_leaves_a_record_by_which_moved_weights_know_their_origin(tmp_path):
    start = weights(tmp_path / "w", record=FORBIDDEN)
    for name, folder, expected in (
        ("own", trained(tmp_path / "own"), None),
        ("open", trained(tmp_path / "open", start=weights(tmp_path / "v", record=OPEN)), "MIT"),
        ("no", trained(tmp_path / "no", start=start), ModelError),
        ("lost", trained(tmp_path / "lost", start=tmp_path / "gone"), ModelError),
    ):
        record = training_record(Checkpoint.at(folder))
        (folder / "model" / "provenance.json").write_text(json.dumps(record))
        moved = (folder / "model").rename(tmp_path / f"moved_{name}")
        if expected is ModelError:
            with pytest.raises(ModelError, match="no redistribution" if name == "no" else "cannot be shown"):
                license(moved)
        else:
            assert license(moved) == expected


def test_geneformer_as_it_is_pulled_is_apache_and_stays_so_when_trained_further(tmp_path, monkeypatch):
    tiny = {"vocab_size": 30, "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "ffn_dim": 24, "max_positions": 12}
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(
        vocab_size=30, num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, hidden_act="relu",
    )).save_pretrained(tmp_path / "official")  # fmt: skip
    file = tmp_path / "official" / "model.safetensors"

    def known(recipe, card):
        if recipe == "geneformer":
            card["variants"]["v2-104m"]["shape"] |= tiny
            card["variants"]["v2-104m"]["files"][0]["sha256"] = sha256_file(file)
            card["variants"]["v2-316m"]["shape"] |= tiny

    use_cards(monkeypatch, tmp_path / "cards", known)
    good = pull("geneformer@v2-104m", source=file, out=tmp_path / "good", tokenizer=False).folder
    assert license(good) == "Apache-2.0"
    config = json.loads((good / "config.json").read_text())
    assert license(trained(tmp_path / "run", start=tmp_path / "moved_away", config=config)) == "Apache-2.0"
    other = pull("geneformer@v2-316m", source=file, out=tmp_path / "other", unverified=True, tokenizer=False).folder
    with pytest.raises(ModelError, match="--unverified"):
        license(other)


# --- the license of one's own weights -------------------------------------------------------------


def test_a_licence_is_known_by_its_whole_text():
    assert spdx("apache-2.0 ") == "Apache-2.0"
    for text in ("MIT (code); weights: ask", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "", "unknown"):
        assert spdx(text) is None


def test_own_weights_get_the_licence_that_was_asked_for():
    class Cells:
        name, license = "cells", "CC-BY-NC-4.0"

    assert _terms(None, None, None) == "Apache-2.0"
    assert _terms(None, "mit", Cells) == "MIT"
    assert _terms(None, "my own words", None) == "my own words"
    with pytest.raises(ConfigError, match="CC-BY-NC"):
        _terms(None, None, Cells)


def test_weights_of_others_keep_their_license():
    assert _terms("MIT", None, None) == _terms("MIT", "mit", None) == "MIT"
    with pytest.raises(ConfigError, match="Apache-2.0") as refused:
        _terms("MIT", "Apache-2.0", None)
    assert "MIT" in refused.value.wanted


def test_a_broken_file_beside_the_weights_is_one_clear_error(tmp_path):
    folder = weights(tmp_path / "w")
    for text in ("{", "[]"):
        (folder / "provenance.json").write_text(text)
        with pytest.raises(ModelError, match="not readable|a list"):
            Checkpoint.at(folder)
