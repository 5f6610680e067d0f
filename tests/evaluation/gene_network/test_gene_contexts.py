"""Edges from genes in cells: each way against its definition, for the families that can; those that cannot say so."""

import numpy as np
import pytest
import torch

from scmf.core.errors import ModelError
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import padded_tensors
from scmf.evaluation.gene_network.model_contexts import attention, context_embedding, knockout
from scmf.models.autoregressive_transformer import AutoregressiveTransformerConfig, AutoregressiveTransformerModel
from scmf.models.generative_transformer import GenerativeTransformerConfig, GenerativeTransformerModel
from scmf.models.transformer_encoder import TransformerEncoderConfig, TransformerEncoderForMaskedLM
from tests.fixtures.generative_cells import SHAPE as GENERATIVE
from tests.fixtures.masked_cells import build as masked_autoencoder
from tests.models.test_autoregressive_transformer import SHAPE as AUTOREGRESSIVE

GENES = [f"g{i}" for i in range(8)]
IDS = {name: 2 + i for i, name in enumerate(GENES)}


def cells_of(*cells, values=False, **beside):
    """Cells that hold these genes, in that order."""
    ids = np.concatenate([[IDS[f"g{i}"] for i in cell] for cell in cells])
    offsets = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])
    columns = {"input_ids": ids} | ({"values": 1.0 + np.arange(len(ids)) % 5} if values else {})
    return Ragged(offsets, columns, {name: np.full(len(cells), one) for name, one in beside.items()})


def encoder():
    torch.manual_seed(0)
    config = TransformerEncoderConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, pad_token_id=0, mask_token_id=1, cls_token_id=None, eos_token_id=None,
        initializer_range=0.4,
    )  # fmt: skip
    return TransformerEncoderForMaskedLM(config).eval()


def autoregressive(**changes):
    torch.manual_seed(0)
    return AutoregressiveTransformerModel(AutoregressiveTransformerConfig(**{**AUTOREGRESSIVE, **changes})).eval()


def weights_of(table):
    return table.set_index(["regulator", "target"])["weight"]


@pytest.mark.parametrize("n_assays", [0, 3])
def test_a_causal_network_moves_the_genes_behind_a_regulator_and_those_alone(n_assays):
    beside = {"assay_ids": 1} if n_assays else {}
    tokens = cells_of(range(8), values=True, **beside)
    model = autoregressive(n_assays=n_assays)
    table = knockout(model, tokens, IDS, ["g3"], GENES)
    assert table["target"].tolist() == ["g4", "g5", "g6", "g7"]
    # START and the assay stand before the genes: each gene is compared with itself, not with its neighbor
    kept = np.arange(8) != 3
    whole = padded_tensors(tokens, np.array([0]))
    less = {name: tensor[:, kept] if tensor.ndim == 2 else tensor for name, tensor in whole.items()}
    a, b = (model.embed(**batch, layer=0, pooling="gene")[0].double() for batch in (whole, less))
    wanted = 1 - torch.nn.functional.cosine_similarity(a[kept], b, dim=1)
    assert table["weight"].to_numpy() == pytest.approx(wanted.numpy()[3:], rel=1e-3)


def test_knock_out_is_one_minus_cosine_averaged_over_cells_that_hold_both():
    model, tokens = encoder(), cells_of([0, 1, 2, 3], [4, 0, 2], [1, 2])
    found = weights_of(knockout(model, tokens, IDS, ["g0"], GENES))

    def vector(cell, gene):
        ids = torch.tensor([[IDS[f"g{i}"] for i in cell]])
        return model.embed(input_ids=ids, layer=0, pooling="gene")[0, cell.index(gene)].double()

    def moved(cell, gene):
        a, b = vector(cell, gene), vector([i for i in cell if i != 0], gene)
        return 1 - float(a @ b / a.norm() / b.norm())

    assert found["g0", "g1"] == pytest.approx(moved([0, 1, 2, 3], 1), rel=1e-4)
    both = (moved([0, 1, 2, 3], 2) + moved([4, 0, 2], 2)) / 2
    assert found["g0", "g2"] == pytest.approx(both, rel=1e-4)
    assert ("g0", "g5") not in found.index


def test_knock_out_is_bounded_and_says_how():
    model, tokens = encoder(), cells_of([0, 1, 2], [0, 1, 3], [0, 2, 3], [4, 5])
    table = knockout(model, tokens, IDS, GENES, GENES, n_regulators=2, n_cells=1)
    assert set(table["regulator"]) == {"g0", "g1"}
    assert "the 2 of 8 regulators" in table.attrs["how"] and "at most 1 cells each" in table.attrs["how"]
    assert table.equals(knockout(model, tokens, IDS, GENES, GENES, n_regulators=2, n_cells=1))
    alone = knockout(model, cells_of([0], [1, 0]), IDS, ["g0"], ["g0", "g1"])
    assert alone["target"].tolist() == ["g1"]  # the cell with nothing left is passed over


def test_layers_of_attention_are_counted_from_the_last_and_their_mean_is_all():
    model, tokens = encoder(), cells_of([0, 1, 2, 3], [3, 2, 0])
    ask = (model, tokens, IDS, GENES[:3], GENES)
    whole, last, first = (weights_of(attention(*ask, layer=layer)) for layer in (None, 0, -1))
    assert whole.to_numpy() == pytest.approx((last.to_numpy() + first.to_numpy()) / 2, rel=1e-5)
    assert not np.allclose(last, first)
    with pytest.raises(ModelError, match="layer=-2"):
        attention(*ask, layer=-2)
    assert model.config._attn_implementation == encoder().config._attn_implementation


def test_context_vectors_are_means_over_the_cells_that_hold_the_gene():
    model, tokens = encoder(), cells_of([0, 1, 2], [2, 0])
    found = weights_of(context_embedding(model, tokens, IDS, ["g0"], GENES, layer=-1))
    a, b = (model.embed(input_ids=torch.tensor([ids]), layer=-1, pooling="gene")[0] for ids in ([2, 3, 4], [4, 2]))
    x, y = (a[0] + b[1]) / 2, (a[2] + b[0]) / 2
    assert found["g0", "g2"] == pytest.approx(abs(float(x @ y / x.norm() / y.norm())), rel=1e-5)
    assert ("g0", "g7") not in found.index
    with pytest.raises(ModelError, match="layer=5"):
        context_embedding(model, tokens, IDS, ["g0"], GENES, layer=5)


def test_scgpt_goes_all_ways():
    torch.manual_seed(0)
    model = GenerativeTransformerModel(GenerativeTransformerConfig(**GENERATIVE)).eval()
    tokens = cells_of([0, 1, 2, 3], [4, 0, 2], values=True)
    for way in (attention, knockout, context_embedding):
        table = way(model, tokens, IDS, ["g0", "g2"], GENES)
        assert len(table) and (table["weight"] >= 0).all()


def test_a_family_that_cannot_says_so_and_what_it_can():
    causal, tokens = autoregressive(), cells_of(range(4), values=True)
    with pytest.raises(ModelError, match="edges by attention of scmf_autoregressive_transformer") as error:
        attention(causal, tokens, IDS, GENES, GENES)
    assert "knockout" in str(error.value)
    for way in (attention, knockout, context_embedding):
        with pytest.raises(ModelError, match=r"of scmf_masked_autoencoder(.|\n)*use gene_embedding"):
            way(masked_autoencoder(), tokens, IDS, GENES, GENES)
