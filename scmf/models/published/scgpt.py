"""Official scGPT weights: a folder with ``args.json``, ``vocab.json`` and ``best_model.pt``, in three layouts of keys.

Lives here: reading the folder, the names of its tensors, which heads it has. Lives elsewhere: which checkpoints there
are and where to get them (``recipes/scgpt/models.yaml``), the network, the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scmf.core import registry
from scmf.core.errors import DataError, ModelError
from scmf.models.configuration_generative_transformer import GenerativeTransformerConfig
from scmf.models.generative_transformer import GenerativeTransformerModel
from scmf.models.published.converter import Converter, fit, read_tensors, state_of

SPECIAL = ("<pad>", "<cls>", "<eoc>")
"""Tokens the official code appends to a vocabulary that lacks them, in this order."""

ARGUMENTS, VOCABULARY = "args.json", "vocab.json"

SIZES = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "hidden_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
}
"""Size in a model card -> key of the configuration."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `ModelError` for anything else."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"no JSON: {error}", wanted="a JSON object", where=path, fix="download it again") from error
    if not isinstance(table, dict):
        raise ModelError("JSON that is no object", wanted="a JSON object", where=path, fix="download it again")
    return table


def read_vocabulary(path: Path) -> dict[str, int]:
    """Gene or special token -> id, special tokens appended as the official code does; `ModelError` if ids repeat."""
    token_ids = {str(token): int(i) for token, i in read_json(path).items()}
    if len(set(token_ids.values())) < len(token_ids):
        raise ModelError("ids given twice", wanted="one id a token", where=path, fix="download it again")
    for token in SPECIAL:
        token_ids.setdefault(token, max(token_ids.values(), default=-1) + 1)
    return token_ids


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a weight file; `ModelError` if it cannot be read or holds something else than tensors."""
    return our_names(state_of(read_tensors(path), where=path))


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of the official network without flash attention, which are ours.

    The projection of query, key and value is called ``Wqkv`` in files written with flash attention, ``_impl.Wqkv`` in
    those of 2026, ``in_proj_weight`` without it; the rows stand in the same order. Parallel training puts ``module.``
    in front.
    """
    rules = (
        (r"^module\.", ""),
        (r"\.self_attn\._impl\.", ".self_attn."),
        (r"\.self_attn\.Wqkv\.(weight|bias)$", r".self_attn.in_proj_\1"),
    )
    renamed = {}
    for name, value in state.items():
        for pattern, by in rules:
            name = re.sub(pattern, by, name)
        renamed[name] = value
    return renamed


def configuration(
    args: Mapping[str, Any], token_ids: Mapping[str, int], state: Mapping[str, Tensor]
) -> GenerativeTransformerConfig:
    """The configuration of a checkpoint: sizes from ``args.json``, heads from the tensors that are there.

    Raises
    ------
    ModelError
        If ``args.json`` lacks a size, or asks for something unknown.
    """
    sizes = {
        "embsize": "hidden_size",
        "nlayers": "num_hidden_layers",
        "nheads": "num_attention_heads",
        "d_hid": "intermediate_size",
    }
    if lacking := [name for name in sizes if name not in args]:
        raise ModelError(
            f"no {lacking[0]}", wanted=", ".join(sizes), where=ARGUMENTS, fix="give the args.json beside it"
        )
    encoding, n_bins = args.get("input_emb_style", "continuous"), int(args.get("n_bins") or 51)
    dropout = args.get("dropout", 0.2)
    batches = {int(m[1]) for name in state if (m := re.match(r"dsbn\.bns\.(\d+)\.", name))}
    labels = [state[name] for name in ("batch_encoder.embedding.weight", _ADVERSARY) if name in state]
    mvc = None
    if "mvc_decoder.gene2query.weight" in state:
        wide = len(state["mvc_decoder.gene2query.weight"]) == args["embsize"]
        mvc = "inner product" if "mvc_decoder.W.weight" in state else "sum query" if wide else "concat query"
    try:
        return GenerativeTransformerConfig(
            **{ours: int(args[theirs]) for theirs, ours in sizes.items()},
            vocab_size=len(token_ids),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=int(args.get("max_seq_len") or 1200),
            pad_token_id=token_ids[args.get("pad_token", "<pad>")],
            cls_token_id=token_ids["<cls>"],
            mask_value=args.get("mask_value", -1),
            value_encoder=encoding,
            n_value_bins=n_bins + 2 if encoding == "category" else None,
            value_pad_id=n_bins if encoding == "category" else None,
            generative="flag_encoder.weight" in state,
            generated_out_proj=False,  # these weights were trained without it
            mvc=mvc,
            explicit_zero_prob=any(".zero_logit." in name for name in state),
            decoder="affine" if "decoder.coeff_decoder.fc.0.weight" in state else "expression",
            perturbations="pert_encoder.weight" in state,
            num_batches=max([len(batches), *(len(table) for table in labels)]),
            batch_labels="batch_encoder.embedding.weight" in state,
            batch_norm="per_batch" if batches else "shared" if "bn.weight" in state else None,
            dab_weight=1.0 if _ADVERSARY in state else 0.0,
            n_classes=len(state.get("cls_decoder.out_layer.weight", ())),
            classifier_layers=int(args.get("n_layers_cls") or 3),
        )
    except ValueError as error:
        raise ModelError(str(error), wanted="settings this network knows", where=ARGUMENTS) from error


