"""Convert official scFoundation weights into a folder that loads with transformers alone.

Usage::

    python recipes/scfoundation/convert.py --variant cell --source models.ckpt --out weights/cell --unverified

The file ``models.ckpt`` holds three checkpoints of one shape: ``cell``, ``rde`` and ``gene``. Its authors hand it out
under a license of its own (printed, and written into the folder): **non-commercial research, no redistribution**. So
there is nothing to fetch here, and what this makes must stay with whoever made it. No checksum was ever published;
``--unverified`` says that this is known, and the folder records the sum of the file.

Lives here: reading the file, once, with ``weights_only=True``; what is checked before it is believed. Lives elsewhere:
the network (``scmf/models``), the gene list (``scmf.data.genes.vocabulary``), publishing, which refuses such a folder
(``scmf.hub``).
"""

from __future__ import annotations

import argparse
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
from scmf.core.files import sha256_file, write_json
from scmf.core.owned import new_folder
from scmf.models.configuration_masked_autoencoder import MaskedAutoencoderConfig
from scmf.models.masked_autoencoder import MaskedAutoencoderModel

REPOSITORY = "github.com/biomap-research/scFoundation"
REVISION = "d09626a5c1bc30b9c6227378677b61e0b987fe8b"
LICENCE = (
    "scFoundation Model License (file MODEL_LICENSE of the repository): non-commercial research use only, not "
    "transferable, not sublicensable, revocable; no redistribution and no derivative works for commercial, military or "
    "illegal use"
)
ALLOWED = "research of your own that is not commercial, with a copy from the authors; code and recipe are Apache-2.0"
RELEASED = MaskedAutoencoderConfig()
"""Shape of the published checkpoints: 119,252,285 parameters."""

_SHAPE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "encoder_type",
    "decoder_size", "num_decoder_layers", "num_decoder_heads", "decoder_type", "norm_first", "bin_num", "bin_alpha",
    "pad_value", "mask_value",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One of the checkpoints in the file.

    Parameters
    ----------
    key
        Its name in the file.
    target_depth
        T of the tokenizer that is saved along: what the official examples use it with.
    sha256
        Published sums of the file; none was published.
    """

    key: str
    target_depth: str
    sha256: tuple[str, ...] = ()


VARIANTS = {"cell": Variant("cell", "t4"), "rde": Variant("rde", "a5"), "gene": Variant("gene", "f1")}
"""The published checkpoints."""


def read_checkpoint(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of one checkpoint in the file, names without the prefix ``model.``.

    Raises
    ------
    ModelError
        If the file cannot be read or has another layout.
    """
    if not path.is_file():
        raise ModelError(
            "no such file", wanted="models.ckpt", where=path, fix=f"get it from its authors ({REPOSITORY}, model/)"
        )
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except (UnpicklingError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ModelError(
            f"unreadable weights: {error}", wanted="a whole models.ckpt", where=path, fix="download the file again"
        ) from error
    if not isinstance(file, Mapping) or not all(isinstance(part, Mapping) for part in file.values()):
        raise ModelError(
            f"a {type(file).__name__} of other things",
            wanted="a mapping of checkpoints, cell, rde and gene",
            where=path,
            fix="give the file models.ckpt as its authors hand it out",
        )
    if key not in file or not {"config", "state_dict"} <= set(file[key]):
        raise ModelError(
            f"no checkpoint {key!r} with config and state_dict, only {', '.join(map(repr, file))}",
            wanted=f"the checkpoint {key!r}",
            where=path,
            fix="choose another --variant, or another file",
        )
    state = {str(name).removeprefix("model."): tensor for name, tensor in file[key]["state_dict"].items()}
    return dict(file[key]["config"]), state


def build_model(settings: Mapping[str, Any], state: dict[str, Tensor], *, where: Path) -> MaskedAutoencoderModel:
    """Put the tensors into our network, all of them and nothing else.

    Parameters
    ----------
    settings, state
        From `read_checkpoint`.
    where
        The file, for errors.

    Raises
    ------
    ModelError
        If the configuration is not the published one, or a tensor is missing, unknown, of another shape or not finite.
    """
    try:
        config = MaskedAutoencoderConfig.from_official(settings)
    except (ValueError, TypeError) as error:
        raise ModelError(
            str(error).partition("\n")[0], wanted="the published configuration", where=where, fix="give another file"
        ) from error
    for name in _SHAPE:
        if getattr(config, name) != getattr(RELEASED, name):
            raise ModelError(
                f"{name}: {getattr(config, name)}",
                wanted=f"{name}: {getattr(RELEASED, name)}",
                where=where,
                fix="give the file models.ckpt as its authors hand it out",
            )
    with torch.device("meta"):
        model = MaskedAutoencoderModel(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != shapes:
        name = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))[0]
        raise ModelError(
            f"{name} with shape {found[name]}" if name in found else f"no tensor {name}",
            wanted=f"shape {shapes[name]}" if name in shapes else "no tensor of that name",
            where=where,
            fix="give the file models.ckpt as its authors hand it out",
        )
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{name} is not finite", wanted="numbers", where=where, fix="download the file again")
    model.load_state_dict(state, assign=True)
    return model.float().eval()


