"""Convert official Geneformer weights into a folder that loads with transformers alone.

Usage::

    python recipes/geneformer/convert.py --variant v1-10m --out weights/geneformer-v1-10m
    python recipes/geneformer/convert.py --variant v2-104m --source Downloads/Geneformer-V2-104M --out weights/v2

Without ``--source`` the file is fetched from the Hub at the revision below. Lives here: the table of published
files, reading them, their old key names. Lives elsewhere: the network (``scmf/models``), the vocabulary and its
tables (``scmf.data.genes.vocabulary``), publishing (``scmf.hub``).

A file is used only if its sha256 is the published one, unless ``--unverified`` is given; the folder records
which of the two it was. This is the one place that reads an upstream pickle (``pytorch_model.bin``), once, with
``weights_only=True``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # only to catch it

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scmf.core import manifest
from scmf.core.errors import ChecksumError, DataError, ModelError, ScmfError
from scmf.core.files import sha256_file
from scmf.core.owned import new_folder
from scmf.models.configuration_transformer_encoder import TransformerEncoderConfig
from scmf.models.transformer_encoder import TransformerEncoderForMaskedLM

REPOSITORY = "ctheodoris/Geneformer"
REVISION = "05fcbeb8a27d49e0a7a4349152202ee2c1cbfd28"
LICENCE = "Apache-2.0"

_LFS_POINTER = b"version https://git-lfs"
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclass(frozen=True)
class Variant:
    """One published checkpoint.

    Parameters
    ----------
    folder
        Folder in the Hub repository; None if the checkpoint was withdrawn and only local copies are left.
    sha256
        Published sha256 of each weight file, by file name.
    vocabulary
        Name of the vocabulary for ``scmf.data.genes.vocabulary.load_vocabulary``.
    vocab_size, num_layers, hidden_dim, num_heads, ffn_dim, max_positions, dropout
        The published shape.
    special_tokens
        Whether cells begin with ``<cls>`` (2) and end with ``<eos>`` (3).
    """

    folder: str | None
    sha256: dict[str, str]
    vocabulary: str
    vocab_size: int
    num_layers: int
    hidden_dim: int
    num_heads: int
    ffn_dim: int
    max_positions: int
    dropout: float
    special_tokens: bool

    def config(self) -> TransformerEncoderConfig:
        """The configuration of this checkpoint."""
        return TransformerEncoderConfig(
            vocab_size=self.vocab_size,
            max_position_embeddings=self.max_positions,
            hidden_size=self.hidden_dim,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            intermediate_size=self.ffn_dim,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            cls_token_id=2 if self.special_tokens else None,
            eos_token_id=3 if self.special_tokens else None,
        )


def _v1(folder: str | None, sha256: dict[str, str], layers: int, width: int, heads: int, ffn: int) -> Variant:
    return Variant(folder, sha256, "geneformer-v1", 25426, layers, width, heads, ffn, 2048, 0.02, False)


def _v2(
    folder: str | None, sha256: str, layers: int, width: int, heads: int, ffn: int, dropout: float = 0.1
) -> Variant:
    files = {"model.safetensors": sha256}
    return Variant(folder, files, "geneformer-v2", 20275, layers, width, heads, ffn, 4096, dropout, True)


_V1_10M = {
    "model.safetensors": "a5e33a757431643b3697de7ef6127950cdc49e06e58d4266b3a3ab191b683f14",
    "pytorch_model.bin": "8d860e2125884475dd42bc2cd9a0e60c60808a7351241e08f2154931ffc142da",
}
_V1_12L = {"pytorch_model.bin": "812f8d85e5ecf9d64c268f052f6ece2c1906bc4f1aecf70d5144b2598386b615"}
_GF_12L_95M = "4365ba23e393fcfa0e65a94ac64a0983cd788bd23a8d4914f4ab66f85cfe043c"
_GF_20L_95M = "db85c081a6d392448955c7d0185e26aba74507518df991ca8c69ee9108ce8bbf"
_V2_104M = "fff5cba29ddd8792991fa77b4872246fbe548a178cebda3775cdc72b67780e7f"
_V2_104M_CLCANCER = "827738139bfed4bafa9d1f3df7c6146da2e3b85f7225076adc32c6eda0ba4357"
_V2_316M = "965ceccea81953d362081ef3843560a0e4fef88d396c28017881f1e94b1246f3"

VARIANTS = {
    "v1-10m": _v1("Geneformer-V1-10M", _V1_10M, 6, 256, 4, 512),
    "v1-40m": _v1(None, _V1_12L, 12, 512, 8, 1024),
    "gf-12l-95m": _v2(None, _GF_12L_95M, 12, 512, 8, 1024, dropout=0.02),
    "gf-20l-95m": _v2(None, _GF_20L_95M, 20, 896, 14, 1792, dropout=0.02),
    "v2-104m": _v2("Geneformer-V2-104M", _V2_104M, 12, 768, 12, 3072),
    "v2-104m-clcancer": _v2("Geneformer-V2-104M_CLcancer", _V2_104M_CLCANCER, 12, 768, 12, 3072),
    "v2-316m": _v2("Geneformer-V2-316M", _V2_316M, 18, 1152, 18, 4608),
}
"""Published checkpoints. The sums are the Git-LFS object ids of the official repository."""


def find_weights(source: Path, variant: Variant) -> Path:
    """The weight file at ``source``, a file or a folder with one of the published file names.

    Raises
    ------
    ModelError
        If there is none, or it is a Git-LFS pointer and not the weights.
    """
    wanted = " or ".join(variant.sha256)
    candidates = [source / name for name in variant.sha256] if source.is_dir() else [source]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise ModelError("no weights", wanted=wanted, where=source, fix="give the folder or file of the checkpoint")
    with path.open("rb") as handle:
        if handle.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(
                "a Git-LFS pointer of a few lines",
                wanted="the weights it points to",
                where=path,
                fix="run `git lfs pull` in that clone, or leave out --source to fetch the file from the Hub",
            )
    return path


def fetch_weights(variant: Variant) -> Path:
    """Fetch the weights from the Hub into its cache.

    Raises
    ------
    ModelError
        If the checkpoint is not published any more or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, sha256 = next(iter(variant.sha256.items()))
    if variant.folder is None:
        raise ModelError(
            "a checkpoint that its authors withdrew",
            wanted=f"a local copy of {name} (sha256 {sha256})",
            where=f"{REPOSITORY} at {REVISION[:12]}",
            fix="give it with --source",
        )
    try:
        return Path(hf_hub_download(REPOSITORY, f"{variant.folder}/{name}", revision=REVISION))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"the Hub did not deliver the file: {error}",
            wanted=f"{variant.folder}/{name}",
            where=f"{REPOSITORY} at {REVISION[:12]}",
            fix="try again, or download the file elsewhere and give it with --source",
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a weight file and give its tensors the names of today.

    Drops the buffer ``position_ids`` and the tied decoder of old files (after checking that it is tied), renames
    ``gamma`` and ``beta`` of layer norms.

    Raises
    ------
    ModelError
        If the file cannot be read, or its decoder is not tied.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(
            f"unreadable weights: {error}", wanted="a whole file", where=path, fix="download the file again"
        ) from error
    state = {re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", key)): value for key, value in state.items()}
    state.pop("bert.embeddings.position_ids", None)
    for decoder, source in _TIED.items():
        if decoder in state and not torch.equal(state.pop(decoder), state[source]):
            raise ModelError(
                f"{decoder} differs from {source}",
                wanted="a decoder tied to the token embeddings, as in every published checkpoint",
                where=path,
                fix="check where the file comes from",
            )
    return state


def build_model(state: dict[str, Tensor], variant: Variant, *, where: Path) -> TransformerEncoderForMaskedLM:
    """Put the tensors into our network, all of them and nothing else.

    Raises
    ------
    ModelError
        If a tensor is missing, unknown or of another shape than the published one.
    """
    with torch.device("meta"):
        model = TransformerEncoderForMaskedLM(variant.config())
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in _TIED}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != wanted:
        name = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))[0]
        raise ModelError(
            f"{name} with shape {found[name]}" if name in found else f"no tensor {name}",
            wanted=f"shape {wanted[name]}" if name in wanted else "no tensor of that name",
            where=where,
            fix="choose the --variant that these weights are",
        )
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.float().eval()


