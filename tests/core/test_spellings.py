"""Other spellings of keys: each becomes the one of the schema, and a digest does not see which was written."""

import logging
from itertools import product

import pytest

from scmf.core.config import renamed
from scmf.core.config.recipe import load_recipe
from scmf.core.config.run import RunConfig, apply_overrides, validate
from scmf.core.config.spellings import MOVED, schema_spelling
from scmf.core.errors import ConfigError

BASE = {"data": {"dataset": "pancreas"}}
CENSUS = {"source": "cellxgene_census"}


def config(**sections):
    return validate(RunConfig, {**BASE, **sections}, where="here")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"model": {"mask_ratio": 0.3}}, {"model": {}, "training": {"mask_ratio": 0.3}}),
        ({"model": {"pretraining_task": "x"}}, {"model": {}, "training": {"pretraining_task": "x"}}),
        ({"tokenizer": {"gene_vocab": "g"}}, {"tokenizer": {}, "data": {"gene_set": "g"}}),
        ({"tokenizer": {"gene_set": "g"}}, {"tokenizer": {}, "data": {"gene_set": "g"}}),
        ({"tokenizer": {"max_genes": 9}}, {"tokenizer": {"max_length": 9}}),
        (
            {"data": {"preprocessing": {"hvg_selection": 7}}},
            {"data": {"preprocessing": {}}, "tokenizer": {"top_genes": 7}},
        ),
        ({"data": CENSUS}, {"data": {"census": {}}}),
        ({"data": {**CENSUS, "census": {"uri": "here"}}}, {"data": {"census": {"uri": "here"}}}),
        ({"data": {"organism": "mus_musculus"}}, {"data": {"census": {"organism": "mus_musculus"}}}),
        ({"data": {"filters": {"sex": "male"}}}, {"data": {"census": {"filters": {"sex": "male"}}}}),
        ({"data": {"files": "a", "filters": None, "organism": None}}, {"data": {"files": "a"}}),
    ],
)
def test_a_key_stands_where_the_schema_has_it(given, wanted):
    kept = repr(given)
    assert schema_spelling(given) == wanted
    assert repr(given) == kept and schema_spelling(wanted) == wanted


@pytest.mark.parametrize(("old", "new"), MOVED.items(), ids=lambda path: ".".join(path))
def test_no_spelling_that_stands_for_good_warns(old, new, caplog, monkeypatch):
    monkeypatch.setattr(renamed, "_warned", set())
    value = {"data.filters": {"sex": "male"}, "tokenizer.max_genes": 9, "model.mask_ratio": 0.3}.get(".".join(old), 5)
    raw = apply_overrides({}, [f"{'.'.join(old)}={value}"])
    for key in new:
        raw = raw[key]
    assert raw == value and not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_two_places_may_agree_but_not_differ():
    same = {"model": {"mask_ratio": 0.3}, "training": {"mask_ratio": 0.3}}
    assert schema_spelling(same)["training"] == {"mask_ratio": 0.3}
    with pytest.raises(ConfigError, match=r"model.mask_ratio: 0.3 and training.mask_ratio: 0.2"):
        schema_spelling({"model": {"mask_ratio": 0.3}, "training": {"mask_ratio": 0.2}})


# --- the Census -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "wanted", "primary"),
    [
        ({"tissue": ["lung", "it's"]}, "tissue in ['lung', \"it's\"]", True),
        ({"tissue": ["lung"], "is_primary_data": True}, "tissue in ['lung']", True),
        ({"is_primary_data": False}, "is_primary_data == False", False),
        ({"is_primary_data": [True, False]}, None, False),
        ({"sex": "male", "nnz": 5}, "(sex == 'male') and (nnz == 5)", True),
        ({}, None, True),
    ],
)
def test_filters_become_one_of_soma(filters, wanted, primary):
    found = config(data={**CENSUS, "filters": filters}).data.census
    assert (found.value_filter, found.primary_only) == (wanted, primary)


def test_filters_and_a_filter_of_the_schema_both_hold():
    found = config(data={"census": {"value_filter": "a == 1 or b == 2"}, "filters": {"sex": "male"}}).data.census
    assert found.value_filter == "(a == 1 or b == 2) and (sex == 'male')"


def test_an_override_replaces_one_filter_and_keeps_the_others():
    raw = schema_spelling({"data": {**CENSUS, "filters": {"tissue": ["lung"], "sex": "male"}}})
    for key in ("data.filters.tissue", "data.census.filters.tissue"):
        found = validate(RunConfig, apply_overrides(raw, [f"{key}=[heart]"]), where="here").data.census
        assert found.value_filter == "(tissue in ['heart']) and (sex == 'male')"


