"""The generative transformer against a plain torch network of the same weights, and its rules by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from scmf.models import generative_transformer as module
from scmf.models.generative_transformer import GenerativeTransformerConfig
from tests.fixtures.generative_cells import CLS, EVERYTHING, PAD, SHAPE, VOCAB, build, cells, hidden, split


class Plain(nn.Module):
    """Tokens, values and layers written with torch's own transformer."""

    def __init__(self) -> None:
        super().__init__()
        width = SHAPE["hidden_size"]
        self.encoder = nn.ModuleDict({"embedding": nn.Embedding(VOCAB, width), "enc_norm": nn.LayerNorm(width)})
        self.value_encoder = nn.ModuleDict({
            "linear1": nn.Linear(1, width), "linear2": nn.Linear(width, width), "norm": nn.LayerNorm(width)
        })  # fmt: skip
        layer = nn.TransformerEncoderLayer(width, 4, SHAPE["intermediate_size"], 0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: torch.Tensor, values: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        genes = self.encoder["enc_norm"](self.encoder["embedding"](ids))
        inner = torch.relu(self.value_encoder["linear1"](values.clamp(max=512)[..., None]))
        x = genes + self.value_encoder["norm"](self.value_encoder["linear2"](inner))
        return self.transformer_encoder(x, src_key_padding_mask=padding)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_states_and_gradients_equal_a_torch_transformer_with_the_same_weights(kernel: str) -> None:
    model = build(attn_implementation=kernel)
    plain = Plain()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in plain.state_dict()})
    for batch in (cells(9, 20, 4), cells(8, 8)):  # with padding and without
        real = batch["attention_mask"].bool()
        theirs = plain(batch["input_ids"], batch["values"], ~real)
        ours = model(**batch, output_hidden_states=True, output_attentions=kernel == "eager")
        torch.testing.assert_close(ours.last_hidden_state[real], theirs[real], rtol=1e-5, atol=1e-5)
        assert len(ours.hidden_states) == 3
        if kernel == "eager":
            torch.testing.assert_close(ours.attentions[0].sum(-1), torch.ones(len(real), 4, real.shape[1]))
    plain.zero_grad()
    model.zero_grad()
    (theirs[real] ** 2).mean().backward()
    (ours.last_hidden_state[real] ** 2).mean().backward()
    gradients = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        if name != "encoder.embedding.weight":  # theirs has no padding row
            torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batch_padded_differently_gives_the_same_embeddings() -> None:
    more = {"num_batches": 3, "batch_norm": "per_batch"}
    for options in ({}, {"cell_embedding": "avg-pool"}, {"cell_embedding": "w-pool"}, more):
        model = build(**options)
        batch = {"batch_ids": torch.tensor([0, 2])}
        short, long = model.embed(**cells(7, 5), **batch), model.embed(**cells(7, 5, longest=20), **batch)
        torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)
        alone = {name: tensor[:1] for name, tensor in {**cells(7, 5), **batch}.items()}
        torch.testing.assert_close(model.embed(**alone), long[:1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(short.norm(dim=1), torch.ones(2))


def test_embeddings_follow_the_pooling_rules_and_leave_the_mode_alone() -> None:
    model = build().train()
    batch = cells(7, 5)
    model.value_encoder.eval()
    with torch.no_grad():
        model.eval()
        output = model(**batch, output_hidden_states=True)
        model.train()
        model.value_encoder.eval()
    states = output.hidden_states
    torch.testing.assert_close(model.embed(**batch), normalize(states[-1][:, 0], dim=1))
    torch.testing.assert_close(model.embed(**batch, layer=-1, pooling="cls"), normalize(states[-2][:, 0], dim=1))
    torch.testing.assert_close(model.embed(**batch, layer=-2, pooling="gene"), states[0])
    assert model.training
    assert not model.value_encoder.training
    mean = build(cell_embedding="avg-pool")
    x, real = mean(**batch).last_hidden_state, batch["attention_mask"][..., None]
    torch.testing.assert_close(mean.embed(**batch), normalize((x * real).sum(1) / real.sum(1), dim=1))
    weighted = build(cell_embedding="w-pool")
    x = weighted(**batch).last_hidden_state
    torch.testing.assert_close(weighted.embed(**batch), normalize((x * batch["values"].clamp(min=0)[..., None]).sum(1)))


def test_match_official_pooling_counts_padding_as_the_official_code_does() -> None:
    batch = cells(7, 4)
    for style in ("avg-pool", "w-pool"):
        model = build(cell_embedding=style, match_official=True)
        output = model(**batch)  # with gradients: no fast path, padding holds numbers
        x, weights = output.last_hidden_state, batch["values"][..., None]
        assert x[1, -1].abs().sum() > 0
        wanted = x.mean(1) if style == "avg-pool" else normalize((x * weights).sum(1), dim=1)
        torch.testing.assert_close(output.cell_embedding, wanted)
        with torch.no_grad():
            assert model(**batch).last_hidden_state[1, -1].abs().sum() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 1}, "layer=1"),
        ({"layer": -3}, "layer=-3"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"input_ids": torch.tensor([[5, 6, 7]])}, "do not begin with <cls>"),
        ({"input_ids": torch.tensor([[CLS, PAD, PAD]]), "attention_mask": torch.tensor([[1, 0, 0]])}, "without a gene"),
        ({"values": None}, "without values"),
    ],
)
def test_what_cannot_be_embedded_is_one_clear_error(change: dict[str, Any], message: str) -> None:
    batch = {name: tensor[:, :3] for name, tensor in cells(3).items()}
    with pytest.raises(ValueError, match=message) as error:
        build().embed(**{**batch, **change})
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["found", "wanted", "where", "do"]


