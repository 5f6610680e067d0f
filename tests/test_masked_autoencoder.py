"""The masked autoencoder against PyTorch's own layers and formulas by hand, and its rules."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

from scmf.config_model import ModelConfig
from scmf.files import oracle_dir
from scmf.models.masked_autoencoder import (
    FastAttention,
    MaskedAutoencoderConfig,
    MaskedAutoencoderForSequenceClassification,
    MaskedAutoencoderModel,
    SelfAttention,
    TransformerLayer,
    random_features,
)

GENES, T, S, PAD = 30, 30, 31, 32
SHAPE: dict[str, Any] = {
    "vocab_size": 33,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "decoder_size": 16,
    "num_decoder_layers": 2,
    "num_decoder_heads": 2,
    "bin_num": 7,
    "pad_token_id": PAD,
    "depth_token_ids": (T, S),
}
KINDS = [("transformer", "performer"), ("performer", "transformer")]
AUTO = {
    AutoModel: MaskedAutoencoderModel,
    AutoModelForPreTraining: MaskedAutoencoderModel,
    AutoModelForSequenceClassification: MaskedAutoencoderForSequenceClassification,
}
needs_oracle = pytest.mark.skipif(
    oracle_dir() is None or not (oracle_dir() / "scfoundation" / "model").is_dir(),  # type: ignore[operator]
    reason="SCMF_ORACLE_DIR names no folder with outputs of the official code",
)


def build(seed: int = 0, **changes: Any) -> MaskedAutoencoderModel:
    torch.manual_seed(seed)
    return MaskedAutoencoderModel(MaskedAutoencoderConfig(**{**SHAPE, **changes})).eval()


def cells(*n_genes: int, seed: int = 0) -> dict[str, Tensor]:
    """Cells with the given numbers of genes, ascending, then T and S, then padding."""
    generator = torch.Generator().manual_seed(seed)
    width = max(n_genes) + 2
    ids, values = torch.full((len(n_genes), width), PAD), torch.zeros(len(n_genes), width)
    mask = torch.zeros(len(n_genes), width, dtype=torch.long)
    for row, n in enumerate(n_genes):
        ids[row, :n] = torch.randperm(GENES, generator=generator)[:n].sort().values
        ids[row, n], ids[row, n + 1] = T, S
        values[row, : n + 2] = 0.2 + 4 * torch.rand(n + 2, generator=generator)
        mask[row, : n + 2] = 1
    return {"input_ids": ids, "attention_mask": mask, "values": values}


def goals(batch: dict[str, Tensor], n: int = 4) -> dict[str, Tensor]:
    """The first genes of every cell, and one it lacks, taken out of the encoder and to be predicted."""
    mask = batch["attention_mask"].clone()
    ids, values = torch.full((len(mask), n + 1), -100), torch.zeros(len(mask), n + 1)
    for row in range(len(mask)):
        k = min(n, int(mask[row].sum()) - 3)
        ids[row, :k], values[row, :k] = batch["input_ids"][row, :k], batch["values"][row, :k]
        lacking = sorted(set(range(GENES)) - set(batch["input_ids"][row].tolist()))
        ids[row, k] = lacking[0] if lacking else -100
        mask[row, :k] = 0
    return {**batch, "attention_mask": mask, "target_ids": ids, "target_values": values}


# --- the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_transformer_layer_is_that_of_pytorch(norm_first: bool, kernel: str) -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first).eval()
    model = build(norm_first=norm_first, attn_implementation=kernel)
    ours = model.encoder.layers[0]
    assert isinstance(ours, TransformerLayer)
    ours.load_state_dict(theirs.state_dict())
    x, padding = torch.randn(3, 9, 16, requires_grad=True), torch.arange(9) >= torch.tensor([[9], [4], [7]])
    model.encoder.transformer_encoder = nn.ModuleList([ours])
    model.encoder.norm = nn.Identity()
    torch.testing.assert_close(
        model.encoder(x, ~padding)[~padding], theirs(x, src_key_padding_mask=padding)[~padding], rtol=1e-5, atol=1e-6
    )


def test_a_value_is_a_mixture_by_the_formula_of_the_paper() -> None:
    embedding = build(bin_alpha=0.7).token_emb
    values = torch.tensor([0.0, 0.3, 5.0, 102.0, 103.0])
    for i, value in enumerate(values):
        hidden = embedding.mlp.weight[:, 0] * value + embedding.mlp.bias
        hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
        weights = torch.softmax(0.7 * hidden + embedding.mlp2.weight @ hidden + embedding.mlp2.bias, 0)
        by_hand = weights @ embedding.emb.weight
        nothing = torch.zeros(5, dtype=torch.bool)
        torch.testing.assert_close(embedding(values, masked=nothing, padding=nothing)[i], by_hand, rtol=1e-5, atol=1e-6)
    masked, padding = values == 102, values == 103
    x = embedding(values, masked=masked, padding=padding)
    assert torch.equal(x[3], embedding.emb_mask.weight[0])
    assert torch.equal(x[4], embedding.emb_pad.weight[0])


def test_random_features_stand_at_right_angles_in_blocks() -> None:
    torch.manual_seed(0)
    features = random_features(20, 8)
    assert features.shape == (20, 8)
    for start in (0, 8, 16):
        block = features[start : start + 8]
        angles = nn.functional.normalize(block) @ nn.functional.normalize(block).T
        torch.testing.assert_close(angles, torch.eye(len(block)), rtol=0, atol=1e-5)
    squares = random_features(2000, 8).square().sum(1)
    assert squares.mean() == pytest.approx(8, rel=0.1)  # lengths of normal vectors of 8 numbers
    assert squares.var() == pytest.approx(16, rel=0.2)


@pytest.mark.parametrize("faithful", [False, True])
def test_fast_attention_is_the_published_formula(faithful: bool) -> None:
    torch.manual_seed(0)
    attention = FastAttention(8, faithful=faithful)
    attention.projection_matrix.copy_(random_features(16, 8))
    query, key, value = torch.randn(3, 2, 2, 5, 8)
    ours = attention(query, key, value, None)
    projection, scale = attention.projection_matrix, 8**-0.25
    dashes = torch.einsum("bhpk,rk->bhpr", key * scale, projection)
    for b in range(2):
        highest = dashes.max() if faithful else dashes[b].max()
        for h in range(2):
            features = []
            for x, top in ((query[b, h], None), (key[b, h], highest)):
                dash = scale * x @ projection.T
                top = dash.max(1, keepdim=True).values if top is None else top
                features.append((torch.exp(dash - scale**2 * x.square().sum(1, keepdim=True) / 2 - top) + 1e-4) / 4)
            weights = features[0] @ features[1].T
            by_hand = weights @ value[b, h] / weights.sum(1, keepdim=True)
            torch.testing.assert_close(ours[b, h], by_hand, rtol=1e-5, atol=1e-6)


def test_fast_attention_estimates_softmax_attention() -> None:
    torch.manual_seed(0)
    attention = FastAttention(8, faithful=False)
    query, key, value = 0.5 * torch.randn(3, 1, 1, 6, 8)
    exact = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(8), -1) @ value
    total = torch.zeros_like(exact)
    for _ in range(300):
        attention.projection_matrix.copy_(random_features(16, 8))
        total += attention(query, key, value, None)
    assert (total / 300 - exact).abs().max() < 0.1 * exact.abs().max()


# --- cells do not see each other, nor padding ---------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    n_genes=st.lists(st.integers(4, 20), min_size=1, max_size=4), padding=st.integers(0, 4),
    filler=st.integers(0, PAD), kinds=st.sampled_from(KINDS), decode=st.sampled_from(["all", "masked"]),
)  # fmt: skip
def test_neither_padding_nor_other_cells_change_a_cell(
    n_genes: list[int], padding: int, filler: int, kinds: tuple[str, str], decode: str
) -> None:
    model = build(encoder_type=kinds[0], decoder_type=kinds[1], decode=decode)
    batch = goals(cells(*n_genes))
    wide = {name: nn.functional.pad(batch[name], (0, padding)) for name in ("input_ids", "attention_mask", "values")}
    wide["input_ids"] = wide["input_ids"].masked_fill(wide["attention_mask"] == 0, filler)
    wide["values"] = wide["values"].masked_fill(wide["attention_mask"] == 0, float(filler))
    inputs = {**batch, **wide}
    alone = [
        model(**{name: tensor[[row]] for name, tensor in batch.items() if name != "target_values"})
        for row in range(len(n_genes))
    ]
    out = model(**inputs)
    wanted = torch.cat([one.predictions for one in alone])
    there = batch["target_ids"] >= 0
    torch.testing.assert_close(out.predictions[there], wanted[there], rtol=1e-4, atol=1e-5)
    del inputs["target_ids"], inputs["target_values"]
    for pooling in ("all", "max", "cell"):
        embedded = torch.cat([
            model.embed(**{name: batch[name][[row]] for name in wide}, pooling=pooling) for row in range(len(n_genes))
        ])  # fmt: skip
        torch.testing.assert_close(model.embed(**inputs, pooling=pooling), embedded, rtol=1e-4, atol=1e-5)


def test_under_faithful_a_performer_sees_its_batch_and_alone_both_ways_agree() -> None:
    ours, faithful = build(initializer_range=0.5), build(initializer_range=0.5, faithful=True)
    batch = cells(9, 20, 4)
    one = {name: tensor[:1] for name, tensor in batch.items()}
    assert (faithful(**batch).predictions[0] - faithful(**one).predictions[0]).abs().max() > 1e-6
    torch.testing.assert_close(ours(**one).predictions, faithful(**one).predictions, rtol=1e-5, atol=1e-6)


def test_values_of_102_and_103_are_values_unless_faithful() -> None:
    batch = cells(6)
    batch["values"][0, 1], batch["values"][0, 2] = 102.0, 103.0
    ours, faithful = build(), build(faithful=True)
    near = {**batch, "values": batch["values"] + 1e-3 * (batch["values"] > 100)}
    torch.testing.assert_close(
        ours.embed(**batch, pooling="max"), ours.embed(**near, pooling="max"), rtol=1e-2, atol=1e-2
    )
    by_hand = {name: tensor[:, [0, 1, 3, 4, 5, 6, 7]] for name, tensor in batch.items()}
    torch.testing.assert_close(
        faithful.embed(**batch, pooling="max"), faithful.embed(**by_hand, pooling="max"), rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(faithful.embed(**batch), faithful.embed(**near), atol=1e-2)


def test_a_cell_without_a_token_has_a_finite_prediction_and_gradient() -> None:
    for kinds in KINDS:
        model = build(encoder_type=kinds[0], decoder_type=kinds[1])
        batch = goals(cells(5, 6))
        batch["attention_mask"][0] = 0
        loss = model(**batch).loss
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in model.parameters())


# --- the decoder -----------------------------------------------------------------------------------


def test_the_decoder_adds_the_gene_table_to_what_the_encoder_gives_and_zeros_elsewhere() -> None:
    model = build()
    batch = goals(cells(6), n=2)
    real = batch["attention_mask"].bool()
    x = model.encode(batch["input_ids"], real, batch["values"])
    zero = torch.zeros(1)
    nothing = torch.zeros(1, dtype=torch.bool)
    y = model.token_emb(zero, masked=nothing, padding=nothing).expand(32, -1).clone()
    y[batch["input_ids"][0][real[0]]] = x[0][real[0]]
    y[batch["target_ids"][0]] = model.token_emb.emb_mask.weight
    y = model.decoder_embed(y + model.pos_emb.weight[:32])[None]
    for layer in model.decoder.layers:
        y = layer(y, None)
    by_hand = model.to_final(model.norm(model.decoder.norm(y)))[0, :, 0]
    out = model(**batch)
    torch.testing.assert_close(out.predictions[0], by_hand[batch["target_ids"][0]], rtol=1e-5, atol=1e-5)
    loss = (by_hand[batch["target_ids"][0]] - batch["target_values"][0]).square().mean()
    torch.testing.assert_close(out.loss, loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kinds", KINDS)
def test_decoding_the_masked_genes_alone_is_the_same_where_they_and_the_seen_ones_are_all(
    kinds: tuple[str, str],
) -> None:
    ours, masked = (build(encoder_type=kinds[0], decoder_type=kinds[1], decode=decode) for decode in ("all", "masked"))
    batch = goals(cells(GENES), n=5)
    batch["target_ids"] = torch.cat([batch["target_ids"][:, :5], batch["input_ids"][:, 9:11]], 1)
    batch["target_values"] = torch.zeros(1, 7)
    batch["target_hidden"] = torch.tensor([[True] * 5 + [False] * 2])  # the last two are shown as they are
    torch.testing.assert_close(masked(**batch).predictions, ours(**batch).predictions, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(masked(**batch).loss, ours(**batch).loss, rtol=1e-5, atol=1e-6)
    few = goals(cells(8), n=3)
    assert not torch.allclose(masked(**few).predictions, ours(**few).predictions, atol=1e-3)


def test_gene_outputs_stand_in_the_order_of_the_genes() -> None:
    special = {"pad_token_id": 0, "mask_token_id": 1, "depth_token_ids": (2, 3), "cls_token_id": 5}
    model = build(**special, gene_token_start=2)
    assert model.gene_ids.tolist() == [4, *range(6, 33)]
    assert model.decoder_ids.tolist() == [2, 3, 4, *range(6, 33)]
    model = build()
    batch = cells(7, 12)
    embedded, expression = model.gene_embeddings(**batch), model.gene_expression(**batch)
    assert embedded.shape == (2, GENES, 16)
    torch.testing.assert_close(expression, model.to_final(embedded).squeeze(-1))
    torch.testing.assert_close(expression, model(**batch).predictions[:, :GENES])
    some = model(**batch, target_ids=torch.tensor([[3, 5], [17, -100]]), target_hidden=torch.zeros(2, 2)).predictions
    torch.testing.assert_close(some[0], expression[0, [3, 5]])
    torch.testing.assert_close(some[1, 0], expression[1, 17])


def test_special_tokens_enter_the_encoder_and_not_the_decoder() -> None:
    model = build(pad_token_id=0, mask_token_id=1, cls_token_id=2, depth_token_ids=None, gene_token_start=3)
    ids = torch.tensor([[2, 7, 9]])
    values = torch.tensor([[-2.0, 1.0, 3.0]])
    assert model(ids, torch.ones_like(ids), values).predictions.shape == (1, 30)
    with pytest.raises(ValueError, match="depth_tokens"):
        model.embed(ids, torch.ones_like(ids), values, pooling="all")
    assert not torch.allclose(
        model.embed(ids, torch.ones_like(ids), values),
        model.embed(ids[:, 1:], torch.ones_like(ids[:, 1:]), values[:, 1:]),
    )


def test_under_faithful_the_decoder_sees_an_s_that_the_encoder_lost() -> None:
    batch = cells(5)
    lost = {name: tensor[:, :-1] for name, tensor in batch.items()}
    depth = torch.tensor([[4.0, -0.3]])
    for faithful in (False, True):
        model = build(faithful=faithful)
        with_it, without = model(**lost, depth=depth).predictions, model(**lost).predictions
        assert torch.equal(with_it, without) == (not faithful)


# --- loss and gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("decode", ["all", "masked"])
def test_every_parameter_has_a_gradient(kinds: tuple[str, str], decode: str) -> None:
    model = build(encoder_type=kinds[0], decoder_type=kinds[1], decode=decode).train()
    model(**goals(cells(9, 5))).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    flat = {name for name, p in model.named_parameters() if not p.grad.any()}
    assert flat == {"token_emb.emb_pad.weight"}


def test_a_batch_without_targets_has_loss_zero_and_zero_gradients_and_nan_under_faithful() -> None:
    batch = goals(cells(9, 5))
    batch["target_ids"] = torch.full_like(batch["target_ids"], -100)
    model = build()
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert build(faithful=True)(**batch).loss.isnan()


def test_the_gradient_is_that_of_finite_differences() -> None:
    model = build().double()
    batch = {name: t.double() if t.is_floating_point() else t for name, t in goals(cells(8, 5)).items()}
    model(**batch).loss.backward()
    weight = model.decoder_embed.weight
    for place in ((0, 0), (7, 3)):
        step = torch.zeros_like(weight)
        step[place] = 1e-3
        with torch.no_grad():
            losses = []
            for sign in (1, -1):
                weight += sign * step
                losses.append(model(**batch).loss)
                weight -= sign * step
        # the performer computes in float32
        assert float(weight.grad[place]) == pytest.approx(float(losses[0] - losses[1]) / 2e-3, rel=5e-2, abs=1e-3)


def test_activation_checkpointing_changes_no_gradient() -> None:
    model = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    batch = goals(cells(9, 20))
    model(**batch).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.train()
    model.activation_checkpointing_enable()
    model(**batch).loss.backward()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def test_it_trains_in_bfloat16() -> None:
    model = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**goals(cells(9, 20))).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()


# --- random features are drawn anew -------------------------------------------------------------------


def test_features_are_drawn_anew_in_training_after_the_interval_the_same_on_every_rank() -> None:
    model = build(redraw_interval=2)
    other = copy.deepcopy(model).train()
    batch = cells(5)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model(**batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_buffers())
    model.train()
    seen = []
    for seed in range(4):
        torch.manual_seed(seed)
        model(**batch)
        torch.manual_seed(100 + seed)
        other(**batch)
        seen.append(int(model.decoder.performer.calls_since_last_redraw))
    assert seen == [1, 2, 0, 1]
    drawn = [name for name, tensor in model.named_buffers() if not torch.equal(before[name], tensor)]
    assert len([name for name in drawn if name.endswith("projection_matrix")]) == 2
    for (name, tensor), (_, same) in zip(model.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(tensor, same), name
    first, second = (layer.get_submodule("0.fn.fast_attention").projection_matrix for layer in model.decoder.layers)
    assert not torch.equal(first, second)
    never = build(redraw_interval=None).train()
    for _ in range(3):
        never(**batch)
    assert torch.equal(
        never.decoder.layers[0].get_submodule("0.fn.fast_attention").projection_matrix,
        before["decoder.performer.net.layers.0.0.fn.fast_attention.projection_matrix"],
    )


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


def test_t_and_s_are_found_by_their_ids_and_under_faithful_by_their_place() -> None:
    batch = cells(6)
    order = torch.tensor([6, 0, 1, 7, 2, 3, 4, 5])
    shuffled = {name: tensor[:, order] for name, tensor in batch.items()}
    ours, faithful = build(), build(faithful=True)
    torch.testing.assert_close(ours.embed(**batch, pooling="all"), ours.embed(**shuffled, pooling="all"))
    torch.testing.assert_close(ours.embed(**batch, pooling="all"), faithful.embed(**batch, pooling="all"))
    assert not torch.allclose(faithful.embed(**batch, pooling="all"), faithful.embed(**shuffled, pooling="all"))
    lost = {name: tensor[:, :-1] for name, tensor in batch.items()}
    with pytest.raises(ValueError, match="without T or S"):
        ours.embed(**lost, pooling="all")
    x = faithful.encode(lost["input_ids"], lost["attention_mask"].bool(), lost["values"])[0]
    wanted = torch.cat([x[6], x[5], x[:5].amax(0), x[:5].mean(0)])  # T is read as S, the last gene as T
    torch.testing.assert_close(faithful.embed(**lost, pooling="all")[0], wanted)


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
        build(faithful=True).embed(**short, pooling="all")
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


# --- saving, loading, initialisation -------------------------------------------------------------------


@needs_oracle
def test_the_released_configuration_has_the_published_tensors() -> None:
    file = oracle_dir() / "scfoundation" / "model" / "released_config_shapes.json"  # type: ignore[operator]
    shapes = json.loads(file.read_text())
    with torch.device("meta"):
        model = MaskedAutoencoderModel(MaskedAutoencoderConfig())
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == 119_252_285


@pytest.mark.parametrize("kinds", KINDS)
def test_saving_and_loading_keeps_every_tensor_and_buffer(kinds: tuple[str, str], tmp_path: Path) -> None:
    model = build(encoder_type=kinds[0], decoder_type=kinds[1], redraw_interval=2).train()
    for _ in range(4):
        model(**cells(5))
    model.save_pretrained(tmp_path)
    again, info = MaskedAutoencoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert again.config.depth_token_ids == [T, S]
    torch.testing.assert_close(
        model.eval()(**cells(7)).predictions, again(**cells(7)).predictions, rtol=1e-6, atol=1e-6
    )


STEM = "decoder.performer"


@pytest.mark.parametrize("initialization", ["torch", "normal"])
@pytest.mark.parametrize(
    "key",
    [
        "pos_emb.weight",
        "token_emb.mlp2.weight",
        "token_emb.emb_mask.weight",
        "encoder.transformer_encoder.1.self_attn.in_proj_weight",
        "encoder.transformer_encoder.1.self_attn.in_proj_bias",
        "encoder.transformer_encoder.1.self_attn.out_proj.bias",
        "encoder.transformer_encoder.2.norm1.weight",
        f"{STEM}.calls_since_last_redraw",
        f"{STEM}.net.layers.1.0.fn.fast_attention.projection_matrix",
        f"{STEM}.net.layers.0.1.fn.fn.w1.weight",
        "to_final.bias",
    ],
)
def test_a_missing_tensor_is_initialised_and_the_others_stay(key: str, initialization: str, tmp_path: Path) -> None:
    build(initialization=initialization, initializer_range=0.2).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lost = state.pop(key)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(7)
    again, info = MaskedAutoencoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {key}
    fresh = again.state_dict()[key]
    assert fresh.isfinite().all()
    if "norm1" in key:
        assert (fresh == 1).all()
    elif key.endswith(("in_proj_bias", "out_proj.bias", "calls_since_last_redraw")):
        assert not fresh.any()
    elif "projection" in key:
        torch.testing.assert_close(
            nn.functional.normalize(fresh[:8]) @ nn.functional.normalize(fresh[:8]).T, torch.eye(8), rtol=0, atol=1e-5
        )
    elif key == "to_final.bias":
        assert (fresh.abs() <= 0.25).all()
    else:
        assert fresh.std() == pytest.approx(float(lost.std()), rel=0.4)
    for name, value in state.items():
        assert torch.equal(value, again.state_dict()[name]), name


@torch.no_grad()
def test_initial_weights_are_those_of_pytorchs_layers_or_normal() -> None:
    shape = {"hidden_size": 64, "decoder_size": 64, "intermediate_size": 128, "bin_num": 50}
    ours = build(**shape)
    linear, table = nn.Linear(64, 64), nn.Embedding(33, 64)
    theirs = nn.TransformerEncoderLayer(64, 4, 128)
    assert ours.decoder_embed.weight.std() == pytest.approx(float(linear.weight.std()), rel=0.1)
    assert ours.decoder_embed.bias.std() == pytest.approx(float(linear.bias.std()), rel=0.4)
    assert ours.pos_emb.weight.std() == pytest.approx(float(table.weight.std()), rel=0.1)
    attention = ours.encoder.layers[0].self_attn
    assert isinstance(attention, SelfAttention)
    assert attention.in_proj_weight.std() == pytest.approx(float(theirs.self_attn.in_proj_weight.std()), rel=0.1)
    normal = build(**shape, initialization="normal", initializer_range=0.07)
    attention = normal.encoder.layers[0].self_attn
    for weight in (normal.pos_emb.weight, normal.decoder_embed.weight, attention.in_proj_weight):
        assert weight.std().item() == pytest.approx(0.07, rel=0.1)
    assert not normal.decoder_embed.bias.any()


def test_auto_classes_find_ours_and_a_classifier_takes_the_encoder_alone(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MaskedAutoencoderConfig
    for auto, ours in AUTO.items():
        assert type(auto.from_pretrained(tmp_path)) is ours
    head, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert {name.partition(".")[0] for name in info["missing_keys"]} == {"norm", "fc1"}
    for name, value in head.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not any("decoder" in name for name, _ in head.named_parameters())
    head.save_pretrained(tmp_path / "head")
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(again.eval()(**cells(6)).logits, head.eval()(**cells(6)).logits, rtol=1e-6, atol=1e-6)


CLEAN = """
import sys, torch
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scmf":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
import transformers
batch = dict(
    input_ids=torch.tensor([[2, 5, 6, 30, 31]]), attention_mask=torch.ones(1, 5, dtype=torch.long),
    values=torch.tensor([[1.0, 2.0, 0.5, 4.0, 3.0]]),
)
for name in sys.argv[3:]:
    model = getattr(transformers, name).from_pretrained(sys.argv[1], trust_remote_code=True)
    torch.save(model.embed(**batch, pooling="all"), f"{sys.argv[2]}/{name}.pt")
