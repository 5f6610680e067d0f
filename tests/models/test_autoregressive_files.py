"""The autoregressive transformer as a Hugging Face model: files, initialization, configuration, classifier."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

from scmf.core.config.model import ModelConfig
from scmf.models.autoregressive_transformer import (
    AutoregressiveTransformerConfig,
    AutoregressiveTransformerForSequenceClassification,
    AutoregressiveTransformerModel,
)

VOCAB, VECTOR = 30, 6
SHAPE = {
    "vocab_size": VOCAB, "max_positions": 9, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48, "gene_head_dim": 40, "pad_token_id": 0, "special_token_ids": [0, 1],
    "gene_token_start": 2, "gene_vector_dim": VECTOR, "n_assays": 3, "initializer_range": 0.2,
}  # fmt: skip
BATCH = {
    "input_ids": torch.tensor([[5, 9, 7, 20], [3, 4, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    "values": torch.tensor([[3.0, 1.0, 30.0, 2.0], [1.0, 4.0, 0.0, 0.0]]),
    "assay_ids": torch.tensor([2, 0]),
}
AUTO = {
    AutoModel: AutoregressiveTransformerModel,
    AutoModelForPreTraining: AutoregressiveTransformerModel,
    AutoModelForSequenceClassification: AutoregressiveTransformerForSequenceClassification,
}


@pytest.fixture
def model() -> AutoregressiveTransformerModel:
    torch.manual_seed(0)
    return AutoregressiveTransformerModel(AutoregressiveTransformerConfig(**SHAPE)).eval()


def test_a_round_trip_is_equal_to_the_bit(model: AutoregressiveTransformerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again, info = AutoregressiveTransformerModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert torch.equal(again(**BATCH).logits, model(**BATCH).logits)
    assert not again.gene_embeddings.embedding.weight.requires_grad
    assert again.config.to_diff_dict() == model.config.to_diff_dict()


def test_any_missing_tensor_is_initialised_and_the_others_stay(
    model: AutoregressiveTransformerModel, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for key in state:
        save_file({k: v for k, v in state.items() if k != key}, tmp_path / "model.safetensors", {"format": "pt"})
        again, info = AutoregressiveTransformerModel.from_pretrained(tmp_path, output_loading_info=True)
        assert info["missing_keys"] == {key}
        fresh = again.state_dict()[key]
        if key.endswith("bias"):
            assert not fresh.any(), key
        elif fresh.ndim == 1:
            assert (fresh == 1).all(), key
        else:
            spread = 1.0 if key == "gene_embeddings.embedding.weight" else SHAPE["initializer_range"]
            assert fresh.std() == pytest.approx(spread, rel=0.35 if fresh.numel() < 300 else 0.1), key
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items() if name != key)


def test_auto_classes_find_ours_and_the_classifier_starts_from_the_pretrained_network(
    model: AutoregressiveTransformerModel, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is AutoregressiveTransformerConfig
    for auto, ours in AUTO.items():
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is ours
        for name, value in loaded.base_model.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name


CLEAN = """
import sys, torch
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scmf":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
import transformers
batch = torch.load(sys.argv[2] + "/batch.pt")
for name in sys.argv[3:]:
    model = getattr(transformers, name).from_pretrained(sys.argv[1], trust_remote_code=True)
    torch.save(model.base_model.embed(**batch), f"{sys.argv[2]}/{name}.pt")
