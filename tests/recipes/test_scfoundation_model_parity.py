"""The parity walk of scFoundation's network: it passes on official outputs and fails on anything else."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scmf.core.paths import data_dir, reference_dir, shipped
from scmf.models.masked_autoencoder import MaskedAutoencoderConfig, MaskedAutoencoderModel
from scmf.results.parity import ParityCase


def load_recipe_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"scfoundation_{name}", shipped("recipes") / "scfoundation" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parity = load_recipe_module("parity_model")
RECORDED = reference_dir()
needs_oracle = pytest.mark.skipif(
    RECORDED is None or not (RECORDED / "scfoundation" / "model").is_dir(),
    reason="SCMF_REFERENCE_DIR names no folder with outputs of the official code",
)
ENCODER = "encoder.transformer_encoder.1.self_attn.in_proj_weight"
SPLITS = ("weights.safetensors", "inputs.safetensors", "outputs.safetensors", "grads_mask_mse.safetensors")


def failures(folder: Path) -> dict[str, ParityCase]:
    return {case.name: case for case in parity.cases(folder) if not case.passed}


# --- official outputs -------------------------------------------------------------------------------------


# `scmf reproduce scfoundation` walks over the same cases.
@pytest.mark.nightly
@needs_oracle
@pytest.mark.slow
def test_every_official_output_is_reproduced() -> None:
    assert RECORDED is not None
    root = RECORDED / "scfoundation"
    cases = {case.name: case for case in parity.cases(RECORDED, data_dir=data_dir())}
    assert not [case for case in cases.values() if not case.passed]
    for folder in (path for path in (root / "model").iterdir() if path.is_dir()):
        for key in load_file(folder / "outputs.safetensors"):
            assert f"model/{folder.name}/{key}" in cases
        assert cases[f"model/{folder.name}/grads_mask_mse"].tolerance == 1e-4
    left_out = {line.partition(".npz")[0] for line in parity.notes(RECORDED) if "died" in line}
    for run in (root / "out").glob("*.npz"):
        assert (f"out/{run.stem}" in cases) != (f"out/{run.stem}" in left_out)
    assert max(case.tolerance for name, case in cases.items() if "grads" not in name) == 1e-5


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A copy of the small official model with random features, to be damaged."""
    assert RECORDED is not None
    model = RECORDED / "scfoundation" / "model" / "small_tf_perf"
    shutil.copytree(model, tmp_path / "model" / model.name, copy_function=shutil.copyfile)
    (tmp_path / "model" / model.name).chmod(0o755)
    return tmp_path


@needs_oracle
def test_a_small_official_model_is_reproduced(official: Path) -> None:
    cases = {case.name: case for case in parity.cases(official)}
    assert not [case for case in cases.values() if not case.passed]
    (model,) = (official / "model").iterdir()
    for key in load_file(model / "outputs.safetensors"):
        assert f"model/{model.name}/{key}" in cases


def change_weight(key: str, *, by: float = 0.01) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        state = load_file(model / "weights.safetensors")
        name = next((name for name in state if name.endswith(key)), "norm.bias")
        state[name].flatten()[3] += by
        save_file(state, model / "weights.safetensors")

    return change


