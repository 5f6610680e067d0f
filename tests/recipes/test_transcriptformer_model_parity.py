"""The parity walk of TranscriptFormer's network: it passes on official outputs and fails on anything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scmf.core.paths import reference_dir, shipped
from scmf.models.autoregressive_transformer import (
    AutoregressiveTransformerConfig,
    AutoregressiveTransformerModel,
    next_genes,
)
from scmf.results.parity import ParityCase


def load_recipe_module(name: str) -> ModuleType:
    path = shipped("recipes") / "transcriptformer" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"transcriptformer_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


parity = load_recipe_module("parity_model")
RECORDED = reference_dir()
needs_oracle = pytest.mark.skipif(
    RECORDED is None or not (RECORDED / "transcriptformer" / "model").is_dir(),
    reason="SCMF_REFERENCE_DIR names no folder with outputs of the official code",
)


def failures(folder: Path) -> dict[str, ParityCase]:
    return {case.name.removeprefix("model/"): case for case in parity.cases(folder) if not case.passed}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A copy of the official outputs of the network, to be damaged."""
    assert RECORDED is not None
    shutil.copytree(RECORDED / "transcriptformer" / "model", tmp_path / "model", copy_function=shutil.copyfile)
    for path in (tmp_path / "model", *(p for p in (tmp_path / "model").iterdir() if p.is_dir())):
        path.chmod(0o755)
    return tmp_path


@needs_oracle
def test_the_official_networks_are_reproduced(official: Path) -> None:
    cases = list(parity.cases(official))
    assert not [case for case in cases if not case.passed]
    assert len(cases) >= sum(len(load_file(path)) for path in official.glob("model/*/outputs.safetensors"))


# `scmf reproduce transcriptformer` walks over the same cases.
@pytest.mark.nightly
@needs_oracle
@pytest.mark.slow
def test_every_official_output_is_reproduced() -> None:
    assert RECORDED is not None
    root = RECORDED / "transcriptformer"
    cases = list(parity.cases(RECORDED))
    assert not [case for case in cases if not case.passed]
    recorded = sum(len(load_file(path)) for path in root.glob("model/*/outputs.safetensors"))
    assert len(cases) >= recorded + len(list((root / "out" / "cli").iterdir()))


def change_weight(name: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        state = load_file(model / "base" / "weights.safetensors")
        state[name].view(-1)[5] += 0.01
        save_file(state, model / "base" / "weights.safetensors")

    return change


def change_config(section: str, **changes: object) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        settings = json.loads((model / "base" / "config.json").read_text())
        settings[section] |= changes
        (model / "base" / "config.json").write_text(json.dumps(settings))

    return change


LAYER = "transformer_encoder.encoder_layers.1"


@needs_oracle
@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        pytest.param(change_weight(f"{LAYER}.self_attn.linears.2.weight"), "train.hidden", id="a weight of a layer"),
        pytest.param(change_weight("mu.mlp.layers.4.weight"), "train.mu", id="a weight of the count head"),
        pytest.param(change_weight("gene_id_head.layers.0.weight"), "train.gene_logit", id="a weight of the gene head"),
        pytest.param(change_config("model_config", log_counts_eps=0.01), "embed.hidden", id="epsilon of counts"),
        pytest.param(change_config("model_config", softcap=9), "train.gene_loss", id="softcap"),
        pytest.param(change_config("model_config", num_heads=2), "embed.embeddings", id="heads"),
        pytest.param(change_config("model_config", activation="relu"), "train.layer0", id="activation"),
        pytest.param(change_config("model_config", seq_len=128), "embed.embeddings", id="divisor of embeddings"),
        pytest.param(change_config("model_config", mu_link_fn="softplus"), "train.mu", id="link"),
        pytest.param(change_config("loss_config", softplus_approx=False), "train.count_loss", id="likelihood"),
        pytest.param(change_config("data_config", clip_counts=20), "train.llh_eval", id="clip"),
    ],
)
def test_a_changed_constant_fails(official: Path, damage: Callable[[Path], None], seen: str) -> None:
    damage(official / "model")
    failed = failures(official)
    assert f"base/{seen}" in failed
    assert any("grads" in name for name in failed) or seen == "embed.embeddings" or seen == "train.llh_eval"


@needs_oracle
def test_an_end_where_it_belongs_instead_of_where_it_stands_officially_fails(
    official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "next_genes", lambda *a, match_official, **k: next_genes(*a, **k))
    assert {"base/train.gene_loss", "base/train.mask"} <= failures(official).keys()