def check_config(weights: Path, variant: Variant) -> None:
    """Compare the ``config.json`` beside the weights, where there is one, with the published shape.

    Raises
    ------
    ModelError
        If a value that changes the output differs.
    """
    beside = weights.with_name("config.json")
    if not beside.is_file():
        return
    found, wanted = json.loads(beside.read_text(encoding="utf-8")), variant.config()
    for key in ("hidden_act", "layer_norm_eps", "num_attention_heads", "pad_token_id", "position_embedding_type"):
        if key in found and found[key] != getattr(wanted, key):
            raise ModelError(
                f"{key}: {found[key]}",
                wanted=f"{key}: {getattr(wanted, key)}",
                where=beside,
                fix="choose the --variant that these weights are",
            )


def convert(
    weights: Path, out: Path, *, name: str, variant: Variant, unverified: bool = False, tokenizer: bool = True
) -> Path:
    """Write the self-contained folder ``out``; it appears whole or not at all.

    Parameters
    ----------
    weights
        The weight file.
    out
        The folder to make; it must not exist.
    name, variant
        The variant and its name, which is recorded.
    unverified
        Accept a file with another sha256 than the published one.
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
    DataError
        If the tables of the tokenizer cannot be had.
    """
    if out.exists():
        raise ModelError("a folder that exists already", wanted="a new folder", where=out, fix="give another --out")
    sha256 = sha256_file(weights)
    verified = sha256 in variant.sha256.values()
    if not verified and not unverified:
        raise ChecksumError(
            f"sha256 {sha256}",
            wanted=" or ".join(variant.sha256.values()),
            where=weights,
            fix="download the file again, or pass --unverified if it is meant to be another one",
        )
    check_config(weights, variant)
    model = build_model(read_state(weights), variant, where=weights)
    model.config.update(
        {
            "source_variant": name,
            "source_repository": REPOSITORY,
            "source_revision": REVISION if variant.folder and verified else None,
            "source_file": weights.name,
            "source_sha256": sha256,
            "source_verified": verified,
            "source_license": LICENCE,
        }
    )
    with new_folder(out, what="converting weights") as folder:
        model.save_pretrained(folder)
        if tokenizer:
            save_tokenizer(folder, variant)
        manifest.seal(folder)
    return out


