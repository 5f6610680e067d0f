"""The generative transformer's configuration, start, saving and loading, precision."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

from scmf.core.config.model import ModelConfig
from scmf.models.generative_transformer import (
    GenerativeTransformerConfig,
    GenerativeTransformerForSequenceClassification,
    GenerativeTransformerModel,
)
from scmf.models.generative_transformer_options import GenerativeOptions
from tests.fixtures.generative_cells import CLS, EVERYTHING, PAD, SHAPE, VOCAB, build, cells, hidden, split

FACTS: dict[str, Any] = {
    "vocab_size": VOCAB, "max_positions": 24, "pad_token_id": PAD, "cls_token_id": CLS, "eos_token_id": None,
    "mask_token_id": None, "pad_value": -2.0, "mask_value": -1.0, "n_bins": 51, "n_assays": 0, "n_batches": 0,
    "gene_vector_dim": None, "gene_token_start": 2,
}  # fmt: skip


# --- configuration ------------------------------------------------------------------------------------


def test_the_words_of_a_recipe_become_a_configuration() -> None:
    settings = ModelConfig(architecture="generative_transformer", hidden_dim=32, num_heads=4)
    words = settings.model_dump(exclude={"architecture", "checkpoint", "options"}) | settings.all_options
    config = GenerativeTransformerConfig.from_settings(FACTS, words)
    assert (config.hidden_size, config.num_hidden_layers, config.mvc, config.batch_norm) == (
        32,
        6,
        "inner product",
        None,
    )
    assert (config.pad_token_id, config.cls_token_id, config.cell_embedding) == (PAD, CLS, "cls")
    assert config.generated_out_proj
    assert config.required_inputs == ("input_ids", "attention_mask", "values")
    match_official = GenerativeTransformerConfig.from_settings(
        FACTS, words | {"match_official": True, "perturbations": True}
    )
    assert not match_official.generated_out_proj
    assert "pert_flags" in match_official.required_inputs
    plain = FACTS | {"cls_token_id": None, "mask_value": None, "n_bins": None, "pad_value": 0.0}
    config = GenerativeTransformerConfig.from_settings(plain, words | {"value_encoder": "scaling", "mvc": "none"})
    assert (config.cell_embedding, config.mask_value, config.generative, config.mvc) == ("avg-pool", -1.0, False, None)
    table = GenerativeTransformerConfig.from_settings(FACTS, words | {"value_encoder": "category"})
    assert (table.n_value_bins, table.value_pad_id) == (53, 51)


def test_every_option_reaches_the_configuration() -> None:
    fields = {name for name in vars(GenerativeTransformerConfig(**SHAPE)) if not name.startswith("_")}
    assert {one.name for one in dataclasses.fields(GenerativeOptions)} <= fields


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hidden_size": 30}, "num_attention_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"value_encoder": "binned"}, "value_encoder"),
        ({"value_encoder": "category"}, "n_value_bins"),
        ({"value_encoder": "scaling"}, "generative"),
        ({"cell_embedding": "mean"}, "cell_embedding"),
        ({"mvc": "outer product"}, "mvc"),
        ({"mvc": "sum query", "explicit_zero_prob": True}, "explicit_zero_prob"),
        ({"mvc": "concat query", "batch_labels": True, "num_batches": 2}, "batch_labels"),
        ({"batch_labels": True}, "num_batches"),
        ({"batch_norm": "per_batch"}, "num_batches"),
        ({"dab_weight": 1.0}, "num_batches"),
        ({"hidden_act": "nothing"}, "hidden_act"),
        ({"decoder_activation": "nothing"}, "decoder_activation"),
        ({"pad_token_id": VOCAB}, "pad_token_id"),
        ({"perturbations": True, "perturbation_pad_id": 3}, "perturbation_pad_id"),
    ],
)
def test_values_that_contradict_each_other_are_refused_by_name(change: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"found: {name}="):
        GenerativeTransformerConfig(**{**SHAPE, **change})


def test_a_table_of_bins_needs_a_tokenizer_with_bins() -> None:
    with pytest.raises(ValueError, match="without bins"):
        GenerativeTransformerConfig.from_settings(FACTS | {"n_bins": None}, {"value_encoder": "category"})


# --- weights: start, save, load, precision ------------------------------------------------------------


def test_weights_start_as_those_of_torch() -> None:
    torch.manual_seed(0)
    more = {**EVERYTHING, "perturbations": True, "mvc": "inner product"}
    model = GenerativeTransformerModel(GenerativeTransformerConfig(**{**SHAPE, "hidden_size": 64, **more}))
    genes = model.encoder.embedding.weight
    assert genes.abs().max() <= 0.1
    assert genes.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    assert genes[PAD].any()
    attention = model.transformer_encoder.layers[0].self_attn
    assert attention.in_proj_weight.abs().max() <= (6 / (4 * 64)) ** 0.5
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()
    assert model.decoder.fc[0].weight.abs().max() <= 128**-0.5
    assert model.flag_encoder.weight.std().item() == pytest.approx(1, rel=0.2)
    assert not model.pert_encoder.weight[2].any()
    first, second = (layer.linear1.weight for layer in model.transformer_encoder.layers)
    assert not torch.equal(first, second)
    match_official = GenerativeTransformerModel(GenerativeTransformerConfig(**SHAPE, match_official=True))
    first, second = (layer.linear1.weight for layer in match_official.transformer_encoder.layers)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "options", [{}, EVERYTHING, {"value_encoder": "category", "n_value_bins": 53, "value_pad_id": 51}]
)
def test_a_saved_model_comes_back_to_the_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    model = build(**options)
    batch = {**hidden(cells(9, 5)), "batch_ids": torch.tensor([0, 0])}
    if options.get("batch_norm"):
        model.train()(**batch)
        model.eval()
    model.save_pretrained(tmp_path)
    for auto in (AutoModel, AutoModelForPreTraining):
        again, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values())
        assert type(again) is GenerativeTransformerModel
        assert torch.equal(again(**batch).loss, model(**batch).loss)
        assert torch.equal(again.embed(**batch), model.embed(**batch))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_classifier_takes_the_encoder_of_a_pretraining_folder(tmp_path: Path) -> None:
    model = build(explicit_zero_prob=True, n_classes=2)
    model.save_pretrained(tmp_path)
    for pooling in ("first", "mean"):
        head = {"num_labels": 3, "classifier_pooling": pooling}
        classifier, info = AutoModelForSequenceClassification.from_pretrained(
            tmp_path, **head, output_loading_info=True
        )
        assert type(classifier) is GenerativeTransformerForSequenceClassification
        assert {name.partition(".")[0] for name in info["missing_keys"]} == {"classifier"}
        assert not info["unexpected_keys"]
        assert not info["mismatched_keys"]
        batch = cells(9, 5)
        torch.testing.assert_close(classifier.embed(**batch), model.embed(**batch))
        state = model(**batch).last_hidden_state
        genes = batch["attention_mask"].clone()
        genes[:, 0] = 0
        pooled = state[:, 0] if pooling == "first" else (state * genes[..., None]).sum(1) / genes.sum(1, keepdim=True)
        classifier.eval()
        torch.testing.assert_close(classifier(**batch).logits, classifier.classifier(pooled))
        classifier.train()(**batch, labels=torch.tensor([0, 2])).loss.backward()
        unused = [name for name, p in classifier.named_parameters() if p.grad is None]
        assert unused == []
        classifier.freeze_first(1, embeddings=True)
        frozen = {name for name, p in classifier.named_parameters() if not p.requires_grad}
        assert any(".layers.0." in name for name in frozen)
        assert not any(".layers.1." in name for name in frozen)
    with pytest.raises(ValueError, match="3 layers to freeze"):
        classifier.freeze_first(3)


def test_a_missing_tensor_starts_anew_and_the_others_stay(tmp_path: Path) -> None:
    model = build(**EVERYTHING, perturbations=True)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = load_file(weights)
    for dropped in whole:
        save_file({name: value for name, value in whole.items() if name != dropped}, weights, {"format": "pt"})
        again = GenerativeTransformerModel.from_pretrained(tmp_path)
        for name, tensor in again.state_dict().items():
            assert tensor.isfinite().all(), (dropped, name)
            assert tensor.abs().max() < 100, (dropped, name)
            if name != dropped:
                assert torch.equal(tensor, whole[name]), (dropped, name)


@pytest.mark.nightly
def test_a_checkpoint_loads_without_scmf(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path / "model")
    batch = cells(9, 5)
    torch.save({"batch": batch, "wanted": model.embed(**batch)}, tmp_path / "batch.pt")
    code = """
import sys, torch
sys.modules["scmf"] = None
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification
given = torch.load("batch.pt")
for auto in (AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification):
    model = auto.from_pretrained("model", trust_remote_code=True)
    assert torch.equal(model.embed(**given["batch"]), given["wanted"]), auto
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_bfloat16_stays_near_and_trains() -> None:
    batch = {**hidden(cells(9, 20, 4)), "batch_ids": torch.tensor([0, 2, 2]), "cell_labels": torch.tensor([1, 0, 4])}
    for options in ({}, EVERYTHING):
        model = build(**options).train()
        exact = model(**batch).loss
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = model(**batch).loss
            generated = model(**split({**cells(12, 12)}, 5), batch_ids=torch.tensor([0, 2]), second_pass=True).loss
        assert near.item() == pytest.approx(exact.item(), rel=0.05)
        (near + generated).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    half = build().to(torch.bfloat16)
    assert half.embed(**cells(9, 5)).isfinite().all()


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    one, other = build().train(), build().train()
    other.gradient_checkpointing_enable()
    for model in (one, other):
        model(**hidden(cells(9, 5))).loss.backward()
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_the_configuration_is_known_to_the_auto_class(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is GenerativeTransformerConfig
