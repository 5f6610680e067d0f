"""The five sections: what is refused and how it is said, overrides, merging, the schema for editors."""

import copy
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from scmf.core.config.run import (
    RunConfig,
    apply_overrides,
    deep_merge,
    json_schema,
    parse_override,
    validate,
)
from scmf.core.errors import ConfigError
from scmf.core.paths import shipped
from scmf.core.yaml import load_yaml

DATA = {"dataset": "pancreas", "split": "donor"}


def run(**sections):
    if "stream" in sections.get("data", {}):
        sections["data"] = {**DATA, "stream": {"batches_by": "donor_id", **sections["data"]["stream"]}}
    if "orthologs" in sections.get("data", {}):
        sections["data"] = {**DATA, "gene_set": "human_protein_coding", **sections["data"]}
    if "counts_rounding" in sections.get("data", {}):
        sections["data"] = {**DATA, **sections["data"]}
    return validate(RunConfig, {"data": DATA, **sections}, where="my.yaml")


def run_of_census(stream):
    return validate(RunConfig, {"data": {"census": {}, "stream": stream}}, where="my.yaml")


def refused(**sections):
    with pytest.raises(ConfigError) as caught:
        run(**sections)
    assert caught.value.where == "my.yaml"
    assert caught.value.wanted and caught.value.fix
    return caught.value.found


# --- unknown keys and wrong values ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "key", "meant"),
    [
        ({"modle": {}}, "modle", "model"),
        ({"data": {**DATA, "datset": "x"}}, "data.datset", "dataset"),
        ({"tokenizer": {"max_gene": 5}}, "tokenizer.max_gene", "max_length"),
        ({"model": {"hiden_dim": 5}}, "model.hiden_dim", "hidden_dim"),
        ({"training": {"momentum": 1}}, "training.momentum", None),
        ({"training": {"warmup_step": 1}}, "training.warmup_step", "warmup_steps"),
        ({"eval": {"benchmark": []}}, "eval.benchmark", "benchmarks"),
        ({"eval": {"finetune": {"freeze_layer": 1}}}, "eval.finetune.freeze_layer", "freeze_layers"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_what_was_meant(raw, key, meant):
    found = refused(**raw)
    assert f"unknown key '{key}'" in found
    assert f"did you mean '{meant}'?" in found if meant else "known: " in found


def test_every_mistake_of_a_file_is_told_at_once():
    found = refused(training={"lr": -1, "batchsize": 3}, model={"num_layers": 0})
    assert all(text in found for text in ("training.lr", "did you mean 'batch_size'?", "model.num_layers"))


def test_a_missing_section_is_named():
    with pytest.raises(ConfigError, match="key 'data' is missing"):
        validate(RunConfig, {}, where="my.yaml")


@pytest.mark.parametrize(
    ("section", "key", "wrong", "right"),
    [
        ("tokenizer", "strategy", "rank_values", "rank_value"),
        ("model", "architecture", "transformer_encodr", "transformer_encoder"),
        ("training", "pretraining_task", "masked_gene", "masked_gene_prediction"),
        ("eval", "benchmarks", ["anotation"], "annotation"),
    ],
)
def test_an_unknown_name_of_something_built_in_gets_a_hint(section, key, wrong, right):
    found = refused(**{section: {key: wrong}})
    assert f"{section}.{key}" in found
    assert f"did you mean {right!r}?" in found


def sections_of(model, path=()):
    """Every section below ``model`` with the keys that lead to it."""
    yield path, model
    for name, field in model.model_fields.items():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from sections_of(inner, (*path, name))


def literals(annotation):
    """Values of the Literal in ``annotation``, and whether it stands inside a tuple."""
    if get_origin(annotation) is Literal:
        return get_args(annotation), False
    for inner in get_args(annotation):
        found, _ = literals(inner)
        if found:
            return found, get_origin(annotation) is tuple
    return (), False


CHOICES = [
    pytest.param(path, name, value, many, id=".".join((*path, name, value)))
    for path, model in sections_of(RunConfig)
    for name, field in model.model_fields.items()
    for values, many in [literals(field.annotation)]
    for value in values
]


def nested(path, name, value):
    for key in reversed((*path, name)):
        value = {key: value}
    return value


@pytest.mark.parametrize(("path", "name", "value", "many"), CHOICES)
def test_every_choice_is_accepted_and_its_misspelling_refused_with_a_hint(path, name, value, many):
    config = run(**nested(path, name, [value] if many else value))
    for key in (*path, name):
        config = getattr(config, key)
    assert config == ((value,) if many else value)
    found = refused(**nested(path, name, [f"{value}x"] if many else f"{value}x"))
    assert ".".join((*path, name)) in found
    assert f"did you mean {value!r}?" in found


def test_there_are_choices_to_test():
    sections = {".".join(param.values[0]) for param in CHOICES}
    assert sections == {"data", "data.stream", "model", "training", "eval", "eval.finetune"}


def test_heads_must_divide_the_width():
    assert "num_heads=7 does not divide hidden_dim=256" in refused(model={"num_heads": 7})


NUMBERS = [
    pytest.param(path, name, id=".".join((*path, name)))
    for path, model in sections_of(RunConfig)
    for name, field in model.model_fields.items()
    if field.annotation is float or float in get_args(field.annotation)
]


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize(("path", "name"), NUMBERS)
def test_nan_and_infinity_are_refused_everywhere(path, name, value):
    number = load_yaml(value)
    many = name == "betas"
    assert ".".join((*path, name)) in refused(**nested(path, name, [number, number] if many else number))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "mask_ratio", 0),
        ("training", "mask_ratio", 1),
        ("training", "batch_size", 0),
        ("training", "max_epochs", 1.5),
        ("training", "seed", -1),
        ("model", "dropout", 1),
        ("tokenizer", "max_length", 2),
        ("eval", "embedding_layer", 1),
        ("eval", "knn_neighbors", 0),
    ],
)
def test_a_value_out_of_range_is_shown(section, key, value):
    found = refused(**{section: {key: value}})
    assert f"{section}.{key}" in found
    assert f"got {value}" in found


