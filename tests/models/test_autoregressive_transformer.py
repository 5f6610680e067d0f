"""The autoregressive transformer against its formulas written out by hand, and its rules.

Files and classifier are in test_autoregressive_files.py, generation in test_autoregressive_generation.py, the official
tensors in tests/recipes.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, layer_norm

from scmf.models.autoregressive_transformer import (
    END,
    IGNORED,
    AutoregressiveTransformerConfig,
    AutoregressiveTransformerModel,
    count_nll,
    next_genes,
)

VOCAB, LONGEST, WIDTH, VECTOR = 30, 9, 16, 6
SHAPE = {
    "vocab_size": VOCAB, "max_positions": LONGEST, "hidden_size": WIDTH, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "gene_head_dim": 12, "pad_token_id": 0,
    "special_token_ids": [0, 1], "gene_token_start": 2, "gene_vector_dim": VECTOR,
    "initializer_range": 0.4,  # large, so that a wrong formula shows
}  # fmt: skip
ASSAYS = {"n_assays": 3}


def build(**changes: object) -> AutoregressiveTransformerModel:
    torch.manual_seed(0)
    return AutoregressiveTransformerModel(AutoregressiveTransformerConfig(**{**SHAPE, **changes})).eval()


def cells(*lengths: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Cells with that many genes, padded."""
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.stack([torch.randperm(VOCAB - 2, generator=random)[: max(lengths)] + 2 for _ in lengths])
    counts = torch.randint(1, 20, ids.shape, generator=random).float()
    return {"input_ids": ids * mask, "attention_mask": mask, "values": counts * mask}


