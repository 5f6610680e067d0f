"""Parity of the network: our tensors against those the official Geneformer code wrote.

Lives here: `cases`, which walks a folder of reference files, runs our model on the recorded inputs and weights
and compares every recorded output, and `notes`, which lists what is left out and why. Lives elsewhere: parity of
tokens (the other ``parity_*.py`` beside this file), the verdict over all cases (``scmf reproduce --tier parity``).

Layout of the folder: ``<name>_model/`` or ``<name>/`` (configuration and weights as published) and beside it
``<name>.<kind>``: ``io.safetensors`` (inputs and outputs), ``mlm_grads.safetensors``,
``cellcls|genecls.state_dict|grads.safetensors``, ``mtl*`` (the multi-task classifier), ``extract_embs.csv``,
``extract_gene_embs.csv`` and ``token_dictionary.pkl``. No name of a case is known here; a file or tensor that
is not understood is a failed case.

Differences are relative: the largest absolute difference over the largest magnitude of the reference tensor.
Positions of padding hold no meaning and are left out. Biases of attention keys have no gradient but rounding
error, so a gradient is measured against its own magnitude plus a thousandth of the largest gradient.
"""

from __future__ import annotations

import copy
import csv
import importlib.util
import json
import pickletools
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from scmf.models.configuration_transformer_encoder import TransformerEncoderConfig
from scmf.models.transformer_encoder import (
    TransformerEncoderForMaskedLM,
    TransformerEncoderForSequenceClassification,
    TransformerEncoderForTokenClassification,
    TransformerEncoderModel,
    TransformerEncoderPreTrainedModel,
)
from scmf.results.parity import ParityCase

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4

OUT_OF_SCOPE = {
    "summary.json": "describes the run, holds no output",
    "*.in_silico_perturbation.json": "compared by parity_perturbation",
}
"""File name patterns that are not compared here, and why."""

_PART_OF_A_MODEL = ("config.json", "generation_config.json", "model*.safetensors*", "pytorch_model*.bin*")
_INPUTS_OF_OTHERS = ("token_dictionary.pkl", "*.state_dict.safetensors", "mtl.json")
_HEADS = {
    "cellcls": TransformerEncoderForSequenceClassification,
    "genecls": TransformerEncoderForTokenClassification,
}
# What a damaged, missing or unforeseen file leads to; each becomes a failed case, never an end of the walk.
_UNREADABLE = (ValueError, KeyError, IndexError, RuntimeError, OSError, SafetensorError)


def cases(folder: Path, *, data_dir: Path | None = None) -> Iterator[ParityCase]:
    """Compare our network with every reference file below ``folder``.

    Parameters
    ----------
    folder
        The reference folder; the files lie in ``geneformer/model`` or ``model`` below it.
    data_dir
        Published tables, which other parity walks need; the network needs none.

    Yields
    ------
    ParityCase
        One a tensor, one a file of gradients; nothing if there is no such folder.
    """
    root = _root(folder)
    if root is None:
        return
    oracles = {}
    for path in sorted(p for p in root.iterdir() if p.is_dir()):
        name = path.name.removesuffix("_model")
        if (path / "config.json").is_file():
            inside = [p for p in sorted(path.iterdir()) if not _matches(p.name, _PART_OF_A_MODEL)]
            oracles[name] = _Oracle(name, path, {p.name: p for p in inside})
        else:
            yield _failed(f"model/{path.name}", "a model folder", "no config.json in it")
    for path in sorted(p for p in root.iterdir() if p.is_file() and not _matches(p.name, OUT_OF_SCOPE)):
        prefix, _, kind = path.name.partition(".")
        owners = [prefix] if prefix in oracles else [name for name in oracles if name.startswith(f"{prefix}_")]
        if len(owners) == 1:
            oracles[owners[0]].files[kind] = path
        else:
            yield _failed(f"model/{path.name}", "a file", f"belongs to no model folder of {sorted(oracles)}")
    for oracle in oracles.values():
        yield from oracle.cases()