def save_tokenizer(folder: Path, variant: Variant) -> None:
    """Save the tokenizer of the variant beside the weights.

    Raises
    ------
    DataError
        If the vocabulary tables cannot be had.
    """
    from scmf.data.genes.vocabulary import load_vocabulary
    from scmf.tokenizers.rank_value import RankValueTokenizer

    tables = load_vocabulary(variant.vocabulary)
    RankValueTokenizer.from_tables(
        tables.token_ids,
        tables.medians,
        tables.aliases,
        max_length=variant.max_positions,
        special_tokens=variant.special_tokens,
    ).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is that of the error, 0 without one."""
    parser = argparse.ArgumentParser(description="Convert official Geneformer weights.")
    parser.add_argument("--variant", required=True, choices=sorted(VARIANTS), help="which published checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument("--source", type=Path, help="file or folder of the checkpoint (default: fetch from the Hub)")
    parser.add_argument("--unverified", action="store_true", help="accept a file that is not the published one")
    parser.add_argument("--no-tokenizer", action="store_true", help="do not save the tokenizer")
    options = parser.parse_args(arguments)
    variant = VARIANTS[options.variant]
    try:
        weights = find_weights(options.source, variant) if options.source else fetch_weights(variant)
        out = convert(
            weights,
            options.out,
            name=options.variant,
            variant=variant,
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
