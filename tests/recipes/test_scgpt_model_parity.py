"""The parity walks of scGPT's network: they pass on official outputs, and fail on anything else.

`Plain` is the network written with torch's own layers (its fast path included); it stands in for the official code in
cases of which no official output may be at hand.
"""

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
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from scmf.files import oracle_dir, shipped
from scmf.models import generative_transformer as ours
from scmf.results import ParityCase


def load_recipe_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scgpt_{name}", shipped("recipes") / "scgpt" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


networks, parts = load_recipe_module("parity_model"), load_recipe_module("parity_parts")
RECORDED = oracle_dir()
needs_oracle = pytest.mark.skipif(
    RECORDED is None or not (RECORDED / "scgpt" / "model").is_dir(),
    reason="SCMF_ORACLE_DIR names no folder with outputs of the official code",
)
WIDTH, VOCAB, PAD, CLS = 16, 30, 27, 28


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


@needs_oracle
@pytest.mark.parametrize("walk", [networks, parts], ids=["networks", "parts"])
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


@needs_oracle
@pytest.mark.parametrize("constant", ["BATCH_NORM_EPS", "masked_mse"])
def test_another_constant_is_seen(official: Path, monkeypatch: pytest.MonkeyPatch, constant: str) -> None:
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
    change_configuration(monkeypatch, layer_norm_eps=1e-3)
    assert any(name.endswith("eval.transformer_output") for name in failures(official))


@needs_oracle
def test_an_output_projection_of_generated_genes_is_seen(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_configuration(monkeypatch, generated_out_proj=True)
    found = failures(official)
    assert any("generative/eval.gen_hidden" in name for name in found)
    assert not any("generative/eval.pcpt_hidden" in name for name in found)


@needs_oracle
@pytest.mark.parametrize("damage", ["weight", "output", "unknown tensor", "unknown file", "cut off"])
def test_damage_is_seen(official: Path, damage: str) -> None:
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


class Table(nn.Module):
    def __init__(self, rows: int, padding: int | None = None) -> None:
        super().__init__()
        self.embedding, self.enc_norm = nn.Embedding(rows, WIDTH, padding_idx=padding), nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.enc_norm(self.embedding(ids))


class Values(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(self.linear2(torch.relu(self.linear1(values.unsqueeze(-1).clamp(max=512)))))


class Expression(nn.Module):
    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.fc = self.stack()
        if zero:
            self.zero_logit = self.stack()

    @staticmethod
    def stack() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, 1)
        )


class Classes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.LayerNorm(WIDTH)]
        self._decoder = nn.ModuleList([*block, nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.LayerNorm(WIDTH)])
        self.out_layer = nn.Linear(WIDTH, 1)


class FromCell(nn.Module):
    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.gene2query, self.W = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        if zero:
            self.W_zero_logit = nn.Linear(WIDTH, WIDTH)


