"""Which values are hidden: by hand, by property, and against numpy's draws of the official code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.config.training import TrainingConfig
from scmf.core.paths import reference_dir
from scmf.training.objectives.masked_value import MaskedValuePrediction, official_mask
from tests.fixtures.value_batches import SPECIAL, cells, generator, losses_of, tokenizer


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


def test_settings_reach_the_objective() -> None:
    training = TrainingConfig(pretraining_task="masked_value_prediction", mask_ratio=0.4, options={"include_cls": True})
    masked = MaskedValuePrediction.from_settings(training, tokenizer(mask_value=-7.0), match_official=True)
    assert masked == MaskedValuePrediction(0.4, -7.0, -2.0, SPECIAL, include_cls=True, match_official=True)
    assert (
        MaskedValuePrediction.from_settings(training, tokenizer(mask_value=None), match_official=False).mask_value == -1
    )


def test_a_model_learns_from_it() -> None:
    losses = losses_of(MaskedValuePrediction(0.4, special_token_ids=SPECIAL), cells(20, 25, 30))
    assert losses[-1] < 0.6 * losses[0]