# --- what is perceived and what is generated ---------------------------------------------------------


def test_perceived_tokens_do_not_see_generated_ones_which_see_them_and_themselves() -> None:
    model, batch = build(), split(cells(12, 12), 5)
    n_perceived = batch["input_ids"].shape[1]
    alone = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "values")})
    together = model(**batch, return_predictions=True)
    torch.testing.assert_close(together.last_hidden_state[:, :n_perceived], alone.last_hidden_state)
    changed = batch["generated_ids"].clone()
    changed[:, 0] = 39 - changed[:, 0]
    other = model(**{**batch, "generated_ids": changed}, return_predictions=True)
    torch.testing.assert_close(
        other.last_hidden_state[:, n_perceived + 1 :], together.last_hidden_state[:, n_perceived + 1 :]
    )
    assert not torch.allclose(other.last_hidden_state[:, n_perceived], together.last_hidden_state[:, n_perceived])
    seen = {**batch, "values": batch["values"] + 3}
    assert not torch.allclose(model(**seen, return_predictions=True).predictions, together.predictions)


def test_generated_padding_changes_nothing() -> None:
    model, batch = build(), split(cells(12, 12), 5)
    wide = torch.nn.functional.pad(batch["generated_ids"], (0, 3), value=PAD)
    targets = torch.nn.functional.pad(batch["target_values"], (0, 3), value=-2.0)
    mask = (wide != PAD).long()
    padded = {**batch, "generated_ids": wide, "generated_mask": mask, "target_values": targets, "target_mask": mask}
    torch.testing.assert_close(model(**padded, second_pass=True).loss, model(**batch, second_pass=True).loss)


def test_the_output_projection_ends_both_branches_unless_match_official() -> None:
    batch = split(cells(12, 12), 5)
    for match_official in (False, True):
        model = build(match_official=match_official)
        before = model(**batch, return_predictions=True)
        with torch.no_grad():
            for layer in model.transformer_encoder.layers:
                layer.self_attn.out_proj.bias += 1.0
                layer.norm1.bias += 0.0
        only_last = build(match_official=match_official)
        with torch.no_grad():
            only_last.transformer_encoder.layers[-1].self_attn.out_proj.weight *= 0.5
        after = only_last(**batch, return_predictions=True)
        n_perceived = batch["input_ids"].shape[1]
        assert not torch.allclose(after.predictions[:, :n_perceived], before.predictions[:, :n_perceived])
        same = torch.allclose(after.predictions[:, n_perceived:], before.predictions[:, n_perceived:], atol=1e-6)
        assert same == match_official


def test_the_second_pass_reads_the_detached_cell_embedding() -> None:
    model, batch = build(), split(cells(12, 12), 5)
    output = model(**batch, second_pass=torch.tensor(True), return_predictions=True)
    assert output.losses.keys() == {"mse", "mvc", "gen"}
    torch.testing.assert_close(output.loss, sum(output.losses.values()))
    cell = output.cell_embedding.detach()
    by_hand = model.encode(
        module.Cells(**{k: v for k, v in batch.items() if k != "target_values"}), cell_embedding=cell
    )
    predicted = model.decoder(by_hand.x_BTD[:, -5:])[0]
    torch.testing.assert_close(output.second_predictions, predicted)


