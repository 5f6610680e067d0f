"""Recipes: found by name, folder or file; variants; the digest that says which runs may be compared."""

import warnings
from dataclasses import replace

import pytest
import yaml
from pydantic import BaseModel

from scmf.core.config.recipe import find_recipe, list_recipes, load_recipe
from scmf.core.config.run import RunConfig
from scmf.core.errors import ConfigError
from scmf.core.paths import shipped

IDENTITY = {
    "name": "tiny", "title": "A tiny one", "paper": "Somebody 2020", "doi": "10.1/2", "code": "none",
    "license": "MIT", "default_variant": "small",
}  # fmt: skip


def write(path, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(keys))
    return path


@pytest.fixture
def own(tmp_path):
    """A user's file: sections and nothing else."""
    return write(tmp_path / "my.run.yaml", data={"files": ["a.h5ad"]}, training={"lr": 0.5, "batch_size": 4})


@pytest.fixture
def tiny(tmp_path):
    """A recipe with two variants in a folder of its own."""
    return write(
        tmp_path / "tiny" / "recipe.yaml",
        identity=IDENTITY,
        data={"dataset": "pancreas", "split": "donor"},
        training={"lr": 0.5, "batch_size": 4},
        eval={"benchmarks": ["annotation", "integration"]},
        variants={
            "small": {"description": "one", "tier": "mini", "overrides": {"training": {"lr": 0.25}}},
            "large": {
                "description": "two",
                "overrides": {"model": {"hidden_dim": 512}, "eval": {"benchmarks": ["annotation"]}},
            },
        },
    )


# --- finding --------------------------------------------------------------------------------------


def test_a_shipped_recipe_is_found_by_name_by_folder_and_by_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = shipped("recipes") / "geneformer" / "recipe.yaml"
    assert "geneformer" in list_recipes()
    assert find_recipe("geneformer") == find_recipe(file.parent) == find_recipe(str(file)) == file
    loaded = [load_recipe(place) for place in ("geneformer", file.parent, file)]
    assert loaded[0] == loaded[1] == loaded[2]


@pytest.mark.parametrize(
    ("name", "hint"), [("genefomer", "did you mean 'geneformer'?"), ("zzz", "known: "), ("no/such.yaml", "known: ")]
)
def test_an_unknown_name_gets_a_hint(name, hint):
    with pytest.raises(ConfigError) as caught:
        load_recipe(name)
    assert name in caught.value.found
    assert hint in caught.value.fix


def test_an_unknown_variant_gets_a_hint(tiny, own):
    with pytest.raises(ConfigError) as caught:
        load_recipe(tiny, variant="smal")
    assert "'smal'" in caught.value.found
    assert {"small", "large"} == set(caught.value.wanted.removeprefix("one of ").split(", "))
    assert caught.value.fix == "did you mean 'small'?"
    assert caught.value.where == tiny
    with pytest.raises(ConfigError, match="the file has none"):
        load_recipe(own, variant="small")


# --- reading --------------------------------------------------------------------------------------


def test_the_default_variant_is_that_of_the_identity_and_its_overrides_win(tiny):
    recipe = load_recipe(tiny)
    assert (recipe.name, recipe.variant, recipe.tier) == ("tiny", "small", "mini")
    assert (recipe.config.training.lr, recipe.config.training.batch_size) == (0.25, 4)
    assert recipe.folder == tiny.parent


def test_another_variant_differs_where_it_says_so_and_nowhere_else(tiny):
    recipe = load_recipe(tiny, variant="large")
    assert recipe.tier == "published"
    assert recipe.config.model.hidden_dim == 512
    assert recipe.config.eval.benchmarks == ("annotation",)
    assert recipe.config.training == load_recipe(tiny).config.training.model_copy(update={"lr": 0.5})


def test_overrides_of_the_command_line_win_over_the_variant(tiny):
    recipe = load_recipe(tiny, overrides=("training.lr=1e-3", "training.lr=2e-3"))
    assert recipe.config.training.lr == 2e-3
    assert recipe.overrides == ("training.lr=1e-3", "training.lr=2e-3")


def test_a_users_own_file_needs_no_identity(own):
    recipe = load_recipe(own)
    assert recipe.identity is None
    assert (recipe.name, recipe.variant, recipe.tier) == ("my-run", "custom", "mini")
    assert recipe.config.training.lr == 0.5
    assert recipe.config.model == RunConfig(data={"files": ["a.h5ad"]}).model


def test_a_users_own_file_may_have_variants_and_asks_for_none(tmp_path):
    variants = {"wide": {"description": "wider", "overrides": {"model": {"hidden_dim": 512}}}}
    path = write(tmp_path / "my.yaml", data={"files": ["a.h5ad"]}, variants=variants)
    assert load_recipe(path).config.model.hidden_dim == 256
    assert load_recipe(path, variant="wide").config.model.hidden_dim == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainng": {}}, "unknown key 'trainng': did you mean 'training'?"),
        ({"training": {"batchsize": 1}}, "unknown key 'training.batchsize': did you mean 'batch_size'?"),
        ({"identity": {**IDENTITY, "licens": "MIT"}}, "unknown key 'identity.licens': did you mean 'license'?"),
        ({"identity": {**IDENTITY, "name": "A B"}}, "identity.name"),
        ({"identity": {**IDENTITY, "default_variant": "smal"}}, "did you mean 'small'?"),
        ({"identity": {key: IDENTITY[key] for key in IDENTITY if key != "doi"}}, "key 'identity.doi' is missing"),
        ({"variants": {"small": {"description": "a", "tier": "embeded"}}}, "variants.small.tier"),
        ({"variants": {"small": {"description": "a", "override": {}}}}, "did you mean 'overrides'?"),
        ({"variants": {"small": {"description": "a", "overrides": {"modle": {}}}}}, "did you mean 'model'?"),
        ({"model": "large"}, "model: "),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_file(tiny, change, message):
    write(tiny, **{**yaml.safe_load(tiny.read_text()), **change})
    with pytest.raises(ConfigError) as caught:
        load_recipe(tiny)
    assert message in str(caught.value)
    assert str(tiny) in str(caught.value)


