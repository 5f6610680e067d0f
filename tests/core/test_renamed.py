"""Files with the names of before: read with one warning a key, refused where old and new contradict each other."""

import json
import logging
import re

import pytest
import yaml

from scmf.core.config import renamed
from scmf.core.config.recipe import load_recipe
from scmf.core.config.run import RunConfig, apply_overrides, validate
from scmf.core.errors import ConfigError
from scmf.core.paths import reference_dir, shipped
from scmf.evaluation.tasks import load_suite


@pytest.fixture(autouse=True)
def never_warned(monkeypatch):
    monkeypatch.setattr(renamed, "_warned", set())


@pytest.fixture
def old_file(tmp_path):
    """The shipped recipe of scGPT, written as before the keys were renamed."""
    text = (shipped("recipes") / "scgpt" / "recipe.yaml").read_text(encoding="utf-8")
    for new, old in (("max_length", "max_genes"), ("match_official", "faithful"), ("license", "licence")):
        text = re.sub(rf"\b{new}:", f"{old}:", text)
    text = text.replace("tier: mini", "tier: embedded")
    assert "max_genes:" in text and "licence:" in text and "tier: embedded" in text
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_of_before_is_the_same_recipe(old_file, caplog):
    new, old = load_recipe("scgpt"), load_recipe(old_file)
    assert old.config == new.config and old.digest == new.digest
    assert old.identity == new.identity and old.variants == new.variants and old.tier == "mini"
    said = [record.message for record in caplog.records if "licence" in record.message]
    assert len(said) == 1 and "license" in said[0]
    assert not any("max_genes" in record.message for record in caplog.records)  # a spelling that stands for good
    assert caplog.records[0].levelno == logging.WARNING


def test_an_override_with_the_old_name_wins_as_any_other():
    raw = {"tokenizer": {"max_length": 5, "match_official": False}, "model": {"options": {"match_official": False}}}
    for text in ("tokenizer.max_genes=9", "tokenizer.faithful=true", "model.options.faithful=true"):
        raw = apply_overrides(raw, (text,))
    assert raw == {
        "tokenizer": {"max_length": 9, "match_official": True}, "model": {"options": {"match_official": True}},
    }  # fmt: skip
    assert apply_overrides({}, ("data.gene_vocab=x",)) == {"data": {"gene_set": "x"}}


def test_old_and_new_name_together_are_refused():
    with pytest.raises(ConfigError, match="max_genes and max_length"):
        validate(RunConfig, {"data": {"dataset": "a"}, "tokenizer": {"max_genes": 5, "max_length": 6}}, where="a")


def test_a_saved_configuration_of_before_is_read():
    saved = load_recipe("scgpt").config.model_dump(mode="json")
    saved["tokenizer"]["max_genes"] = saved["tokenizer"].pop("max_length")
    saved["tokenizer"]["faithful"] = saved["tokenizer"].pop("match_official")
    saved["data"]["gene_vocab"] = saved["data"].pop("gene_set")
    assert RunConfig.model_validate(saved) == load_recipe("scgpt").config


def test_a_suite_of_before_is_read(tmp_path):
    path = tmp_path / "suite.yaml"
    text = (shipped("leaderboard") / "suite.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("gene_set:", "gene_vocab:"), encoding="utf-8")
    assert load_suite(path) == load_suite()


def test_the_variable_of_before_names_the_reference_outputs(monkeypatch, caplog):
    monkeypatch.delenv("SCMF_REFERENCE_DIR", raising=False)
    monkeypatch.setenv("SCMF_ORACLE_DIR", "/old")
    assert str(reference_dir()) == "/old" and "SCMF_REFERENCE_DIR" in caplog.text
    monkeypatch.setenv("SCMF_REFERENCE_DIR", "/new")
    assert str(reference_dir()) == "/new"


def test_a_card_of_before_is_read(tmp_path, caplog):
    from scmf.data.cards.card import load_card

    raw = yaml.safe_load((shipped("datasets") / "pancreas.yaml").read_text(encoding="utf-8"))
    raw["licence"] = raw.pop("license")
    (tmp_path / "pancreas.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert load_card(tmp_path / "pancreas.yaml").license == load_card("pancreas").license
    assert "card: licence is called license now" in caplog.text


def test_what_is_not_a_mapping_is_left_to_the_check():
    assert renamed.current_names("data", 5) == 5
    assert renamed.current_sections([1]) == [1]
    for raw in ({"data": 5}, {"data": {"dataset": "a"}, "model": {"options": 3}}, 7):
        with pytest.raises(ConfigError):
            validate(RunConfig, raw, where="my.yaml")


def test_the_renamed_keys_of_a_saved_file(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"max_genes": 7, "faithful": True, "seed": 1}))
    found = renamed.renamed_in("tokenizer", tmp_path / "tokenizer_config.json")
    assert found == {"max_length": 7, "match_official": True}
    assert renamed.renamed_in("tokenizer", tmp_path / "no.json") == {}