def test_an_override_chooses_the_cells_and_drops_what_belonged_to_others():
    census = schema_spelling({"data": {**CENSUS, "organism": "mus_musculus", "filters": {"sex": "male"}}})
    found = validate(RunConfig, apply_overrides(census, ["data.files=a.h5ad"]), where="here").data
    assert found.files == ("a.h5ad",) and found.census is None
    found = validate(RunConfig, apply_overrides(BASE, ["data.source=cellxgene_census"]), where="here").data
    assert found.dataset is None and found.census is not None
    found = validate(RunConfig, apply_overrides(census, ["data.census.uri=here"]), where="here").data.census
    assert (found.uri, found.organism, found.value_filter) == ("here", "mus_musculus", "sex == 'male'")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": "elsewhere"}, "data.source: 'elsewhere'"),
        ({**CENSUS, "filters": ["lung"]}, "data.filters:"),
        ({**CENSUS, "filters": {"tissue": {"not": "lung"}}}, "data.filters.tissue"),
        ({**CENSUS, "filters": {"tissue": []}}, "data.filters.tissue"),
        ({**CENSUS, "filters": {"nnz": float("nan")}}, "data.filters.nnz"),
        ({**CENSUS, "filters": {"nnz": float("inf")}}, "data.filters.nnz"),
        ({**CENSUS, "filters": {"tissue or True": "lung"}}, "data.filters.tissue or True"),
        ({**CENSUS, "filters": {"is_primary_data": "yes"}}, "data.filters.is_primary_data"),
        ({"census": {"primary_only": False}, "filters": {"is_primary_data": True}}, "data.census.primary_only: False"),
        ({"files": "a.h5ad", "filters": {"tissue": "lung"}}, "data.filters with data.files"),
        ({"dataset": "pancreas", "organism": "homo_sapiens"}, "data.organism with data.dataset"),
    ],
)
def test_cells_that_cannot_be_meant_are_one_clear_error(data, said):
    with pytest.raises(ConfigError, match=said) as error:
        config(data=data)
    assert error.value.wanted and error.value.fix


# --- steps and benchmarks ---------------------------------------------------------------------------


LOGARITHMS = ("binned", "scgpt", "continuous", "scfoundation", "gene_embedding")


@pytest.mark.parametrize(
    ("step", "strategy"),
    [("library_size", "rank_value"), ("none", "rank_value"), *product(("library_size", "log1p"), LOGARITHMS)],
)
def test_normalization_that_a_tokenizer_does_changes_nothing(step, strategy):
    tokenizer = {"strategy": strategy}
    found = config(data={**BASE["data"], "preprocessing": {"normalize": step}}, tokenizer=tokenizer)
    assert found == config(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("steps", "tokenizer", "said"),
    [
        ({"normalize": "log1p"}, {}, "rank_value"),
        ({"normalize": "library_size"}, {"strategy": "continuous", "options": {"transform": "as_given"}}, "raw counts"),
        ({"normalize": "library_size"}, {"strategy": "binned", "options": {"n_bins": 0}}, "raw counts"),
        ({"normalize": "library_size"}, {"strategy": "package.module:Own"}, "does not know"),
        ({"normalize": "scran"}, {}, "'scran'"),
        ({"log": True}, {}, "unknown key 'data.preprocessing.log'"),
        (["library_size"], {}, "data.preprocessing"),
    ],
)
def test_a_step_that_the_tokens_would_not_have_is_refused(steps, tokenizer, said):
    with pytest.raises(ConfigError, match=said) as error:
        config(data={**BASE["data"], "preprocessing": steps}, tokenizer=tokenizer)
    assert error.value.wanted and error.value.fix


def test_benchmarks_by_the_names_of_the_field():
    given = ["batch_integration", {"cell_type_annotation": {"dataset": "a", "split": "b"}}]
    found = config(eval={"benchmarks": given, "tasks": ["kang-condition"]}).eval
    assert found.benchmarks == ("integration",) and found.tasks == ("kang-condition", "annotation:a.b")
    assert config(eval=found.model_dump(mode="json")).eval == found


def test_an_override_replaces_benchmarks_that_the_file_has():
    raw = {**BASE, "eval": {"benchmarks": [{"cell_type_annotation": {"dataset": "a"}}], "tasks": ["kang-condition"]}}
    found = validate(RunConfig, apply_overrides(raw, ["eval.benchmarks=[batch_integration]"]), where="here").eval
    assert found.benchmarks == ("integration",) and found.tasks == ("kang-condition",)


@pytest.mark.parametrize("one", [{"annotation": {"cells": "a"}}, {"annotation": "a"}, {"a": {}, "b": {}}, 5])
def test_a_benchmark_that_cannot_be_read_is_one_clear_error(one):
    with pytest.raises(ConfigError, match=r"eval\.benchmarks") as error:
        config(eval={"benchmarks": [one]})
    assert error.value.wanted and error.value.fix


def test_a_digest_does_not_see_the_spelling(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "data: {files: a.h5ad, preprocessing: {hvg_selection: 50}}\nmodel: {mask_ratio: 0.2}\n"
        "tokenizer: {gene_vocab: g, max_genes: 9}\neval: {benchmarks: [cell_type_annotation: {dataset: pancreas}]}\n"
    )
    (tmp_path / "b.yaml").write_text(
        "data: {files: a.h5ad, gene_set: g}\ntraining: {mask_ratio: 0.2}\ntokenizer: {max_length: 9, top_genes: 50}\n"
        "eval: {benchmarks: [], tasks: ['annotation:pancreas']}\n"
    )
    assert load_recipe(tmp_path / "a.yaml").digest == load_recipe(tmp_path / "b.yaml").digest
