"""Generation of cells: drawn as the heads say, step by step, whatever the batch around a cell."""

from __future__ import annotations

import pytest
import torch

from scmf.models.autoregressive_transformer import (
    AutoregressiveTransformerConfig,
    AutoregressiveTransformerModel,
    capped,
    sample_counts,
)

VOCAB, LONGEST = 14, 8
SHAPE = {
    "vocab_size": VOCAB, "max_positions": LONGEST, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "pad_token_id": 0, "special_token_ids": [0, 1],
    "gene_token_start": 2, "initializer_range": 0.4,
}  # fmt: skip
PROMPT = {
    "input_ids": torch.tensor([[5, 9, 7], [3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
    "values": torch.tensor([[3.0, 1.0, 9.0], [2.0, 0.0, 0.0]]),
}


def build(**changes: object) -> AutoregressiveTransformerModel:
    torch.manual_seed(0)
    return AutoregressiveTransformerModel(AutoregressiveTransformerConfig(**{**SHAPE, **changes})).eval()


def repeated(prompt: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    return {name: tensor[:1].expand(times, -1) for name, tensor in prompt.items()}


def next_gene_chances(
    model: AutoregressiveTransformerModel, prompt: dict[str, torch.Tensor], temperature: float
) -> torch.Tensor:
    """What the gene head says behind the first cell of a prompt, special tokens and genes that are there left out."""
    scores = capped(model(**prompt).logits[0, -1], model.config.softcap) / temperature
    never = [0, 1, model.config.start_row, *prompt["input_ids"][0].tolist()]
    scores[never] = -torch.inf
    return scores.softmax(0).detach()


def assert_drawn_from(draws: torch.Tensor, chances: torch.Tensor) -> None:
    """Counts of the draws within five standard errors of what is expected; what cannot be is never drawn."""
    n = len(draws)
    found = torch.bincount(draws, minlength=len(chances)).double()
    spread = (n * chances * (1 - chances)).sqrt()
    assert ((found - n * chances).abs() <= 5 * spread + 1e-9).all()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_next_gene_is_drawn_as_the_gene_head_says(temperature: float) -> None:
    model, n = build(), 4000
    chances = next_gene_chances(model, {name: tensor[:1] for name, tensor in PROMPT.items()}, temperature)
    assert chances.max() < 0.9  # else nothing is tested
    out = model.generate(prompt=repeated(PROMPT, n), total_counts=20.0, max_length=4, temperature=temperature, seed=3)
    drawn = torch.where(out["ended"], model.config.end_row, out["input_ids"][:, -1])
    assert_drawn_from(drawn, chances.double())
    assert out["ended"].any()


def test_the_count_is_drawn_from_the_truncated_poisson_of_the_count_head() -> None:
    model, n = build(count_link="softplus"), 6000
    out = model.generate(prompt=repeated(PROMPT, n), max_length=4, seed=1)
    for gene in out["input_ids"][~out["ended"], 3].unique():
        at = (out["input_ids"][:, 3] == gene) & ~out["ended"]
        one = {name: tensor[at][:1] for name, tensor in out.items() if name != "ended"}
        mu = float(model(**one).mu[0, 3].detach())
        counts = out["values"][at, 3].long()
        grid = torch.arange(60.0).double()
        chances = torch.exp(grid * torch.tensor(mu).double().log() - mu - torch.lgamma(grid + 1))
        chances[0] = 0
        assert_drawn_from(counts, chances / chances.sum())


def test_truncated_poisson_draws_have_its_mean_and_no_zero() -> None:
    for mu in (1e-4, 0.3, 2.0, 25.0):
        draws = sample_counts(torch.full((40_000,), mu), generator=torch.Generator().manual_seed(0))
        mean = mu / (1 - torch.exp(torch.tensor(-mu, dtype=torch.float64)).item())
        spread = max((mean * (1 + mu - mean)) ** 0.5, 0.01)
        assert draws.min() >= 1
        assert draws.mean().item() == pytest.approx(mean, abs=5 * spread / 200)


def recomputed(model: AutoregressiveTransformerModel, prompt: dict[str, torch.Tensor], total: float) -> list[tuple]:
    """Greedy generation of one cell, everything computed anew at every step."""
    ids, counts = prompt["input_ids"][0].tolist(), prompt["values"][0].tolist()
    config, new = model.config, []
    while len(ids) < LONGEST:
        batch = {"input_ids": torch.tensor([ids], dtype=torch.long), "values": torch.tensor([counts])}
        chances = next_gene_chances(model, batch, 1.0)
        if not ids:
            chances[config.end_row] = 0
        gene = int(chances.argmax())
        if gene == config.end_row:
            break
        ids.append(gene)
        batch = {"input_ids": torch.tensor([ids]), "values": torch.tensor([[*counts, 1.0]])}
        states, vectors = model.encode(batch["input_ids"], None, batch["values"], own_count=False)
        weights = model.mu(states[-1][:, :-1], vectors, batch["input_ids"]).exp()[0]
        mu = total * weights[-1] / (weights.mean() * LONGEST)
        counts.append(max(1.0, float(mu.detach().floor())))
        new.append((gene, counts[-1]))
    return new


@pytest.mark.parametrize("softcap", [10.0, None])
def test_kept_keys_and_values_give_what_a_computation_from_scratch_gives(softcap: float | None) -> None:
    model = build(softcap=softcap)
    with torch.no_grad():
        model.gene_id_head.layers[4].bias[model.config.end_row] -= 5  # so that cells go on
    out = model.generate(prompt=PROMPT, total_counts=60.0, greedy=True)
    for row, n in enumerate((3, 1)):
        alone = {name: tensor[[row], :n] for name, tensor in PROMPT.items()}
        wanted = recomputed(model, alone, 60.0)
        length = int(out["attention_mask"][row].sum())
        found = zip(out["input_ids"][row, n:length].tolist(), out["values"][row, n:length].tolist(), strict=True)
        assert list(found) == wanted
        assert len(wanted) > 2
    empty = {"input_ids": torch.zeros(1, 0, dtype=torch.long), "values": torch.zeros(1, 0)}
    first = model.generate(1, total_counts=60.0, greedy=True)
    wanted = recomputed(model, empty, 60.0)
    assert first["input_ids"][0].tolist() == [gene for gene, _ in wanted]


def test_a_cell_has_no_gene_twice_no_special_token_and_at_least_one_gene() -> None:
    model = build(n_assays=3)
    out = model.generate(assay_ids=torch.arange(60) % 3, total_counts=100.0, seed=5)
    lengths = out["attention_mask"].sum(1)
    assert lengths.min() >= 1
    assert lengths.max() <= LONGEST
    assert (out["ended"] | (lengths == LONGEST)).all()
    for ids, values, n in zip(out["input_ids"], out["values"], lengths, strict=True):
        genes = ids[:n].tolist()
        assert len(set(genes)) == len(genes)
        assert min(genes) >= 2
        assert max(genes) < VOCAB
        assert values[:n].min() >= 1
        assert not ids[n:].any()
        assert not values[n:].any()


def test_the_seed_decides_and_the_assay_matters() -> None:
    model = build(n_assays=3)

    def cells(seed: int, assay: int, **arguments: object) -> list[list[int]]:
        ids = torch.full((20,), assay)
        return model.generate(assay_ids=ids, total_counts=50.0, seed=seed, **arguments)["input_ids"].tolist()

    assert cells(1, 1) == cells(1, 1)
    assert cells(1, 1) != cells(2, 1)
    assert cells(1, 1) != cells(1, 2)
    model.train()
    assert cells(1, 1, greedy=True) == cells(2, 1, greedy=True)
    assert model.training


def test_expected_counts_of_a_whole_cell_add_up_to_its_total() -> None:
    model = build()
    means = model.generate(400, total_counts=80.0, seed=0)
    whole = means["attention_mask"].sum(1) == LONGEST
    assert whole.any()
    # Shares are guessed while genes are still to come, so the total holds on average only, and roughly.
    assert means["values"][whole].sum(1).mean().item() == pytest.approx(80.0, rel=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no total_counts"),
        ({"total_counts": 9.0, "max_length": LONGEST + 1}, "1 to 8 genes"),
        ({"total_counts": 9.0, "temperature": 0.0}, "a temperature above 0"),
        ({"total_counts": 9.0, "prompt": PROMPT, "max_length": 3}, "fewer than max_length=3"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().generate(**arguments)
