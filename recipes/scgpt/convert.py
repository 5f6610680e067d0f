"""Convert official scGPT weights into a folder that loads with transformers alone.

Usage::

    python recipes/scgpt/convert.py --variant whole-human --source scGPT_human --out weights/scgpt --unverified
    python recipes/scgpt/convert.py --variant own --source save/my_run --out weights/mine --unverified

The source is a folder as its authors publish it: ``args.json``, ``vocab.json`` and ``best_model.pt``. The authors share
such folders on Google Drive and publish no checksum, so every file needs ``--unverified``; its sha256 is recorded.
Lives here: the table of published checkpoints, reading the folder, the three layouts of its keys. Lives elsewhere: the
network (``scmf/models``), the tokenizer (``scmf/tokenizers``), publishing (``scmf.hub``).

This is the one place that reads an upstream pickle (``best_model.pt``), once, with ``weights_only=True``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # only to catch it
from typing import Any

import torch
from torch import Tensor

from scmf.core import manifest
from scmf.core.errors import ChecksumError, DataError, ModelError, ScmfError
from scmf.core.files import sha256_file
from scmf.core.owned import new_folder
from scmf.models.configuration_generative_transformer import GenerativeTransformerConfig
from scmf.models.generative_transformer import GenerativeTransformerModel

REPOSITORY = "bowang-lab/scGPT"
REVISION = "cebd6fae655b9c585a4807daa3ac31bb764f06b4"
LICENCE = "none stated for the weights (code: MIT)"
"""The weights are shared on a drive without a license of their own, so they are not passed on by `scmf publish`."""
SPECIAL = ("<pad>", "<cls>", "<eoc>")
"""Tokens the official code appends to a vocabulary that lacks them, in this order."""

WEIGHTS, ARGUMENTS, VOCABULARY = "best_model.pt", "args.json", "vocab.json"

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Variant:
    """One published checkpoint.

    Parameters
    ----------
    trained_on
        Its cells, in the words of its authors; None for a checkpoint of one's own, whose shape is not known.
    vocab_size, num_layers, hidden_dim, num_heads, ffn_dim
        The published shape.
    sha256
        Published sha256 of ``best_model.pt``; empty where none is published.
    """

    trained_on: str | None
    vocab_size: int = 60697
    num_layers: int = 12
    hidden_dim: int = 512
    num_heads: int = 8
    ffn_dim: int = 512
    sha256: str = ""


VARIANTS = {
    "whole-human": Variant("33 million normal human cells"),
    "continual": Variant("whole-human, continued with cell type labels"),
    "brain": Variant("13.2 million brain cells"),
    "blood": Variant("10.3 million blood and bone marrow cells"),
    "heart": Variant("1.8 million heart cells"),
    "lung": Variant("2.1 million lung cells"),
    "kidney": Variant("814 thousand kidney cells"),
    "pan-cancer": Variant("5.7 million cells of various cancer types"),
    "blood-2023": Variant("10.3 million blood and bone marrow cells, older vocabulary", vocab_size=36574),
    "own": Variant(None),
}
"""The model zoo of the official README; ``blood-2023`` is the first release, that of the GRN tutorial."""


def find_folder(source: Path) -> Path:
    """The folder of the checkpoint, given as such or by its weight file, with its three files.

    Raises
    ------
    ModelError
        If a file is missing, or the weights are a Git-LFS pointer.
    """
    folder = source if source.is_dir() else source.parent
    for name in (WEIGHTS, ARGUMENTS, VOCABULARY):
        if not (folder / name).is_file():
            raise ModelError(
                f"no {name}",
                wanted=f"{WEIGHTS}, {ARGUMENTS} and {VOCABULARY}, as the authors share them",
                where=source,
                fix="give the whole folder of the checkpoint",
            )
    with (folder / WEIGHTS).open("rb") as handle:
        if handle.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(
                "a Git-LFS pointer of a few lines",
                wanted="the weights it points to",
                where=folder / WEIGHTS,
                fix="run `git lfs pull` in that clone",
            )
    return folder


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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except (UnpicklingError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(
            f"unreadable weights: {error}", wanted="a whole file", where=path, fix="download the file again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError("something else than tensors", wanted="a state dict", where=path, fix="check the file")
    return our_names(state)


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
    """Put the tensors into our network, all of them and nothing else.

    Raises
    ------
    ModelError
        If a tensor is missing, unknown or of another shape than the configuration says.
    """
    with torch.device("meta"):
        model = GenerativeTransformerModel(config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != wanted:
        name = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))[0]
        raise ModelError(
            f"{name} with shape {found[name]}" if name in found else f"no tensor {name}",
            wanted=f"shape {wanted[name]}" if name in wanted else "no tensor of that name",
            where=where,
            fix=f"check that {ARGUMENTS}, {VOCABULARY} and {WEIGHTS} belong together",
        )
    model.load_state_dict(state, assign=True)
    return model.float().eval()


def check_shape(config: GenerativeTransformerConfig, variant: Variant, *, where: Path) -> None:
    """Compare a checkpoint with the published shape; `ModelError` for another one. Those of one's own are free."""
    if variant.trained_on is None:
        return
    found = {
        "vocab_size": config.vocab_size,
        "num_layers": config.num_hidden_layers,
        "hidden_dim": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "ffn_dim": config.intermediate_size,
    }
    for name, value in found.items():
        if value != getattr(variant, name):
            raise ModelError(
                f"{name} {value}",
                wanted=f"{name} {getattr(variant, name)}, as published",
                where=where,
                fix="choose the --variant that these weights are, or `own`",
            )


