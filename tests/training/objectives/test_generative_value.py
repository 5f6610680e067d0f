"""Which genes are generated: by hand and by property; the second pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.config.run import validate
from scmf.core.config.training import TrainingConfig
from scmf.core.errors import ConfigError
from scmf.training.objectives.generative_value import GenerativeValuePrediction
from tests.fixtures.value_batches import CLS, PAD, SPECIAL, cells, generator, losses_of, tokenizer


@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    share=st.sampled_from([0.25, 0.5, 0.75]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_a_split_keeps_every_gene_with_its_value_and_cls_in_front(lengths: list[int], share: float, seed: int) -> None:
    batch = {**cells(*lengths, seed=seed % 1000), "batch_ids": torch.arange(len(lengths))}
    objective = GenerativeValuePrediction((share,), SPECIAL, PAD, -2.0)
    out = objective.prepare(batch, generator(seed))
    for row, length in enumerate(lengths):
        perceived, generated = out["attention_mask"][row].bool(), out["generated_mask"][row].bool()
        assert generated.sum() in (int(share * (length - 1)), 1)
        tokens = torch.cat([out["input_ids"][row][perceived], out["generated_ids"][row][generated]])
        values = torch.cat([out["values"][row][perceived], out["target_values"][row][generated]])
        pairs = sorted(zip(tokens.tolist(), values.tolist(), strict=True))
        whole = zip(batch["input_ids"][row, :length].tolist(), batch["values"][row, :length].tolist(), strict=True)
        assert pairs == sorted(whole)
        assert out["input_ids"][row, 0] == CLS
        assert (out["input_ids"][row][~perceived] == PAD).all()
        assert (out["values"][row][~perceived] == -2).all()
    assert torch.equal(out["batch_ids"], batch["batch_ids"])
    assert torch.equal(out["target_mask"], out["generated_mask"].bool())
    assert objective.predictions(out) == int(out["generated_mask"].sum()) > 0


def test_one_share_is_drawn_for_the_whole_batch() -> None:
    objective = GenerativeValuePrediction((0.25, 0.5, 0.75), SPECIAL, PAD, -2.0)
    seen = set()
    for seed in range(30):
        out = objective.prepare(cells(41, 41, 41), generator(seed))
        (counts,) = {tuple(out["generated_mask"].sum(1).tolist())}
        assert len(set(counts)) == 1
        seen.add(counts[0])
    assert seen == {10, 20, 30}


def test_a_gene_alone_stays_perceived_when_nothing_else_is() -> None:
    batch = {name: tensor[:, 1:] for name, tensor in cells(2, 3).items()}  # without <cls>: one gene and two genes
    for seed in range(10):
        out = GenerativeValuePrediction((0.25,), SPECIAL, PAD, -2.0).prepare(batch, generator(seed))
        assert out["generated_mask"].sum(1).tolist() == [0, 1]
        assert out["attention_mask"].sum(1).tolist() == [1, 1]


def test_the_second_pass_begins_after_its_step_and_needs_cls() -> None:
    training = TrainingConfig(pretraining_task="generative_value_prediction")
    objective = GenerativeValuePrediction.from_settings(training, tokenizer(), match_official=False)
    assert not objective.at(1000).second_pass
    assert objective.at(1001).second_pass
    assert objective.at(1001).prepare(cells(9), generator())["second_pass"]
    without = GenerativeValuePrediction.from_settings(training, tokenizer(special_tokens=False), match_official=False)
    assert not without.at(10**6).second_pass
    never = TrainingConfig(pretraining_task="generative_value_prediction", options={"second_pass_after": None})
    assert not GenerativeValuePrediction.from_settings(never, tokenizer(), match_official=False).at(10**6).second_pass


def test_settings_reach_the_objective() -> None:
    training = TrainingConfig(pretraining_task="generative_value_prediction", options={"generated_shares": [0.5]})
    assert GenerativeValuePrediction.from_settings(training, tokenizer(), match_official=False).generated_shares == (
        0.5,
    )


def test_shares_outside_0_and_1_are_refused() -> None:
    for shares in ([], [0.0], [1.0], [0.5, 1.5]):
        with pytest.raises(ConfigError, match="generated_shares"):
            raw = {"pretraining_task": "generative_value_prediction", "options": {"generated_shares": shares}}
            validate(TrainingConfig, raw, where="test")


def test_a_model_learns_from_it() -> None:
    objective = GenerativeValuePrediction((0.5,), SPECIAL, PAD, -2.0, second_pass=True)
    losses = losses_of(objective, cells(20, 25, 30))
    assert losses[-1] < 0.6 * losses[0]
