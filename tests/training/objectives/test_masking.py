"""What the objectives over values share: the draw of a share, and the refusal of tokens without values."""

from __future__ import annotations

import pytest
import torch

from scmf.core.config.training import TrainingConfig
from scmf.core.errors import TrainingError
from scmf.training.objectives.generative_value import GenerativeValuePrediction
from scmf.training.objectives.masked_value import MaskedValuePrediction
from scmf.training.objectives.masking import draw_share
from tests.fixtures.value_batches import generator, tokenizer


def test_a_share_of_nothing_chooses_nothing() -> None:
    nobody = torch.zeros(2, 5, dtype=torch.bool)
    assert not draw_share(nobody, 0.5, generator()).any()


@pytest.mark.parametrize("objective", [MaskedValuePrediction, GenerativeValuePrediction])
def test_a_tokenizer_without_values_is_refused(objective: type) -> None:
    training = TrainingConfig(pretraining_task="masked_value_prediction")
    with pytest.raises(TrainingError, match="gives no values"):
        objective.from_settings(training, tokenizer(model_input_names=["input_ids"]), match_official=False)  # type: ignore[attr-defined]


def test_every_candidate_is_chosen_as_often_as_every_other() -> None:
    candidates = torch.ones(4000, 9, dtype=torch.bool)
    candidates[:, [0, 4]] = False
    chosen = draw_share(candidates, 0.45, generator())
    assert chosen.sum(1).tolist() == [3] * 4000
    times = chosen.sum(0)[[1, 2, 3, 5, 6, 7, 8]].double()
    assert (times - 4000 * 3 / 7).abs().max() < 5 * (4000 * 3 / 7 * 4 / 7) ** 0.5
    assert not chosen[:, [0, 4]].any()
