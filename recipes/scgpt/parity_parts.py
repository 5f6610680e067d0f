"""Parity in parts: single modules, losses, embeddings end to end and hidden positions, against the official scGPT code.

Lives here: `cases` over what is not a whole network. Lives elsewhere: whole networks (parity_model), tokens
(parity_tokens), the verdict over all cases (``scmf reproduce --tier parity``).

Layout of the folder: ``model/<name>.io.safetensors`` with ``<module>.sd.*`` (weights of one module) beside what it
reads and gives; ``embed_data/`` with a checkpoint folder, token batches and their embeddings; ``tok/*.npz`` with
``masked_<ratio>``. No name of a file is known here; a tensor that is not understood is a failed case.

Differences are relative: the largest absolute difference over the largest magnitude of the reference tensor.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from scmf.core.errors import ScmfError
from scmf.models import generative_transformer as ours
from scmf.models.configuration_generative_transformer import GenerativeTransformerConfig
from scmf.models.published import scgpt as official
from scmf.results.parity import ParityCase
from scmf.training.objectives.masked_value import official_mask

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4

# What a damaged, missing or unforeseen file leads to; each becomes a failed case, never an end of the walk.
_UNREADABLE = (ValueError, KeyError, IndexError, RuntimeError, OSError, AttributeError, SafetensorError, ScmfError)


def cases(folder: Path, *, data_dir: Path | None = None) -> Iterator[ParityCase]:
    """Compare modules, embeddings and hidden positions with every reference file below ``folder``.

    Parameters
    ----------
    folder
        The reference folder; ``model``, ``embed_data`` and ``tok`` lie in it or in ``scgpt`` below it.
    data_dir
        Published tables, which other parity walks need; none are needed here.

    Yields
    ------
    ParityCase
        One a tensor; nothing if there is no such folder.
    """
    root = folder / "scgpt" if (folder / "scgpt").is_dir() else folder
    for path in sorted((root / "model").glob("*.io.safetensors")):
        name = f"model/{path.name.removesuffix('.io.safetensors')}"
        try:
            io = load_file(path)
        except _UNREADABLE as error:
            yield _failed(name, "could not be read", str(error))
            continue
        if any(".sd." in key for key in io):
            yield from _modules(name, io)
    for path in sorted((root / "embed_data").glob("*.safetensors")):
        try:
            yield _embeddings(path)
        except _UNREADABLE as error:
            yield _failed(f"embed_data/{path.name}", "could not be compared", f"{type(error).__name__}: {error}")
    for path in sorted((root / "tok").glob("*.npz")):
        yield from _masks(path)


def notes(folder: Path) -> list[str]:
    """Nothing of these parts is left out; other tensors of ``tok/*.npz`` are the tokenizer's."""
    return []


# --- single modules ---------------------------------------------------------------------------------


def _modules(path: str, io: Mapping[str, Tensor]) -> Iterator[ParityCase]:
    """Modules with their own weights (``<prefix>.sd.*``) and losses; what they read lies beside or at the top."""
    prefixes = sorted({key.partition(".sd.")[0] for key in io if ".sd." in key})
    read = {"cell_emb", "cell_emb_with_batch", "gene_embs", "loss.mask", "loss.pred", "loss.target", "loss.probs"}
    for prefix in prefixes:
        own = {key.removeprefix(f"{prefix}."): value for key, value in io.items() if _owner(key, prefixes) == prefix}
        read |= {f"{prefix}.{key}" for key in own}
        state = {key.removeprefix("sd."): value for key, value in own.items() if key.startswith("sd.")}
        outputs = {key: value for key, value in own.items() if not key.startswith("sd.") and key not in ("x", "values")}
        try:
            found = _module_outputs(prefix, state, own, io)
        except _UNREADABLE as error:
            yield _failed(f"{path}/{prefix}", "could not be compared", f"{type(error).__name__}: {error}")
            continue
        for key, reference in sorted(outputs.items()):
            if key not in found:
                yield _failed(f"{path}/{prefix}.{key}", "an output", "no rule computes it")
            else:
                tolerance = GRADIENT_TOLERANCE if key.startswith("grad") else TOLERANCE
                yield _compared(
                    f"{path}/{prefix}.{key}", found[key].reshape(reference.shape), reference, tolerance=tolerance
                )
    for key, reference in sorted(io.items()):
        if key in read:
            continue
        loss = _LOSSES.get(key.removeprefix("loss."))
        if loss is None or not key.startswith("loss."):
            yield _failed(f"{path}/{key}", f"tensor {tuple(reference.shape)}", "no rule computes a tensor of this name")
        else:
            yield _compared(f"{path}/{key}", loss(io).reshape(reference.shape), reference)


def _owner(key: str, prefixes: list[str]) -> str:
    """The longest name of a module that ``key`` begins with."""
    return max((prefix for prefix in prefixes if key.startswith(f"{prefix}.")), key=len, default="")


_LOSSES: dict[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
    "masked_mse": lambda io: ours.masked_mse(io["loss.pred"], io["loss.target"], io["loss.mask"]),
    "masked_relative_error": lambda io: ours.masked_relative_error(io["loss.pred"], io["loss.target"], io["loss.mask"]),
    "neg_log_bernoulli": lambda io: ours.negative_log_bernoulli(io["loss.probs"], io["loss.target"], io["loss.mask"]),
}


def _module_outputs(
    prefix: str, state: dict[str, Tensor], own: Mapping[str, Tensor], io: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Build the module that ``prefix`` names from its weights and run it on what it reads."""
    kind, zero = prefix.partition(".")[0], any("zero_logit" in name for name in state)
    batch, width = io.get("cell_emb_with_batch"), io["gene_embs"].shape[-1]
    shape: dict[str, Any] = {"hidden_size": width, "num_attention_heads": 1, "hidden_dropout_prob": 0.0}
    module: nn.Module
    if kind == "cve":
        module = _loaded(ours.ContinuousValueEncoder(GenerativeTransformerConfig(**shape)), state)
        return {"out": module(own["values"]).detach()}
    if kind == "expr":
        config = GenerativeTransformerConfig(**shape, explicit_zero_prob=zero)
        pred, probs = _loaded(ours.ExpressionDecoder(config, own["x"].shape[-1]), state)(own["x"])
    elif kind == "mvc":
        style = prefix.split(".")[1].replace("_", " ").replace(" detach", ", detach")
        cell = batch if ".batch" in prefix and batch is not None else io["cell_emb"]
        config = GenerativeTransformerConfig(**shape, explicit_zero_prob=zero, mvc=style)
        module = _loaded(ours.CellValueDecoder(config, cell.shape[-1]), state)
        pred, probs = module(cell.unsqueeze(1), io["gene_embs"])
    elif kind == "dab":
        config = GenerativeTransformerConfig(**shape, num_batches=len(state["out_layer.bias"]))
        module = _loaded(ours.BatchAdversary(config), state)
        return _adversary(module, io["cell_emb"], own)
    else:
        raise KeyError(f"no module is called {kind!r}")
    return {"pred": pred.detach()} | ({} if probs is None else {"zero_probs": probs.detach()})


def _adversary(module: nn.Module, cell_BD: Tensor, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Loss and gradients; the labels are not recorded, so those with the recorded loss are taken."""
    logits = module(cell_BD).detach()
    every = itertools.product(range(logits.shape[1]), repeat=len(logits))
    labels = min(every, key=lambda given: float((cross_entropy(logits, torch.tensor(given)) - own["loss"]).abs()))
    cell_BD = cell_BD.clone().requires_grad_()
    loss = cross_entropy(module(cell_BD), torch.tensor(labels))
    loss.backward()
    gradients = {f"grad.{name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert cell_BD.grad is not None
    return {"loss": loss.detach(), "grad_wrt_cell_emb": cell_BD.grad, **gradients}


def _loaded(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state)
    return module.eval()


# --- end to end, and masks --------------------------------------------------------------------------


def _embeddings(path: Path) -> ParityCase:
    """Recorded token batches of real cells through the converted checkpoint, against ``X_scGPT``."""
    folder = path.parent / "model_dir"
    args, token_ids = official.read_json(folder / "args.json"), official.read_vocabulary(folder / "vocab.json")
    state = official.read_state(folder / "best_model.pt")
    config = official.configuration(args, token_ids, state)
    model = official.build_model(state, config, where=folder)
    padding = token_ids[args.get("pad_token", "<pad>")]
    tensors = load_file(path)
    parts = []
    for number in itertools.count():
        if f"batch{number}.gene" not in tensors:
            break
        ids, values = tensors[f"batch{number}.gene"].long(), tensors[f"batch{number}.expr"].float()
        parts.append(model.embed(ids, ids.ne(padding).long(), values))
    if len(parts) * 2 + 1 != len(tensors):
        return _failed(f"embed_data/{path.name}", "batches", f"{sorted(tensors)}: only {len(parts)} are understood")
    return _compared(f"embed_data/{path.name}", torch.cat(parts), tensors["X_scGPT"])


def _masks(path: Path) -> Iterator[ParityCase]:
    """Positions hidden by the official ``random_mask_value``; other tensors of these files are the tokenizer's."""
    name = f"tok/{path.name.removesuffix('.npz')}"
    try:
        with np.load(path) as arrays:
            found = {key: arrays[key] for key in arrays.files if key == "values" or key.startswith("masked_")}
    except _UNREADABLE as error:
        yield _failed(name, "could not be read", str(error))
        return
    settings = _read(path.with_name("summary.json")).get(path.name.removesuffix(".npz"), {})
    for key in sorted(found.keys() - {"values"}) if "values" in found else []:
        random = np.random.RandomState(settings.get("seed_mask", 9))
        values = torch.from_numpy(found["values"])
        pad = -2.0 if bool((values == -2.0).any()) else float("nan")
        mine = official_mask(values, float(key.removeprefix("masked_")), pad, random).numpy()
        differing = int((np.where(mine, np.float32(-1), found["values"]) != found[key]).sum())
        yield ParityCase(f"{name}/{key}", f"{mine.sum():,} hidden values", differing == 0, differing, 0)


# --- comparing --------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _failed(name: str, compared: str, why: str) -> ParityCase:
    return ParityCase(name, compared, passed=False, difference=1.0, tolerance=0.0, detail=why)


def _compared(name: str, found: Tensor, reference: Tensor, *, tolerance: float = TOLERANCE) -> ParityCase:
    compared = f"tensor {tuple(reference.shape)}"
    if found.shape != reference.shape:
        return _failed(name, compared, f"ours has shape {tuple(found.shape)}")
    scale = float(reference.abs().max()) or 1.0
    difference = float((found - reference).detach().abs().max()) / scale
    if difference != difference:
        return _failed(name, compared, "not a number")
    return ParityCase(name, compared, difference <= tolerance, difference, tolerance)
