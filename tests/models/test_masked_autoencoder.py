"""The masked autoencoder against PyTorch's own layers and formulas by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scmf.models.masked_autoencoder import (
    FastAttention,
    TransformerLayer,
    random_features,
)
from tests.fixtures.masked_cells import GENES, KINDS, PAD, build, cells, goals

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


@pytest.mark.parametrize("match_official", [False, True])
def test_fast_attention_is_the_published_formula(match_official: bool) -> None:
    torch.manual_seed(0)
    attention = FastAttention(8, match_official=match_official)
    attention.projection_matrix.copy_(random_features(16, 8))
    query, key, value = torch.randn(3, 2, 2, 5, 8)
    ours = attention(query, key, value, None)
    projection, scale = attention.projection_matrix, 8**-0.25
    dashes = torch.einsum("bhpk,rk->bhpr", key * scale, projection)
    for b in range(2):
        highest = dashes.max() if match_official else dashes[b].max()
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
    attention = FastAttention(8, match_official=False)
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


def test_under_match_official_a_performer_sees_its_batch_and_alone_both_ways_agree() -> None:
    ours, match_official = build(initializer_range=0.5), build(initializer_range=0.5, match_official=True)
    batch = cells(9, 20, 4)
    one = {name: tensor[:1] for name, tensor in batch.items()}
    assert (match_official(**batch).predictions[0] - match_official(**one).predictions[0]).abs().max() > 1e-6
    torch.testing.assert_close(ours(**one).predictions, match_official(**one).predictions, rtol=1e-5, atol=1e-6)


def test_values_of_102_and_103_are_values_unless_match_official() -> None:
    batch = cells(6)
    batch["values"][0, 1], batch["values"][0, 2] = 102.0, 103.0
    ours, match_official = build(), build(match_official=True)
    near = {**batch, "values": batch["values"] + 1e-3 * (batch["values"] > 100)}
    torch.testing.assert_close(
        ours.embed(**batch, pooling="max"), ours.embed(**near, pooling="max"), rtol=1e-2, atol=1e-2
    )
    by_hand = {name: tensor[:, [0, 1, 3, 4, 5, 6, 7]] for name, tensor in batch.items()}
    torch.testing.assert_close(
        match_official.embed(**batch, pooling="max"),
        match_official.embed(**by_hand, pooling="max"),
        rtol=1e-5,
        atol=1e-5,
    )
    assert not torch.allclose(match_official.embed(**batch), match_official.embed(**near), atol=1e-2)


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


def test_under_match_official_the_decoder_sees_an_s_that_the_encoder_lost() -> None:
    batch = cells(5)
    lost = {name: tensor[:, :-1] for name, tensor in batch.items()}
    depth = torch.tensor([[4.0, -0.3]])
    for match_official in (False, True):
        model = build(match_official=match_official)
        with_it, without = model(**lost, depth=depth).predictions, model(**lost).predictions
        assert torch.equal(with_it, without) == (not match_official)


# --- loss and gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("decode", ["all", "masked"])
def test_every_parameter_has_a_gradient(kinds: tuple[str, str], decode: str) -> None:
    model = build(encoder_type=kinds[0], decoder_type=kinds[1], decode=decode).train()
    model(**goals(cells(9, 5))).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    flat = {name for name, p in model.named_parameters() if not p.grad.any()}
    assert flat == {"token_emb.emb_pad.weight"}


def test_a_batch_without_targets_has_loss_zero_and_zero_gradients_and_nan_under_match_official() -> None:
    batch = goals(cells(9, 5))
    batch["target_ids"] = torch.full_like(batch["target_ids"], -100)
    model = build()
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert build(match_official=True)(**batch).loss.isnan()


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
