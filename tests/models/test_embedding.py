"""Cells to vectors: the order of the cells, and nothing that a batch could change."""

import numpy as np
import pytest
import torch

from scmf.core.config.run import EvalConfig
from scmf.core.errors import ModelError
from scmf.data.stores.ragged import Ragged
from scmf.models.embed import classify_tokens, embed_tokens
from scmf.models.transformer_encoder import (
    TransformerEncoderConfig,
    TransformerEncoderForMaskedLM,
    TransformerEncoderForSequenceClassification,
)

PAD, CLS, EOS, VOCAB = 0, 2, 3, 50
LENGTHS = np.array([5, 17, 3, 24, 3, 11, 24, 8, 19, 4, 6, 6, 20])


def config():
    return TransformerEncoderConfig.from_settings(
        {"vocab_size": VOCAB, "max_positions": 24, "pad_token_id": PAD, "cls_token_id": CLS, "eos_token_id": EOS},
        {"hidden_dim": 16, "num_layers": 3, "num_heads": 2, "ffn_dim": 32, "initializer_range": 0.2, "dropout": 0.3,
         "attention_dropout": 0.3},
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TransformerEncoderForMaskedLM(config())


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    shape = config()
    shape.num_labels = 5
    return TransformerEncoderForSequenceClassification(shape)


@pytest.fixture(scope="module")
def cells():
    """Cells of 3 to 24 tokens in no order of length, as V2 tokenizes them."""
    rng = np.random.default_rng(0)
    rows = [np.concatenate([[CLS], rng.integers(4, VOCAB, length - 2), [EOS]]) for length in LENGTHS]
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    return Ragged(offsets, {"input_ids": np.concatenate(rows).astype(np.int32)}, {}, {"input_ids": PAD})


def rows_of(cells):
    return [cells.columns["input_ids"][a:b] for a, b in zip(cells.offsets[:-1], cells.offsets[1:], strict=True)]


def one_by_one(model, cells, **settings):
    """Each cell alone, unpadded, in the order of the cells."""
    tokens = [torch.from_numpy(row.astype(np.int64))[None] for row in rows_of(cells)]
    return torch.cat([model.embed(ids, torch.ones_like(ids), **settings) for ids in tokens]).numpy()


def embed(model, cells, **settings):
    return embed_tokens(model, cells, settings=EvalConfig(**settings))


@pytest.mark.parametrize("pooling", ["cell", "cls"])
@pytest.mark.parametrize("layer", [0, -1, -3])
def test_row_i_is_cell_i_as_if_it_were_embedded_alone(model, cells, layer, pooling):
    found_ND = embed(model, cells, embedding_layer=layer, pooling=pooling, batch_size=4)
    assert found_ND.shape == (len(LENGTHS), 16) and found_ND.dtype == np.float32
    np.testing.assert_allclose(found_ND, one_by_one(model, cells, layer=layer, pooling=pooling), atol=1e-6)
    if pooling == "cell":
        gaps = np.linalg.norm(found_ND[:, None] - found_ND, axis=-1) + np.eye(len(LENGTHS))
        assert gaps.min() > 1e-3, "cells differ, so that a wrong order would show"


@pytest.mark.parametrize("batch_size", [1, 2, 5, 13, 64])
def test_the_batch_size_does_not_matter(model, cells, batch_size):
    np.testing.assert_allclose(embed(model, cells, batch_size=batch_size), embed(model, cells), atol=1e-6)


def test_the_order_of_cells_is_kept_whatever_it_is(model, cells):
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    np.testing.assert_allclose(embed(model, cells.select(order)), embed(model, cells)[order], atol=1e-6)


def test_the_defaults_are_the_official_ones(model, cells):
    np.testing.assert_allclose(embed(model, cells), one_by_one(model, cells, layer=-1, pooling="cell"), atol=1e-6)


def test_dropout_is_off_and_the_model_goes_on_training_afterwards(model, cells):
    model.train()
    found_ND = embed(model, cells)
    np.testing.assert_array_equal(found_ND, embed(model, cells))
    assert model.training and all(part.training for part in model.modules())
    model.eval()
    np.testing.assert_array_equal(found_ND, embed(model, cells))
    assert all(value.grad is None for value in model.parameters())


def test_labels_of_the_cells_are_not_asked_for(model, cells):
    labeled = cells.with_cell_tensors(labels=np.arange(len(LENGTHS)))
    np.testing.assert_array_equal(embed(model, labeled), embed(model, cells))


def test_a_vector_that_is_not_finite_names_its_cell(cells):
    torch.manual_seed(0)
    broken = TransformerEncoderForMaskedLM(config())
    token = int(cells.columns["input_ids"][cells.offsets[6] + 1])
    first = next(i for i, row in enumerate(rows_of(cells)) if token in row)
    with torch.no_grad():
        broken.get_input_embeddings().weight[token] = float("nan")
    with pytest.raises(ModelError, match=f"embedding of cell {first} is not finite") as caught:
        embed(broken, cells, batch_size=1)
    assert caught.value.fix


def test_no_cells_are_an_error(model, cells):
    with pytest.raises(ModelError, match="no cells to embed"):
        embed(model, cells.select(np.arange(0)))


# --- logits of a head -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_logits_are_those_of_each_cell_alone_and_without_dropout(classifier, cells, batch_size):
    classifier.train()
    found_NC = classify_tokens(classifier, cells, batch_size=batch_size)
    classifier.eval()
    with torch.no_grad():
        wanted_NC = torch.cat(
            [classifier(torch.from_numpy(row.astype(np.int64))[None]).logits for row in rows_of(cells)]
        )
    assert found_NC.shape == (len(LENGTHS), 5) and found_NC.dtype == np.float32
    np.testing.assert_allclose(found_NC, wanted_NC.numpy(), atol=1e-6)
    assert np.ptp(found_NC, axis=0).min() > 1e-3