def change_config(**changes: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        settings = json.loads((model / "config.json").read_text())
        for name, value in changes.items():
            if isinstance(value, dict):
                settings[name] |= value
            else:
                settings[name] = value
        (model / "config.json").write_text(json.dumps(settings))

    return change


@needs_oracle
@pytest.mark.parametrize(
    ("damage", "outputs"),
    [
        pytest.param(
            change_weight("encoder.transformer_encoder.1.self_attn.in_proj_weight"),
            ("enc_hidden", "recon", "grads"),
            id="one weight",
        ),
        pytest.param(change_weight("projection_matrix", by=1.0), ("recon", "grads"), id="one random feature"),
        pytest.param(change_config(bin_alpha=1.01), ("bin_weight", "cell_all", "grads"), id="alpha of the bins"),
        pytest.param(change_config(encoder={"heads": 2}), ("enc_hidden", "cell_max"), id="heads"),
        pytest.param(change_config(encoder={"norm_first": True}, decoder={"norm_first": True}), ("recon",), id="norm"),
        pytest.param(change_config(pad_token_id=104), ("token_emb",), id="value of padding"),
        pytest.param(change_config(mask_gene_name=True), ("recon", "weights"), id="an unknown part"),
    ],
)
def test_a_change_of_the_model_fails(official: Path, damage: Callable[[Path], None], outputs: tuple[str, ...]) -> None:
    for model in (official / "model").iterdir():
        damage(model)
    failed = failures(official)
    for model in (official / "model").iterdir():
        for output in outputs:
            assert any(model.name in name and output in name for name in failed), (model.name, output)


@needs_oracle
@pytest.mark.parametrize("constant", ["key maximum", "epsilon of the features", "epsilon of the norms"])
def test_a_change_of_a_constant_in_the_code_fails(
    official: Path, constant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MaskedAutoencoderConfig.from_official

    def changed(settings: dict[str, Any], **changes: Any) -> MaskedAutoencoderConfig:
        fields = {"key maximum": {"match_official": False}, "epsilon of the norms": {"layer_norm_eps": 1e-12}}
        return original(settings, **(changes | fields.get(constant, {})))

    monkeypatch.setattr(MaskedAutoencoderConfig, "from_official", changed)
    if constant == "epsilon of the features":
        module = sys.modules[MaskedAutoencoderModel.__module__]
        exp = torch.exp
        monkeypatch.setattr(module.torch, "exp", lambda x: exp(x) + 1e-4)
    failed = failures(official)
    assert any("grad.recon" in name for name in failed)
    assert any("mask.recon" in name for name in failed)


@needs_oracle
def test_by_default_a_batch_gives_what_the_official_code_gives_cell_by_cell() -> None:
    assert RECORDED is not None
    for folder in (path for path in (RECORDED / "scfoundation" / "model").iterdir() if path.is_dir()):
        settings = json.loads((folder / "config.json").read_text())
        model = MaskedAutoencoderModel(MaskedAutoencoderConfig.from_official(settings)).eval()
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
        batch = {
            "input_ids": inputs["enc_pos"], "values": inputs["enc_data"], "attention_mask": (~inputs["enc_pad"]).long()
        }  # fmt: skip
        for ours, name in (
            (model(**batch).predictions, "recon"),
            (model.embed(**batch, pooling="all"), "cell_all"),
            (model.embed(**batch, pooling="max"), "cell_max"),
        ):
            reference = outputs[f"single.{name}"]
            assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


# --- the same layout, written here with PyTorch's own layers ----------------------------------------------


class Reference(nn.Module):
    """The network with transformer layers of PyTorch on both sides, written apart from ours."""

    def __init__(self, length: int, width: int, narrow: int, bins: int) -> None:
        super().__init__()
        self.token_emb = nn.Module()
        self.token_emb.mlp, self.token_emb.mlp2 = nn.Linear(1, bins), nn.Linear(bins, bins)
        self.token_emb.emb = nn.Embedding(bins, width)
        self.token_emb.emb_mask, self.token_emb.emb_pad = nn.Embedding(1, width), nn.Embedding(1, width)
        self.pos_emb = nn.Embedding(length + 1, width)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        for side, size, depth in ((self.encoder, width, 2), (self.decoder, narrow, 1)):
            layers = (nn.TransformerEncoderLayer(size, 2, 4 * size, batch_first=True) for _ in range(depth))
            side.transformer_encoder, side.norm = nn.ModuleList(layers), nn.LayerNorm(size)
        self.decoder_embed = nn.Linear(width, narrow)
        self.norm, self.to_final = nn.LayerNorm(narrow), nn.Linear(narrow, 1)

    def weights(self, values: Tensor) -> Tensor:
        hidden = nn.functional.leaky_relu(self.token_emb.mlp(values[..., None]), 0.1)
        return torch.softmax(0.5 * hidden + self.token_emb.mlp2(hidden), -1)

    def embedded(self, values: Tensor) -> Tensor:
        x = self.weights(values) @ self.token_emb.emb.weight
        x[values == 102] = self.token_emb.emb_mask.weight[0]
        x[values == 103] = self.token_emb.emb_pad.weight[0]
        return x

    def encode(self, values: Tensor, places: Tensor, padding: Tensor) -> Tensor:
        x = self.embedded(values) + self.pos_emb(places)
        for layer in self.encoder.transformer_encoder:
            x = layer(x, src_key_padding_mask=padding)
        return self.encoder.norm(x)

    def decode(self, x: Tensor, places: Tensor, padding: Tensor, data: Tensor) -> Tensor:
        y = self.embedded(data)
        rows = torch.arange(len(data))[:, None].expand_as(places)[~padding]
        y[rows, places[~padding]] = x[~padding]
        y = self.decoder_embed(y + self.pos_emb.weight[:-1])
        for layer in self.decoder.transformer_encoder:
            y = layer(y)
        return self.norm(self.decoder.norm(y))


def gathered(x: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values and places of the positions that are there, padded with 103 and the length."""
    n = int(there.sum(1).max())
    values, places = torch.full((len(x), n), 103.0), torch.full((len(x), n), x.shape[1])
    for row, mask in enumerate(there):
        places[row, : mask.sum()] = mask.nonzero().flatten()
        values[row, : mask.sum()] = x[row, mask]
    return values, places, values == 103


@pytest.fixture
def written(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    length, width, narrow, bins = 12, 8, 6, 5
    folder = tmp_path / "scfoundation" / "model" / "other_name"
    folder.mkdir(parents=True)
    sides = {
        "encoder": {"hidden_dim": width, "depth": 2, "heads": 2, "dim_head": 4, "module_type": "transformer"},
        "decoder": {"hidden_dim": narrow, "depth": 1, "heads": 2, "dim_head": 3, "module_type": "transformer"},
    }
    settings = {
        "seq_len": length,
        "bin_num": bins,
        "bin_alpha": 0.5,
        "pad_token_id": 103,
        "mask_token_id": 102,
        **sides,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    model = Reference(length, width, narrow, bins).eval()
    x = torch.rand(3, length) * (torch.rand(3, length) < 0.6)
    x[:, -2:] = 2 + torch.rand(3, 2)
    masked = (torch.rand(3, length) < 0.3) & (torch.arange(length) < length - 2)
    inputs, outputs = {"x": x, "raw": x[:, :-2]}, {}
    for kind, there, data in (("", x > 0, x), ("mask.", (x > 0) & ~masked, x.masked_fill(masked, 102.0))):
        values, places, padding = gathered(x, there)
        inputs |= {
            f"{kind}enc_data": values, f"{kind}enc_pos": places, f"{kind}enc_pad": padding, f"{kind}dec_data": data,
            f"{kind}enc_labels": there,
        }  # fmt: skip
    inputs["mask.mask"] = masked
    enc = [inputs[f"enc_{name}"] for name in ("data", "pos", "pad")]
    hidden = model.encode(*enc)
    decoded = model.decode(hidden, *enc[1:], x)
    outputs |= {
        "grad.token_emb": model.embedded(enc[0]), "grad.bin_weight": model.weights(enc[0]), "grad.enc_hidden": hidden,
        "nograd.gene_emb": decoded, "single.recon": model.to_final(decoded)[..., 0],
        "single.cell_max": torch.stack([h[~p].amax(0) for h, p in zip(hidden, enc[2], strict=True)]),
    }  # fmt: skip
    enc = [inputs[f"mask.enc_{name}"] for name in ("data", "pos", "pad")]
    recon = model.to_final(model.decode(model.encode(*enc), *enc[1:], inputs["mask.dec_data"]))[..., 0]
    loss = (recon - x)[masked].square().mean()
    loss.backward()
    outputs |= {"mask.recon": recon, "mask.mse_masked": loss.reshape(1)}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for file, tensors in zip(SPLITS, (model.state_dict(), inputs, outputs, gradients), strict=True):
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / file)
    n_parameters = sum(p.numel() for p in model.parameters())
    (folder.parent / "some_info.json").write_text(json.dumps({"other_name": {"n_params": n_parameters}}))
    return tmp_path


def test_the_layout_is_understood_under_other_names(written: Path) -> None:
    cases = {case.name.rpartition("/")[2]: case for case in parity.cases(written)}
    assert not [case for case in cases.values() if not case.passed]
    assert cases.keys() == {
        "weights", "inputs", "n_params", "grads_mask_mse", "grad.token_emb", "grad.bin_weight", "grad.enc_hidden",
        "nograd.gene_emb", "single.recon", "single.cell_max", "mask.recon", "mask.mse_masked",
    }  # fmt: skip


def test_what_is_not_understood_fails(written: Path) -> None:
    root = written / "scfoundation"
    model = root / "model" / "other_name"
    tensors = load_file(model / "outputs.safetensors")
    tensors["surprise"] = torch.zeros(3)
    tensors["grad.surprise"] = torch.zeros(3)
    tensors["single.cell_max"] = torch.full((3, 8), float("nan"))
    tensors["nograd.recon"] = torch.zeros(3, 11)
    save_file(tensors, model / "outputs.safetensors")
    save_file(load_file(model / "inputs.safetensors") | {"strange": torch.zeros(1)}, model / "inputs.safetensors")
    (model / "unheard_of.json").write_text("{}")
    (root / "model" / "stranger_cell.safetensors").write_bytes(b"")
    (root / "model" / "empty").mkdir()
    (root / "model" / "broken_shapes.json").write_text("{}")
    (root / "out").mkdir()
    np.savez(root / "out" / "untold.npz", embedding=np.zeros((1, 3)))
    (root / "out" / "table.csv").write_text("nothing")
    failed = {name.removeprefix("model/").removeprefix("other_name/") for name in failures(written)}
    assert failed == {
        "surprise", "grad.surprise", "single.cell_max", "nograd.recon", "inputs", "unheard_of.json", "stranger_cell",
        "empty/weights", "broken_shapes", "out/untold", "out/table",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["pos_emb.weight", "token_emb.emb_mask.weight", "encoder.norm.bias"])
def test_a_missing_tensor_in_the_weights_fails(written: Path, key: str) -> None:
    weights = written / "scfoundation" / "model" / "other_name" / "weights.safetensors"
    state = load_file(weights)
    del state[key]
    save_file(state, weights)
    assert key in failures(written)["model/other_name/weights"].detail


# --- runs of get_embedding.py -----------------------------------------------------------------------------


@pytest.fixture
def runs(written: Path) -> Path:
    """A whole model and runs on it: two recorded cells, their genes in one batch without recorded tokens."""
    root = written / "scfoundation"
    small = root / "model" / "other_name"
    shutil.copyfile(small / "config.json", root / "model" / "whole_config.json")
    for key in ("cell", "gene"):
        shutil.copyfile(small / "weights.safetensors", root / "model" / f"whole_{key}.safetensors")
    settings = json.loads((small / "config.json").read_text())
    model = MaskedAutoencoderModel(MaskedAutoencoderConfig.from_official(settings, match_official=True)).eval()
    model.load_state_dict(load_file(small / "weights.safetensors"))
    ids, values = [[1, 4, 10, 11], [0, 2, 3, 10, 11]], [[1.0, 2.0, 4.0, 3.0], [0.5, 1.0, 2.0, 4.0, 2.5]]
    batches = [{"input_ids": torch.tensor([i]), "values": torch.tensor([v])} for i, v in zip(ids, values, strict=True)]
    tokens = {
        "enc_values": np.concatenate(values), "enc_positions": np.concatenate(ids).astype(np.int32),
        "offsets": np.array([0, 4, 9]),
    }  # fmt: skip
    (root / "out").mkdir()
    genes = torch.cat([model.gene_embeddings(**batch) for batch in batches])
    cells = torch.cat([model.embed(**batch, pooling="all") for batch in batches])
    common = {"input_type": "singlecell", "data_path": "x.h5ad", "pre_normalized": "F", "tgthighres": "t4"}
    table = {}
    for name, output, embedding, recorded in (
        ("a_cell", "cell", cells, tokens), ("a_gene", "gene", genes, tokens), ("a_batch", "gene_batch", genes, {}),
    ):  # fmt: skip
        np.savez(root / "out" / f"{name}.npz", embedding=embedding.numpy(), **recorded)
        table[name] = {"args": common | {"output_type": output, "pool_type": "all"}, "error": None}
    np.savez(root / "out" / "dead.npz", enc_values=np.zeros((1, 0)))
    table["dead"] = {"args": common | {"output_type": "cell"}, "error": "IndexError"}
    (root / "meta_runs.json").write_text(json.dumps({"runs": table}))
    return written


def test_runs_are_found_by_their_arguments_and_tokens_in_a_run_on_the_same_cells(runs: Path) -> None:
    cases = {case.name: case for case in parity.cases(runs) if case.name.startswith("out/")}
    assert not [case for case in cases.values() if not case.passed]
    assert cases.keys() == {"out/a_cell", "out/a_gene", "out/a_batch"}
    assert [line.partition(":")[0] for line in parity.notes(runs)] == ["out/dead.npz"]


def test_a_run_of_other_numbers_fails(runs: Path) -> None:
    file = runs / "scfoundation" / "out" / "a_cell.npz"
    with np.load(file) as arrays:
        damaged = dict(arrays)
    damaged["enc_values"][2] += 1e-3
    np.savez(file, **damaged)
    assert set(failures(runs)) == {"out/a_cell"}


def test_a_folder_without_model_outputs_has_no_case(tmp_path: Path) -> None:
    assert not list(parity.cases(tmp_path))
    assert not parity.notes(tmp_path)
