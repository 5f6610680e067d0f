"""Parity of the network: our tensors against those the official scGPT code wrote.

Lives here: `cases`, which walks a folder of reference files, runs our model on the recorded inputs and weights and
compares every recorded output, and `notes`, which lists what is left out and why. Lives elsewhere: parity of single
modules, embeddings and masks (parity_parts), of tokens (parity_tokens), the verdict over all cases
(``scmf reproduce --tier parity``).

Layout of the folder: ``model/<name>.<kind>``: weights in two layouts of keys, ``io`` with inputs and every head,
gradients; ``summary.json`` with the settings and losses of each name. A name with ``collator.*`` in its ``io`` is a
generative pretraining. No name of a case is known here; a file or tensor that is not understood is a failed case.

Differences are relative: the largest absolute difference over the largest magnitude of the reference tensor.
Some parameters (biases in front of a normalization) have no gradient but rounding error, so a gradient is measured
against its own magnitude plus a thousandth of the largest gradient.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scmf.core.errors import ScmfError
from scmf.models import generative_transformer as ours
from scmf.models.configuration_generative_transformer import GenerativeTransformerConfig
from scmf.models.generative_transformer import GenerativeTransformerModel, GenerativeTransformerOutput
from scmf.models.published import scgpt as official
from scmf.results.parity import ParityCase
from scmf.training.objectives.generative_value import GenerativeValuePrediction

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4

OUT_OF_SCOPE = {
    r"collator\.style_.*": "padded tokens without a split; the seed of their draws is not recorded; tok/ has such",
}
"""Names of tensors that are not compared, and why."""

_INPUTS = re.compile(r"src|values|target|src_key_padding_mask|pert_flags|\w+_labels|generate\.cell_emb|examples\.\w+")
_OUTPUTS = {
    "cell_emb": "cell_embedding",
    "mlm_output": "predictions",
    "mlm_zero_probs": "zero_probs",
    "mvc_output": "mvc_predictions",
    "mvc_zero_probs": "mvc_zero_probs",
    "cls_output": "class_logits",
    "dab_output": "batch_logits",
    "transformer_output": "last_hidden_state",
    "second_pass_gen_preds": "second_predictions",
}
"""Recorded name of an output, and its name here."""
_FACTORS = {"mse": 1, "nzlp": 1, "mvc": 1, "mvc_nzlp": 1, "ecs_x10": 10, "dab": 1, "cls": 1, "cce": 1, "gen": 1}
"""Recorded name of a term of the loss, and its factor in it."""
# What a damaged, missing or unforeseen file leads to; each becomes a failed case, never an end of the walk.
_UNREADABLE = (ValueError, KeyError, IndexError, RuntimeError, OSError, AttributeError, SafetensorError, ScmfError)


def cases(folder: Path, *, data_dir: Path | None = None) -> Iterator[ParityCase]:
    """Compare our network with every reference file below ``folder``.

    Parameters
    ----------
    folder
        The reference folder; ``model`` lies in it or in ``scgpt`` below it.
    data_dir
        Published tables, which other parity walks need; the network needs none.

    Yields
    ------
    ParityCase
        One a tensor, one a file of weights or gradients, one a loss; nothing if there is no such folder.
    """
    root = folder / "scgpt" if (folder / "scgpt").is_dir() else folder
    yield from _model_cases(root / "model")


def notes(folder: Path) -> list[str]:
    """What lies in the reference folder and is not compared, with the reason, one line each."""
    root = folder / "scgpt" if (folder / "scgpt").is_dir() else folder
    lines = []
    for name, files in _groups(root / "model").items():
        settings = _read(root / "model" / "summary.json").get(name, {})
        raising = {kind: text for kind, text in settings.get("status", {}).items() if text != "ok"}
        if raising:
            lines.append(
                f"model/{name}: the official pass {next(iter(raising.values()))}; weights are compared, ours runs"
            )
        if "io.safetensors" in files:
            for key, tensor in load_file(files["io.safetensors"]).items():
                if why := next((why for pattern, why in OUT_OF_SCOPE.items() if re.fullmatch(pattern, key)), None):
                    lines.append(f"model/{name}/{key}: {why}")
                elif _not_recorded(key, tensor):
                    lines.append(f"model/{name}/{key}: a single 0 stands for what was not recorded")
    return lines


# --- which files belong together --------------------------------------------------------------------


def _groups(folder: Path) -> dict[str, dict[str, Path]]:
    """Name -> kind -> file; ``summary.json`` of all names is left out."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name, _, kind = path.name.partition(".")
        if path.name != "summary.json":
            found.setdefault(name, {})[kind] = path
    return found