@pytest.mark.parametrize("path", [path for path, _ in sections_of(RunConfig)], ids=lambda path: ".".join(path) or "run")
def test_a_config_is_frozen(path):
    stream = {"balance": {"by": "tissue"}}
    config = run_of_census(stream) if "census" in path else run(data={"stream": stream}, eval={"finetune": {}})
    for key in path:
        config = getattr(config, key)
    for name in type(config).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, name, getattr(config, name))


def test_every_key_has_a_description():
    for path, model in sections_of(RunConfig):
        for name, field in model.model_fields.items():
            assert field.description, f"{'.'.join((*path, name))} needs a docstring under it"


# --- one source of cells --------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{}, {"dataset": "pancreas", "files": ["a.h5ad"]}, {"files": []}, {"dataset": ""}])
def test_cells_come_from_a_card_or_from_files_and_not_from_both(data):
    assert "either `dataset`" in refused(data=data)


@pytest.mark.parametrize(
    ("overrides", "dataset", "files"),
    [
        (["data.files=a.h5ad"], None, ["a.h5ad"]),
        (["data.files=[a.h5ad, b.h5ad]"], None, ["a.h5ad", "b.h5ad"]),
        (["data.files=[a.h5ad]", "data.dataset=pbmc68k_reduced"], "pbmc68k_reduced", []),
        (["data.dataset=null", "data.files=a.h5ad"], None, ["a.h5ad"]),
        (["data.files=a.h5ad", "data.dataset=null"], None, ["a.h5ad"]),
        (["data.dataset=pbmc68k_reduced", "data.files=[]"], "pbmc68k_reduced", []),
    ],
)
def test_choosing_files_on_the_command_line_drops_the_card_and_the_other_way_round(overrides, dataset, files):
    config = validate(RunConfig, apply_overrides({"data": DATA}, overrides), where="cli")
    assert config.data.dataset == dataset
    assert [str(path) for path in config.data.files] == files


def test_both_in_one_override_are_refused():
    raw = apply_overrides({"data": DATA}, ["data={dataset: pancreas, files: [a.h5ad]}"])
    with pytest.raises(ConfigError, match="either `dataset`"):
        validate(RunConfig, raw, where="cli")