def notes(folder: Path) -> list[str]:
    """What lies in the reference folder and is not compared, with the reason, one line each."""
    root = _root(folder)
    if root is None:
        return []
    lines = []
    for path in sorted(root.rglob("*")):
        lines += [f"{path.name}: {why}" for pattern, why in OUT_OF_SCOPE.items() if fnmatch(path.name, pattern)]
    if importlib.util.find_spec("scmf.data.tokens.tokens") is None:
        lines.append("sampler.*: scmf.data.tokens.tokens is not there to order cells by length")
    return lines


class _Oracle:
    """One official model with what was recorded of it."""

    def __init__(self, name: str, folder: Path, files: dict[str, Path]) -> None:
        self.name, self.folder, self.files = name, folder, files
        self._models: dict[str, TransformerEncoderForMaskedLM] = {}
        self._hidden_states: dict[tuple[str, str], tuple[Tensor, ...]] = {}

    def cases(self) -> Iterator[ParityCase]:
        yield from self._guarded("weights", self._weights)
        for kind in sorted(self.files):
            if gradients := re.fullmatch(r"(?:mlm_grads|(cellcls|genecls)\.grads)\.safetensors", kind):
                yield from self._guarded(kind, self._gradients, kind, gradients[1])
            elif kind in ("io.safetensors", "mtl.io.safetensors"):
                yield from self._tensors(kind)
            elif kind == "extract_embs.csv":
                yield from self._guarded(kind, self._extract_embs)
            elif kind == "extract_gene_embs.csv":
                yield from self._guarded(kind, self._extract_gene_embs)
            elif not _matches(kind, _INPUTS_OF_OTHERS):
                yield _failed(self._path(kind), "a file", "no rule reads this kind of file")

    def _path(self, part: str) -> str:
        return f"model/{self.name}/{part}"

    def _guarded(self, part: str, compare: Callable[..., ParityCase], *arguments: object) -> Iterator[ParityCase]:
        try:
            yield compare(*arguments)
        except _UNREADABLE as error:
            yield _failed(self._path(part), "could not be compared", f"{type(error).__name__}: {error}")

    # --- what was recorded: inputs, vocabulary, weights ---

    @cached_property
    def io(self) -> dict[str, Tensor]:
        return load_file(self.files["io.safetensors"])

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Name of each token, from the instructions of the pickle; nothing of it is run."""
        if "token_dictionary.pkl" not in self.files:
            return {}
        names: list[str] = []
        ids: list[int] = []
        for instruction, value, _ in pickletools.genops(self.files["token_dictionary.pkl"].read_bytes()):
            if "UNICODE" in instruction.name:
                names.append(str(value))
            elif instruction.name.startswith("BININT"):
                ids.append(int(str(value)))
        return dict(zip(names, ids, strict=True))

    @cached_property
    def config(self) -> TransformerEncoderConfig:
        settings = json.loads((self.folder / "config.json").read_text())
        for key in ("model_type", "architectures", "transformers_version", "torch_dtype", "output_hidden_states"):
            settings.pop(key, None)
        special = {f"{name}_token_id": self.tokens.get(f"<{name}>") for name in ("cls", "eos")}
        return TransformerEncoderConfig(**(settings | special))

    def model(self, kernel: str = "sdpa") -> TransformerEncoderForMaskedLM:
        if kernel not in self._models:
            self._models[kernel] = TransformerEncoderForMaskedLM.from_pretrained(
                self.folder, config=copy.deepcopy(self.config), attn_implementation=kernel
            )
        return self._models[kernel]

    def classifier(self, kind: str) -> TransformerEncoderPreTrainedModel:
        state = load_file(self.files[f"{kind}.state_dict.safetensors"])
        config = copy.deepcopy(self.config)
        config.num_labels = len(state["classifier.bias"])
        model = _HEADS[kind](config).eval()
        model.load_state_dict(state)
        return model

    def batch(self, prefix: str = "") -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask", "labels")
        return {name: self.io[prefix + name] for name in names if prefix + name in self.io}

    # --- whole files ---

    def _weights(self) -> ParityCase:
        model, info = TransformerEncoderForMaskedLM.from_pretrained(
            self.folder, config=copy.deepcopy(self.config), output_loading_info=True
        )
        wrong = {kind: sorted(keys) for kind, keys in info.items() if keys}
        n_tensors = len(model.state_dict())
        return ParityCase(
            self._path("weights"), f"names of {n_tensors} tensors", not wrong, len(wrong), 0, str(wrong or "")
        )

    def _gradients(self, kind: str, head: str | None) -> ParityCase:
        reference = load_file(self.files[kind])
        model = self.classifier(head) if head else self.model()
        model.zero_grad()
        model(**self.batch(f"{head or 'mlm'}.")).loss.backward()
        ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        if ours.keys() != reference.keys():
            return _failed(self._path(kind), "names of gradients", str(sorted(ours.keys() ^ reference.keys())))
        floor = 1e-3 * max(float(g.abs().max()) for g in reference.values())
        relative = {
            name: float((ours[name] - g).abs().max()) / (float(g.abs().max()) + floor) for name, g in reference.items()
        }
        worst = max(relative, key=lambda name: relative[name])
        return _judged(
            self._path(kind), f"{len(ours)} gradients", relative[worst], GRADIENT_TOLERANCE, f"largest at {worst}"
        )

    def _extract_embs(self) -> ParityCase:
        reference, _ = _read_csv(self.files["extract_embs.csv"], last_column_is_text=True)
        return _compared(self._path("extract_embs.csv"), self._extracted(-1, reference), reference)

    def _extract_gene_embs(self) -> ParityCase:
        """The mean of a gene's embedding over the cells it occurs in."""
        reference, names = _read_csv(self.files["extract_gene_embs.csv"])
        ids, real = self.io["input_ids"], self.io["attention_mask"].bool()
        genes = self.model().embed(ids, real.long(), pooling="gene")
        ours = torch.stack([genes[(ids == self.tokens[name]) & real].mean(0) for name in names])
        return _compared(self._path("extract_gene_embs.csv"), ours, reference)

    # --- tensors, one by one ---

    def _tensors(self, kind: str) -> Iterator[ParityCase]:
        part = "mtl." if kind.startswith("mtl.") else ""
        try:
            tensors = load_file(self.files[kind])
        except _UNREADABLE as error:
            yield _failed(self._path(kind), "could not be read", str(error))
            return
        for key, reference in sorted(tensors.items()):
            if re.fullmatch(r"(\w+\.)*(input_ids|attention_mask|labels\d*|lengths?|token_type_ids)", key):
                continue
            if key.startswith("sampler.") and importlib.util.find_spec("scmf.data.tokens.tokens") is None:
                continue
            yield from self._guarded(part + key, self._tensor, part + key, reference)

    def _tensor(self, key: str, reference: Tensor) -> ParityCase:
        """Find the rule for a tensor by its name, compute ours, compare."""
        kernel = "eager" if re.search(r"eager|attentions", key) else "sdpa"
        name = re.sub(r"[._]{2,}", ".", key.replace("eager", "")).strip("._")
        for pattern, rule in _RULES.items():
            if match := re.fullmatch(pattern, name):
                ours, real = rule(self, reference, kernel, *match.groups())
                return _compared(self._path(key), ours, reference, real=real)
        return _failed(self._path(key), f"tensor {tuple(reference.shape)}", "no rule computes a tensor of this name")

    @torch.no_grad()
    def _logits(self, reference: Tensor, kernel: str, prefix: str) -> _Ours:
        head = prefix.rstrip(".")
        model = self.classifier(head) if head in _HEADS else self.model(kernel)
        batch = {name: tensor[: len(reference)] for name, tensor in self.batch(prefix).items() if name != "labels"}
        logits = model(**batch).logits
        return logits, batch["attention_mask"].bool() if logits.ndim == 3 else None

    @torch.no_grad()
    def _logits_unpadded(self, reference: Tensor, kernel: str, row: str) -> _Ours:
        length = int(self.io["attention_mask"][int(row)].sum())
        return self.model(kernel)(self.io["input_ids"][int(row), :length][None]).logits, None

    @torch.no_grad()
    def _loss(self, reference: Tensor, kernel: str, prefix: str) -> _Ours:
        head = prefix.rstrip(".")
        model = self.classifier(head) if head in _HEADS else self.model(kernel)
        return model(**self.batch(prefix)).loss.reshape(reference.shape), None

    @torch.no_grad()
    def _hidden(self, reference: Tensor, kernel: str, prefix: str, layer: str) -> _Ours:
        batch = self.batch(prefix)
        if (kernel, prefix) not in self._hidden_states:
            outputs = self.model(kernel).bert(**batch, output_hidden_states=True)
            self._hidden_states[kernel, prefix] = outputs.hidden_states
        return self._hidden_states[kernel, prefix][int(layer)], batch["attention_mask"].bool()

    @torch.no_grad()
    def _attention(self, reference: Tensor, kernel: str, prefix: str, layer: str) -> _Ours:
        """Probabilities (B, H, L, L) of the queries that are real."""
        batch = {name: tensor[: len(reference)] for name, tensor in self.batch(prefix).items()}
        ours = self.model(kernel).bert(**batch, output_attentions=True).attentions[int(layer)]
        return ours, batch["attention_mask"].bool()[:, None]

    def _embedded(self, reference: Tensor, kernel: str, pooling: str, layer: str) -> _Ours:
        batch = self.batch()
        ours = self.model(kernel).embed(**batch, pooling=pooling, layer=int(layer))
        return ours, batch["attention_mask"].bool() if pooling == "gene" else None

    def _extracted_layer(self, reference: Tensor, kernel: str, layer: str) -> _Ours:
        return self._extracted(int(layer), reference), None

    def _extracted(self, layer: int, reference: Tensor) -> Tensor:
        """Embeddings as the official extractor writes them: by its default pooling, longest cell first.

        Its order among cells of equal length is not defined; there each reference row takes our nearest.
        """
        batch = self.batch()
        pooling = "cls" if self.config.cls_token_id is not None else "cell"
        ours = self.model().embed(**batch, pooling=pooling, layer=layer)
        lengths = batch["attention_mask"].sum(1)
        order = torch.argsort(lengths, descending=True, stable=True).tolist()
        matched: list[int] = []
        for row, cell in enumerate(order):
            free = [c for c in order if lengths[c] == lengths[cell] and c not in matched]
            matched.append(min(free, key=lambda c: float((ours[c] - reference[row]).abs().max())))
        return ours[matched]

    def _state_mean(self, reference: Tensor, kernel: str, state: str) -> _Ours:
        cells, states = _read_csv(self.files["extract_embs.csv"], last_column_is_text=True)
        ours = self._extracted(-1, cells)
        return ours[[row for row, label in enumerate(states) if label == state]].mean(0), None

    def _sampler(self, reference: Tensor, kernel: str, batch_size: str, seed: str) -> _Ours:
        from scmf.data.tokens.tokens import length_grouped_indices

        lengths = self.io["sampler.lengths"].numpy()
        return torch.as_tensor(length_grouped_indices(lengths, batch_size=int(batch_size), seed=int(seed))), None

    # --- the multi-task classifier: encoder, first position or attention pooling, one linear head a task ---

    @torch.no_grad()
    def _task_logits(self, pool: str) -> list[Tensor]:
        state = load_file(self.files[f"mtl_pool{pool}.state_dict.safetensors"])
        encoder = TransformerEncoderModel(self.config, add_pooling_layer=True).eval()
        encoder.load_state_dict({k.removeprefix("bert."): v for k, v in state.items() if k.startswith("bert.")})
        x_BLD = encoder(self.io["input_ids"], self.io["attention_mask"]).last_hidden_state
        if pool == "True":  # the official softmax covers padding too
            x_BD = (x_BLD * torch.softmax(x_BLD @ state["attention_pool.attention_weights"], 1)).sum(1)
        else:
            x_BD = x_BLD[:, 0]
        tasks = sum(key.startswith("classification_heads.") and key.endswith(".bias") for key in state)
        heads = [f"classification_heads.{task}" for task in range(tasks)]
        return [x_BD @ state[f"{head}.weight"].T + state[f"{head}.bias"] for head in heads]

    def _task_losses(self, pool: str) -> list[float]:
        labels = load_file(self.files["mtl.io.safetensors"])
        logits = self._task_logits(pool)
        return [float(cross_entropy(scores, labels[f"labels{task}"])) for task, scores in enumerate(logits)]

    def _mtl_logits(self, reference: Tensor, kernel: str, pool: str, task: str) -> _Ours:
        return self._task_logits(pool)[int(task)], None

    def _mtl_loss(self, reference: Tensor, kernel: str, pool: str) -> _Ours:
        """The weighted sum of the task losses.

        The weights of the run are not recorded: they follow from the task losses of the other pooling.
        """
        other = "False" if pool == "True" else "True"
        recorded = json.loads(self.files["mtl.json"].read_text())[f"pool{other}.task_losses"]
        weights = [theirs / ours for theirs, ours in zip(recorded, self._task_losses(other), strict=True)]
        loss = sum(weight * ours for weight, ours in zip(weights, self._task_losses(pool), strict=True))
        return torch.tensor(loss).reshape(reference.shape), None


