"""The recipe's README says what recipe.yaml, models.yaml and the published values do."""

import re

import pytest
import torch

from scmf.core.config.recipe import load_recipe
from scmf.models.autoregressive_transformer import AutoregressiveTransformerConfig, AutoregressiveTransformerModel
from scmf.models.published.cards import load_model_card
from scmf.results.expected import load_expected

RECIPE = load_recipe("transcriptformer")
TEXT = (RECIPE.folder / "README.md").read_text(encoding="utf-8")
ROWS = {
    name: [cell.strip() for cell in rest.split("|")]
    for name, rest in re.findall(r"^\| `([\w-]+)`[^|]*\|(.*)\|$", TEXT.partition("## What")[0], flags=re.MULTILINE)
}
PUBLISHED = [name for name in RECIPE.variants if not name.startswith("mini")]


def config(name):
    return load_recipe("transcriptformer", variant=name).config


def test_every_variant_has_a_row():
    assert set(ROWS) == set(RECIPE.variants)


@pytest.mark.parametrize("name", RECIPE.variants)
def test_a_row_is_the_variant(name):
    model, tokens = config(name).model, config(name).tokenizer
    shape = (model.num_layers, model.hidden_dim, model.num_heads, model.ffn_dim, model.dropout, tokens.max_length)
    assert ROWS[name][:6] == [str(value) for value in shape]
    assert ROWS[name][7] == str(model.options["gene_head_dim"])
    unknown = ROWS[name][-1] == "unknown"
    assert unknown == ("unknown, the official advice" in RECIPE.variants[name].source)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_trained_parameters_is_that_of_the_network(name):
    settings = config(name).model
    facts = {
        "vocab_size": int(ROWS[name][6].replace(",", "")), "max_positions": 2047, "pad_token_id": 1,
        "cls_token_id": 2, "eos_token_id": 3, "n_assays": 40, "gene_vector_dim": 2560, "gene_token_start": 7,
    }  # fmt: skip
    section = settings.model_dump(exclude={"architecture", "checkpoint", "options"}) | settings.all_options
    with torch.device("meta"):
        model = AutoregressiveTransformerModel(AutoregressiveTransformerConfig.from_settings(facts, section))
    assert ROWS[name][8] == f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}"


def test_the_training_of_the_text_is_that_of_the_recipe():
    base = config("sapiens").training
    assert (base.betas, base.eps, base.lr, base.weight_decay) == ((0.9, 0.95), 1e-8, 1.5e-4, 0.1)
    assert (base.batch_size, base.gradient_accumulation, base.schedule) == (8, 6, "cosine")
    assert all(config(name).training == base for name in ("exemplar", "metazoa"))
    tuned = config("assay-adaptation").training
    assert (tuned.lr, tuned.weight_decay, tuned.warmup_steps, tuned.max_epochs) == (5.5e-5, 0.05, 1000, 5)
    assert (tuned.precision, tuned.max_grad_norm) == ("16-mixed", 1.0)


def test_the_variants_are_those_of_the_model_card():
    card = load_model_card("transcriptformer")
    assert set(card.variants) == {"sapiens", "exemplar", "metazoa"} and card.own
    for name, variant in card.variants.items():
        assert ROWS[name][6] == f"{variant.shape['vocab_size']:,}"
        assert variant.shape.get("gene_head_dim") in (None, config(name).model.options["gene_head_dim"])
        assert variant.parameters is None or ROWS[name][8] == f"{variant.parameters:,}"
        assert [file.sha256 for file in variant.files] == [None]


def test_options_named_in_the_text_exist():
    for option in re.findall(r"`model\.options\.(\w+)`|`(count_likelihood)", TEXT):
        assert next(filter(None, option)) in AutoregressiveTransformerConfig.__dataclass_fields__


def test_published_values_have_a_source_that_was_read_and_notes_stay_out():
    values = load_expected(RECIPE.folder / "expected.yaml").published
    assert len(values) == 9
    assert {value.level for value in values} == {"B"}
    assert all("@" in value.source for value in values)
    assert "level D" in TEXT


def test_there_is_a_place_for_the_table_of_parity():
    assert TEXT.index("<!-- parity:begin -->") < TEXT.index("<!-- parity:end -->")