# --- overrides ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("training.lr=1e-4", ["training", "lr"], 1e-4),
        ("training.trackers=[wandb, tensorboard]", ["training", "trackers"], ["wandb", "tensorboard"]),
        ("training.max_grad_norm=null", ["training", "max_grad_norm"], None),
        ("tokenizer.match_official=true", ["tokenizer", "match_official"], True),
        ("data.split=no", ["data", "split"], "no"),
        ("data.label_key=a=b", ["data", "label_key"], "a=b"),
        ("eval.finetune={max_epochs: 3}", ["eval", "finetune"], {"max_epochs": 3}),
        ("eval.finetune.max_epochs=3", ["eval", "finetune", "max_epochs"], 3),
        ('training.project="1"', ["training", "project"], "1"),
        ("model.checkpoint=", ["model", "checkpoint"], None),
    ],
)
def test_an_override_is_read_by_the_rules_of_the_files(text, keys, value):
    assert parse_override(text) == (keys, value)


@pytest.mark.parametrize("text", ["training.lr", "=3", "training.=3", ".lr=3", "training..lr=3", ""])
def test_an_override_without_key_or_sign_is_refused(text):
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_override(text)


def test_a_broken_value_names_its_override():
    with pytest.raises(ConfigError) as caught:
        parse_override("training.trackers=[wandb")
    assert caught.value.where == "--set training.trackers=[wandb"


def test_the_last_override_wins_and_the_input_stays():
    raw = {"data": DATA, "training": {"lr": 1.0, "seed": 5}}
    before = copy.deepcopy(raw)
    assert apply_overrides(raw, ["training.lr=2", "training.lr=3"])["training"] == {"lr": 3, "seed": 5}
    assert raw == before


def test_a_section_that_was_null_is_opened_by_an_override_below_it():
    raw = apply_overrides({"data": DATA, "eval": {"finetune": None}}, ["eval.finetune.max_epochs=3"])
    assert validate(RunConfig, raw, where="cli").eval.finetune.max_epochs == 3


# --- merging --------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
KEYS = st.sampled_from("abcd")
TREES = st.dictionaries(KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=4)
# Trees of one shape: upper-case keys hold sections, lower-case keys values, as in our files.
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "a": LEAVES,
        "B": st.fixed_dictionaries({}, optional={"c": LEAVES, "D": st.dictionaries(KEYS, LEAVES)}),
    },
)


def leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        elif not isinstance(value, dict):
            yield (*path, key), value


@given(TREES)
def test_merging_with_nothing_changes_nothing(tree):
    assert deep_merge(tree, {}) == tree == deep_merge({}, tree) == deep_merge(tree, tree)


@given(TREES, TREES)
def test_every_value_of_the_second_is_in_the_result_and_no_other_is_lost(base, over):
    inputs = copy.deepcopy((base, over))
    merged = dict(leaves(deep_merge(base, over)))
    assert (base, over) == inputs
    expected = dict(leaves(over))
    for path, value in expected.items():
        assert merged.pop(path) == value
    assert merged.items() <= dict(leaves(base)).items()


@given(TREES, TREES)
def test_merging_twice_is_merging_once(base, over):
    once = deep_merge(base, over)
    assert deep_merge(once, over) == once


@given(SHAPED, SHAPED, SHAPED)
def test_merging_is_associative_for_files_of_one_shape(first, second, third):
    assert deep_merge(deep_merge(first, second), third) == deep_merge(first, deep_merge(second, third))


@given(TREES, TREES)
def test_the_result_shares_nothing_with_its_inputs(base, over):
    inputs = copy.deepcopy((base, over))
    for _, value in leaves(deep_merge(base, over)):
        if isinstance(value, list):
            value.append("changed")
    assert (base, over) == inputs


# --- the schema -----------------------------------------------------------------------------------


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", sorted(shipped("recipes").glob("*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_the_schema_accepts_the_sections_of_shipped_recipes(path):
    raw = load_yaml(path)
    sections = {key: raw[key] for key in RunConfig.model_fields if key in raw}
    validator = Draft202012Validator(json_schema())
    for variant in ({}, *(variant.get("overrides", {}) for variant in raw["variants"].values())):
        assert not list(validator.iter_errors(deep_merge(sections, variant)))


def test_the_schema_refuses_what_the_config_refuses_and_describes_every_key():
    validator = Draft202012Validator(json_schema())
    for wrong in ({"lrr": 1}, {"lr": 0}, {"schedule": "lineal"}, {"seed": "zero"}):
        assert not validator.is_valid({"data": DATA, "training": wrong})
        refused(training=wrong)
    for definition in json_schema()["$defs"].values():
        assert all(key.get("description") for key in definition["properties"].values())


def test_a_config_survives_json():
    config = run(eval={"finetune": {"lr": 1e-3}}, training={"trackers": ["wandb"]})
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
