"""The recipe's README says what recipe.yaml and models.yaml do."""

from __future__ import annotations

import re

import pytest
import torch

from scmf.core.config.recipe import load_recipe
from scmf.models.masked_autoencoder import MaskedAutoencoderConfig, MaskedAutoencoderModel
from scmf.models.published.cards import load_model_card
from scmf.results.expected import load_expected
from scmf.results.pages.parity import BEGIN, END

RECIPE = load_recipe("scfoundation")
TEXT = (RECIPE.folder / "README.md").read_text(encoding="utf-8")
ROWS = {
    name: [cell.strip() for cell in rest.split("|")]
    for name, rest in re.findall(r"^\| `([\w-]+)`[^|]*\|(.*)\|$", TEXT.partition("## What")[0], flags=re.MULTILINE)
}
PUBLISHED = [name for name in RECIPE.variants if not name.startswith("mini")]


def test_every_variant_has_a_row() -> None:
    assert set(ROWS) == set(RECIPE.variants)


@pytest.mark.parametrize("name", RECIPE.variants)
def test_a_row_is_the_variant(name: str) -> None:
    config = load_recipe("scfoundation", variant=name).config
    model, options, tokens = config.model, config.model.all_options, config.tokenizer
    encoder = f"{model.num_layers} x {model.hidden_dim}, {model.num_heads}, {model.ffn_dim}"
    decoder = f"{options['decoder_layers']} x {options['decoder_dim']}, {options['decoder_heads']}"
    assert ROWS[name][:3] == [encoder, decoder, tokens.all_options["target_depth"]]
    assert ROWS[name][3] == {"fit": "fitted"}.get(tokens.vocabulary, tokens.vocabulary)
    assert (options["decode"] == "masked") == name.startswith("mini")
    assert tokens.all_options["depth_tokens"]
    assert "unknown" in RECIPE.variants[name].source or name.startswith("mini")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_that_of_the_network(name: str) -> None:
    config = load_recipe("scfoundation", variant=name).config
    settings = config.model.model_dump(exclude={"architecture", "checkpoint", "options"}) | config.model.all_options
    facts = {"vocab_size": 19267, "pad_token_id": 19266, "depth_token_ids": [19264, 19265], "gene_token_start": 0}
    shape = MaskedAutoencoderConfig.from_settings(facts, settings)
    released = MaskedAutoencoderConfig()
    for field, value in released.to_dict().items():
        assert shape.to_dict()[field] == value, field
    with torch.device("meta"):
        model = MaskedAutoencoderModel(shape)
    assert ROWS[name][4] == f"{sum(value.numel() for value in model.parameters()):,}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipe_is_that_of_the_text(name: str) -> None:
    config = load_recipe("scfoundation", variant=name).config
    training, options = config.training, config.training.all_options
    assert (training.batch_size, training.gradient_accumulation, training.precision) == (128, 8, "bf16-mixed")
    assert (training.lr, training.warmup_steps, training.weight_decay, training.max_grad_norm) == (1e-4, 9766, 0, 1.0)
    assert (training.mask_ratio, options["zero_mask_ratio"]) == (0.3, 0.03)
    assert (options["replace_share"], options["random_share"]) == (0.8, 0.1)
    assert (options["downsample_share"], options["rate_alpha"], options["rate_beta"]) == (0.5, 2.0, 2.0)
    assert (config.eval.embedding_layer, config.eval.pooling) == (0, "all")


def test_the_published_checkpoints_are_the_variants() -> None:
    card = load_model_card("scfoundation")
    assert set(PUBLISHED) == set(card.variants)
    for name, variant in card.variants.items():
        config = load_recipe("scfoundation", variant=name).config
        assert config.tokenizer.all_options["target_depth"] == variant.shape["target_depth"]
        assert ROWS[name][4] == f"{variant.parameters:,}"
        assert variant.shape["key"] == name


def test_the_licence_of_the_weights_is_told_in_every_place() -> None:
    assert RECIPE.identity is not None
    for text in (TEXT, RECIPE.identity.license, load_model_card("scfoundation").license):
        assert "non-commercial research" in text
        assert "no redistribution" in text


def test_published_values_have_a_source_and_none_is_called_comparable() -> None:
    expected = load_expected(RECIPE.folder / "expected.yaml")
    assert len(expected.published) > 50
    assert all(row.source and row.comparable.startswith("Not comparable") for row in expected.published)


def test_there_is_a_place_for_the_parity_table() -> None:
    assert TEXT.index(BEGIN) < TEXT.index(END)