@needs_oracle
def test_a_query_that_always_sees_its_own_count_fails(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = AutoregressiveTransformerModel.encode

    def always_own(self: AutoregressiveTransformerModel, *arguments: object, **settings: object) -> object:
        return real(self, *arguments, **{**settings, "own_count": True})

    monkeypatch.setattr(AutoregressiveTransformerModel, "encode", always_own)
    failed = failures(official)
    assert "base/train.hidden" in failed
    assert "base/embed.hidden" not in failed


@needs_oracle
def test_settings_whose_tensors_are_not_there_give_the_recorded_losses() -> None:
    assert RECORDED is not None
    model = RECORDED / "transcriptformer" / "model"
    info = json.loads((model / "info.json").read_text())
    for name, section, change in (
        ("nosoftcap", "model_config", {"softcap": 0}),
        ("exactlognorm", "loss_config", {"softplus_approx": False}),
    ):
        variant = parity._Variant(model / "base", model / "base" / "weights.safetensors")
        variant.official[section] |= change
        for mode in ("train", "embed"):
            out = variant.out(mode)
            for loss in ("count_loss", "gene_loss"):
                assert getattr(out, loss).item() == pytest.approx(info[f"{name}.{mode}"][loss], rel=1e-6)


# --- without the official outputs -------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Outputs in the official layout, of a variant without weights of its own beside one that has them."""
    torch.manual_seed(0)
    special = ["unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]"]
    shape = {"num_heads": 2, "num_layers": 2, "model_dim": 24, "embed_dim": 16, "seq_len": 5, "softcap": 10,
             "activation": "gelu", "mu_link_fn": "softmax", "gene_head_hidden_dim": 12}  # fmt: skip
    config = AutoregressiveTransformerConfig(
        vocab_size=20, gene_vector_dim=6, n_assays=3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, gene_head_dim=12, max_positions=5, pad_token_id=1, start_token_id=2, end_token_id=3,
        special_token_ids=list(range(7)), gene_token_start=7, count_likelihood="softplus_approx", max_count=30,
        initializer_range=0.4, match_official=True,
    )  # fmt: skip
    model = AutoregressiveTransformerModel(config).eval()
    folder = tmp_path / "transcriptformer" / "model"
    for name in ("first", "other"):
        (folder / name).mkdir(parents=True)
    save_file(model.state_dict(), folder / "first" / "weights.safetensors")
    genes = [f"ENSG{i}" for i in range(13)]
    whole = {
        "model_config": shape, "loss_config": {"softplus_approx": True, "gene_id_loss_weight": 1.0},
        "data_config": {"clip_counts": 30}, "special_tokens": special,
        "vocab": {token: i for i, token in enumerate([*special, *genes])},
    }  # fmt: skip
    (folder / "first" / "config.json").write_text(json.dumps(whole))
    (folder / "other" / "config.json").write_text(json.dumps({"link": "softplus", "note": "as first"}))
    ids = torch.tensor([[8, 15, 9, 12, 19], [7, 10, 1, 1, 1]])
    counts = torch.tensor([[3.0, 1, 30, 2, 5], [1, 4, 0, 0, 0]])
    assays = torch.tensor([1, 0])
    inputs = {"gene_token_indices": ids, "gene_counts": counts, "aux_token_indices": assays[:, None]}
    save_file(inputs, folder / "inputs.safetensors")
    mask = ids != 1
    labels = next_genes(ids, mask, longest=5, match_official=True)
    for name, link in (("first", "softmax"), ("other", "softplus")):
        config.count_link = link
        with torch.no_grad():
            out = model(ids, mask, counts, assays, labels=labels, return_logits=True)
        tensors = {
            "train.mu": out.mu, "train.gene_logit": out.logits[:, :5], "train.count_loss": out.count_loss[None],
            "train.hidden": out.last_hidden_state[:, :6], "embed.embeddings": model.embed(ids, mask, counts, assays),
        }  # fmt: skip
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name / "outputs.safetensors")
    np.savez(folder / "means.npz", embeddings=model.embed(ids, mask, counts, assays, pooling="vector").numpy())
    return tmp_path


def test_outputs_in_the_official_layout_are_understood(written: Path) -> None:
    cases = {case.name: case for case in parity.cases(written)}
    assert not [case for case in cases.values() if not case.passed]
    assert len(cases) == 5 + 5 + 1 + 1
    assert "model/other/train.mu" in cases
    assert cases["model/other/train.mu"].tolerance == 1e-4


def test_what_is_not_understood_fails(written: Path) -> None:
    model = written / "transcriptformer" / "model"
    tensors = load_file(model / "first" / "outputs.safetensors")
    tensors["surprise"] = torch.zeros(3)
    tensors["train.layer7"] = torch.zeros(2, 6, 16)
    tensors["embed.mu"] = torch.full((2, 5), float("nan"))
    tensors["train.gene_logit"] = torch.zeros(2, 5, 21)
    save_file(tensors, model / "first" / "outputs.safetensors")
    (model / "other" / "config.json").write_text(json.dumps({"rotary": 1}))
    (model / "first" / "unheard_of.bin").write_bytes(b"")
    (model / "odd.npz").write_bytes(b"no array")
    (model / "info.json").write_text("{}")
    (written / "transcriptformer" / "out" / "cli").mkdir(parents=True)
    (written / "transcriptformer" / "out" / "cli" / "x_cell.h5ad").write_bytes(b"")
    failed = set(failures(written))
    first = {f"first/{key}" for key in ("surprise", "train.layer7", "embed.mu", "train.gene_logit", "unheard_of.bin")}
    assert failed >= first | {"odd.npz", "cli/x_cell.h5ad", "other/train.mu"}
    assert len(failed) == len(first) + 2 + 5
    assert any("info.json" in line for line in parity.notes(written))


def test_a_folder_without_model_outputs_has_no_case(tmp_path: Path) -> None:
    assert not list(parity.cases(tmp_path))
    assert not parity.notes(tmp_path)
