"""The encoder against transformers' own BERT with the same weights, and its rules by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from scmf.models.transformer_encoder import (
    TransformerEncoderConfig,
    TransformerEncoderForMaskedLM,
    TransformerEncoderForSequenceClassification,
    TransformerEncoderForTokenClassification,
    TransformerEncoderModel,
)

CLS, EOS, VOCAB = 2, 3, 40
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "relu",
    "max_position_embeddings": 24,
    "initializer_range": 0.2,  # large, so that a wrong formula shows
}
SPECIAL = {"cls_token_id": CLS, "eos_token_id": EOS}
AUTO = {
    AutoModel: TransformerEncoderModel,
    AutoModelForMaskedLM: TransformerEncoderForMaskedLM,
    AutoModelForSequenceClassification: TransformerEncoderForSequenceClassification,
    AutoModelForTokenClassification: TransformerEncoderForTokenClassification,
}


def cells(*lengths: int) -> dict[str, torch.Tensor]:
    """Cells of the given lengths as V2 tokenizes them: cls, genes, eos, padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        genes = torch.randperm(VOCAB - 4, generator=generator)[: length - 2] + 4
        ids[row, :length] = torch.cat([torch.tensor([CLS]), genes, torch.tensor([EOS])])
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def masked(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same cells with every third token masked."""
    where = (torch.arange(batch["input_ids"].shape[1]) % 3 == 1) & batch["attention_mask"].bool()
    labels = batch["input_ids"].where(where, -100)
    return {**batch, "input_ids": batch["input_ids"].masked_fill(where, 1), "labels": labels}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the authors publish it: written by BertForMaskedLM."""
    folder = tmp_path_factory.mktemp("official")
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(folder)
    return folder


@pytest.fixture
def model(official: Path) -> TransformerEncoderForMaskedLM:
    return TransformerEncoderForMaskedLM.from_pretrained(official, **SPECIAL)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_every_output_equals_bert_with_the_same_weights(official: Path, kernel: str) -> None:
    ours, info = TransformerEncoderForMaskedLM.from_pretrained(
        official, attn_implementation=kernel, output_loading_info=True
    )
    assert not any(info.values())
    bert = BertForMaskedLM.from_pretrained(official, attn_implementation=kernel)
    wanted = {"output_hidden_states": True, "output_attentions": kernel == "eager"}
    for batch in (cells(9, 20, 4), cells(8, 8)):  # with padding and without
        theirs, out = bert(**batch, **wanted), ours(**batch, **wanted)
        torch.testing.assert_close(out.logits, theirs.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.hidden_states, theirs.hidden_states, rtol=1e-5, atol=1e-5)
        assert len(out.hidden_states) == SHAPE["num_hidden_layers"] + 1
        if kernel == "eager":
            torch.testing.assert_close(out.attentions, theirs.attentions, rtol=1e-5, atol=1e-6)


def test_loss_and_gradients_on_masked_positions_equal_those_of_bert_on_all(
    official: Path, model: TransformerEncoderForMaskedLM
) -> None:
    batch = masked(cells(9, 20, 4))
    bert = BertForMaskedLM.from_pretrained(official)
    theirs, ours, full = bert(**batch), model(**batch), model(**batch, return_logits=True)
    assert ours.logits is None
    torch.testing.assert_close(full.logits, theirs.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(full.loss, theirs.loss, rtol=1e-6, atol=0)
    theirs.loss.backward()
    ours.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients.keys() == {name for name, _ in bert.named_parameters()}
    for name, parameter in bert.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_batch_without_masked_positions_has_loss_zero_and_zero_gradients(
    model: TransformerEncoderForMaskedLM,
) -> None:
    batch = cells(5, 4)
    loss = model(**batch, labels=torch.full_like(batch["input_ids"], -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("ours_class", "bert_class"),
    [
        (TransformerEncoderForSequenceClassification, BertForSequenceClassification),
        (TransformerEncoderForTokenClassification, BertForTokenClassification),
    ],
)
def test_classifiers_equal_those_of_bert(tmp_path: Path, ours_class: type, bert_class: type) -> None:
    bert = bert_class(BertConfig(**SHAPE, num_labels=5)).eval()
    bert.save_pretrained(tmp_path)
    ours, info = ours_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    batch = cells(9, 20, 4)
    labels = torch.tensor([0, 4, 2])
    if bert_class is BertForTokenClassification:
        labels = (batch["input_ids"] % 5).where(batch["attention_mask"].bool(), -100)
    theirs, out = bert(**batch, labels=labels), ours(**batch, labels=labels)
    torch.testing.assert_close(out.logits, theirs.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.loss, theirs.loss, rtol=1e-6, atol=0)


def test_mean_pooling_of_the_classifier_is_the_mean_over_genes() -> None:
    config = TransformerEncoderConfig(**SHAPE, **SPECIAL, num_labels=3, classifier_pooling="mean")
    model = TransformerEncoderForSequenceClassification(config).eval()
    batch = cells(6, 9)
    x = model.bert(**batch).last_hidden_state
    pooled = torch.stack([x[0, 1:5].mean(0), x[1, 1:8].mean(0)])
    by_hand = model.classifier(torch.tanh(model.bert.pooler.dense(pooled)))
    torch.testing.assert_close(model(**batch).logits, by_hand)


@pytest.mark.parametrize("layer", [0, -1, -2, -3])
def test_embeddings_follow_the_official_rules(model: TransformerEncoderForMaskedLM, layer: int) -> None:
    batch = cells(6, 20, 3)
    hidden = model(**batch, output_hidden_states=True).hidden_states[SHAPE["num_hidden_layers"] + layer]
    by_hand = torch.stack([hidden[0, 1:5].mean(0), hidden[1, 1:19].mean(0), hidden[2, 1]])
    torch.testing.assert_close(model.embed(**batch, layer=layer), by_hand)
    torch.testing.assert_close(model.embed(**batch, layer=layer, pooling="cls"), hidden[:, 0])
    torch.testing.assert_close(model.embed(**batch, layer=layer, pooling="gene"), hidden)
    v1 = TransformerEncoderModel.from_pretrained(model.config._name_or_path)  # no special tokens: all positions
    by_hand = torch.stack([hidden[0, :6].mean(0), hidden[1].mean(0), hidden[2, :3].mean(0)])
    torch.testing.assert_close(v1.embed(**batch, layer=layer), by_hand)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(3, 20), min_size=1, max_size=4), padding=st.integers(0, 4), filler=st.integers(0, 39)
)
def test_padding_never_changes_an_embedding(lengths: list[int], padding: int, filler: int) -> None:
    torch.manual_seed(1)
    model = TransformerEncoderModel(TransformerEncoderConfig(**SHAPE, **SPECIAL))
    batch = cells(*lengths)
    alone = [model.embed(batch["input_ids"][[row], :n]) for row, n in enumerate(lengths)]
    ids, mask = (torch.nn.functional.pad(batch[name], (0, padding)) for name in ("input_ids", "attention_mask"))
    together = model.embed(ids.masked_fill(mask == 0, filler), mask)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_embed_computes_no_layer_above_the_one_asked_for(model: TransformerEncoderForMaskedLM) -> None:
    ran = []
    for depth, layer in enumerate(model.bert.encoder.layer):
        layer.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
    model.embed(**cells(5), layer=-2)
    assert ran == [0]


def test_embed_ignores_dropout_and_leaves_the_mode_of_every_module(model: TransformerEncoderForMaskedLM) -> None:
    wanted = model.embed(**cells(9, 5))
    model.train()
    model.bert.embeddings.eval()
    before = [module.training for module in model.modules()]
    embedded = model.embed(**cells(9, 5))
    assert torch.equal(embedded, wanted)
    assert not embedded.requires_grad
    assert [module.training for module in model.modules()] == before


def test_embed_refuses_what_has_no_answer(model: TransformerEncoderForMaskedLM, official: Path) -> None:
    empty = {"input_ids": torch.tensor([[2, 9, 3], [2, 3, 0]]), "attention_mask": torch.tensor([[1] * 3, [1, 1, 0]])}
    with pytest.raises(ValueError, match=r"1 cells without a gene[\s\S]*rows \[1\]"):
        model.embed(**empty)
    for wrong in ({"layer": 1}, {"layer": -4}, {"pooling": "max"}):
        with pytest.raises(ValueError, match="wanted"):
            model.embed(**cells(5), **wrong)
    with pytest.raises(ValueError, match="cls_token_id"):
        TransformerEncoderModel.from_pretrained(official).embed(**cells(5), pooling="cls")
    with pytest.raises(ValueError, match="25 tokens"):
        model(torch.full((1, 25), 5))


def test_saving_and_loading_keeps_every_tensor_and_there_are_no_buffers(
    model: TransformerEncoderForMaskedLM, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = TransformerEncoderForMaskedLM.from_pretrained(tmp_path)
    assert not list(again.named_buffers())
    assert again.config.cls_token_id == CLS
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.cls.predictions.decoder.weight is again.bert.embeddings.word_embeddings.weight
    assert again.cls.predictions.decoder.bias is again.cls.predictions.bias


@pytest.mark.parametrize(
    "key",
    [
        "bert.embeddings.position_embeddings.weight",
        "bert.encoder.layer.1.intermediate.dense.weight",
        "bert.encoder.layer.2.output.LayerNorm.weight",
        "cls.predictions.bias",
    ],
)
def test_a_missing_tensor_is_initialised_and_the_others_stay(
    model: TransformerEncoderForMaskedLM, tmp_path: Path, key: str
) -> None:
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[key]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    again, info = TransformerEncoderForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {key} | ({"cls.predictions.decoder.bias"} if key.endswith("s.bias") else set())
    fresh = again.state_dict()[key]
    if key.endswith("bias"):
        assert not fresh.any()
    elif "LayerNorm" in key:
        assert (fresh == 1).all()
    else:
        assert fresh.std() == pytest.approx(SHAPE["initializer_range"], rel=0.1)
    for name, value in state.items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_old_position_buffer_of_v1_files_is_ignored(official: Path, tmp_path: Path) -> None:
    state = load_file(official / "model.safetensors")
    state["bert.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((official / "config.json").read_text())
    for load in (TransformerEncoderForMaskedLM, TransformerEncoderModel):
        _, info = load.from_pretrained(tmp_path, output_loading_info=True)
        assert not any("position_ids" in key for key in info["unexpected_keys"])


def test_auto_classes_find_ours(model: TransformerEncoderForMaskedLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is TransformerEncoderConfig
    for auto, ours in AUTO.items():
        assert type(auto.from_pretrained(tmp_path)) is ours


CLEAN = """
import sys, torch
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scmf":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
import transformers
ids = torch.tensor([[2, 5, 6, 9, 3]])
for name in sys.argv[3:]:
    model = getattr(transformers, name).from_pretrained(sys.argv[1], trust_remote_code=True)
    torch.save(model.embed(ids), f"{sys.argv[2]}/{name}.pt")
model.save_pretrained(f"{sys.argv[2]}/again")
again = transformers.AutoModel.from_pretrained(f"{sys.argv[2]}/again", trust_remote_code=True)
assert torch.equal(again.embed(ids), model.embed(ids))
assert not any(name.partition(".")[0] == "scmf" for name in sys.modules)
"""


@pytest.mark.nightly
def test_a_checkpoint_loads_in_a_process_without_scmf(model: TransformerEncoderForMaskedLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "checkpoint")
    names = [auto.__name__ for auto in AUTO]
    out = subprocess.run(
        [sys.executable, "-I", "-c", CLEAN, tmp_path / "checkpoint", tmp_path, *names],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    wanted = model.embed(torch.tensor([[2, 5, 6, 9, 3]]))
    for name in names:
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.pt"), wanted)  # noqa: TID251


def test_activation_checkpointing_changes_no_gradient(model: TransformerEncoderForMaskedLM) -> None:
    batch = masked(cells(9, 20))
    model(**batch).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for module in model.modules():  # dropout off, so that both runs are the same
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.attention_probs_dropout_prob = 0.0
    model.train()
    model.activation_checkpointing_enable()
    model(**batch).loss.backward()
    assert any(getattr(layer, "gradient_checkpointing", False) for layer in model.bert.encoder.layer)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def test_freezing_stops_the_first_layers_alone_unless_asked(model: TransformerEncoderForMaskedLM) -> None:
    def frozen() -> set[str]:
        return {name.rpartition(".")[0] for name, p in model.named_parameters() if not p.requires_grad}

    model.freeze_first(2)
    assert {name.split(".")[3] for name in frozen()} == {"0", "1"}
    model.freeze_first(0, embeddings=True)
    assert "bert.embeddings.position_embeddings" in frozen()
    with pytest.raises(ValueError, match="0 to 3"):
        model.freeze_first(4)


def test_the_attention_kernel_can_be_changed_and_the_vocabulary_grown(model: TransformerEncoderForMaskedLM) -> None:
    sdpa = model(**cells(9, 5)).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**cells(9, 5)).logits, sdpa, rtol=1e-5, atol=1e-5)
    model.resize_token_embeddings(VOCAB + 3)
    assert model(**cells(9, 5)).logits.shape[-1] == VOCAB + 3
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    "wrong",
    [
        {"position_embedding_type": "relative_key"},
        {"num_attention_heads": 5},
        {"hidden_size": "32"},
        {"hidden_act": "reluu"},
        {"classifier_pooling": "max"},
        {"cls_token_id": VOCAB},
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"found: {next(iter(wrong))}="):
        TransformerEncoderConfig(**{**SHAPE, **wrong})


def test_settings_of_a_recipe_become_the_names_of_bert() -> None:
    config = TransformerEncoderConfig.from_settings(
        {"vocab_size": 50, "max_positions": 64, "cls_token_id": 2},
        {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 20, "activation": "gelu", "dropout": 0.3,
         "attention_dropout": 0.4, "attention": "eager"},
    )  # fmt: skip
    bert = BertConfig(**{k: v for k, v in config.to_dict().items() if k in BertConfig().to_dict()})
    assert (bert.hidden_size, bert.num_hidden_layers, bert.num_attention_heads) == (16, 1, 2)
    assert (bert.intermediate_size, bert.max_position_embeddings, bert.vocab_size) == (20, 64, 50)
    assert (bert.hidden_act, bert.hidden_dropout_prob, bert.attention_probs_dropout_prob) == ("gelu", 0.3, 0.4)
    assert TransformerEncoderModel(config).config._attn_implementation == "eager"
    assert config.eos_token_id is None
