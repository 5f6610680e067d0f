"""Configurations in TOML: the same recipe as in YAML, and the same errors with their line."""

import pytest

from scmf.core.config.recipe import find_recipe, load_recipe
from scmf.core.errors import ConfigError
from scmf.core.toml import load_toml

YAML = """
data: {files: [a.h5ad], split: s.tsv, gene_set: g, census: null}
tokenizer: {strategy: scfoundation, max_length: 64, options: {transform: log1p_10k}}
model: {hidden_dim: 32, num_heads: 2}
training: {lr: 1e-4, betas: [0.9, 0.95], seed: 3}
eval: {benchmarks: [annotation, cell_type_annotation: {dataset: pancreas, split: donor}]}
variants: {small: {description: a variant, overrides: {model: {num_layers: 1}}}}
"""
TOML = """
[data]
files = ["a.h5ad"]
split = "s.tsv"

[tokenizer]
gene_vocab = "g"  # another spelling
strategy = "scfoundation"
max_genes = 64
options = { transform = "log1p_10k" }

[model]
hidden_dim = 32
num_heads = 2

[training]
lr = 1e-4
betas = [0.9, 0.95]
seed = 3

[eval]
benchmarks = ["annotation", { cell_type_annotation = { dataset = "pancreas", split = "donor" } }]

[variants.small]
description = "a variant"
overrides.model.num_layers = 1
"""


def test_a_file_in_toml_is_the_recipe_of_the_same_file_in_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text(YAML)
    (tmp_path / "mine.toml").write_text("\ufeff" + TOML)
    for variant in (None, "small"):
        texts = ("training.lr=2e-4",)
        one, other = (
            load_recipe(tmp_path / f"mine.{kind}", variant=variant, overrides=texts) for kind in ("yaml", "toml")
        )
        assert one.config == other.config and one.digest == other.digest and one.name == other.name
        assert one.variants == other.variants


def test_a_folder_holds_one_recipe_in_either(tmp_path):
    (tmp_path / "recipe.toml").write_text(TOML)
    assert find_recipe(tmp_path) == tmp_path / "recipe.toml"
    (tmp_path / "recipe.yaml").write_text(YAML)
    with pytest.raises(ConfigError, match=r"both recipe\.yaml and recipe\.toml"):
        find_recipe(tmp_path)


def test_dates_are_text_as_in_yaml(tmp_path):
    (tmp_path / "a.toml").write_text("[data.census]\nversion = 2025-01-30\nlist = [2025-01-30T10:00:00Z, 10:00:00]\n")
    found = load_toml(tmp_path / "a.toml")["data"]["census"]
    assert found == {"version": "2025-01-30", "list": ["2025-01-30T10:00:00+00:00", "10:00:00"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\nb = 1\nb = 2\n", "duplicate key 'b', line 3"),
        ("[a]\nb = 1\n[a]\nc = 2\n", "duplicate key 'a', line 3"),
        ("[a]\nb = 1\n\nb.c = 2\n", "duplicate key 'b.c', line 4"),
        ("a = { b = 1, b = 2 }\n", "line 1"),
        ("[a]\nb = \n", "not TOML: .*line 2, column 5"),
        ("a: 1\n", "not TOML: .*line 1"),
        ("a = 'secret-password\n", "not TOML: .*line 1"),
        ("a = [1,\n", "not TOML: .*line 1"),
        ("a = no\n", "not TOML: .*line 1"),
        (f"a = {'9' * 5000}\n", "not TOML"),
        (f"a = {'[' * 200}{']' * 200}\n", "nested more than"),
        (f"a = {'[' * 99999}\n", "nested more than"),
    ],
)
def test_what_is_not_toml_is_one_error_that_names_the_line(tmp_path, text, said):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"(?s){said}") as error:
        load_recipe(tmp_path / "mine.toml")
    assert error.value.where == str(tmp_path / "mine.toml") and error.value.fix
    assert "secret-password" not in str(error.value)


def test_keys_are_checked_as_in_yaml(tmp_path):
    toml = '[data]\nfiles = "x"\n[model]\nhiden_dim = 5\n'
    texts = {"a.toml": toml, "a.yaml": "data: {files: x}\nmodel: {hiden_dim: 5}\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=r"unknown key 'model\.hiden_dim': did you mean 'hidden_dim'"):
            load_recipe(tmp_path / name)


def test_no_such_file_a_folder_and_no_text_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_toml(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="folder"):
        load_toml(tmp_path)
    (tmp_path / "a.toml").write_bytes(b"\x89HDF\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8") as error:
        load_toml(tmp_path / "a.toml")
    assert error.value.wanted == "a TOML file"