def test_values_from_a_cell_embedding_alone() -> None:
    model, batch = build(), cells(9, 6)
    cell = torch.randn(2, 32)
    out = model.generate(cell, batch["input_ids"], batch["attention_mask"])
    assert out.shape == (2, 9)
    other = model.generate(cell + 1, batch["input_ids"], batch["attention_mask"])
    assert not torch.allclose(out[0], other[0])
    first = batch["input_ids"].clone()
    first[:, 0] = 7  # what stood in the first place does not matter
    torch.testing.assert_close(model.generate(cell, first, batch["attention_mask"])[:, 1:], out[:, 1:])


# --- losses -----------------------------------------------------------------------------------------


def test_the_loss_at_hidden_positions_is_that_of_all_positions() -> None:
    batch = {**hidden(cells(9, 20, 4)), "batch_ids": torch.tensor([0, 2, 2]), "cell_labels": torch.tensor([1, 0, 4])}
    model = build(**EVERYTHING)
    output = model(**batch, return_predictions=True)
    truth, mask = batch["target_values"], batch["target_mask"]
    for name, predicted, probs in (
        ("", output.predictions, output.zero_probs),
        ("mvc_", output.mvc_predictions, output.mvc_zero_probs),
    ):
        error = ((predicted - truth)[mask] ** 2).mean()
        torch.testing.assert_close(output.losses["mvc" if name else "mse"], error, rtol=1e-5, atol=1e-5)
        entropy = nn.functional.binary_cross_entropy(probs[mask], (truth[mask] > 0).float())
        torch.testing.assert_close(output.losses[f"{name}nzlp"], entropy, rtol=1e-4, atol=1e-5)
    weights = {"ecs": 10.0}
    torch.testing.assert_close(output.loss, sum(weights.get(k, 1.0) * v for k, v in output.losses.items()))
    assert output.losses.keys() == {"mse", "nzlp", "mvc", "mvc_nzlp", "cls", "dab", "ecs", "cce"}
    assert model(**batch).predictions is None


def test_losses_over_cells_by_hand() -> None:
    cell = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    near = 0.5**0.5
    entries = [1 - (0 - 0.8) ** 2] * 5 + [1 - (near - 0.8) ** 2] * 4
    torch.testing.assert_close(module.elastic_similarity(cell, 0.8), torch.tensor(sum(entries) / 9))
    scores = torch.tensor([[1.0, 0.0, near], [0.0, 1.0, near], [near, near, 1.0]]) / 0.5
    wanted = -torch.log_softmax(scores, 1).diagonal().mean()
    torch.testing.assert_close(module.contrastive_loss(cell, cell), wanted)


def test_the_adversary_turns_the_gradient_around() -> None:
    adversary = module.BatchAdversary(GenerativeTransformerConfig(**SHAPE, num_batches=3))
    x = torch.randn(4, 32, requires_grad=True)
    adversary(x).square().sum().backward()
    turned = x.grad.clone()
    x.grad = None
    module.ClassDecoder.forward(adversary, x).square().sum().backward()
    torch.testing.assert_close(turned, -x.grad)


def test_a_batch_without_a_hidden_value_has_loss_zero_and_under_match_official_none() -> None:
    batch = hidden(cells(5, 4))
    batch["target_mask"] = torch.zeros_like(batch["target_mask"])
    model = build()
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert build(match_official=True)(**batch).loss.isnan()


def test_every_parameter_that_a_pass_uses_gets_a_gradient_and_padding_none() -> None:
    model = build().train()
    model(**split(cells(12, 12), 5), second_pass=True).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    masked = build(**EVERYTHING, generative=False).train()
    batch = {**hidden(cells(9, 20, 4)), "batch_ids": torch.tensor([0, 1, 2]), "cell_labels": torch.tensor([1, 0, 4])}
    masked(**batch).loss.backward()
    assert [name for name, p in masked.named_parameters() if p.grad is None] == []
    assert not masked.encoder.embedding.weight.grad[PAD].any()
    assert masked.encoder.embedding.weight[PAD].any()


# --- batches ----------------------------------------------------------------------------------------