def _model_cases(folder: Path) -> Iterator[ParityCase]:
    settings = _read(folder / "summary.json")
    if shape := settings.get("published_whole_human"):
        yield from _guarded("model/published_whole_human", _published_shape, shape)
    groups = _groups(folder)
    for name, files in groups.items():
        if "io.safetensors" not in files:
            yield _failed(f"model/{name}", "a set of files", f"no io.safetensors among {sorted(files)}")
            continue
        try:
            io = load_file(files["io.safetensors"])
        except _UNREADABLE as error:
            yield _failed(f"model/{name}/io.safetensors", "could not be read", str(error))
            continue
        kind: type[_Case] = _Network
        if any(key.startswith("collator.") for key in io):
            kind = _Generative
        elif any(".sd." in key for key in io):
            continue  # single modules: parity_parts.py
        yield from kind(name, files, io, settings).cases()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _published_shape(recorded: Mapping[str, Any]) -> ParityCase:
    """Names and shapes of the published model, with the classifier of one class that the constructor adds."""
    with torch.device("meta"):
        model = GenerativeTransformerModel(GenerativeTransformerConfig(generative=False, n_classes=1))
    found = {name: list(value.shape) for name, value in model.state_dict().items()}
    recorded_of = {name: recorded["keys"].get(re.sub(r"\.layers\.\d+\.", ".layers.0.", name)) for name in found}
    wrong = sorted(name for name in recorded["keys"] if name not in found)
    wrong += [name for name, shape in found.items() if recorded["keys"].get(name, recorded_of[name]) != shape]
    count = sum(value.numel() for value in model.parameters())
    if count != recorded["n_params_incl_cls_decoder"]:
        wrong.append(f"{count:,} parameters")
    return ParityCase(
        "model/published_whole_human", f"names of {len(found)} tensors", not wrong, len(wrong), 0, ", ".join(wrong[:3])
    )


# --- one network ------------------------------------------------------------------------------------


