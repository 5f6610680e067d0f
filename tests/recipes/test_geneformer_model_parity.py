"""The parity walk of Geneformer's network: it passes on official outputs and fails on anything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from scmf.core.paths import reference_dir, shipped
from scmf.results.parity import ParityCase


def load_recipe_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"geneformer_{name}", shipped("recipes") / "geneformer" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


parity = load_recipe_module("parity_model")
RECORDED = reference_dir()
needs_oracle = pytest.mark.skipif(
    RECORDED is None or not (RECORDED / "geneformer" / "model").is_dir(),
    reason="SCMF_REFERENCE_DIR names no folder with outputs of the official code",
)


def failures(folder: Path) -> dict[str, ParityCase]:
    return {case.name: case for case in parity.cases(folder) if not case.passed}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A copy of the official outputs, to be damaged."""
    assert RECORDED is not None
    shutil.copytree(RECORDED / "geneformer" / "model", tmp_path / "model", copy_function=shutil.copyfile)
    for folder in (tmp_path / "model", *(p for p in (tmp_path / "model").iterdir() if p.is_dir())):
        folder.chmod(0o755)
    return tmp_path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Outputs of transformers' BERT without special tokens, in the layout of V1, the io file inside the folder."""
    torch.manual_seed(0)
    folder = tmp_path / "geneformer" / "model" / "small_V1_random"
    bert = BertForMaskedLM(BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        hidden_act="relu", max_position_embeddings=12, initializer_range=0.3, attn_implementation="eager",
    )).eval()  # fmt: skip
    bert.save_pretrained(folder)
    ids = torch.randint(2, 30, (3, 10))
    mask = (torch.arange(10) < torch.tensor([[10], [4], [7]])).long()
    with torch.no_grad():
        out = bert(ids * mask, mask, output_hidden_states=True, output_attentions=True)
    tensors = {"input_ids": ids * mask, "attention_mask": mask, "logits_first5": out.logits[:2, :, :5]}
    tensors |= {f"hidden_states.{i}": state for i, state in enumerate(out.hidden_states)}
    tensors |= {f"attentions_eager.{i}": weights for i, weights in enumerate(out.attentions)}
    hidden = out.hidden_states[1]
    tensors["embs.cell.layer-1"] = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder.parent / "small.io.safetensors")
    return tmp_path


@needs_oracle
def test_every_official_output_is_reproduced() -> None:
    assert RECORDED is not None
    cases = list(parity.cases(RECORDED))
    assert not [case for case in cases if not case.passed]
    recorded = [p for p in (RECORDED / "geneformer" / "model").iterdir() if p.name.endswith("io.safetensors")]
    outputs = sum(
        key.rpartition(".")[2] not in ("input_ids", "attention_mask", "labels", "length", "lengths")
        and not key.startswith("labels")
        for path in recorded
        for key in load_file(path)
    )
    assert len(cases) >= outputs


def change_one_weight(model: Path) -> None:
    state = load_file(model / "model.safetensors")
    state["bert.encoder.layer.1.attention.self.value.weight"][3, 5] += 0.01
    save_file(state, model / "model.safetensors", {"format": "pt"})


def change_config(**changes: object) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        settings = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(settings | changes))

    return change


@needs_oracle
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(change_one_weight, id="one weight"),
        pytest.param(change_config(layer_norm_eps=1e-5), id="epsilon"),
        pytest.param(change_config(hidden_act="gelu"), id="activation"),
        pytest.param(change_config(num_attention_heads=2), id="heads"),
        pytest.param(change_config(position_embedding_type="relative_key"), id="positions"),
    ],
)
def test_a_change_of_the_model_fails(official: Path, damage: Callable[[Path], None]) -> None:
    for model in (p for p in (official / "model").iterdir() if p.is_dir()):
        damage(model)
    failed = failures(official)
    assert any("logits" in name for name in failed)
    assert any("grads" in name for name in failed)


def test_outputs_in_other_words_of_the_layout_are_understood(written: Path) -> None:
    cases = {case.name.rpartition("/")[2]: case for case in parity.cases(written)}
    assert not [case for case in cases.values() if not case.passed]
    assert cases.keys() == {
        "weights", "logits_first5", "embs.cell.layer-1", "attentions_eager.0", "attentions_eager.1",
        "hidden_states.0", "hidden_states.1", "hidden_states.2",
    }  # fmt: skip
    assert "leading corner" in cases["logits_first5"].detail


def test_what_is_not_understood_fails(written: Path) -> None:
    model = written / "geneformer" / "model"
    tensors = load_file(model / "small.io.safetensors")
    tensors["surprise"] = torch.zeros(3)
    tensors["embs.cell.layer0"] = torch.full((3, 16), float("nan"))
    tensors["hidden_states.7"] = torch.zeros(3, 10, 16)
    tensors["logits"] = torch.zeros(3, 10, 31)
    save_file(tensors, model / "small.io.safetensors")
    (model / "small.unheard_of.json").write_text("{}")
    (model / "stranger.io.safetensors").write_bytes(b"")
    (model / "small.extract_embs.csv").write_text("nothing")
    (model / "small.mtl.io.safetensors").write_bytes(b"not a tensor")
    (model / "empty_model").mkdir()
    (model / "small.in_silico_perturbation.json").write_text("{}")
    failed = {name.removeprefix("model/").removeprefix("small_V1_random/") for name in failures(written)}
    assert failed == {
        "surprise", "embs.cell.layer0", "hidden_states.7", "logits", "unheard_of.json", "stranger.io.safetensors",
        "extract_embs.csv", "mtl.io.safetensors", "empty_model",
    }  # fmt: skip
    assert any("in_silico_perturbation" in line for line in parity.notes(written))


def test_a_missing_tensor_in_the_weights_fails(written: Path) -> None:
    weights = written / "geneformer" / "model" / "small_V1_random" / "model.safetensors"
    state = load_file(weights)
    del state["bert.encoder.layer.0.output.LayerNorm.bias"]
    save_file(state, weights, {"format": "pt"})
    assert "LayerNorm.bias" in failures(written)["model/small_V1_random/weights"].detail


def test_a_folder_without_model_outputs_has_no_case(tmp_path: Path) -> None:
    assert not list(parity.cases(tmp_path))
    assert not parity.notes(tmp_path)
