"""Transformer encoder with values beside its tokens: they enter, hidden ones are predicted, nothing else changes."""

from pathlib import Path

import pytest
import torch

from scmf.models.configuration_transformer_encoder import TransformerEncoderConfig
from scmf.models.transformer_encoder import TransformerEncoderForMaskedLM

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


def with_values(encoding: str) -> TransformerEncoderForMaskedLM:
    torch.manual_seed(0)
    config = TransformerEncoderConfig(
        **SHAPE, value_encoding=encoding, n_value_bins=6 if encoding == "category" else None, use_positions=False
    )
    return TransformerEncoderForMaskedLM(config).eval()


@pytest.mark.parametrize("encoding", ["continuous", "category"])
def test_values_enter_and_hidden_ones_are_predicted(encoding: str) -> None:
    model = with_values(encoding)
    ids = torch.randint(4, SHAPE["vocab_size"], (3, 7))
    values = torch.randint(0, 6, (3, 7)).float()
    hidden = torch.zeros(3, 7, dtype=torch.bool)
    hidden[:, 2] = True
    one = model(ids, values=values.masked_fill(hidden, -1), target_values=values, target_mask=hidden)
    predicted = model.value_head(model.bert(ids, values=values.masked_fill(hidden, -1)).last_hidden_state)
    assert torch.allclose(one.loss, torch.nn.functional.mse_loss(predicted[hidden], values[hidden]))
    other = model(ids, values=values.masked_fill(hidden, 3), target_values=values, target_mask=hidden)
    assert one.loss != other.loss and one.logits is None
    nothing = model(ids, values=values, target_values=values, target_mask=torch.zeros_like(hidden))
    assert nothing.loss == 0


def test_without_positions_the_order_of_the_genes_means_nothing() -> None:
    model = with_values("continuous")
    ids, values, order = torch.randint(4, SHAPE["vocab_size"], (2, 6)), torch.rand(2, 6), torch.randperm(6)
    one = model.embed(ids, torch.ones_like(ids), values, layer=0)
    assert torch.allclose(model.embed(ids[:, order], torch.ones_like(ids), values[:, order], layer=0), one, atol=1e-6)


def test_values_that_are_lacking_or_not_read_are_refused() -> None:
    ids = torch.randint(4, SHAPE["vocab_size"], (2, 6))
    with pytest.raises(ValueError, match="a batch without values"):
        with_values("continuous")(ids)
    plain = TransformerEncoderForMaskedLM(TransformerEncoderConfig(**SHAPE))
    with pytest.raises(ValueError, match="hidden values to predict"):
        plain(ids, target_values=torch.zeros(2, 6), target_mask=torch.ones(2, 6, dtype=torch.bool))


@pytest.mark.parametrize("encoding", ["continuous", "category"])
def test_weights_for_values_are_saved_and_loaded_to_the_bit(encoding: str, tmp_path: Path) -> None:
    model = with_values(encoding)
    model.save_pretrained(tmp_path)
    again = TransformerEncoderForMaskedLM.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
