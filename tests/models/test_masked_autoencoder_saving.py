"""Saved and loaded, the masked autoencoder keeps every tensor; what is lost is initialized by the rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

from scmf.core.paths import reference_dir
from scmf.models.masked_autoencoder import (
    MaskedAutoencoderConfig,
    MaskedAutoencoderForSequenceClassification,
    MaskedAutoencoderModel,
    SelfAttention,
)
from tests.fixtures.masked_cells import KINDS, S, T, build, cells

AUTO = {
    AutoModel: MaskedAutoencoderModel,
    AutoModelForPreTraining: MaskedAutoencoderModel,
    AutoModelForSequenceClassification: MaskedAutoencoderForSequenceClassification,
}
needs_oracle = pytest.mark.skipif(
    reference_dir() is None or not (reference_dir() / "scfoundation" / "model").is_dir(),  # type: ignore[operator]
    reason="SCMF_REFERENCE_DIR names no folder with outputs of the official code",
)


# --- saving, loading, initialization -------------------------------------------------------------------


@needs_oracle
def test_the_released_configuration_has_the_published_tensors() -> None:
    file = reference_dir() / "scfoundation" / "model" / "released_config_shapes.json"  # type: ignore[operator]
    shapes = json.loads(file.read_text())
    with torch.device("meta"):
        model = MaskedAutoencoderModel(MaskedAutoencoderConfig())
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == 119_252_285


@pytest.mark.parametrize("kinds", KINDS)
def test_saving_and_loading_keeps_every_tensor_and_buffer(kinds: tuple[str, str], tmp_path: Path) -> None:
    model = build(encoder_type=kinds[0], decoder_type=kinds[1], redraw_interval=2).train()
    for _ in range(4):
        model(**cells(5))
    model.save_pretrained(tmp_path)
    again, info = MaskedAutoencoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert again.config.depth_token_ids == [T, S]
    torch.testing.assert_close(
        model.eval()(**cells(7)).predictions, again(**cells(7)).predictions, rtol=1e-6, atol=1e-6
    )


STEM = "decoder.performer"


@pytest.mark.parametrize("initialization", ["torch", "normal"])
@pytest.mark.parametrize(
    "key",
    [
        "pos_emb.weight",
        "token_emb.mlp2.weight",
        "token_emb.emb_mask.weight",
        "encoder.transformer_encoder.1.self_attn.in_proj_weight",
        "encoder.transformer_encoder.1.self_attn.in_proj_bias",
        "encoder.transformer_encoder.1.self_attn.out_proj.bias",
        "encoder.transformer_encoder.2.norm1.weight",
        f"{STEM}.calls_since_last_redraw",
        f"{STEM}.net.layers.1.0.fn.fast_attention.projection_matrix",
        f"{STEM}.net.layers.0.1.fn.fn.w1.weight",
        "to_final.bias",
    ],
)
def test_a_missing_tensor_is_initialised_and_the_others_stay(key: str, initialization: str, tmp_path: Path) -> None:
    build(initialization=initialization, initializer_range=0.2).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lost = state.pop(key)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(7)
    again, info = MaskedAutoencoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {key}
    fresh = again.state_dict()[key]
    assert fresh.isfinite().all()
    if "norm1" in key:
        assert (fresh == 1).all()
    elif key.endswith(("in_proj_bias", "out_proj.bias", "calls_since_last_redraw")):
        assert not fresh.any()
    elif "projection" in key:
        torch.testing.assert_close(
            nn.functional.normalize(fresh[:8]) @ nn.functional.normalize(fresh[:8]).T, torch.eye(8), rtol=0, atol=1e-5
        )
    elif key == "to_final.bias":
        assert (fresh.abs() <= 0.25).all()
    else:
        assert fresh.std() == pytest.approx(float(lost.std()), rel=0.4)
    for name, value in state.items():
        assert torch.equal(value, again.state_dict()[name]), name


@torch.no_grad()
def test_initial_weights_are_those_of_pytorchs_layers_or_normal() -> None:
    shape = {"hidden_size": 64, "decoder_size": 64, "intermediate_size": 128, "bin_num": 50}
    ours = build(**shape)
    linear, table = nn.Linear(64, 64), nn.Embedding(33, 64)
    theirs = nn.TransformerEncoderLayer(64, 4, 128)
    assert ours.decoder_embed.weight.std() == pytest.approx(float(linear.weight.std()), rel=0.1)
    assert ours.decoder_embed.bias.std() == pytest.approx(float(linear.bias.std()), rel=0.4)
    assert ours.pos_emb.weight.std() == pytest.approx(float(table.weight.std()), rel=0.1)
    attention = ours.encoder.layers[0].self_attn
    assert isinstance(attention, SelfAttention)
    assert attention.in_proj_weight.std() == pytest.approx(float(theirs.self_attn.in_proj_weight.std()), rel=0.1)
    normal = build(**shape, initialization="normal", initializer_range=0.07)
    attention = normal.encoder.layers[0].self_attn
    for weight in (normal.pos_emb.weight, normal.decoder_embed.weight, attention.in_proj_weight):
        assert weight.std().item() == pytest.approx(0.07, rel=0.1)
    assert not normal.decoder_embed.bias.any()


def test_auto_classes_find_ours_and_a_classifier_takes_the_encoder_alone(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MaskedAutoencoderConfig
    for auto, ours in AUTO.items():
        assert type(auto.from_pretrained(tmp_path)) is ours
    head, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert {name.partition(".")[0] for name in info["missing_keys"]} == {"norm", "fc1"}
    for name, value in head.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not any("decoder" in name for name, _ in head.named_parameters())
    head.save_pretrained(tmp_path / "head")
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(again.eval()(**cells(6)).logits, head.eval()(**cells(6)).logits, rtol=1e-6, atol=1e-6)


CLEAN = """
import sys, torch
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scmf":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
import transformers
batch = dict(
    input_ids=torch.tensor([[2, 5, 6, 30, 31]]), attention_mask=torch.ones(1, 5, dtype=torch.long),
    values=torch.tensor([[1.0, 2.0, 0.5, 4.0, 3.0]]),
)
for name in sys.argv[3:]:
    model = getattr(transformers, name).from_pretrained(sys.argv[1], trust_remote_code=True)
    torch.save(model.embed(**batch, pooling="all"), f"{sys.argv[2]}/{name}.pt")
model.save_pretrained(f"{sys.argv[2]}/again")
again = transformers.AutoModelForSequenceClassification.from_pretrained(f"{sys.argv[2]}/again", trust_remote_code=True)
assert torch.equal(again.embed(**batch), model.embed(**batch))
assert not any(name.partition(".")[0] == "scmf" for name in sys.modules)
"""


@pytest.mark.nightly
def test_a_checkpoint_loads_in_a_process_without_scmf(tmp_path: Path) -> None:
    model = build()
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
    wanted = model.embed(
        torch.tensor([[2, 5, 6, 30, 31]]), None, torch.tensor([[1.0, 2.0, 0.5, 4.0, 3.0]]), pooling="all"
    )
    for name in names:
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.pt"), wanted)  # noqa: TID251