_ADVERSARY = "grad_reverse_discriminator.out_layer.weight"


def build_model(
    state: Mapping[str, Tensor], config: GenerativeTransformerConfig, *, where: Path
) -> GenerativeTransformerModel:
    """Put the tensors into our network, all of them and nothing else; a misfit is a `ModelError`."""
    with torch.device("meta"):
        network = GenerativeTransformerModel(config)
    fix = f"check that {ARGUMENTS}, {VOCABULARY} and the weights belong together"
    model: GenerativeTransformerModel = fit(network, state, where=where, fix=fix)
    return model


def check_shape(config: GenerativeTransformerConfig, shape: Mapping[str, Any], *, where: Path) -> None:
    """Compare a checkpoint with a published shape; `ModelError` for another one. An empty shape takes any."""
    for name, wanted in shape.items():
        if (found := getattr(config, SIZES[name])) != wanted:
            raise ModelError(
                f"{name} {found}", wanted=f"{name} {wanted}, as published", where=where,
                fix="choose the variant that these weights are (`scmf models ls`), or scgpt@own",
            )  # fmt: skip


class ScgptConverter(Converter):
    """A folder as the authors share it."""

    def find(self, source: Path) -> Path:
        """The weight file in a folder that is whole."""
        folder = source if source.is_dir() else source.parent
        weights = self.model.facts.files[0].name
        for name in (weights, ARGUMENTS, VOCABULARY):
            if not (folder / name).is_file():
                raise ModelError(
                    f"no {name}", wanted=f"{weights}, {ARGUMENTS} and {VOCABULARY}, as the authors share them",
                    where=source, fix="give the whole folder of the checkpoint",
                )  # fmt: skip
        self._args, self._token_ids = read_json(folder / ARGUMENTS), read_vocabulary(folder / VOCABULARY)
        return super().find(folder)

    def network(self) -> GenerativeTransformerModel:
        """See `Converter`."""
        state = read_state(self.weights)
        config = configuration(self._args, self._token_ids, state)
        check_shape(config, self.model.facts.shape, where=self.weights.parent)
        return build_model(state, config, where=self.weights)

    def tokenizer(self) -> Any:
        """Its vocabulary, its bins, ``<cls>`` with the pad value."""
        args = self._args
        try:
            return registry.resolve("tokenizers", "binned").from_tables(
                self._token_ids,
                max_length=int(args.get("max_seq_len") or 1200),
                special_tokens=True,
                n_bins=int(args.get("n_bins", 51)) if args.get("input_style", "binned") == "binned" else 0,
                pad_value=float(args.get("pad_value", -2)),
                mask_value=float(args.get("mask_value", -1)),
            )
        except ValueError as error:
            raise DataError(f"no tokenizer: {error}", wanted="its settings", where=ARGUMENTS) from error