def test_a_mistake_of_a_variant_or_override_is_named_with_it(tiny):
    with pytest.raises(ConfigError, match=r"variant large, --set training\.lr=-1"):
        load_recipe(tiny, variant="large", overrides=("training.lr=-1",))


@pytest.mark.parametrize("text", ["", "- a", "words"])
def test_a_file_without_sections_is_refused(tmp_path, text):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ConfigError, match="sections data, tokenizer, model, training, eval"):
        load_recipe(tmp_path / "my.yaml")


@pytest.mark.parametrize("name", list_recipes())
def test_every_variant_of_a_shipped_recipe_loads_and_says_its_source(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.tier == "mini"
    for variant, facts in recipe.variants.items():
        assert facts.description and facts.source
        assert load_recipe(name, variant=variant).variant == variant


# --- modules of a recipe --------------------------------------------------------------------------


def test_a_module_of_the_folder_is_imported_after_trust_and_may_hold_dataclasses(tiny, monkeypatch):
    (tiny.parent / "extra.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Case:\n    name: str\n\nFIRST = Case('a')\n"
    )
    with pytest.raises(ConfigError, match=r"extra\.py") as caught:
        load_recipe(tiny).module("extra")
    assert "--trust" in caught.value.fix
    monkeypatch.setattr("scmf.core.registry._trusted", True)
    assert load_recipe(tiny).module("extra").FIRST.name == "a"


def test_a_module_that_is_not_there_is_an_error(tiny):
    with pytest.raises(ConfigError, match=r"recipe 'tiny' has no convert\.py"):
        load_recipe(tiny).module("convert")


# --- digest ---------------------------------------------------------------------------------------

NOT_COUNTED = {
    *(("training", key) for key in ("seed", "trackers", "project", "keep_checkpoints", "checkpoint_every_n_steps")),
    *(("training", key) for key in ("strategy", "num_gpus", "num_processes", "num_nodes")),
    ("data", "allow_low_coverage"),
}


def changed(config, path):
    """The config with another value, of whatever type, at the key ``path``."""
    key, *rest = path
    if rest:
        return config.model_copy(update={key: changed(getattr(config, key), rest)})
    other = ["987"] if key == "files" else 987 if getattr(config, key) != 987 else 986
    return config.model_copy(update={key: other})


def keys_of(config, path=()):
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from keys_of(value, (*path, name))
        else:
            yield (*path, name)


def digest_with(recipe, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic minds the odd types
        return replace(recipe, config=config).digest


@pytest.mark.parametrize("path", list(keys_of(load_recipe("geneformer").config)), ids=".".join)
def test_the_digest_counts_every_key_but_the_seed_and_what_moves_no_number(path):
    recipe = load_recipe("geneformer")
    same = digest_with(recipe, changed(recipe.config, path)) == recipe.digest
    assert same == (path in NOT_COUNTED)


def test_the_digest_says_what_is_run_and_not_how_it_was_written(tiny, own):
    variant = load_recipe(tiny, variant="small")
    assert load_recipe(tiny, variant="large", overrides=(
        "model.hidden_dim=256", "training.lr=0.25", "eval.benchmarks=[annotation, integration]",
    )).digest == variant.digest  # fmt: skip
    assert load_recipe(tiny, overrides=("training.seed=7", "training.trackers=[wandb]")).digest == variant.digest
    assert load_recipe(tiny, overrides=("training.lr=0.26",)).digest != variant.digest
    assert load_recipe(own).digest != variant.digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("geneformer", "8cc23d1172725964e2b8ef5370d71b125a38d0ef68aac88378e691e37ef5a4b3"),
        ("scgpt", "4075fe61fedb79c03b97d9fe65631eaf75e9a35700a91b7c6423ab852ea830b1"),
        ("scfoundation", "a29f7fa228587f3f86b560940689bff0130d82b96df1a032932eb5d911c65cdb"),
        ("transcriptformer", "92ec4ff9a0af6bffb342d46a0088dc19e578abf5c91e8dafdebaae2fe9c2f1b7"),
    ],
)
def test_the_digest_of_a_shipped_recipe_is_the_one_its_expected_values_were_recorded_with(name, digest):
    expected = yaml.safe_load((shipped("recipes") / name / "expected.yaml").read_text(encoding="utf-8"))
    assert {cell["measured_with"]["digest"] for cell in expected["mini"]} == {digest}
    assert load_recipe(name).digest == digest


def test_the_digest_hashes_a_key_with_its_first_name(tiny):
    # values of the code before the keys were renamed
    assert load_recipe("geneformer", variant="v2-104m").digest.startswith("0070e22c812581eb")
    official = load_recipe("geneformer", variant="mini", overrides=("tokenizer.match_official=true",))
    assert official.digest.startswith("149e27d94324e639")