def convert(
    source: Path, out: Path, *, name: str, variant: Variant, unverified: bool = False, tokenizer: bool = True
) -> Path:
    """Write the self-contained folder ``out``; it appears whole or not at all.

    Parameters
    ----------
    source
        Folder of the checkpoint, or its weight file.
    out
        The folder to make; it must not exist.
    name, variant
        The variant and its name, which is recorded.
    unverified
        Accept a file whose sha256 is not published.
    tokenizer
        Save the tokenizer too.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ChecksumError
        If the file is not a published one.
    ModelError
        If the folder exists or the weights do not fit the variant.
    """
    if out.exists():
        raise ModelError("a folder that exists already", wanted="a new folder", where=out, fix="give another --out")
    folder = find_folder(source)
    weights = folder / WEIGHTS
    sha256 = sha256_file(weights)
    verified = bool(variant.sha256) and sha256 == variant.sha256
    if not verified and not unverified:
        raise ChecksumError(
            f"sha256 {sha256}",
            wanted=variant.sha256 or "a published sha256, and the authors publish none",
            where=weights,
            fix="pass --unverified if you trust where the file comes from",
        )
    args, token_ids, state = read_json(folder / ARGUMENTS), read_vocabulary(folder / VOCABULARY), read_state(weights)
    config = configuration(args, token_ids, state)
    check_shape(config, variant, where=folder)
    model = build_model(state, config, where=weights)
    model.config.update(
        {
            "source_variant": name,
            "source_repository": REPOSITORY,
            "source_revision": None,  # weights are not in the repository
            "source_file": weights.name,
            "source_sha256": sha256,
            "source_verified": verified,
            "source_license": LICENCE,
        }
    )
    with new_folder(out, what="converting weights") as target:
        model.save_pretrained(target)
        if tokenizer:
            save_tokenizer(target, args, token_ids)
        manifest.seal(target)
    return out


def save_tokenizer(folder: Path, args: Mapping[str, Any], token_ids: Mapping[str, int]) -> None:
    """Save the tokenizer of a checkpoint beside the weights: its vocabulary, its bins, ``<cls>`` with the pad value."""
    from scmf.tokenizers.binned import BinnedTokenizer

    try:
        BinnedTokenizer.from_tables(
            token_ids,
            max_length=int(args.get("max_seq_len") or 1200),
            special_tokens=True,
            n_bins=int(args.get("n_bins", 51)) if args.get("input_style", "binned") == "binned" else 0,
            pad_value=float(args.get("pad_value", -2)),
            mask_value=float(args.get("mask_value", -1)),
        ).save_pretrained(folder)
    except ValueError as error:
        raise DataError(f"no tokenizer: {error}", wanted="its settings", where=ARGUMENTS) from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is that of the error, 0 without one."""
    parser = argparse.ArgumentParser(description="Convert official scGPT weights.")
    parser.add_argument("--variant", required=True, choices=sorted(VARIANTS), help="which published checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument("--source", required=True, type=Path, help="folder of the checkpoint")
    parser.add_argument("--unverified", action="store_true", help="accept a file whose sha256 is not published")
    parser.add_argument("--no-tokenizer", action="store_true", help="do not save the tokenizer")
    options = parser.parse_args(arguments)
    try:
        out = convert(
            options.source,
            options.out,
            name=options.variant,
            variant=VARIANTS[options.variant],
            unverified=options.unverified,
            tokenizer=not options.no_tokenizer,
        )
    except ScmfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