_Ours = tuple[Tensor, Tensor | None]
"""Our tensor, and which positions are real (None: all)."""

_RULES: dict[str, Callable[..., _Ours]] = {
    r"logits_unpadded_row(\d+)": _Oracle._logits_unpadded,
    r"mtl\.pool(True|False)\.logits(\d+)": _Oracle._mtl_logits,
    r"mtl\.pool(True|False)\.loss": _Oracle._mtl_loss,
    r"((?:\w+\.)*)logits(?:[._].*)?": _Oracle._logits,
    r"((?:\w+\.)*)loss": _Oracle._loss,
    r"((?:\w+\.)*)hidden_states\.(\d+)(?:[._].*)?": _Oracle._hidden,
    r"((?:\w+\.)*)attentions?\.(\d+)(?:[._].*)?": _Oracle._attention,
    r"embs\.(cell|cls|gene)\.layer(-?\d+)": _Oracle._embedded,
    r"extract_embs\.layer(-?\d+)": _Oracle._extracted_layer,
    r"state_embs\.(\w+)": _Oracle._state_mean,
    r"sampler\.indices_bs(\d+)_seed(\d+)": _Oracle._sampler,
}
"""Name of a recorded tensor -> how we compute ours. A name with a further suffix is a leading corner of it."""


def _root(folder: Path) -> Path | None:
    found = (path for path in (folder / "geneformer" / "model", folder / "model") if path.is_dir())
    return next(found, None)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _read_csv(path: Path, *, last_column_is_text: bool = False) -> tuple[Tensor, list[str]]:
    """Numbers and names (of the last column, or of the index) of a table written by pandas."""
    with path.open(newline="") as handle:
        rows = list(csv.reader(handle))[1:]
    end = -1 if last_column_is_text else None
    numbers = torch.tensor([[float(cell) for cell in row[1:end]] for row in rows])
    return numbers, [row[-1] if last_column_is_text else row[0] for row in rows]