def convert(weights: Path, out: Path, *, name: str, unverified: bool = False, tokenizer: bool = True) -> Path:
    """Write the self-contained folder ``out``; it appears whole or not at all.

    Parameters
    ----------
    weights
        ``models.ckpt``.
    out
        The folder to make; it must not exist.
    name
        The variant, which is recorded.
    unverified
        Accept a file whose sum was not published; there is no other.
    tokenizer
        Save the tokenizer too.

    Returns
    -------
    Path
        The folder. Its ``provenance.json`` and ``config.json`` say that the weights must not be published.

    Raises
    ------
    ChecksumError
        If the file cannot be verified and that is not allowed.
    ModelError
        If the folder exists or the weights do not fit.
    DataError
        If the gene list cannot be had.
    """
    if out.exists():
        raise ModelError("a folder that exists already", wanted="a new folder", where=out, fix="give another --out")
    variant = VARIANTS[name]
    settings, state = read_checkpoint(weights, variant.key)
    sha256 = sha256_file(weights)
    verified = sha256 in variant.sha256
    if not verified and not unverified:
        raise ChecksumError(
            f"sha256 {sha256}",
            wanted=" or ".join(variant.sha256) or "a published sum, and none was ever published",
            where=weights,
            fix="pass --unverified if you got the file from its authors; the sum is recorded",
        )
    model = build_model(settings, state, where=weights)
    source = {
        "source_variant": name,
        "source_repository": REPOSITORY,
        "source_revision": REVISION if verified else None,
        "source_file": weights.name,
        "source_key": variant.key,
        "source_sha256": sha256,
        "source_verified": verified,
    }
    model.config.update({**source, "source_license": LICENCE, "source_may_publish": False})
    with new_folder(out, what="converting weights") as folder:
        model.save_pretrained(folder)
        sums = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
        terms = {"weights_license": LICENCE, "may_publish": False, "allowed": ALLOWED, "weights_sha256": sums}
        write_json(folder / "provenance.json", {**terms, **source})
        if tokenizer:
            save_tokenizer(folder, variant, n_tokens=model.config.vocab_size)
        manifest.seal(folder)
    return out


def save_tokenizer(folder: Path, variant: Variant, *, n_tokens: int) -> None:
    """Save the tokenizer of the variant beside the weights.

    Raises
    ------
    DataError
        If the gene list cannot be had or is not that of the weights.
    """
    from scmf.data.genes.vocabulary import load_vocabulary
    from scmf.tokenizers.continuous import ContinuousTokenizer

    tables = load_vocabulary("scfoundation")
    if len(tables.token_ids) != n_tokens:
        raise DataError(
            f"{len(tables.token_ids):,} tokens",
            wanted=f"{n_tokens:,}",
            where="scfoundation",
            fix="fetch the list again",
        )
    ContinuousTokenizer.from_tables(
        tables.token_ids,
        aliases=tables.aliases,
        max_length=n_tokens - 1,
        depth_tokens=True,
        target_depth=variant.target_depth,
        order="vocabulary",
    ).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is that of the error, 0 without one."""
    parser = argparse.ArgumentParser(description="Convert official scFoundation weights.")
    parser.add_argument("--variant", required=True, choices=sorted(VARIANTS), help="which checkpoint of the file")
    parser.add_argument("--source", required=True, type=Path, help="models.ckpt, as its authors hand it out")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument("--unverified", action="store_true", help="no checksum was published: accept the file")
    parser.add_argument("--no-tokenizer", action="store_true", help="do not save the tokenizer")
    options = parser.parse_args(arguments)
    print(f"license of these weights: {LICENCE}.", file=sys.stderr)
    try:
        out = convert(
            options.source,
            options.out,
            name=options.variant,
            unverified=options.unverified,
            tokenizer=not options.no_tokenizer,
        )
    except DataError as error:
        hint = "" if options.no_tokenizer or isinstance(error, ChecksumError) else "\nor: pass --no-tokenizer"
        print(f"{error}{hint}", file=sys.stderr)
        return error.exit_code
    except ScmfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