model = transformers.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
model.save_pretrained(f"{sys.argv[2]}/again")
again = transformers.AutoModel.from_pretrained(f"{sys.argv[2]}/again", trust_remote_code=True)
assert torch.equal(again.embed(**batch), model.embed(**batch))
assert model.generate(2, total_counts=9.0, assay_ids=batch["assay_ids"])["input_ids"].shape[0] == 2
assert not any(name.partition(".")[0] == "scmf" for name in sys.modules)
"""


@pytest.mark.nightly
def test_a_checkpoint_loads_in_a_process_without_scmf(model: AutoregressiveTransformerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "checkpoint")
    torch.save(BATCH, tmp_path / "batch.pt")
    names = [auto.__name__ for auto in AUTO]
    out = subprocess.run(
        [sys.executable, "-I", "-c", CLEAN, tmp_path / "checkpoint", tmp_path, *names],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    for name in names:
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.pt"), model.embed(**BATCH))  # noqa: TID251


# --- gene vectors -----------------------------------------------------------------------------------


def test_given_gene_vectors_fill_the_table_and_are_not_trained(model: AutoregressiveTransformerModel) -> None:
    vectors = np.random.default_rng(0).normal(3, 2, (VOCAB, VECTOR))
    model.set_gene_vectors(vectors)
    table = model.gene_embeddings.embedding.weight
    assert torch.equal(table[:VOCAB], torch.tensor(vectors, dtype=torch.float32))
    owned = table[VOCAB:].clone()
    assert owned.shape == (2, VECTOR)
    assert not torch.equal(owned[0], owned[1])
    model.set_gene_vectors(vectors)
    assert torch.equal(table[VOCAB:], owned)
    assert model.frozen_tensors == ("gene_embeddings.embedding.weight",)
    assert set(model.frozen_tensors) == {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("vectors", [np.zeros((VOCAB, VECTOR + 1)), np.zeros((VOCAB + 2, VECTOR)), np.nan], ids=str)
def test_other_gene_vectors_are_refused(model: AutoregressiveTransformerModel, vectors: object) -> None:
    given = np.full((VOCAB, VECTOR), vectors) if isinstance(vectors, float) else vectors
    with pytest.raises(ValueError, match=r"finite \(30, 6\)"):
        model.set_gene_vectors(given)
    with pytest.raises(ValueError, match="built with gene_vector_dim"):
        config = AutoregressiveTransformerConfig(**{**SHAPE, "gene_vector_dim": None})
        AutoregressiveTransformerModel(config).set_gene_vectors(np.zeros((VOCAB, 64)))


def test_start_and_end_take_rows_of_the_vocabulary_or_behind_it() -> None:
    own = AutoregressiveTransformerConfig(**SHAPE)
    assert (own.start_row, own.end_row, own.n_rows) == (VOCAB, VOCAB + 1, VOCAB + 2)
    half = AutoregressiveTransformerConfig(**{**SHAPE, "start_token_id": 1})
    assert (half.start_row, half.end_row, half.n_rows) == (1, VOCAB, VOCAB + 1)
    both = AutoregressiveTransformerConfig(**{**SHAPE, "start_token_id": 2, "end_token_id": 3})
    assert (both.start_row, both.end_row, both.n_rows) == (2, 3, VOCAB)
    assert AutoregressiveTransformerModel(both).gene_id_head.layers[4].out_features == VOCAB


# --- classifier, freezing, kernels ------------------------------------------------------------------


def test_the_classifier_reads_the_mean_over_genes_and_learns_it(model: AutoregressiveTransformerModel) -> None:
    config = AutoregressiveTransformerConfig(**SHAPE, num_labels=3)
    classifier = AutoregressiveTransformerForSequenceClassification(config).eval()
    classifier.model.load_state_dict(model.state_dict(), strict=False)
    out = classifier(**BATCH, labels=torch.tensor([2, 0]))
    by_hand = classifier.classifier(classifier.norm(model.embed(**BATCH)))
    torch.testing.assert_close(out.logits, by_hand)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(by_hand, torch.tensor([2, 0])))
    out.loss.backward()
    without = {name for name, p in classifier.named_parameters() if p.grad is None}
    assert without == set(classifier.frozen_tensors)  # nothing is left idle: no heads, and vectors stay frozen


def test_freezing_stops_the_first_layers_alone_unless_asked(model: AutoregressiveTransformerModel) -> None:
    def frozen() -> set[str]:
        return {".".join(name.split(".")[:3]) for name, p in model.named_parameters() if not p.requires_grad}

    model.freeze_first(1)
    assert frozen() == {"transformer_encoder.encoder_layers.0", "gene_embeddings.embedding.weight"}
    model.freeze_first(0, embeddings=True)
    assert {"gene_embeddings.mlp.layers", "aux_embeddings.assay.weight"} <= frozen()
    with pytest.raises(ValueError, match="0 to 2"):
        model.freeze_first(3)


def test_the_attention_kernel_can_be_changed() -> None:
    config = AutoregressiveTransformerConfig(**{**SHAPE, "softcap": None})
    model = AutoregressiveTransformerModel(config).eval()
    sdpa = model(**BATCH).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**BATCH).logits, sdpa, rtol=1e-5, atol=1e-5)


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": None}, "a batch without values"),
        ({"assay_ids": None}, "a batch without assay_ids"),
        ({"input_ids": torch.ones(2, 10, dtype=torch.long), "attention_mask": None}, "at most max_positions=9"),
        ({"values": -BATCH["values"]}, "a value of -30 to be predicted"),
    ],
)
def test_a_batch_it_cannot_read_is_one_clear_error(
    model: AutoregressiveTransformerModel, change: dict[str, torch.Tensor | None], message: str
) -> None:
    labels = torch.tensor([[5, 9, 7, 20, -1], [3, 4, -1, -100, -100]])
    with pytest.raises(ValueError, match=message):
        model(**{**BATCH, "labels": labels, **change})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "cls"}, "no token stands for the cell"),
        ({"layer": 1}, "0 .last layer. to -2"),
        ({"layer": -3}, "0 .last layer. to -2"),
    ],
)
def test_an_embedding_it_does_not_have_is_refused(
    model: AutoregressiveTransformerModel, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.embed(**BATCH, **arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_attention_heads": 5}, {"hidden_size": "32"}, {"hidden_act": "geluu"}, {"softcap": 0},
        {"count_link": "exp"}, {"count_likelihood": "gauss"}, {"classifier_pooling": "first"},
        {"start_token_id": VOCAB}, {"gene_vector_dim": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"found: {next(iter(wrong))}="):
        AutoregressiveTransformerConfig(**{**SHAPE, **wrong})


def test_settings_and_facts_become_a_configuration() -> None:
    section = ModelConfig(
        architecture="autoregressive_transformer", hidden_dim=32, num_layers=1, num_heads=2, ffn_dim=20,
        activation="gelu", attention="eager", options={"softcap": None, "gene_head_dim": 7, "match_official": True},
    )  # fmt: skip
    facts = {
        "vocab_size": 50, "max_positions": 64, "pad_token_id": 1, "cls_token_id": 2, "eos_token_id": None,
        "mask_token_id": 6, "n_assays": 4, "gene_vector_dim": 5, "gene_token_start": 7, "n_bins": None,
    }  # fmt: skip
    settings = {**section.model_dump(exclude={"architecture", "checkpoint", "options"}), **section.all_options}
    config = AutoregressiveTransformerConfig.from_settings(facts, settings)
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (32, 1, 20)
    assert (config.softcap, config.gene_head_dim, config.match_official) == (None, 7, True)
    assert (config.count_link, config.count_likelihood, config.max_count) == ("softmax", "zero_truncated", None)
    assert (config.start_token_id, config.end_token_id, config.end_row) == (2, None, 50)
    assert (config.special_token_ids, config.gene_token_start) == ([1, 2, 6], 7)
    assert (config.n_assays, config.gene_vector_dim, config.max_positions) == (4, 5, 64)
    assert AutoregressiveTransformerModel(config).config._attn_implementation == "eager"