model.save_pretrained(f"{sys.argv[2]}/again")
again = transformers.AutoModelForSequenceClassification.from_pretrained(f"{sys.argv[2]}/again", trust_remote_code=True)
assert torch.equal(again.embed(**batch), model.embed(**batch))
assert not any(name.partition(".")[0] == "scmf" for name in sys.modules)
"""


def test_a_checkpoint_loads_in_a_process_without_scmf(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path / "checkpoint")
    names = [auto.__name__ for auto in AUTO]
    out = subprocess.run(
        [sys.executable, "-I", "-c", CLEAN, tmp_path / "checkpoint", tmp_path, *names],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    wanted = model.embed(
        torch.tensor([[2, 5, 6, 30, 31]]), None, torch.tensor([[1.0, 2.0, 0.5, 4.0, 3.0]]), pooling="all"
    )
    for name in names:
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.pt"), wanted)  # noqa: TID251


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


def test_under_faithful_maximum_pooling_covers_padding() -> None:
    alone, padded = cells(4), {name: tensor[:1] for name, tensor in cells(4, 20).items()}
    for faithful in (False, True):
        torch.manual_seed(1)
        config = MaskedAutoencoderConfig(**SHAPE, num_labels=3, faithful=faithful)
        model = MaskedAutoencoderForSequenceClassification(config).eval()
        same = torch.allclose(model(**alone).logits, model(**padded).logits, atol=1e-5)
        assert same == (not faithful)


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
        "eos_token_id": None, "gene_token_start": 4, "depth_token_ids": [2, 3], "faithful": True, "pad_value": 0.0,
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
    assert (config.faithful, config.decode, config.bin_num, config.pad_value) == (True, "masked", 9, 103.0)
    model = MaskedAutoencoderModel(config)
    assert model.config._attn_implementation == "eager"
    assert model.decoder.layers[0].get_submodule("1.fn.fn").w1.out_features == 96
    plain = MaskedAutoencoderConfig.from_settings({"vocab_size": 50}, given | {"faithful": False})
    assert (plain.faithful, plain.depth_token_ids, plain.pad_token_id) == (False, None, None)


def test_the_vocabulary_can_be_grown() -> None:
    model = build()
    model.resize_token_embeddings(40)
    assert model.config.vocab_size == 40
    assert model(**cells(5)).predictions.shape == (1, 39)
