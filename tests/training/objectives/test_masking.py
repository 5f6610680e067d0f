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
