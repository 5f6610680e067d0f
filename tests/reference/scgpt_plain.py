"""The network of scGPT written with torch's own layers, and its outputs recorded as the official ones are.

It stands in for the official code in cases of which no official output may be at hand.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

WIDTH, VOCAB, PAD, CLS = 16, 30, 27, 28


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


def literal_of(text: str) -> Any:
    """``"True"`` and ``"51"`` as values, other text as it is."""
    return ast.literal_eval(text) if text[:1].isdigit() or text in ("True", "False") else text


def write_case(folder: Path, name: str, given: dict[str, Any], forward: dict[str, bool]) -> None:
    """Record a case of `Plain` as the official outputs are recorded."""
    torch.manual_seed(len(name))
    literal = {key: literal_of(value) for key, value in given.items()}
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