def _failed(name: str, compared: str, why: str) -> ParityCase:
    return ParityCase(name, compared, passed=False, difference=1.0, tolerance=0.0, detail=why)


def _judged(name: str, compared: str, difference: float, tolerance: float, detail: str = "") -> ParityCase:
    if difference != difference:
        return _failed(name, compared, f"{detail} not a number".strip())
    return ParityCase(name, compared, difference <= tolerance, difference, tolerance, detail)


def _compared(name: str, ours: Tensor, reference: Tensor, *, real: Tensor | None = None) -> ParityCase:
    """Compare two tensors at real positions; a smaller reference is the leading corner of ours."""
    compared, detail = f"tensor {tuple(reference.shape)}", ""
    if ours.shape != reference.shape:
        if ours.ndim != reference.ndim or any(o < r for o, r in zip(ours.shape, reference.shape, strict=True)):
            return _failed(name, compared, f"ours has shape {tuple(ours.shape)}")
        detail = f"leading corner of ours, {tuple(ours.shape)}"
        ours = ours[tuple(slice(size) for size in reference.shape)]
    if not reference.is_floating_point():
        differing = int((ours != reference).sum())
        return _judged(name, compared, differing, 0, detail)
    if real is not None:
        real = real[tuple(slice(size) for size in reference.shape[: real.ndim])]
        real = real.expand(reference.shape[: real.ndim])
        ours, reference = ours[real], reference[real]
    scale = float(reference.abs().max()) or 1.0
    return _judged(name, compared, float((ours - reference).abs().max()) / scale, TOLERANCE, detail)