def labeled(model: AutoregressiveTransformerModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    genes = model.genes(batch["input_ids"], batch["attention_mask"])
    labels = next_genes(batch["input_ids"], genes, longest=LONGEST, match_official=model.config.match_official)
    return {**batch, "labels": labels}


# --- the formulas, for one cell, by hand ------------------------------------------------------------


def mlp(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    w = {key.removeprefix(f"{name}.layers."): value for key, value in state.items() if key.startswith(f"{name}.")}
    x = torch.relu(x @ w["0.weight"].T + w["0.bias"])
    x = layer_norm(x, x.shape[-1:], w["2.weight"], w["2.bias"])
    return x @ w["4.weight"].T + w["4.bias"]


def by_hand(
    model: AutoregressiveTransformerModel, ids: list[int], counts: list[float], assay: int | None, *, own_count: bool
) -> dict[str, torch.Tensor]:
    """Hidden states, scores and expected counts of one cell without padding."""
    state, config = model.state_dict(), model.config
    table = state["gene_embeddings.embedding.weight"]
    x = mlp(state, "gene_embeddings.mlp", table[[config.start_row, *ids]])
    seen = [1.0, *counts]
    readable = [True] * len(seen)
    if assay is not None:
        x = torch.cat([state["aux_embeddings.assay.weight"][[assay]], x])
        seen, readable = [1.0, *seen], [assay != 0, *readable]
    for i in range(config.num_hidden_layers):
        w = {k.split(f"encoder_layers.{i}.")[1]: v for k, v in state.items() if f"encoder_layers.{i}." in k}
        x = layer_norm(x, (WIDTH,), w["norm1.weight"], w["norm1.bias"])
        q, k, v = (x @ w[f"self_attn.linears.{j}.weight"].T for j in range(3))
        mixed = torch.zeros_like(x)
        for head in range(2):
            part = slice(head * WIDTH // 2, (head + 1) * WIDTH // 2)
            for row in range(len(x)):
                scores = []
                for key in range(row + 1):
                    score = float(q[row, part] @ k[key, part]) / math.sqrt(WIDTH // 2)
                    if key < row or own_count:
                        score += math.log(1 + seen[key] + 1e-6)
                    if config.softcap is not None:
                        score = config.softcap * math.tanh(score / config.softcap)
                    scores.append(score if readable[key] else -math.inf)
                if any(readable[: row + 1]):
                    mixed[row, part] = torch.tensor(scores).softmax(0) @ v[: row + 1, part]
        x = x + mixed @ w["self_attn.linears.3.weight"].T
        x = layer_norm(x, (WIDTH,), w["norm2.weight"], w["norm2.bias"])
        x = x + torch.nn.functional.gelu(x @ w["linear1.weight"].T) @ w["linear2.weight"].T
    rows = x[assay is not None :]
    genes = mlp(state, "gene_embeddings.mlp", table[ids])
    scores = (mlp(state, "mu.mlp", torch.cat([rows[:-1], genes], -1)) + state["mu.gene_embedding.weight"][ids])[:, 0]
    mu = torch.log1p(scores.exp()) if config.count_link == "softplus" else scores.softmax(0) * sum(counts)
    return {"hidden": x, "logits": mlp(state, "gene_id_head", rows), "mu": mu}


@pytest.mark.parametrize("own_count", [False, True], ids=["training", "embedding"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"softcap": None},
        {"softcap": None, "attn_implementation": "eager"},
        {"softcap": 2.0, "count_link": "softplus"},
        {"start_token_id": 2, "end_token_id": 3},
        {"gene_vector_dim": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("assays", [{}, ASSAYS], ids=["no assay", "assay"])
def test_every_output_follows_the_formulas(changes: dict[str, object], assays: dict[str, int], own_count: bool) -> None:
    model = build(**changes, **assays)
    batch = cells(9, 4, 1)
    assay_ids = torch.tensor([2, 0, 1]) if assays else None
    out = model(**batch, assay_ids=assay_ids, own_count=own_count)
    for row, n in enumerate((9, 4, 1)):
        ids, counts = batch["input_ids"][row, :n].tolist(), batch["values"][row, :n].tolist()
        assay = None if assay_ids is None else int(assay_ids[row])
        wanted = by_hand(model, ids, counts, assay, own_count=own_count)
        size = len(wanted["hidden"])
        torch.testing.assert_close(out.last_hidden_state[row, :size], wanted["hidden"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.logits[row, : n + 1], wanted["logits"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.mu[row, :n], wanted["mu"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("limit", "size"), [("_QUERIES", 3), ("_SCORES_ON_CPU", 2 * 2 * 9 * 4), ("_SCORES_ON_CPU", 1)])
def test_blocks_of_queries_change_nothing(limit: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for changes in ({}, {"softcap": None}):
        model, batch = build(**changes), cells(9, 4)
        wanted = model(**batch).last_hidden_state
        monkeypatch.setattr(f"scmf.models.autoregressive_transformer.{limit}", size)
        torch.testing.assert_close(model(**batch).last_hidden_state, wanted, rtol=1e-5, atol=1e-5)
        monkeypatch.undo()


def test_likelihoods_of_counts() -> None:
    mu, counts = torch.tensor([0.01, 0.7, 3.0, 20.0]), torch.tensor([1.0, 2.0, 1.0, 25.0])

    def nll(likelihood: str, **changes: float) -> torch.Tensor:
        return count_nll(mu, counts, likelihood=likelihood, eps=0.0, max_count=changes.get("max_count"))

    poisson = -torch.distributions.Poisson(mu).log_prob(counts)
    torch.testing.assert_close(nll("poisson"), poisson)
    truncated = poisson + torch.log(1 - torch.exp(-mu.double())).float()  # without the share of zeros
    torch.testing.assert_close(nll("zero_truncated"), truncated, rtol=1e-5, atol=1e-5)
    norm = torch.relu(mu - torch.nn.functional.softplus(-mu))
    torch.testing.assert_close(nll("softplus_approx"), norm - counts * mu.log() + torch.lgamma(counts + 1))
    assert nll("poisson", max_count=2.0)[3] == count_nll(
        mu[3:], torch.tensor([2.0]), likelihood="poisson", eps=0.0, max_count=None
    )


def test_the_truncated_likelihoods_of_all_counts_add_up_to_one() -> None:
    counts = torch.arange(1.0, 80.0, dtype=torch.float64)
    for mu in (1e-3, 0.5, 4.0, 20.0):
        nll = count_nll(torch.full_like(counts, mu), counts, likelihood="zero_truncated", eps=0.0, max_count=None)
        assert float((-nll).exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_targets_are_the_next_gene_and_the_end_of_cells_that_were_not_cut() -> None:
    batch = cells(9, 4, 1)
    ids, genes = batch["input_ids"], batch["attention_mask"].bool()
    labels = next_genes(ids, genes, longest=LONGEST)
    assert labels[0].tolist() == [*ids[0].tolist(), IGNORED]
    assert labels[1].tolist() == [*ids[1, :4].tolist(), END, *[IGNORED] * 5]
    assert next_genes(ids, genes, longest=LONGEST + 1)[0, -1] == END
    official = next_genes(ids, genes, longest=LONGEST, match_official=True)
    assert official[0].tolist() == [*ids[0, :8].tolist(), END, IGNORED]
    assert official[1].tolist() == [*ids[1, :4].tolist(), *[IGNORED] * 6]
    assert next_genes(ids[:, :0], genes[:, :0], longest=LONGEST).tolist() == [[END]] * 3


def test_the_loss_is_the_mean_over_what_is_predicted() -> None:
    model = build()
    batch = labeled(model, cells(9, 4, 1))
    out = model(**batch, return_logits=True, gene_loss_weight=0.5)
    at = batch["attention_mask"].bool()
    nll = count_nll(out.mu[at], batch["values"][at], likelihood="zero_truncated", eps=1e-6, max_count=None)
    torch.testing.assert_close(out.count_loss, nll.mean())
    targets = torch.where(batch["labels"] == END, model.config.end_row, batch["labels"])
    gene_loss = cross_entropy(10 * torch.tanh(out.logits / 10).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(out.gene_loss, gene_loss)
    torch.testing.assert_close(out.loss, out.count_loss + 0.5 * out.gene_loss)


def test_the_official_loss_divides_by_all_positions() -> None:
    model = build(match_official=True)
    batch = labeled(model, cells(5, 4))
    ours = build()(**{**batch, "labels": batch["labels"]})
    torch.testing.assert_close(model(**batch).gene_loss, ours.gene_loss * 9 / (2 * LONGEST))
    torch.testing.assert_close(model(**batch).count_loss, ours.count_loss)


def test_a_batch_without_a_target_has_loss_zero_and_zero_gradients() -> None:
    model = build()
    batch = cells(3, 2)
    labels = torch.full((2, 4), IGNORED)
    loss = model(**batch, labels=labels).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert build(match_official=True)(**batch, labels=labels).count_loss.isnan()


def test_an_empty_cell_is_finite_and_under_match_official_what_it_is_officially() -> None:
    batch = cells(3, 2)
    batch["attention_mask"][1] = 0
    model = build()
    out = model(**labeled(model, batch), return_logits=True)
    out.loss.backward()
    assert out.mu[1].eq(0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="a cell without a gene"):
        model.embed(**batch)
    official = build(match_official=True)
    assert official(**batch).mu[1].isnan().all()
    start = official(**batch, own_count=True).last_hidden_state[1, 0]
    torch.testing.assert_close(official.embed(**batch)[1], start / LONGEST)


@pytest.mark.parametrize("softcap", [10.0, None])
def test_gradients_reach_every_trained_weight_on_a_cpu(softcap: float | None) -> None:
    model = build(softcap=softcap, **ASSAYS).train()
    model(**labeled(model, cells(9, 4)), assay_ids=torch.tensor([1, 2])).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # The softmax over genes does not see what is added to all of them.
    assert without - {"mu.mlp.layers.4.bias"} == set(model.frozen_tensors) == {"gene_embeddings.embedding.weight"}
    trained = build(gene_vector_dim=None)
    trained(**labeled(trained, cells(9, 4))).loss.backward()
    assert trained.gene_embeddings.embedding.weight.grad.any()
    assert trained.frozen_tensors == ()


@pytest.mark.parametrize("softcap", [10.0, None])
def test_mixed_precision_gives_almost_the_same_loss(softcap: float | None) -> None:
    model = build(softcap=softcap, **ASSAYS)
    batch = {**labeled(model, cells(9, 4)), "assay_ids": torch.tensor([1, 0])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, model(**batch).loss, rtol=0.03, atol=0)  # bfloat16 keeps two to three digits
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_checkpointed_layers_give_the_same_gradients() -> None:
    model = build().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = labeled(model, cells(9, 4))
    model(**batch).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, wanted[name], msg=name)


@pytest.mark.parametrize("link", ["softmax", "softplus"])
def test_a_later_gene_changes_nothing_before_it_but_the_share_of_the_total(link: str) -> None:
    model = build(count_link=link)
    batch = cells(9)
    before = model(**batch)
    batch["input_ids"][0, 5] = next(i for i in range(2, VOCAB) if i not in batch["input_ids"][0])
    batch["values"][0, 5] += 7
    after = model(**batch)
    assert torch.equal(after.last_hidden_state[:, :6], before.last_hidden_state[:, :6])
    assert torch.equal(after.logits[:, :6], before.logits[:, :6])
    assert not torch.equal(after.logits[:, 6], before.logits[:, 6])
    assert torch.equal(after.mu[:, :5], before.mu[:, :5]) == (link == "softplus")


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), padding=st.integers(0, 2), filler=st.integers(0, 29)
)
def test_padding_never_changes_an_embedding_or_a_loss(lengths: list[int], padding: int, filler: int) -> None:
    model = build()
    batch = cells(*lengths)
    alone = [{name: tensor[[row], :n] for name, tensor in batch.items()} for row, n in enumerate(lengths)]
    wider = {name: torch.nn.functional.pad(tensor, (0, padding)) for name, tensor in batch.items()}
    hidden = wider["attention_mask"] == 0
    wider["input_ids"] = wider["input_ids"].masked_fill(hidden, filler)
    wider["values"] = wider["values"].masked_fill(hidden, -2.0)  # pad_value of other tokenizers
    wanted = torch.cat([model.embed(**cell) for cell in alone])
    torch.testing.assert_close(model.embed(**wider), wanted, rtol=1e-4, atol=1e-5)
    likelihoods = torch.cat([model.log_likelihood(**cell) for cell in alone])
    torch.testing.assert_close(model.log_likelihood(**wider), likelihoods, rtol=1e-4, atol=1e-5)
    if len(lengths) == 1:
        torch.testing.assert_close(
            model(**labeled(model, wider)).loss, model(**labeled(model, alone[0])).loss, rtol=1e-4, atol=1e-5
        )


def test_special_tokens_among_the_genes_are_passed_over() -> None:
    model = build(start_token_id=1)
    batch = cells(5)
    wanted, labels = model.embed(**batch), labeled(model, batch)["labels"]
    opened = {name: torch.nn.functional.pad(tensor, (1, 0), value=1) for name, tensor in batch.items()}
    torch.testing.assert_close(model.embed(**opened), wanted, rtol=1e-4, atol=1e-5)
    assert labeled(model, opened)["labels"].tolist() == [[IGNORED, *labels[0].tolist()]]


@pytest.mark.parametrize("layer", [0, -1, -2])
@pytest.mark.parametrize("match_official", [False, True])
def test_embeddings_follow_their_rules(layer: int, match_official: bool) -> None:
    model = build(match_official=match_official, **ASSAYS)
    batch = {**cells(9, 4), "assay_ids": torch.tensor([1, 0])}
    states = model(**batch, own_count=True, output_hidden_states=True).hidden_states[2 + layer][:, 1:]
    if match_official:
        pooled = torch.stack([states[0, :9].sum(0), states[1, :5].sum(0)]) / LONGEST
        genes = states[:, :-1]
    else:
        pooled = torch.stack([states[0, 1:].mean(0), states[1, 1:5].mean(0)])
        genes = states[:, 1:]
    torch.testing.assert_close(model.embed(**batch, layer=layer), pooled)
    torch.testing.assert_close(model.embed(**batch, layer=layer, pooling="gene"), genes)
    vectors = model.gene_embeddings.embedding(batch["input_ids"])
    means = torch.stack([vectors[0].sum(0), vectors[1, :4].sum(0)]) / torch.tensor(
        [[9.0], [9.0 if match_official else 4.0]]
    )
    torch.testing.assert_close(model.embed(**batch, pooling="vector"), means)


def test_embed_ignores_dropout_leaves_every_mode_and_computes_no_layer_too_many() -> None:
    model = build()
    wanted = model.embed(**cells(9, 5))
    model.train()
    model.transformer_encoder.encoder_layers[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(model.embed(**cells(9, 5)), wanted)
    assert [module.training for module in model.modules()] == modes
    ran = []
    for depth, layer in enumerate(model.transformer_encoder.encoder_layers):
        layer.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
    model.embed(**cells(5), layer=-1)
    assert ran == [0]


def test_likelihoods_are_those_of_the_loss() -> None:
    model = build()
    batch = labeled(model, cells(9, 4, 1))
    out = model(**batch)
    cells_ = {k: v for k, v in batch.items() if k != "labels"}
    counts, genes = (model.log_likelihood(**cells_, of=of, pooling="gene") for of in ("counts", "genes"))
    torch.testing.assert_close(-counts.sum() / (batch["labels"] >= 0).sum(), out.count_loss)
    torch.testing.assert_close(-genes.sum() / (batch["labels"] != IGNORED).sum(), out.gene_loss)
    torch.testing.assert_close(model.log_likelihood(**cells_)[1], counts[1, :4].mean())
