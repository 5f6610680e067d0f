"""What the masked autoencoder is used for: embeddings by hand, the cell classifier, its configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scmf.core.config.model import ModelConfig
from scmf.models.masked_autoencoder import (
    MaskedAutoencoderConfig,
    MaskedAutoencoderForSequenceClassification,
    MaskedAutoencoderModel,
)
from tests.fixtures.masked_cells import PAD, SHAPE, build, cells

# --- embeddings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, -1, -3])
def test_poolings_by_hand(layer: int) -> None:
    model = build()
    batch = cells(6, 11)
    real = batch["attention_mask"].bool()
    x = model.encode(batch["input_ids"], real, batch["values"], n_layers=3 + layer)
    for row, n in enumerate((6, 11)):
        genes = x[row, :n]
        everything = torch.cat([x[row, n + 1], x[row, n], genes.amax(0), genes.mean(0)])
        for pooling, wanted in (("all", everything), ("max", x[row, : n + 2].amax(0)), ("cell", genes.mean(0))):
            torch.testing.assert_close(model.embed(**batch, pooling=pooling, layer=layer)[row], wanted)
    if layer == 0:
        torch.testing.assert_close(x, model(**batch).last_hidden_state)


def test_t_and_s_are_found_by_their_ids_and_under_match_official_by_their_place() -> None:
    batch = cells(6)
    order = torch.tensor([6, 0, 1, 7, 2, 3, 4, 5])
    shuffled = {name: tensor[:, order] for name, tensor in batch.items()}
    ours, match_official = build(), build(match_official=True)
    torch.testing.assert_close(ours.embed(**batch, pooling="all"), ours.embed(**shuffled, pooling="all"))
    torch.testing.assert_close(ours.embed(**batch, pooling="all"), match_official.embed(**batch, pooling="all"))
    assert not torch.allclose(
        match_official.embed(**batch, pooling="all"), match_official.embed(**shuffled, pooling="all")
    )
    lost = {name: tensor[:, :-1] for name, tensor in batch.items()}
    with pytest.raises(ValueError, match="without T or S"):
        ours.embed(**lost, pooling="all")
    x = match_official.encode(lost["input_ids"], lost["attention_mask"].bool(), lost["values"])[0]
    wanted = torch.cat([x[6], x[5], x[:5].amax(0), x[:5].mean(0)])  # T is read as S, the last gene as T
    torch.testing.assert_close(match_official.embed(**lost, pooling="all")[0], wanted)


def test_embed_refuses_what_has_no_answer() -> None:
    model = build()
    for wrong in ({"layer": 1}, {"layer": -4}, {"pooling": "cls"}, {"pooling": "gene"}):
        with pytest.raises(ValueError, match="wanted"):
            model.embed(**cells(5), **wrong)
    with pytest.raises(ValueError, match=r"1 cells without a gene[\s\S]*rows \[1\]"):
        empty = cells(5, 4)
        empty["input_ids"][1, :4] = PAD
        empty["attention_mask"][1, :4] = 0
        model.embed(**empty)
    with pytest.raises(ValueError, match="fewer than three"):
        short = {name: tensor[:, 5:] for name, tensor in cells(5).items()}
        build(match_official=True).embed(**short, pooling="all")
    with pytest.raises(ValueError, match="no values"):
        model.embed(cells(5)["input_ids"])


def test_embed_ignores_dropout_and_leaves_the_mode_of_every_module() -> None:
    model = build()
    wanted = model.embed(**cells(9, 5))
    model.train()
    model.token_emb.eval()
    before = [module.training for module in model.modules()]
    embedded = model.embed(**cells(9, 5), labels=torch.tensor([0, 1]))
    assert torch.equal(embedded, wanted)
    assert not embedded.requires_grad
    assert [module.training for module in model.modules()] == before
    assert model.gene_expression(**cells(9, 5)).requires_grad is False
    assert [module.training for module in model.modules()] == before


def test_embed_computes_no_layer_above_the_one_asked_for() -> None:
    model = build()
    ran = []
    for depth, layer in enumerate(model.encoder.layers):
        layer.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
    model.embed(**cells(5), layer=-2)
    assert ran == [0]


# --- the classifier ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["max", "mean", "first"])
def test_the_classifier_by_hand(pooling: str) -> None:
    torch.manual_seed(0)
    config = MaskedAutoencoderConfig(**SHAPE, num_labels=3, classifier_pooling=pooling, classifier_size=5)
    model = MaskedAutoencoderForSequenceClassification(config).eval()
    batch = cells(6, 9)
    x = model.model.encode(batch["input_ids"], batch["attention_mask"].bool(), batch["values"])
    pooled = {"max": (x[0, :8].amax(0), x[1].amax(0)), "mean": (x[0, :6].mean(0), x[1, :9].mean(0))}
    wanted = torch.stack(pooled.get(pooling, (x[0, 0], x[1, 0])))
    model.norm.running_mean += 0.3
    model.norm.running_var *= 2
    normed = (wanted - 0.3) / torch.sqrt(torch.tensor(2 + 1e-6))
    first, _, second = model.fc1
    logits = second(torch.relu(first(normed)))
    out = model(**batch, labels=torch.tensor([0, 2]))
    torch.testing.assert_close(out.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(logits, torch.tensor([0, 2])))
    before = model.norm.running_mean.clone()
    model.train()
    assert model(**{name: tensor[:1] for name, tensor in batch.items()}).logits.isfinite().all()
    assert torch.equal(model.norm.running_mean, before)
    model(**batch)
    assert not torch.equal(model.norm.running_mean, before)


def test_under_match_official_maximum_pooling_covers_padding() -> None:
    alone, padded = cells(4), {name: tensor[:1] for name, tensor in cells(4, 20).items()}
    for match_official in (False, True):
        torch.manual_seed(1)
        config = MaskedAutoencoderConfig(**SHAPE, num_labels=3, match_official=match_official)
        model = MaskedAutoencoderForSequenceClassification(config).eval()
        same = torch.allclose(model(**alone).logits, model(**padded).logits, atol=1e-5)
        assert same == (not match_official)


def test_freezing_stops_the_first_layers_alone_unless_asked() -> None:
    config = MaskedAutoencoderConfig(**SHAPE, num_labels=2)
    for model in (build(), MaskedAutoencoderForSequenceClassification(config)):

        def frozen(model: Any = model) -> set[str]:
            names = {name.removeprefix("model.") for name, p in model.named_parameters() if not p.requires_grad}
            return {".".join(name.split(".")[:3]) if name.startswith("encoder") else name for name in names}

        model.freeze_first(2)
        assert frozen() == {"encoder.transformer_encoder.0", "encoder.transformer_encoder.1"}
        model.freeze_first(0, embeddings=True)
        assert {"pos_emb.weight", "token_emb.emb.weight"} <= frozen()
        with pytest.raises(ValueError, match="0 to 3"):
            model.freeze_first(4)


# --- configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_type": "lstm"},
        {"decoder_type": "mamba"},
        {"num_attention_heads": 5},
        {"num_decoder_heads": 3},
        {"hidden_size": "32"},
        {"hidden_act": "reluu"},
        {"decode": "some"},
        {"initialization": "xavier"},
        {"classifier_pooling": "min"},
        {"pad_token_id": 33},
        {"depth_token_ids": (30, 40)},
        {"depth_token_ids": (30,)},
        {"gene_token_start": 33},
        {"redraw_interval": 0},
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"found: {next(iter(wrong))}="):
        MaskedAutoencoderConfig(**{**SHAPE, **wrong})


def test_settings_of_a_recipe_and_facts_of_a_tokenizer_become_a_configuration() -> None:
    section = ModelConfig(
        architecture="masked_autoencoder", hidden_dim=32, num_layers=2, num_heads=4, ffn_dim=64, dropout=0.3,
        attention_dropout=0.4, attention="eager",
        options={"decoder_dim": 24, "decoder_layers": 3, "decoder_heads": 2, "decode": "masked", "value_bins": 9},
    )  # fmt: skip
    given = section.model_dump(exclude={"architecture", "checkpoint", "options"}) | section.all_options
    facts = {
        "vocab_size": 50, "max_positions": 64, "pad_token_id": 0, "mask_token_id": 1, "cls_token_id": None,
        "eos_token_id": None, "gene_token_start": 4, "depth_token_ids": [2, 3], "match_official": True, "pad_value":
        0.0,
    }  # fmt: skip
    config = MaskedAutoencoderConfig.from_settings(facts, given)
    assert (config.vocab_size, config.pad_token_id, config.depth_token_ids, config.gene_token_start) == (
        50,
        0,
        [2, 3],
        4,
    )
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (32, 2, 64)
    assert (config.decoder_size, config.num_decoder_layers, config.num_decoder_heads) == (24, 3, 2)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.3, 0.4)
    assert (config.match_official, config.decode, config.bin_num, config.pad_value) == (True, "masked", 9, 103.0)
    model = MaskedAutoencoderModel(config)
    assert model.config._attn_implementation == "eager"
    assert model.decoder.layers[0].get_submodule("1.fn.fn").w1.out_features == 96
    plain = MaskedAutoencoderConfig.from_settings({"vocab_size": 50}, given | {"match_official": False})
    assert (plain.match_official, plain.depth_token_ids, plain.pad_token_id) == (False, None, None)


def test_the_vocabulary_can_be_grown() -> None:
    model = build()
    model.resize_token_embeddings(40)
    assert model.config.vocab_size == 40
    assert model(**cells(5)).predictions.shape == (1, 39)
