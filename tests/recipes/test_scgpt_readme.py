"""The recipe's README says what recipe.yaml and models.yaml do."""

import re

import pytest
import torch

from scmf.core.config.recipe import load_recipe
from scmf.models.generative_transformer import GenerativeTransformerModel
from scmf.models.published.cards import load_model_card

RECIPE = load_recipe("scgpt")
TEXT = (RECIPE.folder / "README.md").read_text(encoding="utf-8")
ROWS = {
    name: [cell.strip() for cell in rest.split("|")]
    for name, rest in re.findall(r"^\| `([\w-]+)`[^|]*\|(.*)\|$", TEXT.partition("## What")[0], flags=re.MULTILINE)
}
VOCABULARY = {"scgpt-human": 60697, "scgpt-blood": 36574}
FINE_TUNED = ("integration", "annotation", "perturbation", "multiome")
PRETRAINED = [name for name in RECIPE.variants if name not in (*FINE_TUNED, "mini")]


def network(name):
    config = load_recipe("scgpt", variant=name).config
    facts = {"vocab_size": VOCABULARY[config.tokenizer.vocabulary], "max_positions": 8, "pad_token_id": 0}
    facts |= {"cls_token_id": 1, "n_bins": 51, "mask_value": -1.0, "n_batches": 2}
    words = config.model.model_dump(exclude={"architecture", "checkpoint", "options"}) | config.model.all_options
    with torch.device("meta"):
        return GenerativeTransformerModel(GenerativeTransformerModel.config_class.from_settings(facts, words))


def test_every_variant_has_a_row():
    assert set(ROWS) == set(RECIPE.variants)


@pytest.mark.parametrize("name", RECIPE.variants)
def test_a_row_is_the_variant(name):
    config = load_recipe("scgpt", variant=name).config
    model, tokens = config.model, config.tokenizer
    shape = (model.num_layers, model.hidden_dim, model.num_heads, model.ffn_dim, model.dropout, tokens.max_length)
    assert ROWS[name][:6] == [str(value) for value in shape]
    assert model.attention_dropout == model.dropout
    assert ROWS[name][6] == {"fit": "fitted"}.get(tokens.vocabulary, tokens.vocabulary)
    assert (ROWS[name][-1] == "unknown") == ("unknown" in RECIPE.variants[name].source)
    assert tokens.strategy == "binned"
    assert model.architecture == "generative_transformer"


@pytest.mark.parametrize("name", [*PRETRAINED, "perturbation"])
def test_the_number_of_parameters_is_that_of_the_network(name):
    assert ROWS[name][7] == f"{sum(value.numel() for value in network(name).parameters()):,}"


@pytest.mark.parametrize("name", FINE_TUNED)
def test_a_network_of_every_fine_tuning_can_be_built(name):
    assert network(name).config.generative is False


def test_the_published_number_of_parameters_is_reached_without_the_flag():
    model = network("whole-human")
    flag = model.flag_encoder.weight.numel()
    assert (flag, sum(value.numel() for value in model.parameters()) - flag) == (1024, 51_329_025)


def test_what_was_not_published_is_that_of_whole_human():
    base = load_recipe("scgpt", variant="whole-human").config
    for name in PRETRAINED:
        assert load_recipe("scgpt", variant=name).config.training == base.training


def test_the_published_recipe_is_that_of_the_text():
    training = load_recipe("scgpt", variant="whole-human").config.training
    assert (training.batch_size, training.gradient_accumulation, training.max_epochs) == (32, 16, 6)
    assert (training.lr, training.warmup_steps, training.schedule) == (1e-4, 10_000, "cosine")
    assert (training.precision, training.max_grad_norm, training.weight_decay) == ("16-mixed", 1.0, 0.0)
    assert training.all_options == {"generated_shares": [0.25, 0.5, 0.75], "second_pass_after": 1000}


def test_integration_has_all_terms_of_the_script():
    config = load_recipe("scgpt", variant="integration").config
    options = config.model.all_options
    wanted = {"explicit_zero_prob": True, "batch_labels": True, "batch_norm": "per_batch", "dab_weight": 1.0}
    assert {name: options[name] for name in wanted} == wanted
    assert (options["ecs_threshold"], options["ecs_weight"], options["mvc"]) == (0.8, 10.0, "inner product")
    training = config.training
    assert (training.mask_ratio, training.batch_size, training.max_epochs, training.eps) == (0.4, 64, 15, 1e-4)


def test_the_published_checkpoints_are_the_variants():
    card = load_model_card("scgpt")
    assert set(PRETRAINED) == set(card.variants) and card.own
    for name, variant in card.variants.items():
        assert variant.shape["vocab_size"] == VOCABULARY[load_recipe("scgpt", variant=name).config.tokenizer.vocabulary]
        assert variant.parameters is None or ROWS[name][7] == f"{variant.parameters:,}"


def test_the_faults_name_options_that_exist():
    options = load_recipe("scgpt").config.model.all_options
    table = TEXT[TEXT.index("## Known faults") : TEXT.index("The same in both")]
    assert {"match_official", "generated_out_proj"} <= set(re.findall(r"`(?:model\.options\.)?(\w+)", table)) & set(
        options
    )


def test_there_is_a_place_for_the_parity_table():
    assert re.search(r"<!-- parity:begin -->.*<!-- parity:end -->", TEXT, flags=re.DOTALL)