class _Case:
    """One official model with what was recorded of it."""

    def __init__(
        self, name: str, files: dict[str, Path], io: dict[str, Tensor], all_settings: Mapping[str, Any]
    ) -> None:
        self.name, self.files, self.io, self.all_settings = name, files, io, all_settings
        self.settings: dict[str, Any] = all_settings.get(name, {})

    def cases(self) -> Iterator[ParityCase]:
        for kind in sorted(self.files):
            if match := re.fullmatch(r"state_dict(_\w+)?\.safetensors", kind):
                yield from _guarded(self.path(kind), self._weights, kind, match[1])
            elif kind == "grads.safetensors":
                yield from _guarded(self.path(kind), self._gradients, kind)
            elif kind not in ("io.safetensors", "summary.json"):
                yield _failed(self.path(kind), "a file", "no rule reads this kind of file")
        for key, reference in sorted(self.io.items()):
            left_out = any(re.fullmatch(pattern, key) for pattern in OUT_OF_SCOPE)
            if not (_INPUTS.fullmatch(key) or left_out or _not_recorded(key, reference)):
                yield from _guarded(self.path(key), self._tensor, key, reference)
        for part, recorded in self.recorded_losses().items():
            for term, value in recorded.items():
                yield from _guarded(self.path(f"{part}{term}"), self._loss, part, term, value)

    def path(self, part: str) -> str:
        return f"model/{self.name}/{part}"

    # --- weights ---

    @cached_property
    def state(self) -> dict[str, Tensor]:
        return official.our_names(load_file(self.files["state_dict.safetensors"]))

    @cached_property
    def model(self) -> GenerativeTransformerModel:
        model = GenerativeTransformerModel(self.config)
        model.load_state_dict(self.state)
        return model.eval()

    def fresh(self) -> GenerativeTransformerModel:
        return copy.deepcopy(self.model)

    @property
    def config(self) -> GenerativeTransformerConfig:
        raise AssertionError("each kind of case has its own")

    def shape(self, **more: Any) -> dict[str, Any]:
        """What tensors alone tell of a network."""
        state = self.state
        layers = {int(m[1]) for name in state if (m := re.match(r"transformer_encoder\.layers\.(\d+)\.", name))}
        return {
            "vocab_size": state["encoder.embedding.weight"].shape[0],
            "hidden_size": state["encoder.embedding.weight"].shape[1],
            "num_hidden_layers": len(layers),
            "intermediate_size": len(state["transformer_encoder.layers.0.linear1.bias"]),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "n_classes": len(state.get("cls_decoder.out_layer.bias", ())),
            "classifier_layers": sum(bool(re.match(r"cls_decoder\._decoder\.\d+\.weight", n)) for n in state) // 2 + 1,
            "generative": "flag_encoder.weight" in state,
            "match_official": True,
            **more,
        }

    def _weights(self, kind: str, layout: str | None) -> ParityCase:
        """Every tensor has a place in our network and the other way round; another layout holds the same ones."""
        state = official.our_names(load_file(self.files[kind]))
        wanted = {name: value.shape for name, value in self.model.state_dict().items()}
        wrong = [name for name in sorted(wanted | state) if name not in state or state[name].shape != wanted.get(name)]
        if layout:
            wrong += [name for name in state if not torch.equal(state[name], self.state[name])]
        text = f"no place for {', '.join(wrong[:3])}" if wrong else ""
        return ParityCase(self.path(kind), f"names of {len(state)} tensors", not wrong, len(wrong), 0, text)

    def _gradients(self, kind: str) -> ParityCase:
        reference = official.our_names(load_file(self.files[kind]))
        model = self.fresh().train()
        self.total(self.run(model)).backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        if found.keys() != reference.keys():
            return _failed(self.path(kind), "names of gradients", str(sorted(found.keys() ^ reference.keys())))
        return _compared_gradients(self.path(kind), found, reference)

    # --- what each kind of case fills in ---

    def run(self, model: GenerativeTransformerModel) -> GenerativeTransformerOutput:
        raise AssertionError("each kind of case has its own")

    def recorded_losses(self) -> dict[str, dict[str, float]]:
        """Part of a name -> term -> value."""
        return {}

    def _tensor(self, key: str, reference: Tensor) -> ParityCase:
        raise AssertionError("each kind of case has its own")

    def terms(self) -> list[str]:
        return [term for recorded in self.recorded_losses().values() for term in recorded if term in _FACTORS]

    def total(self, output: GenerativeTransformerOutput) -> Tensor:
        """The loss whose gradient was recorded."""
        losses = output.losses or {}
        return torch.stack([losses[term.removesuffix("_x10")] * _FACTORS[term] for term in set(self.terms())]).sum()

    @cached_property
    def passes(self) -> dict[str, GenerativeTransformerOutput]:
        """The recorded passes: evaluation with and without torch's fast path, and training."""
        with torch.no_grad():
            evaluated = self.run(self.fresh())
        return {
            "eval": evaluated,
            "eval_nofastpath": _detached(self.run(self.fresh())),
            "train": _detached(self.run(self.trained)),
        }

    @cached_property
    def trained(self) -> GenerativeTransformerModel:
        """The model whose running statistics have seen one training pass, once `passes` ran."""
        return self.fresh().train()

    def _loss(self, part: str, term: str, value: float) -> ParityCase:
        output = self.passes[part.partition(".")[0] if part.startswith(("eval", "train")) else "train"]
        losses = output.losses or {}
        if term == "total":
            found = self.total(output)
        elif term == "mre":
            found = self.relative_error(output)
        elif term in _FACTORS:
            found = losses[term.removesuffix("_x10")] * _FACTORS[term]
        else:
            return _failed(self.path(f"{part}{term}"), "a loss", "no rule computes a term of this name")
        return _compared(self.path(f"{part}{term}"), found.reshape(()), torch.tensor(value))

    def relative_error(self, output: GenerativeTransformerOutput) -> Tensor:
        raise AssertionError("each kind of case has its own")