class Plain(nn.Module):
    """The official network with the settings of its constructor, written with torch's own layers."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.given = given
        zero, style = bool(given.get("explicit_zero_prob")), given.get("input_emb_style", "continuous")
        self.encoder = Table(VOCAB, PAD)
        if style == "category":
            self.value_encoder: nn.Module = Table(given["n_input_bins"], given["pad_value"])
        else:
            self.value_encoder = Values() if style == "continuous" else nn.Identity()
        if "pert_pad_id" in given:
            self.pert_encoder = nn.Embedding(3, WIDTH, padding_idx=given["pert_pad_id"])
        if given.get("domain_spec_batchnorm") == "batchnorm":
            self.bn = nn.BatchNorm1d(WIDTH, eps=6.1e-5)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, 0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, 2)
        if "pert_pad_id" in given:
            self.decoder: nn.Module = nn.ModuleDict(
                {"coeff_decoder": Expression(zero), "bias_decoder": Expression(zero)}
            )
        else:
            self.decoder = Expression(zero)
        self.cls_decoder = Classes()
        if given.get("do_mvc"):
            self.mvc_decoder = FromCell(zero)

    def states(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        genes, values = self.encoder(batch["src"]), batch["values"]
        if self.given.get("input_emb_style") == "scaling":
            x = genes * values.unsqueeze(2)
        elif self.given.get("input_emb_style") == "category":
            x = genes + self.value_encoder(values.long())
        else:
            x = genes + self.value_encoder(values)
        if "pert_pad_id" in self.given:
            x = x + self.pert_encoder(batch["pert_flags"])
        if hasattr(self, "bn"):
            x = self.bn(x.permute(0, 2, 1)).permute(0, 2, 1)
        return genes, self.transformer_encoder(x, src_key_padding_mask=batch["src_key_padding_mask"].bool())

    def cell(self, x: Tensor, values: Tensor) -> Tensor:
        style = self.given.get("cell_emb_style", "cls")
        if style == "w-pool":
            return normalize((x * values.unsqueeze(2)).sum(1), dim=1)
        return x.mean(1) if style == "avg-pool" else x[:, 0]

    def forward(self, batch: dict[str, Tensor], *, contrast: bool = False) -> dict[str, Tensor]:
        genes, x = self.states(batch)
        out = {"transformer_output": x, "cell_emb": self.cell(x, batch["values"])}
        if "pert_pad_id" in self.given:
            act = (
                getattr(nn, self.given["decoder_activation"])()
                if self.given.get("decoder_activation")
                else nn.Identity()
            )
            factor, offset = (act(self.decoder[f"{part}_decoder"].fc(x).squeeze(-1)) for part in ("coeff", "bias"))
            values = batch["values"]
            if self.given.get("decoder_adaptive_bias"):
                offset = offset * (values.sum(1, keepdim=True) / (values != 0).sum(1, keepdim=True))
            out["mlm_output"] = factor * values + offset
            head = self.decoder["coeff_decoder"]
        else:
            head = self.decoder
            out["mlm_output"] = head.fc(x).squeeze(-1)
        if self.given.get("explicit_zero_prob"):
            out["mlm_zero_probs"] = torch.sigmoid(head.zero_logit(x).squeeze(-1))
        if self.given.get("do_mvc"):
            detached = str(self.given.get("mvc_decoder_style", "")).endswith("detach")
            query = torch.sigmoid(self.mvc_decoder.gene2query(genes.detach() if detached else genes))
            cell = out["cell_emb"].unsqueeze(2)
            out["mvc_output"] = torch.bmm(self.mvc_decoder.W(query), cell).squeeze(2)
            if self.given.get("explicit_zero_prob"):
                out["mvc_zero_probs"] = torch.sigmoid(torch.bmm(self.mvc_decoder.W_zero_logit(query), cell).squeeze(2))
        if contrast:
            again = self.cell(self.states(batch)[1], batch["values"])
            similar = cosine_similarity(out["cell_emb"].unsqueeze(1), again.unsqueeze(0), dim=-1) / 0.5
            out["loss_cce"] = cross_entropy(similar, torch.arange(len(similar)))
        return out


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


def write_case(folder: Path, name: str, given: dict[str, Any], forward: dict[str, bool]) -> None:
    """Record a case of `Plain` as the official outputs are recorded."""
    torch.manual_seed(len(name))
    literal = {key: networks._literal(value) for key, value in given.items()}
    model = Plain(literal)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    src = torch.randint(0, 27, (4, 10))
    src[:, 0] = CLS
    target = torch.randint(1, 51, src.shape).float()
    padding = torch.arange(10) >= torch.tensor([10, 6, 8, 3])[:, None]
    mask_value, pad_value = (52.0, 51.0) if "category" in given.values() else (-1.0, -2.0)
    src[padding], target[:, 0], target[padding] = PAD, 0.0, pad_value
    values = target.masked_fill((torch.rand(src.shape) < 0.4) & ~padding, mask_value)
    batch = {"src": src, "values": values, "target": target, "src_key_padding_mask": padding.to(torch.uint8)}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    contrast, io = bool(forward.get("CCE")), dict(batch)
    if "domain_spec_batchnorm" in given:
        io["batch_labels"] = torch.ones(4, dtype=torch.long)
    model.eval()
    with torch.no_grad():
        io |= {f"eval.{key}": value for key, value in model(batch, contrast=contrast).items()}
        torch.backends.mha.set_fastpath_enabled(False)
        io |= {f"eval_nofastpath.{key}": value for key, value in model(batch, contrast=contrast).items()}
        torch.backends.mha.set_fastpath_enabled(True)
    out = model.train()(batch, contrast=contrast)
    hidden = values != target
    terms = {"mse": ((out["mlm_output"] - target)[hidden] ** 2).mean()}
    entropy = nn.functional.binary_cross_entropy
    if "mlm_zero_probs" in out:
        terms["nzlp"] = entropy(out["mlm_zero_probs"][hidden], (target[hidden] > 0).float())
    if "mvc_output" in out:
        terms["mvc"] = ((out["mvc_output"] - target)[hidden] ** 2).mean()
    if "mvc_zero_probs" in out:
        terms["mvc_nzlp"] = entropy(out["mvc_zero_probs"][hidden], (target[hidden] > 0).float())
    if contrast:
        terms["cce"] = out["loss_cce"]
    total = sum(terms.values())
    total.backward()
    io |= {f"train.{key}": value.detach() for key, value in out.items()} | {"train.transformer_output": torch.zeros(1)}
    running = [value.flatten() for key, value in model.named_buffers() if "running" in key]
    io["bn_after"] = torch.cat(running) if running else torch.zeros(1)
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    save_file({key: value.contiguous() for key, value in io.items()}, folder / f"{name}.io.safetensors")
    save_file(state, folder / f"{name}.state_dict.safetensors")
    flash = {key.replace("in_proj_", "Wqkv."): value for key, value in state.items()}
    save_file(flash, folder / f"{name}.state_dict_flash_names.safetensors")
    save_file(grads, folder / f"{name}.grads.safetensors")
    shape = {"ntoken": VOCAB, "d_model": WIDTH, "nhead": 2, "d_hid": 24, "nlayers": 2, "dropout": 0.0}
    error = ((out["mlm_output"] - target).abs() / (target + 1e-6))[hidden].mean()
    losses = {key: float(value) for key, value in {**terms, "total": total, "mre": error}.items()}
    settings = {"ctor": {"pad_value": "-2", **given, **shape}, "forward": forward, "losses": losses}
    path = folder / "summary.json"
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), name: settings}))


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
