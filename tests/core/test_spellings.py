"""Other spellings of keys: each becomes the one of the schema, and a digest does not see which was written."""

import pytest

from scmf.core.config.recipe import load_recipe
from scmf.core.config.run import RunConfig, apply_overrides, validate
from scmf.core.config.spellings import schema_spelling
from scmf.core.errors import ConfigError

BASE = {"data": {"dataset": "pancreas"}}


def config(**sections):
    return validate(RunConfig, {**BASE, **sections}, where="here")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"model": {"mask_ratio": 0.3}}, {"model": {}, "training": {"mask_ratio": 0.3}}),
        ({"model": {"pretraining_task": "x"}}, {"model": {}, "training": {"pretraining_task": "x"}}),
        ({"tokenizer": {"gene_vocab": "g"}}, {"tokenizer": {}, "data": {"gene_set": "g"}}),
        ({"data": {"preprocessing": {"hvg_selection": 7}}}, {"data": {}, "tokenizer": {"top_genes": 7}}),
        ({"data": {"source": "cellxgene_census"}}, {"data": {"census": {}}}),
        ({"data": {"organism": "mus_musculus"}}, {"data": {"census": {"organism": "mus_musculus"}}}),
        (
            {"data": {"filters": {"tissue": ["lung", "it's"], "is_primary_data": False}}},
            {"data": {"census": {"value_filter": "tissue in ['lung', \"it's\"]", "primary_only": False}}},
        ),
        (
            {"data": {"census": {"value_filter": "a == 1"}, "filters": {"sex": "male"}}},
            {"data": {"census": {"value_filter": "(a == 1) and (sex == 'male')"}}},
        ),
        (
            {"eval": {"benchmarks": ["batch_integration", {"cell_type_annotation": {"dataset": "a", "split": "b"}}]}},
            {"eval": {"benchmarks": ["integration"], "tasks": ["annotation:a.b"]}},
        ),
    ],
)
def test_a_key_stands_where_the_schema_has_it(given, wanted):
    kept = repr(given)
    assert schema_spelling(given) == wanted
    assert repr(given) == kept and schema_spelling(wanted) == wanted


def test_two_places_may_agree_but_not_differ():
    same = {"model": {"mask_ratio": 0.3}, "training": {"mask_ratio": 0.3}}
    assert schema_spelling(same)["training"] == {"mask_ratio": 0.3}
    with pytest.raises(ConfigError, match=r"model.mask_ratio: 0.3 and training.mask_ratio: 0.2"):
        schema_spelling({"model": {"mask_ratio": 0.3}, "training": {"mask_ratio": 0.2}})


@pytest.mark.parametrize(
    "given",
    [
        {"data": {"source": "elsewhere"}},
        {"data": {"filters": ["lung"]}},
        {"data": {"filters": {"tissue": {"not": "lung"}}}},
        {"data": {"filters": {"tissue": []}}},
        {"data": {"filters": {"tissue or True": "lung"}}},
        {"eval": {"benchmarks": [{"annotation": {"cells": "a"}}]}},
        {"eval": {"benchmarks": [{"annotation": "a"}]}},
    ],
)
def test_what_cannot_be_read_is_one_clear_error(given):
    with pytest.raises(ConfigError) as error:
        schema_spelling(given)
    assert error.value.wanted and error.value.fix


def test_normalization_is_that_of_the_tokenizer_or_refused():
    wanted = {"data": {**BASE["data"], "preprocessing": {"normalize": "library_size"}}}
    for tokenizer in ({}, {"strategy": "continuous"}, {"strategy": "binned"}):
        assert config(**wanted, tokenizer=tokenizer) == config(tokenizer=tokenizer)
    for tokenizer in (
        {"strategy": "continuous", "options": {"transform": "clipped_counts"}},
        {"strategy": "binned", "options": {"n_bins": 0}},
    ):
        with pytest.raises(ConfigError, match="reads raw counts"):
            config(**wanted, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="scran"):
        config(data={**BASE["data"], "preprocessing": {"normalize": "scran"}})
    with pytest.raises(ConfigError, match="preprocessing"):
        config(data={**BASE["data"], "preprocessing": {"log": True}})


def test_an_override_may_be_spelled_either_way():
    raw = apply_overrides({"data": {"dataset": "pancreas"}}, ["model.mask_ratio=0.4", "tokenizer.gene_vocab=g"])
    assert raw["training"]["mask_ratio"] == 0.4 and raw["data"]["gene_set"] == "g"


def test_a_digest_does_not_see_the_spelling(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {files: a.h5ad}\nmodel: {mask_ratio: 0.2}\ntokenizer: {gene_vocab: g}\n")
    (tmp_path / "b.yaml").write_text("data: {files: a.h5ad, gene_set: g}\ntraining: {mask_ratio: 0.2}\n")
    assert load_recipe(tmp_path / "a.yaml").digest == load_recipe(tmp_path / "b.yaml").digest
