"""The parity walks of scGPT's network: they pass on official outputs, and fail on anything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scmf.core.paths import reference_dir, shipped
from scmf.models import generative_transformer as ours
from scmf.results.parity import ParityCase
from tests.reference.scgpt_plain import VOCAB, WIDTH, Plain, write_case


def load_recipe_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scgpt_{name}", shipped("recipes") / "scgpt" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


networks, parts = load_recipe_module("parity_model"), load_recipe_module("parity_parts")
RECORDED = reference_dir()
needs_oracle = pytest.mark.skipif(
    RECORDED is None or not (RECORDED / "scgpt" / "model").is_dir(),
    reason="SCMF_REFERENCE_DIR names no folder with outputs of the official code",
)


def failures(folder: Path, walk: ModuleType = networks) -> dict[str, ParityCase]:
    return {case.name: case for case in walk.cases(folder) if not case.passed}


# --- official outputs -------------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A copy of the official outputs, to be damaged."""
    assert RECORDED is not None
    shutil.copytree(RECORDED / "scgpt" / "model", tmp_path / "model", copy_function=shutil.copyfile)
    (tmp_path / "model").chmod(0o755)
    return tmp_path


# `scmf reproduce scgpt` walks over the parts too, and `test_modules_see_another_formula` below.
@needs_oracle
@pytest.mark.parametrize(
    "walk", [pytest.param(networks, id="networks"), pytest.param(parts, id="parts", marks=pytest.mark.nightly)]
)
def test_every_official_output_is_reproduced(walk: ModuleType) -> None:
    assert RECORDED is not None
    cases = list(walk.cases(RECORDED))
    assert len(cases) > 30
    assert not [case for case in cases if not case.passed]
    assert len({case.name for case in cases}) == len(cases)


@needs_oracle
def test_what_is_left_out_has_a_reason() -> None:
    assert RECORDED is not None
    lines = networks.notes(RECORDED)
    assert lines
    assert all(": " in line for line in lines)


def keep_only(official: Path, name: str) -> None:
    """Remove the files of all other networks."""
    for path in (official / "model").iterdir():
        if path.name != "summary.json" and path.name.partition(".")[0] != name:
            path.unlink()


@needs_oracle
@pytest.mark.parametrize("constant", ["BATCH_NORM_EPS", "masked_mse"])
def test_another_constant_is_seen(official: Path, monkeypatch: pytest.MonkeyPatch, constant: str) -> None:
    keep_only(official, "integration")
    assert not failures(official)
    other = {"BATCH_NORM_EPS": 1e-5, "masked_mse": lambda p, t, m: (((p - t) * m) ** 2).sum() / (m.sum() + 1)}
    monkeypatch.setattr(ours, constant, other[constant])
    assert any("integration" in name for name in failures(official))


def change_configuration(monkeypatch: pytest.MonkeyPatch, **change: Any) -> None:
    """Every configuration that is built from now on has these values."""
    check = ours.GenerativeTransformerConfig.__post_init__

    def changed(self: Any, **kwargs: Any) -> None:
        check(self, **kwargs)
        for name, value in change.items():
            setattr(self, name, value)

    monkeypatch.setattr(ours.GenerativeTransformerConfig, "__post_init__", changed)