class _Network(_Case):
    """A model of fine-tuning: hidden values, or a perturbation."""

    @cached_property
    def hidden(self) -> Tensor:
        """Positions that are predicted: hidden ones, and all in a perturbation."""
        if "pert_flags" in self.io:
            return torch.ones_like(self.io["values"], dtype=torch.bool)
        return self.io["values"] != self.io["target"]

    @cached_property
    def config(self) -> GenerativeTransformerConfig:
        given = {name: _literal(value) for name, value in self.settings.get("ctor", {}).items()}
        passed = self.settings.get("forward", {})
        style, norm = given.get("input_emb_style", "continuous"), given.get("domain_spec_batchnorm", False)
        batches = given.get("num_batch_labels") or 0
        activation = given.get("decoder_activation")
        nothing = torch.zeros_like(self.io["src"])
        padding = self.io["src"][self.io.get("src_key_padding_mask", nothing).bool()]
        perturbed = "pert_encoder.weight" in self.state
        hidden = self.io["values"][self.hidden]
        return GenerativeTransformerConfig(**self.shape(
            num_attention_heads=given["nhead"],
            pad_token_id=int(padding[0]) if len(padding) else None,
            mask_value=float(hidden[0]) if len(hidden) and not perturbed else -1.0,
            value_encoder=style,
            n_value_bins=given["n_input_bins"] if style == "category" else None,
            value_pad_id=given["pad_value"] if style == "category" else None,
            cell_embedding=given.get("cell_emb_style", "cls"),
            mvc=given.get("mvc_decoder_style", "inner product") if given.get("do_mvc") else None,
            explicit_zero_prob=bool(given.get("explicit_zero_prob")),
            decoder="affine" if perturbed else "expression",
            decoder_activation={"LeakyReLU": "leaky_relu"}.get(activation, activation.lower()) if activation else None,
            decoder_adaptive_bias=bool(given.get("decoder_adaptive_bias")),
            perturbations=perturbed,
            perturbation_pad_id=given.get("pert_pad_id", 2),
            num_batches=batches,
            batch_labels=bool(given.get("use_batch_labels")),
            batch_norm={True: "per_batch", "dsbn": "per_batch", "batchnorm": "shared"}.get(norm),
            dab_weight=1.0 if given.get("do_dab") else 0.0,
            ecs_threshold=given.get("ecs_threshold", 0.3) if passed.get("ECS") else 0.0,
            cce_weight=1.0 if passed.get("CCE") else 0.0,
        ))  # fmt: skip

    def batch(self) -> dict[str, Tensor]:
        io = self.io
        batch = {"input_ids": io["src"], "values": io["values"]}
        if "src_key_padding_mask" in io:
            batch["attention_mask"] = 1 - io["src_key_padding_mask"].long()
        named = {"batch_labels": "batch_ids", "pert_flags": "pert_flags"}
        return batch | {theirs: io[name] for name, theirs in named.items() if name in io}

    def run(self, model: GenerativeTransformerModel) -> GenerativeTransformerOutput:
        return model(
            **self.batch(), target_values=self.io["target"], target_mask=self.hidden,
            dab_labels=self.io.get("dab_labels"), cell_labels=self.io.get("cls_labels"), return_predictions=True,
        )  # fmt: skip

    def recorded_losses(self) -> dict[str, dict[str, float]]:
        if "losses" in self.settings:
            return {"": self.settings["losses"]}
        return {"loss.": {"total": self.settings["loss"]}} if "loss" in self.settings else {}

    def terms(self) -> list[str]:
        """Named ones; else those whose parameters have a gradient."""
        if (named := super().terms()) or "grads.safetensors" not in self.files:
            return named or ["mse"]
        trained = " ".join(load_file(self.files["grads.safetensors"]))
        parts = {"nzlp": "zero_logit.", "mvc": "mvc_decoder.", "mvc_nzlp": "W_zero_logit.", "cls": "cls_decoder."}
        return ["mse", *(term for term, part in parts.items() if re.search(rf"\b{re.escape(part)}", trained))]

    def relative_error(self, output: GenerativeTransformerOutput) -> Tensor:
        assert output.predictions is not None
        return ours.masked_relative_error(output.predictions, self.io["target"], self.hidden)

    def _tensor(self, key: str, reference: Tensor) -> ParityCase:
        part, _, name = key.partition(".")
        if part in ("eval", "eval_nofastpath", "train"):
            output = self.passes[part]
            if name.startswith("loss_"):
                found = (output.losses or {})[name.removeprefix("loss_")]
            elif name in _OUTPUTS:
                found = getattr(output, _OUTPUTS[name])
            else:
                return _failed(self.path(key), f"tensor {tuple(reference.shape)}", "no rule computes this output")
            return _compared(self.path(key), found.reshape(reference.shape), reference)
        if key == "bn_after":
            assert self.passes
            running = [b.flatten() for name, b in self.trained.named_buffers() if "running_" in name]
            return _compared(self.path(key), torch.cat(running), reference)
        if part == "encode_batch" and (at := re.fullmatch(r"time(\d+)", name)):
            with torch.no_grad():
                states = self.fresh()(**self.batch()).last_hidden_state
            return _compared(self.path(key), states[:, int(at[1])], reference)
        if part == "generate" and name in ("out", "out_with_values"):
            batch = self.batch() if name == "out_with_values" else self.batch() | {"values": None}
            return _compared(self.path(key), self.fresh().generate(self.io["generate.cell_emb"], **batch), reference)
        if part == "pred_perturb":
            return self._perturbed(key, name, reference)
        return _failed(self.path(key), f"tensor {tuple(reference.shape)}", "no rule computes a tensor of this name")

    def _perturbed(self, key: str, which: str, reference: Tensor) -> ParityCase:
        """Values after a perturbation.

        Whether the seed of the zeros was set for each call or once is not recorded; either is accepted.
        """
        io, model, seed = self.io, self.fresh(), self.settings.get("pred_perturb_torch_seed", 0)
        calls = sorted(name.partition(".")[2] for name in io if name.startswith("pred_perturb."))
        found: list[Tensor] = []
        for start in (0, calls.index(which)):
            torch.manual_seed(seed)
            for call in calls[start : calls.index(which) + 1]:
                predicted = model.predict_perturbed(
                    io["src"][0], io["values"], io["pert_flags"], expressed_only=call != "all", sample_zeros=True
                )
            found.append(predicted)
        return min((_compared(self.path(key), one, reference) for one in found), key=lambda case: case.difference)