def test_each_cell_is_normalised_with_its_own_batch_and_under_match_official_with_that_of_the_first() -> None:
    batch = {**cells(6, 6, 6), "batch_ids": torch.tensor([1, 0, 1])}
    models = [
        build(num_batches=2, batch_norm="per_batch", match_official=match_official) for match_official in (False, True)
    ]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        for i, norm in enumerate(model.dsbn.bns):
            norm.running_mean.fill_(float(i))
    own, first = (model.embed(**batch) for model in models)
    torch.testing.assert_close(own[[0, 2]], first[[0, 2]])
    assert not torch.allclose(own[1], first[1])
    models[0].train()(**batch)
    assert all(norm.num_batches_tracked == 1 for norm in models[0].dsbn.bns)
    models[1].train()(**batch)
    assert [int(norm.num_batches_tracked) for norm in models[1].dsbn.bns] == [0, 1]


def test_statistics_leave_padding_out() -> None:
    one, other = (build(batch_norm="shared", num_batches=1).train() for _ in range(2))
    one(**cells(7, 4))
    other(**cells(7, 4, longest=20))
    torch.testing.assert_close(one.bn.running_mean, other.bn.running_mean)


def test_a_batch_without_batch_ids_is_refused_where_they_are_read() -> None:
    for options in ({"batch_norm": "per_batch"}, {"batch_labels": True}):
        with pytest.raises(ValueError, match="no batch_ids"):
            build(num_batches=2, **options)(**cells(5))


# --- value encoders and decoders ----------------------------------------------------------------------


def test_categories_place_hidden_values_and_padding_behind_the_digits() -> None:
    model = build(value_encoder="category", n_value_bins=53, value_pad_id=51)
    table = model.value_encoder
    values = torch.tensor([[0.0, 50.0, -1.0, -2.0, 51.0, 52.0]])
    wanted = table.enc_norm(table.embedding(torch.tensor([[0, 50, 52, 51, 51, 52]])))
    torch.testing.assert_close(table(values), wanted)


def test_scaling_multiplies_genes() -> None:
    model, batch = build(value_encoder="scaling", generative=False), cells(6)
    x = model(**batch, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(x, model.encoder(batch["input_ids"]) * batch["values"][..., None])


def test_large_values_are_cut_and_any_number_is_taken() -> None:
    model, batch = build(), cells(6)
    for value in (0.37, 513.0, 1e6):
        assert model(**{**batch, "values": torch.full((1, 6), value)}).last_hidden_state.isfinite().all()
    one, other = (model.value_encoder(torch.tensor([[v]])) for v in (512.0, 1e6))
    assert torch.equal(one, other)


@pytest.mark.parametrize("style", ["inner product", "inner product, detach", "concat query", "sum query"])
def test_every_way_to_predict_from_the_cell_runs_and_detaches_where_it_says_so(style: str) -> None:
    model = build(mvc=style)
    model(**hidden(cells(9, 7))).losses["mvc"].backward()
    used = model.mvc_decoder.gene2query.weight.grad
    assert used is not None
    assert used.abs().sum() > 0


def test_perturbed_values_are_factor_times_value_plus_offset() -> None:
    options = {"perturbations": True, "decoder": "affine", "mvc": None, "generative": False, "explicit_zero_prob": True}
    model = build(**options, decoder_activation="relu", decoder_adaptive_bias=True)
    genes, values = torch.arange(2, 8), torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0, 0.0, 0.0]])
    flags = torch.tensor([[1, 0, 0, 0, 0, 0]] * 2)
    out = model.predict_perturbed(genes, values, flags)
    state = model(genes.expand(2, -1), values=values, pert_flags=flags).last_hidden_state
    factor, offset = (
        torch.relu(head.fc(state).squeeze(-1)) for head in (model.decoder.coeff_decoder, model.decoder.bias_decoder)
    )
    torch.testing.assert_close(out, factor * values + offset * torch.tensor([[1.5], [0.5]]))
    some = model.predict_perturbed(genes, values, flags, expressed_only=True)
    assert (some[:, [0, 2, 4, 5]] == 0).all()
    torch.manual_seed(0)
    drawn = model.predict_perturbed(genes, values, flags, sample_zeros=True)
    assert ((drawn == 0) | torch.isclose(drawn, out)).all()
    nothing = torch.zeros(2, 6)
    assert model.predict_perturbed(genes, nothing, flags).isfinite().all()
    with pytest.raises(ValueError, match="no pert_flags"):
        model(genes[None], values=values[:1])
