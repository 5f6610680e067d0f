"""The recipe's README says what recipe.yaml and models.yaml do."""

import re

import pytest
import torch

from scmf.core.config.recipe import load_recipe
from scmf.models.published.cards import load_model_card
from scmf.models.transformer_encoder import TransformerEncoderForMaskedLM

RECIPE = load_recipe("geneformer")
TEXT = (RECIPE.folder / "README.md").read_text(encoding="utf-8")
ROWS = {
    name: [cell.strip() for cell in rest.split("|")]
    for name, rest in re.findall(r"^\| `([\w-]+)`[^|]*\|(.*)\|$", TEXT.partition("## What")[0], flags=re.MULTILINE)
}
VOCABULARY = {"geneformer-v1": 25426, "geneformer-v2": 20275}
BASE = ("mask_ratio", "max_epochs", "lr", "warmup_steps", "weight_decay", "max_grad_norm", "betas", "eps", "schedule")


def test_every_variant_has_a_row():
    assert set(ROWS) == set(RECIPE.variants)


@pytest.mark.parametrize("name", RECIPE.variants)
def test_a_row_is_the_variant(name):
    config = load_recipe("geneformer", variant=name).config
    model, tokens = config.model, config.tokenizer
    shape = (model.num_layers, model.hidden_dim, model.num_heads, model.ffn_dim, model.dropout, tokens.max_length)
    assert ROWS[name][:6] == [str(value) for value in shape]
    assert model.attention_dropout == model.dropout
    assert ROWS[name][6] == {"fit": "fitted"}.get(tokens.vocabulary, tokens.vocabulary)
    unknown = ROWS[name][-1] == "unknown"
    assert unknown == ("unknown" in RECIPE.variants[name].source)
    base = load_recipe("geneformer", variant="v1-10m").config.training
    if not name.startswith("mini"):
        assert all(getattr(config.training, key) == getattr(base, key) for key in BASE), "what stands in is V1-10M"


@pytest.mark.parametrize("name", [name for name in RECIPE.variants if not name.startswith("mini")])
def test_the_number_of_parameters_is_that_of_the_network(name):
    config = load_recipe("geneformer", variant=name).config
    with torch.device("meta"):
        model = TransformerEncoderForMaskedLM(
            TransformerEncoderForMaskedLM.config_class.from_settings(
                {"vocab_size": VOCABULARY[config.tokenizer.vocabulary], "max_positions": config.tokenizer.max_length},
                config.model.model_dump(),
            )
        )
    assert ROWS[name][7] == f"{sum(value.numel() for value in model.parameters()):,}"


def test_the_published_recipe_is_that_of_the_text():
    training = load_recipe("geneformer", variant="v1-10m").config.training
    assert (training.batch_size, training.gradient_accumulation, training.max_epochs) == (12, 12, 3)
    assert (training.lr, training.warmup_steps, training.weight_decay) == (1e-3, 10_000, 0.001)
    assert (training.betas, training.eps, training.max_grad_norm) == ((0.9, 0.999), 1e-8, 1.0)
    assert (training.mask_ratio, training.schedule, training.optimizer) == (0.15, "linear", "adamw")


def test_every_published_checkpoint_is_named_and_withdrawn_ones_are_marked():
    card = load_model_card("geneformer")
    assert set(RECIPE.variants) - {"mini"} <= set(card.variants)
    closing = TEXT[TEXT.index("Also there:") :]
    for name, variant in card.variants.items():
        assert f"`{name}`" in TEXT or f"geneformer@{name}" in TEXT
        if all(file.path is None for file in variant.files):
            assert f"`{name}`" in closing
        if name in ROWS:
            assert ROWS[name][7] == f"{variant.parameters:,}"
