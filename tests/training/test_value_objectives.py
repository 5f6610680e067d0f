"""What is hidden and what is generated: by hand, by property, and against numpy's draws of the official code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.config.run import validate
from scmf.core.config.training import TrainingConfig
from scmf.core.errors import ConfigError, TrainingError
from scmf.core.files import reference_dir
from scmf.models.generative_transformer import GenerativeTransformerConfig, GenerativeTransformerModel
from scmf.training.value_objectives import (
    GenerativeValuePrediction,
    MaskedValuePrediction,
    draw_share,
    official_mask,
)

PAD, CLS = 0, 1
SPECIAL = (PAD, CLS)


def cells(*lengths: int, cls_value: float = -2.0, seed: int = 0) -> dict[str, torch.Tensor]:
    """Cells of the given lengths: ``<cls>``, genes with digits 1 to 50, padding with value -2."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.stack([torch.randperm(100, generator=generator)[: max(lengths)] + 2 for _ in lengths])
    values = torch.randint(1, 51, ids.shape, generator=generator).float()
    ids[:, 0], values[:, 0] = CLS, cls_value
    return {"input_ids": ids * mask, "attention_mask": mask, "values": values.where(mask.bool(), -2.0)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokenizer(**facts: Any) -> SimpleNamespace:
    given = {
        "model_input_names": ["input_ids", "attention_mask", "values"],
        "all_special_ids": [PAD, CLS],
        "pad_values": {"input_ids": PAD, "values": -2.0},
        "pad_value": -2.0,
        "mask_value": -1.0,
        "special_tokens": True,
        "cls_token_id": CLS,
    }
    return SimpleNamespace(**{**given, **facts})


# --- hidden values ----------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    ratio=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_exactly_the_share_of_every_cell_is_hidden_and_never_cls(lengths: list[int], ratio: float, seed: int) -> None:
    batch = cells(*lengths, cls_value=0.0, seed=seed % 1000)
    objective = MaskedValuePrediction(ratio, pad_value=-2.0, special_token_ids=SPECIAL)
    out = objective.prepare(batch, generator(seed))
    wanted = [int(ratio * (length - 1)) for length in lengths]
    found = out["target_mask"].sum(1).tolist()
    assert found == wanted or (not any(wanted) and sum(found) == 1)
    assert not out["target_mask"][:, 0].any()
    assert not (out["target_mask"] & ~batch["attention_mask"].bool()).any()
    assert (out["values"][out["target_mask"]] == -1).all()
    assert torch.equal(out["values"][~out["target_mask"]], batch["values"][~out["target_mask"]])
    assert torch.equal(out["target_values"], batch["values"])
    assert objective.predictions(out) == sum(found)


def test_one_seed_gives_one_mask() -> None:
    objective = MaskedValuePrediction(0.4, special_token_ids=SPECIAL)
    one, same, other = (objective.prepare(cells(9, 30), generator(seed))["target_mask"] for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_cls_may_be_hidden_when_asked_for_and_where_it_has_a_value() -> None:
    objective = MaskedValuePrediction(0.9, pad_value=-2.0, special_token_ids=SPECIAL, include_cls=True)
    hidden = [objective.prepare(cells(30, 30, cls_value=0.0), generator(i))["target_mask"][:, 0] for i in range(5)]
    assert torch.stack(hidden).any()
    kept = [objective.prepare(cells(30, 30), generator(i))["target_mask"][:, 0] for i in range(5)]
    assert not torch.stack(kept).any()


def test_a_batch_of_tiny_cells_has_a_target_and_under_match_official_none() -> None:
    batch = cells(2, 2)
    assert MaskedValuePrediction(0.4, special_token_ids=SPECIAL).prepare(batch, generator())["target_mask"].sum() == 1
    match_official = MaskedValuePrediction(0.4, pad_value=-2.0, special_token_ids=SPECIAL, match_official=True)
    assert match_official.prepare(batch, generator())["target_mask"].sum() == 0


def test_match_official_hides_what_numpy_draws_and_counts_cls() -> None:
    values = cells(6, 9, cls_value=0.0)["values"]
    hidden = official_mask(values, 0.4, -2.0, np.random.RandomState(9))
    np.random.seed(9)  # the official code draws from the global generator
    for row, length in enumerate((6, 9)):
        wanted = np.random.choice(np.arange(length), int(0.4 * length), replace=False)
        assert hidden[row].nonzero()[:, 0].tolist() == sorted(wanted.tolist())


@pytest.mark.parametrize("ratio", [0.15, 0.4])
def test_match_official_masks_are_the_official_ones(ratio: float) -> None:
    root = reference_dir()
    files = sorted((root / "scgpt" / "tok").glob("*.tokenize.*.npz")) if root else []
    if not files:
        pytest.skip("SCMF_REFERENCE_DIR names no folder with outputs of the official code")
    for path in files:
        with np.load(path) as arrays:
            values, masked = torch.from_numpy(arrays["values"]), arrays[f"masked_{ratio}"]
        ours = official_mask(values, ratio, -2.0, np.random.RandomState(9))
        assert np.array_equal(values.masked_fill(ours, -1.0).numpy(), masked), path.name


# --- generated genes --------------------------------------------------------------------------------


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


# --- both -------------------------------------------------------------------------------------------


def test_settings_reach_the_objectives() -> None:
    training = TrainingConfig(pretraining_task="masked_value_prediction", mask_ratio=0.4, options={"include_cls": True})
    masked = MaskedValuePrediction.from_settings(training, tokenizer(mask_value=-7.0), match_official=True)
    assert masked == MaskedValuePrediction(0.4, -7.0, -2.0, SPECIAL, include_cls=True, match_official=True)
    assert (
        MaskedValuePrediction.from_settings(training, tokenizer(mask_value=None), match_official=False).mask_value == -1
    )
    training = TrainingConfig(pretraining_task="generative_value_prediction", options={"generated_shares": [0.5]})
    assert GenerativeValuePrediction.from_settings(training, tokenizer(), match_official=False).generated_shares == (
        0.5,
    )


@pytest.mark.parametrize("objective", [MaskedValuePrediction, GenerativeValuePrediction])
def test_a_tokenizer_without_values_is_refused(objective: type) -> None:
    training = TrainingConfig(pretraining_task="masked_value_prediction")
    with pytest.raises(TrainingError, match="gives no values"):
        objective.from_settings(training, tokenizer(model_input_names=["input_ids"]), match_official=False)  # type: ignore[attr-defined]


def test_shares_outside_0_and_1_are_refused() -> None:
    for shares in ([], [0.0], [1.0], [0.5, 1.5]):
        with pytest.raises(ConfigError, match="generated_shares"):
            raw = {"pretraining_task": "generative_value_prediction", "options": {"generated_shares": shares}}
            validate(TrainingConfig, raw, where="test")


def test_a_share_of_nothing_chooses_nothing() -> None:
    nobody = torch.zeros(2, 5, dtype=torch.bool)
    assert not draw_share(nobody, 0.5, generator()).any()


def test_both_train_the_model_and_lower_their_loss() -> None:
    torch.manual_seed(0)
    config = GenerativeTransformerConfig(
        vocab_size=102, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=PAD, cls_token_id=CLS,
    )  # fmt: skip
    batch = cells(20, 25, 30)
    for objective in (
        MaskedValuePrediction(0.4, special_token_ids=SPECIAL),
        GenerativeValuePrediction((0.5,), SPECIAL, PAD, -2.0, second_pass=True),
    ):
        model = GenerativeTransformerModel(config)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        inputs = objective.prepare(batch, generator())
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0], objective.name