@needs_oracle
def test_a_layer_norm_of_another_epsilon_is_seen(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_only(official, "pretrain_like")
    assert not failures(official)
    change_configuration(monkeypatch, layer_norm_eps=1e-3)
    assert any(name.endswith("eval.transformer_output") for name in failures(official))


@needs_oracle
def test_an_output_projection_of_generated_genes_is_seen(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_only(official, "generative")
    change_configuration(monkeypatch, generated_out_proj=True)
    found = failures(official)
    assert any("generative/eval.gen_hidden" in name for name in found)
    assert not any("generative/eval.pcpt_hidden" in name for name in found)


@needs_oracle
@pytest.mark.parametrize("damage", ["weight", "output", "unknown tensor", "unknown file", "cut off"])
def test_damage_is_seen(official: Path, damage: str) -> None:
    keep_only(official, "pretrain_like")
    path = next((official / "model").glob("pretrain_like.state_dict.safetensors"))
    io = official / "model" / "pretrain_like.io.safetensors"
    if damage == "weight":
        state = load_file(path)
        state["decoder.fc.4.bias"] = state["decoder.fc.4.bias"] + 1e-3
        save_file(state, path)
    elif damage in ("output", "unknown tensor"):
        tensors = load_file(io)
        name = "eval.mlm_output" if damage == "output" else "eval.surprise"
        tensors[name] = tensors["eval.mlm_output"] * 1.001
        save_file(tensors, io)
    elif damage == "unknown file":
        shutil.copyfile(io, official / "model" / "pretrain_like.surprise.safetensors")
    else:
        io.write_bytes(io.read_bytes()[:500])
    found = failures(official)
    assert found
    assert all("pretrain_like" in name for name in found)


@needs_oracle
def test_modules_see_another_formula(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not failures(official, parts)
    monkeypatch.setattr(ours._ReverseGradient, "backward", staticmethod(lambda ctx, *gradients: gradients[0]))
    assert any(name.endswith("dab.grad_wrt_cell_emb") for name in failures(official, parts))


def test_nothing_is_found_in_an_empty_folder(tmp_path: Path) -> None:
    assert not list(networks.cases(tmp_path))
    assert not list(parts.cases(tmp_path))
    assert networks.notes(tmp_path) == parts.notes(tmp_path) == []


# --- the same network in torch's own layers -----------------------------------------------------------


CASES: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "batchnorm": ({"do_mvc": "True", "domain_spec_batchnorm": "batchnorm", "num_batch_labels": "3"}, {"MVC": True}),
    "category": (
        {"do_mvc": "True", "input_emb_style": "category", "n_input_bins": "53", "pad_value": "51"},
        {"MVC": True},
    ),
    "scaling": ({"do_mvc": "True", "input_emb_style": "scaling"}, {"MVC": True}),
    "average": ({"cell_emb_style": "avg-pool", "do_mvc": "True"}, {"MVC": True}),
    "weighted": ({"cell_emb_style": "w-pool"}, {}),
    "detached": ({"do_mvc": "True", "mvc_decoder_style": "inner product, detach"}, {"MVC": True}),
    "contrast": ({}, {"CCE": True}),
    "norm_flag": ({"pre_norm": "True"}, {}),
    "zeros": ({"do_mvc": "True", "explicit_zero_prob": "True"}, {"MVC": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_networks_of_torchs_own_layers_are_reproduced(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_case(folder, name, *CASES[name])
    cases = list(networks.cases(tmp_path))
    assert not [case for case in cases if not case.passed]
    walked = {case.name.rpartition("/")[2] for case in cases}
    assert {"eval.cell_emb", "eval_nofastpath.mlm_output", "train.mlm_output", "grads.safetensors", "total"} <= walked
    assert ("bn_after" in walked) == (name == "batchnorm")


@pytest.mark.parametrize(("name", "wrong"), [("average", "cell_emb_style"), ("detached", "mvc_decoder_style")])
def test_another_setting_than_the_one_used_is_seen(tmp_path: Path, name: str, wrong: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_case(folder, name, *CASES[name])
    summary = json.loads((folder / "summary.json").read_text())
    del summary[name]["ctor"][wrong]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert failures(tmp_path)


@pytest.mark.parametrize("seeded", ["each", "once"])
def test_a_perturbation_with_zeros_is_reproduced(tmp_path: Path, seeded: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    given: dict[str, Any] = {
        "pad_value": 0, "pert_pad_id": 2, "do_mvc": True, "explicit_zero_prob": True, "decoder_activation": "ReLU",
        "decoder_adaptive_bias": True,
    }  # fmt: skip
    torch.manual_seed(0)
    model = Plain(given)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    src = torch.randperm(27)[:12].expand(4, -1).contiguous()
    values = torch.rand(4, 12) * (torch.rand(4, 12) < 0.6)
    values[:, 3], values[:, 5] = 0, 1
    flags, target = (torch.rand(4, 12) < 0.1).long(), torch.rand(4, 12)
    nothing = torch.zeros(4, 12, dtype=torch.uint8)
    batch = {"src": src, "values": values, "pert_flags": flags, "src_key_padding_mask": nothing}
    out = model.train()(batch)
    loss = ((out["mlm_output"] - target) ** 2).mean()
    loss.backward()
    io = {key: value for key, value in batch.items() if key != "src_key_padding_mask"} | {"target": target}
    io |= {
        f"train.{key}": out[key].detach() for key in ("mlm_output", "mlm_zero_probs", "mvc_output", "mvc_zero_probs")
    }
    model.eval()
    for call, columns in (("all", torch.arange(12)), ("batchwise", (values != 0).any(0).nonzero().flatten())):
        if seeded == "each" or call == "all":
            torch.manual_seed(2)
        with torch.no_grad():
            some = model({key: value[:, columns] for key, value in batch.items()})
        predicted = torch.zeros(4, 12)
        predicted[:, columns] = torch.bernoulli(some["mlm_zero_probs"]) * some["mlm_output"]
        io[f"pred_perturb.{call}"] = predicted
    save_file(io, folder / "zeros.io.safetensors")
    save_file(model.state_dict(), folder / "zeros.state_dict.safetensors")
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    save_file(grads, folder / "zeros.grads.safetensors")
    shape = {"ntoken": VOCAB, "d_model": WIDTH, "nhead": 2, "d_hid": 24, "nlayers": 2}
    settings = {"ctor": given | shape, "loss": loss.item(), "pred_perturb_torch_seed": 2}
    (folder / "summary.json").write_text(json.dumps({"zeros": settings}))
    cases = list(networks.cases(tmp_path))
    assert not [case for case in cases if not case.passed]
    assert len(cases) == 9


def test_the_walks_end_in_order(tmp_path: Path) -> None:
    """Files that cannot be read are failed cases of their own name, and the others are still walked."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_case(folder, "weighted", *CASES["weighted"])
    write_case(folder, "contrast", *CASES["contrast"])
    damage: Callable[[Path], Any] = lambda path: path.write_bytes(b"\x00" * 40)  # noqa: E731
    damage(folder / "contrast.state_dict.safetensors")
    found = failures(tmp_path)
    assert found
    assert all("contrast" in name for name in found)