class _Generative(_Case):
    """A generative pretraining: a split batch, two passes, gradients."""

    @cached_property
    def batch(self) -> dict[str, Tensor]:
        """The recorded split whose lengths are those of the predictions."""
        wanted = [self.io[f"eval.{part}_preds"].shape for part in ("pcpt", "gen")]
        for key in sorted(self.io):
            prefix = key.removesuffix("pcpt_gene")
            if key != prefix and f"{prefix}gen_gene" in self.io:
                genes, generated = self.io[key], self.io[f"{prefix}gen_gene"]
                if [genes.shape, generated.shape] == wanted:
                    return {
                        "input_ids": genes,
                        "attention_mask": (genes != self.pad_token_id).long(),
                        "values": self.io[f"{prefix}pcpt_expr"],
                        "generated_ids": generated,
                        "generated_mask": (generated != self.pad_token_id).long(),
                        "target_values": self.io[f"{prefix}gen_expr_target"],
                        "target_mask": generated != self.pad_token_id,
                    }
        raise KeyError(f"no collator output of the shapes {wanted}")

    @cached_property
    def pad_token_id(self) -> int:
        """The token that fills the last of the short rows: the only one that stands twice in a row."""
        for key in sorted(self.io):
            if key.endswith(("pcpt_gene", "gen_gene")):
                for row in self.io[key]:
                    tokens, counts = row.unique(return_counts=True)
                    if (counts > 1).any():
                        return int(tokens[counts > 1][0])
        raise KeyError("no padding in any split")

    @cached_property
    def config(self) -> GenerativeTransformerConfig:
        """Heads are not recorded: those of the other cases, else the number that gives the recorded states."""
        others = {
            v["ctor"]["nhead"]
            for v in self.all_settings.values()
            if isinstance(v, dict) and "nhead" in v.get("ctor", {})
        }
        width = self.state["encoder.embedding.weight"].shape[1]
        candidates = sorted(others) if len(others) == 1 else [n for n in range(1, width // 8 + 1) if width % n == 0]
        shapes = [
            GenerativeTransformerConfig(**self.shape(
                num_attention_heads=heads, pad_token_id=self.pad_token_id,
                mvc="inner product" if "mvc_decoder.W.weight" in self.state else None,
            ))
            for heads in candidates
        ]  # fmt: skip
        return min(shapes, key=self._misfit) if len(shapes) > 1 else shapes[0]

    def _misfit(self, config: GenerativeTransformerConfig) -> float:
        model = GenerativeTransformerModel(config).eval()
        model.load_state_dict(self.state)
        with torch.no_grad():
            found = self.run(model).predictions
        assert found is not None
        return float((found[:, 0] - self.io["eval.pcpt_preds"][:, 0]).abs().max())

    def run(self, model: GenerativeTransformerModel) -> GenerativeTransformerOutput:
        return model(**self.batch, second_pass=True, return_predictions=True)

    def recorded_losses(self) -> dict[str, dict[str, float]]:
        found = {key: value for key, value in _read(self.files.get("summary.json", Path())).items() if "losses" in key}
        return {f"{key}.": value for key, value in found.items()}

    def relative_error(self, output: GenerativeTransformerOutput) -> Tensor:
        assert output.predictions is not None
        generated = output.predictions[:, self.batch["input_ids"].shape[1] :]
        return ours.masked_relative_error(generated, self.batch["target_values"], self.batch["target_mask"])

    def _tensor(self, key: str, reference: Tensor) -> ParityCase:
        part, _, name = key.partition(".")
        if part == "collator":
            return self._split(key, reference)
        perceived, generated = self.batch["attention_mask"].bool(), self.batch["generated_mask"].bool()
        n_perceived = perceived.shape[1]
        if part == "pcpt_only":
            alone = {name: self.batch[name] for name in ("input_ids", "attention_mask", "values")}
            output = _detached(self.fresh()(**alone))
        else:
            output = self.passes[part]
        if name in ("pcpt_hidden", "gen_hidden", "pcpt_preds", "gen_preds"):
            everything = output.last_hidden_state if name.endswith("hidden") else output.predictions
            assert everything is not None
            inside = slice(n_perceived) if name.startswith("pcpt") else slice(n_perceived, None)
            real = perceived if name.startswith("pcpt") else generated
            return _compared(self.path(key), everything[:, inside], reference, real=real)
        if name not in _OUTPUTS:
            return _failed(self.path(key), f"tensor {tuple(reference.shape)}", "no rule computes this output")
        marked = {"mvc_output": torch.cat([perceived, generated], 1), "second_pass_gen_preds": generated}.get(name)
        return _compared(self.path(key), getattr(output, _OUTPUTS[name]), reference, real=marked)

    def _split(self, key: str, reference: Tensor) -> ParityCase:
        """How many tokens of each cell are perceived and generated, and which tokens may be.

        The official draws are from generators whose seeds are not recorded; numbers and tokens do not depend on them.
        """
        match = re.fullmatch(r"collator\.max(\d+)\.p([\d.]+|list)\.(pcpt|gen)_(\w+)", key)
        if match is None:
            return _failed(self.path(key), f"tensor {tuple(reference.shape)}", "no rule reads a split of this name")
        lengths = self.io["examples.lengths"].tolist()
        cells = self.io["examples.genes"].split(lengths)
        longest = min(int(match[1]), max(lengths))
        ids = torch.full((len(cells), longest), self.pad_token_id)
        for row, genes in enumerate(cells):
            ids[row, : min(len(genes), longest)] = genes[:longest]
        batch = {"input_ids": ids, "attention_mask": (ids != self.pad_token_id).long(), "values": torch.ones(ids.shape)}
        cls = int(cells[0][0])
        fits = []
        for share in [float(match[2])] if match[2] != "list" else [0.25, 0.5, 0.75]:
            objective = GenerativeValuePrediction((share,), (cls, self.pad_token_id), self.pad_token_id, -2.0)
            split = objective.prepare(batch, torch.Generator().manual_seed(0))
            mine = split["attention_mask"] if match[3] == "pcpt" else split["generated_mask"]
            theirs = self.io[key.replace(match[4], "gene")]
            real = theirs != self.pad_token_id
            strangers = sum(
                not set(row[keep].tolist()) <= set(genes.tolist())
                for row, keep, genes in zip(theirs, real, cells, strict=True)
            )
            fits.append(int((mine.sum(1) != real.sum(1)).sum()) + strangers + int(theirs.shape != mine.shape))
            if match[4] == "gene" and match[3] == "pcpt":
                fits[-1] += int((theirs[:, 0] != split["input_ids"][:, 0]).sum())
            if match[4] != "gene":
                fits[-1] += int(((reference == -2.0) & real)[:, 1:].sum())
        wrong = min(fits)
        return ParityCase(
            self.path(key), f"split of {len(cells)} cells", wrong == 0, wrong, 0, "numbers and sets of tokens"
        )


# --- comparing --------------------------------------------------------------------------------------


def _guarded(path: str, compare: Callable[..., ParityCase], *arguments: object) -> Iterator[ParityCase]:
    try:
        yield compare(*arguments)
    except _UNREADABLE as error:
        yield _failed(path, "could not be compared", f"{type(error).__name__}: {error}")


def _literal(value: Any) -> Any:
    """A setting of the constructor as it was written down: ``"True"``, ``"-2"``, ``"concat query"``."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _not_recorded(key: str, tensor: Tensor) -> bool:
    """True for the single 0 that stands where there was nothing to record."""
    named = key.endswith((".transformer_output", "bn_after"))
    return named and tensor.shape == (1,) and float(tensor) == 0.0


def _detached(output: GenerativeTransformerOutput) -> GenerativeTransformerOutput:
    for name, value in list(output.items()):
        if isinstance(value, Tensor):
            setattr(output, name, value.detach())
    return output


def _failed(name: str, compared: str, why: str) -> ParityCase:
    return ParityCase(name, compared, passed=False, difference=1.0, tolerance=0.0, detail=why)


def _compared_gradients(name: str, found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> ParityCase:
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in reference.values())
    relative = {
        key: float((found[key] - gradient).abs().max()) / (float(gradient.abs().max()) + floor)
        for key, gradient in reference.items()
    }
    worst = max(relative, key=lambda key: relative[key])
    return _judged(name, f"{len(relative)} gradients", relative[worst], GRADIENT_TOLERANCE, f"largest at {worst}")


def _judged(name: str, compared: str, difference: float, tolerance: float, detail: str = "") -> ParityCase:
    if difference != difference:
        return _failed(name, compared, f"{detail} not a number".strip())
    return ParityCase(name, compared, difference <= tolerance, difference, tolerance, detail)


def _compared(name: str, found: Tensor, reference: Tensor, *, real: Tensor | None = None) -> ParityCase:
    """Compare two tensors at real positions (all of them where ``real`` is None)."""
    compared = f"tensor {tuple(reference.shape)}"
    if found.shape != reference.shape:
        return _failed(name, compared, f"ours has shape {tuple(found.shape)}")
    if real is not None:
        found, reference = found[real], reference[real]
    scale = float(reference.abs().max()) or 1.0
    return _judged(name, compared, float((found - reference).detach().abs().max()) / scale, TOLERANCE)
