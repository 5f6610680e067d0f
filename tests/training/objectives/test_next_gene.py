"""Next-gene prediction: targets, their number, the random order; and that a model learns from it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from scmf.core import registry
from scmf.core.config.training import TrainingConfig
from scmf.models.autoregressive_transformer import AutoregressiveTransformerConfig, AutoregressiveTransformerModel
from scmf.training.objectives.masking import IGNORED
from scmf.training.objectives.next_gene import NextGenePrediction

TOKENIZER = SimpleNamespace(max_length=5, all_special_ids=[1, 0, 2])
BATCH = {
    "input_ids": torch.tensor([[9, 7, 5, 4, 8], [6, 3, 0, 0, 0], [2, 5, 0, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]]),
    "values": torch.tensor([[9.0, 7, 5, 4, 8], [6, 3, 0, 0, 0], [0, 5, 0, 0, 0]]),
    "assay_ids": torch.tensor([1, 2, 0]),
}


def objective(*, match_official: bool = False, **options: object) -> NextGenePrediction:
    training = TrainingConfig(pretraining_task="next_gene_prediction", options=options)
    return NextGenePrediction.from_settings(training, TOKENIZER, match_official=match_official)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_found_by_its_name_and_reads_its_options() -> None:
    assert registry.resolve("objectives", "next_gene_prediction") is NextGenePrediction
    ours = objective(gene_loss_weight=0.3, shuffle=True)
    assert (ours.longest, ours.special_token_ids, ours.gene_loss_weight, ours.shuffle) == (5, (0, 1, 2), 0.3, True)
    assert "0.3 x mean cross entropy" in ours.definition
    assert "in nats (torch)" in ours.definition
    assert ours.at(7) is ours
    assert ours.name in AutoregressiveTransformerModel.objectives


def test_every_row_predicts_the_next_gene_and_short_cells_their_end() -> None:
    inputs = objective().prepare(BATCH, seeded())
    assert inputs["labels"].tolist() == [
        [9, 7, 5, 4, 8, IGNORED],  # as long as it may be: it may have been cut
        [6, 3, -1, IGNORED, IGNORED, IGNORED],
        [IGNORED, 5, -1, IGNORED, IGNORED, IGNORED],  # a special token is no gene
    ]
    assert objective().predictions(inputs) == 5 + 3 + 2
    assert all(inputs[name] is tensor for name, tensor in BATCH.items())


def test_the_official_targets_never_end_a_short_cell() -> None:
    labels = objective(match_official=True).prepare(BATCH, seeded())["labels"]
    assert labels.tolist() == [
        [9, 7, 5, 4, -1, IGNORED],
        [6, 3, IGNORED, IGNORED, IGNORED, IGNORED],
        [2, 5, IGNORED, IGNORED, IGNORED, IGNORED],
    ]


def test_a_shuffle_moves_whole_genes_within_their_cells_and_is_decided_by_the_generator() -> None:
    shuffled = objective(shuffle=True)
    first, again, other = (shuffled.prepare(BATCH, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert not torch.equal(first["input_ids"][0], other["input_ids"][0])
    assert torch.equal(first["attention_mask"], BATCH["attention_mask"])
    assert first["input_ids"][2].tolist() == [2, 5, 0, 0, 0]
    pairs = {tuple(pair) for pair in zip(BATCH["input_ids"][0].tolist(), BATCH["values"][0].tolist(), strict=True)}
    moved = {tuple(pair) for pair in zip(first["input_ids"][0].tolist(), first["values"][0].tolist(), strict=True)}
    assert moved == pairs
    assert first["labels"][0, :5].tolist() == first["input_ids"][0].tolist()
    places = [shuffled.prepare(BATCH, seeded(seed))["input_ids"][0].tolist().index(9) for seed in range(2000)]
    share = torch.bincount(torch.tensor(places), minlength=5) / 2000
    assert (share - 0.2).abs().max() < 5 * (0.2 * 0.8 / 2000) ** 0.5


@pytest.mark.parametrize("match_official", [False, True])
def test_a_model_learns_from_it_on_a_cpu(match_official: bool) -> None:
    torch.manual_seed(0)
    config = AutoregressiveTransformerConfig(
        vocab_size=10, max_positions=5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, special_token_ids=[0, 1, 2], n_assays=3, gene_vector_dim=4, match_official=match_official,
        initializer_range=0.2,
    )  # fmt: skip
    model = AutoregressiveTransformerModel(config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    ours = objective(match_official=match_official)
    batch = {name: tensor[:2] for name, tensor in BATCH.items()}
    for step in range(60):
        out = model(**ours.prepare(batch, seeded(step)))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append((out.count_loss.item(), out.gene_loss.item()))
    # Even a model that knows every count pays for a Poisson distribution as wide as that count.
    assert losses[-1][0] < losses[0][0] - 0.5
    assert losses[-1][1] < losses[0][1] / 2


def test_the_weight_reaches_the_loss() -> None:
    model = AutoregressiveTransformerModel(AutoregressiveTransformerConfig(
        vocab_size=10, max_positions=5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, special_token_ids=[0, 1, 2],
    )).eval()  # fmt: skip
    out = model(**objective(gene_loss_weight=0.25).prepare(BATCH, seeded()))
    torch.testing.assert_close(out.loss, out.count_loss + 0.25 * out.gene_loss)
