"""Conversion of official weights: random weights in the published format and its three layouts, and every refusal."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  # to make a file that must be refused
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from scmf.core.errors import ChecksumError, ModelError
from scmf.core.files import sha256_file
from scmf.models.generative_transformer import GenerativeTransformerConfig, GenerativeTransformerModel
from scmf.models.published import scgpt as recipe
from scmf.models.published.cards import load_model_card
from tests.fixtures.commands import scmf

CARD = load_model_card("scgpt")


GENES = [f"GENE{i}" for i in range(27)]
ARGUMENTS = {
    "embsize": 16, "nheads": 2, "d_hid": 24, "nlayers": 2, "n_layers_cls": 3, "dropout": 0.2, "pad_token": "<pad>",
    "pad_value": -2, "mask_value": -1, "n_bins": 51, "max_seq_len": 12, "input_style": "binned",
    "input_emb_style": "continuous",
}  # fmt: skip
LAYOUTS: dict[str, Callable[[str], str]] = {
    "without flash": lambda name: name,
    "flash": lambda name: name.replace("self_attn.in_proj_", "self_attn.Wqkv."),
    "_impl": lambda name: name.replace("self_attn.in_proj_", "self_attn._impl.Wqkv.").replace(
        "self_attn.out_proj", "self_attn._impl.out_proj"
    ),
    "parallel": lambda name: f"module.{name}".replace("self_attn.in_proj_", "self_attn.Wqkv."),
}
BATCH = {
    "input_ids": torch.tensor([[28, 9, 7, 3], [28, 5, 27, 27]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 0, 0]]),
    "values": torch.tensor([[-2.0, 50, 3, 1], [-2, 50, -2, -2]]),
}


def build(**more: Any) -> GenerativeTransformerModel:
    torch.manual_seed(0)
    return GenerativeTransformerModel(GenerativeTransformerConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        pad_token_id=27, cls_token_id=28, **more,
    )).eval()  # fmt: skip


def write(folder: Path, model: GenerativeTransformerModel, layout: str = "flash", **arguments: Any) -> Path:
    """A checkpoint folder as the official code writes it; the vocabulary lacks its special tokens."""
    folder.mkdir()
    torch.save({LAYOUTS[layout](name): value for name, value in model.state_dict().items()}, folder / "best_model.pt")
    (folder / "args.json").write_text(json.dumps(ARGUMENTS | arguments))
    (folder / "vocab.json").write_text(json.dumps({gene: i for i, gene in enumerate(GENES)}))
    return folder


def run(variant: str, *arguments: object) -> int:
    return scmf("models", "pull", f"scgpt@{variant}", *arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_the_same_model(tmp_path: Path, layout: str) -> None:
    model = build()
    source, out = write(tmp_path / "in", model, layout), tmp_path / "out"
    assert run("own", "--source", source, "--out", out, "--unverified", "--no-tokenizer") == 0
    saved = load_file(out / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(saved[name], value), name
    again = AutoModel.from_pretrained(out, trust_remote_code=True)
    torch.testing.assert_close(again.embed(**BATCH), model.embed(**BATCH))
    config = json.loads((out / "config.json").read_text())
    assert (config["generative"], config["mvc"], config["generated_out_proj"]) == (True, "inner product", False)
    assert (config["source_license"], config["source_verified"]) == (CARD.license, False)
    assert config["source_variant"] == "own"
    assert config["source_sha256"] == sha256_file(source / "best_model.pt")
    assert (out / "generative_transformer.py").is_file()


@pytest.mark.parametrize(
    "more",
    [
        {"generative": False, "explicit_zero_prob": True, "batch_labels": True, "batch_norm": "per_batch",
         "num_batches": 3, "dab_weight": 1.0, "n_classes": 4},
        {"generative": False, "batch_norm": "shared", "n_classes": 1},
        {"generative": False, "mvc": None, "decoder": "affine", "perturbations": True, "n_classes": 1},
        {"generative": False, "mvc": "concat query"},
        {"generative": False, "mvc": "sum query"},
        {"value_encoder": "category", "n_value_bins": 53, "value_pad_id": 51},
        {"value_encoder": "scaling", "generative": False},
    ],
    ids=["integration", "blood-2023", "perturbation", "concat", "sum", "category", "scaling"],
)  # fmt: skip
def test_heads_are_read_from_the_tensors(tmp_path: Path, more: dict[str, Any]) -> None:
    model, style = build(**more), more.get("value_encoder", "continuous")
    source = write(tmp_path / "in", model, input_emb_style=style)
    out = tmp_path / "out"
    assert run("own", "--source", source, "--out", out, "--unverified", "--no-tokenizer") == 0
    again = GenerativeTransformerModel.from_pretrained(out)
    for name in more:
        assert getattr(again.config, name) == more[name], name
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_classifier_starts_from_converted_weights(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", build()), tmp_path / "out"
    assert run("own", "--source", source, "--out", out, "--unverified", "--no-tokenizer") == 0
    classifier = AutoModelForSequenceClassification.from_pretrained(out, num_labels=3)
    torch.testing.assert_close(classifier.embed(**BATCH), build().embed(**BATCH))


def test_the_published_shapes_are_accepted_and_no_others(tmp_path: Path) -> None:
    """By shape alone: tensors of the published sizes hold no memory here."""
    token_ids = {f"g{i}": i for i in range(60694)} | {"<pad>": 60694, "<cls>": 60695, "<eoc>": 60696}
    arguments = ARGUMENTS | {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": 12, "max_seq_len": 1200}
    with torch.device("meta"):
        model = GenerativeTransformerModel(GenerativeTransformerConfig())
        state = recipe.our_names({LAYOUTS["flash"](name): value for name, value in model.state_dict().items()})
    config = recipe.configuration(arguments, token_ids, state)
    parameters = {name: value.numel() for name, value in state.items()}
    assert sum(parameters.values()) == 51_329_025 + 1_024
    assert parameters["flag_encoder.weight"] == 1_024
    for name, variant in CARD.variants.items():
        if name == "blood-2023":
            with pytest.raises(ModelError, match="vocab_size 60697"):
                recipe.check_shape(config, variant.shape, where=tmp_path)
        else:
            recipe.check_shape(config, variant.shape, where=tmp_path)
    old = {f"g{i}": i for i in range(36571)} | {"<pad>": 36571, "<cls>": 36572, "<eoc>": 36573}
    recipe.check_shape(recipe.configuration(arguments, old, {}), CARD.variants["blood-2023"].shape, where=tmp_path)


def test_a_checkpoint_of_another_size_is_not_a_published_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in", build())
    code = run("whole-human", "--source", source, "--out", tmp_path / "out", "--unverified")
    assert code == ModelError.exit_code
    assert "vocab_size 30" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_unverified_nothing_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in", build())
    code = run("own", "--source", source, "--out", tmp_path / "out")
    assert code == ChecksumError.exit_code
    assert "--unverified" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "in", build())
    assert run("own", "--source", source, "--out", source, "--unverified") == ModelError.exit_code
    assert not (source / "config.json").exists()


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("best_model.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:a5e3\n", "git lfs pull"),
        ("best_model.pt", b"PK\x03\x04 cut off", "unreadable weights"),
        ("best_model.pt", pickle.dumps({"a": Malicious()}, protocol=2), "unreadable weights"),
        ("best_model.pt", None, "no best_model.pt"),
        ("args.json", None, "no args.json"),
        ("args.json", b"{", "no JSON"),
        ("args.json", b"[]", "JSON that is no object"),
        ("args.json", json.dumps({"embsize": 16}).encode(), "no nlayers"),
        ("args.json", json.dumps(ARGUMENTS | {"nheads": 3}).encode(), "num_attention_heads"),
        ("args.json", json.dumps(ARGUMENTS | {"input_emb_style": "words"}).encode(), "value_encoder"),
        ("vocab.json", None, "no vocab.json"),
        ("vocab.json", b'{"A": 0, "B": 0}', "ids given twice"),
        ("vocab.json", b'{"A": 0, "B": 1}', "encoder.embedding.weight with shape (30, 16)"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, message: str
) -> None:
    source = write(tmp_path / "in", build())
    (source / name).unlink()
    if content is not None:
        (source / name).write_bytes(content)
    code = run("own", "--source", source, "--out", tmp_path / "out", "--unverified")
    assert code == ModelError.exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def remove(state: dict[str, torch.Tensor]) -> None:
    del state["decoder.fc.2.bias"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["transformer_encoder.layers.2.linear1.bias"] = torch.zeros(24)


def shorten(state: dict[str, torch.Tensor]) -> None:
    state["transformer_encoder.layers.1.self_attn.Wqkv.weight"] = torch.zeros(32, 16)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "found: no tensor decoder.fc.2.bias"),
        (add, "found: transformer_encoder.layers.2.linear1.bias with shape (24,)"),
        (shorten, "found: transformer_encoder.layers.1.self_attn.in_proj_weight with shape (32, 16)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    source = write(tmp_path / "in", build())
    state = torch.load(source / "best_model.pt", weights_only=True)  # noqa: TID251
    damage(state)
    torch.save(state, source / "best_model.pt")
    code = run("own", "--source", source, "--out", tmp_path / "out", "--unverified")
    assert code == ModelError.exit_code
    assert message in capsys.readouterr().err


def test_the_tokenizer_is_saved_beside_the_weights(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source, out = write(tmp_path / "in", build()), tmp_path / "out"
    assert run("own", "--source", source, "--out", out, "--unverified") == 0
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    assert (len(tokenizer), tokenizer.max_length, tokenizer.n_bins) == (30, 12, 51)
    assert (tokenizer.pad_value, tokenizer.mask_value, tokenizer.cls_token_id) == (-2.0, -1.0, 28)
    batch = tokenizer([[3, 0, 1], [0, 0, 2]], ["GENE1", "GENE2", "GENE3"], return_tensors="pt")
    model = AutoModel.from_pretrained(out, trust_remote_code=True)
    assert model.embed(**batch).isfinite().all()
    assert batch["input_ids"][:, 0].tolist() == [28, 28]
