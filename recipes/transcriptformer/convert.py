"""Convert an official TranscriptFormer checkpoint into a folder that loads with transformers alone.

Usage::

    transcriptformer download tf-sapiens          # the official tool; nothing is fetched here
    python recipes/transcriptformer/convert.py --source checkpoints/tf_sapiens --out weights/tf --unverified
    python recipes/transcriptformer/convert.py ... --genes mus_musculus_gene.h5       # for another species

Lives here: the official folder (``config.json``, ``model_weights.pt``, ``vocabs/*.h5``, the vocabulary of assays), what
its words mean, other species. Lives elsewhere: the network (``scmf/models``), tokens
(``scmf.tokenizers.continuous``), tables of gene vectors (``scmf.data.genes.vectors``).

No sum of these files was ever published, so each needs ``--unverified``, and the folder records its sha256. This is
the one place that reads an upstream pickle (``model_weights.pt``), once, with ``weights_only=True``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251  # only to catch it
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from scmf.core import manifest
from scmf.core.errors import ChecksumError, ModelError, ScmfError
from scmf.core.files import sha256_file
from scmf.core.owned import new_folder
from scmf.data.genes.vectors import read_gene_vectors
from scmf.models.autoregressive_transformer import AutoregressiveTransformerModel
from scmf.models.configuration_autoregressive_transformer import AutoregressiveTransformerConfig
from scmf.tokenizers.continuous import ContinuousTokenizer

REPOSITORY = "czi-ai/transcriptformer"
LICENCE = "unknown (code: MIT; the package names no license of the weights)"
WEIGHTS = "model_weights.pt"
TABLE = "gene_embeddings.embedding.weight"
PER_TOKEN = ("mu.gene_embedding.weight", "gene_id_head.layers.4.weight", "gene_id_head.layers.4.bias")
"""Trained tensors with one row a token."""

SPECIAL = ("unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]")
"""Special tokens in the order of the released configurations."""


@dataclass(frozen=True)
class Variant:
    """One released checkpoint: tokens (special ones included), assays, hidden width of the gene head, published sums.

    What is None is not known: there the checkpoint decides.
    """

    vocab_size: int
    n_assays: int | None = None
    gene_head_dim: int | None = None
    sha256: tuple[str, ...] = ()

    def config(self, **changes: Any) -> AutoregressiveTransformerConfig:
        """The configuration of this checkpoint, as far as it is known."""
        shape = {
            "vocab_size": self.vocab_size, "gene_vector_dim": 2560, "n_assays": self.n_assays or 40,
            "hidden_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 16, "intermediate_size": 2048,
            "gene_head_dim": self.gene_head_dim or 2048, **_tokens(SPECIAL),
        }  # fmt: skip
        return AutoregressiveTransformerConfig(**(shape | changes))


VARIANTS = {
    "sapiens": Variant(23829, n_assays=40, gene_head_dim=2048),
    "exemplar": Variant(110290),  # the README says 542M parameters, a head of 2,048 gives 546.1M: not resolved
    "metazoa": Variant(247388, gene_head_dim=512),  # what the README's 444M asks for
}
"""Released checkpoints: sizes of the vocabularies; the width of the head follows from the number of parameters."""

_MODEL = {
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "model_dim": "intermediate_size",
    "embed_dim": "hidden_size",
    "dropout": "hidden_dropout_prob",
    "activation": "hidden_act",
    "attn_bias": "attention_bias",
    "fw_bias": "ffn_bias",
    "mu_link_fn": "count_link",
    "softcap": "softcap",
    "seq_len": "max_positions",
    "gene_head_hidden_dim": "gene_head_dim",
    "log_counts_eps": "count_eps",
}
"""Key of the official ``model_config``, and its name here."""
_AGAIN = "give the folder of an official checkpoint; download it again"
_MODEL_IGNORED = {"_target_", "aux_len", "block_len", "use_aux", "compile_block_mask"}
_LOSS = {"_target_", "gene_id_loss_weight", "softplus_approx"}


def _tokens(special: Sequence[str]) -> dict[str, Any]:
    places = {token: i for i, token in enumerate(special)}
    return {
        "pad_token_id": places["[PAD]"],
        "start_token_id": places["[START]"],
        "end_token_id": places["[END]"],
        "special_token_ids": list(places.values()),
        "gene_token_start": len(places),
    }


def config_of(
    model: Mapping[str, Any],
    loss: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    special: Sequence[str] = SPECIAL,
    clip: float | None = 30.0,
    match_official: bool = False,
    where: object = "config.json",
) -> AutoregressiveTransformerConfig:
    """Our configuration of an official one.

    Parameters
    ----------
    model, loss
        Its sections ``model_config`` and ``loss_config``; a key or value that is not understood is a `ModelError`.
    state
        The weights; sizes of vocabularies come from them.
    special
        Special tokens in the order of their ids.
    clip
        Largest count.
    match_official
        Whether the folder is to give the official numbers, faults included.
    where
        Named in errors.
    """
    if unknown := sorted({*model} - _MODEL.keys() - _MODEL_IGNORED | {*loss} - _LOSS):
        raise ModelError(
            f"{unknown[0]}: {model.get(unknown[0], loss.get(unknown[0]))!r}", wanted="a known key", where=where,
            fix="check where the file comes from",
        )  # fmt: skip
    settings: dict[str, Any] = {ours: model[theirs] for theirs, ours in _MODEL.items() if theirs in model}
    settings["softcap"] = settings.get("softcap") or None
    assays = state.get("aux_embeddings.assay.weight")
    try:
        return AutoregressiveTransformerConfig(
            **settings,
            **_tokens(special),
            vocab_size=len(state[TABLE]),
            gene_vector_dim=state[TABLE].shape[1],
            n_assays=0 if assays is None else len(assays),
            count_likelihood="softplus_approx" if loss.get("softplus_approx", True) else "poisson",
            max_count=clip,
            match_official=match_official,
        )
    except ValueError as error:
        raise ModelError(str(error), wanted="a network of this family", where=where) from error


def build_model(
    state: Mapping[str, Tensor], config: AutoregressiveTransformerConfig, *, where: object
) -> AutoregressiveTransformerModel:
    """Put the tensors into our network, all of them and nothing else; a misfit is a `ModelError`."""
    with torch.device("meta"):
        model = AutoregressiveTransformerModel(config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != wanted:
        name = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))[0]
        raise ModelError(
            f"{name} with shape {found[name]}" if name in found else f"no tensor {name}",
            wanted=f"shape {wanted[name]}" if name in wanted else "no tensor of that name",
            where=where,
            fix="check that weights and config.json belong together",
        )
    model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    model.gene_embeddings.freeze_given()
    return model.eval()


# --- the official folder ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """An official folder, read: section ``model`` of its configuration, weights with their sum, vocabularies."""

    settings: dict[str, Any]
    state: dict[str, Tensor]
    token_ids: dict[str, int]
    assays: dict[str, int]
    sha256: str


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read an official folder; a missing or unreadable part, or parts that do not fit, are a `ModelError`."""
    settings = _read_json(folder / "config.json").get("model")
    if not isinstance(settings, dict):
        raise ModelError("no section model", wanted="an official config.json", where=folder, fix=_AGAIN)
    path = folder / WEIGHTS
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))  # noqa: TID251
    except (UnpicklingError, OSError, RuntimeError, ValueError, TypeError, EOFError) as error:
        raise ModelError(f"unreadable weights: {error}", wanted="a whole file", where=path, fix=_AGAIN) from error
    if TABLE not in state:
        raise ModelError(f"no tensor {TABLE}", wanted="the table of gene vectors", where=path, fix=_AGAIN)
    data = settings.get("data_config", {})
    if (columns := data.get("aux_cols")) not in (None, "assay", ["assay"]):
        raise ModelError(f"aux_cols: {columns}", wanted="assay", where=folder / "config.json", fix=_AGAIN)
    special = data.get("special_tokens") or list(SPECIAL)
    files = [folder / "vocabs" / name for name in data.get("esm2_mappings") or ()]
    files = files or sorted((folder / "vocabs").glob("*.h5"))
    token_ids, table = vocabulary([special]), state[TABLE]
    for file in files:
        _add_genes(file, token_ids, table)
    if len(table) != len(token_ids):
        raise ModelError(
            f"{len(token_ids):,} tokens in {', '.join(file.name for file in files) or 'no .h5 file'}",
            wanted=f"{len(table):,}, as the weights have", where=folder / "vocabs", fix="complete the folder",
        )  # fmt: skip
    assays = folder / "vocabs" / "assay_vocab.json"
    return Checkpoint(
        settings, state, token_ids, _read_json(assays) if assays.is_file() else {"unknown": 0}, sha256_file(path)
    )


def vocabulary(tables: Iterable[Iterable[str]]) -> dict[str, int]:
    """Token -> id: the tokens of each table in turn; one counts where it stands first."""
    token_ids: dict[str, int] = {}
    for token in (token for table in tables for token in table):
        token_ids.setdefault(token, len(token_ids))
    return token_ids


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"unreadable: {error}", wanted="a JSON object", where=path, fix=_AGAIN) from error


def _add_genes(path: Path, token_ids: dict[str, int], table: Tensor) -> None:
    """Give the genes of a file the next ids, and hold some of its vectors against the table in the weights."""
    first = len(token_ids)
    try:
        with h5py.File(path, "r") as file:
            keys = [key.decode() if isinstance(key, bytes) else str(key) for key in file["keys"][()].tolist()]
            for gene in keys:
                token_ids.setdefault(gene, len(token_ids))
            new = [gene for gene in keys if first <= token_ids[gene] < len(table)]
            for gene in new[:: max(1, len(new) // 64)]:
                vector = torch.from_numpy(np.asarray(file["arrays"][gene], dtype=np.float32))
                if not torch.allclose(vector, table[token_ids[gene]].float()):
                    raise ModelError(
                        f"another vector of {gene}", wanted="that of the weights", where=path,
                        fix="complete the folder, with the files that belong together",
                    )  # fmt: skip
    except (OSError, KeyError) as error:
        raise ModelError(f"unreadable: {error}", wanted="a table of gene vectors", where=path, fix=_AGAIN) from error


# --- other species ----------------------------------------------------------------------------------


def with_genes(
    state: Mapping[str, Tensor], token_ids: Mapping[str, int], genes: Sequence[str], vectors: Any
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The weights with another table of genes: what the official "embedding surgery" is meant to do.

    Special tokens keep ids and rows (officially they get others, and padding is then read as START). A gene that is
    there already keeps its row in both heads; a new one gets the mean row of all genes: encoder and embeddings need
    neither, the heads have never seen it.

    Weights and vocabulary in, weights and vocabulary out; vectors (genes, width) of another width are a `ModelError`.
    """
    new_rows = torch.as_tensor(np.asarray(vectors), dtype=torch.float32)
    if tuple(new_rows.shape) != (len(genes), state[TABLE].shape[1]):
        raise ModelError(
            f"vectors {tuple(new_rows.shape)}", wanted=f"({len(genes)}, {state[TABLE].shape[1]})", where="--genes",
            fix="give a table of the protein model that the checkpoint was trained with",
        )  # fmt: skip
    special = [token for token in sorted(token_ids, key=token_ids.__getitem__) if token in SPECIAL]
    places = [token_ids[token] for token in special]
    old_genes = sorted(set(token_ids.values()) - set(places))
    changed = dict(state)
    changed[TABLE] = torch.cat([state[TABLE][places], new_rows])
    for name in PER_TOKEN:
        rows = state[name].float()
        mean = rows[old_genes].mean(0)
        new = [rows[token_ids[gene]] if gene in token_ids else mean for gene in genes]
        changed[name] = torch.cat([rows[places], torch.stack(new)])
    return changed, vocabulary([special, genes])


# --- the folder made --------------------------------------------------------------------------------


def convert(
    source: Path,
    out: Path,
    *,
    variant: str | None = None,
    unverified: bool = False,
    match_official: bool = False,
    genes: Sequence[Path] = (),
    tokenizer: bool = True,
) -> Path:
    """Write the self-contained folder ``out``; it appears whole or not at all.

    Parameters
    ----------
    source, out
        The official folder; the folder to make, which must not exist.
    variant
        The released checkpoint it is; its sizes are then checked.
    unverified
        Accept a file whose sha256 is not a published one; else it is a `ChecksumError`.
    match_official
        Make a folder that gives the official numbers, faults included.
    genes
        Tables of gene vectors that replace the genes of the checkpoint.
    tokenizer
        Save the tokenizer too.
    """
    if out.exists():
        raise ModelError("a folder that exists already", wanted="a new folder", where=out, fix="give another --out")
    checkpoint = read_checkpoint(source)
    published = VARIANTS[variant].sha256 if variant else ()
    if not (verified := checkpoint.sha256 in published) and not unverified:
        raise ChecksumError(
            f"sha256 {checkpoint.sha256}", wanted=" or ".join(published) or "a published sum, and there is none",
            where=source / WEIGHTS, fix="pass --unverified if you trust the file; the folder records its sum",
        )  # fmt: skip
    if variant and len(checkpoint.token_ids) != VARIANTS[variant].vocab_size:
        raise ModelError(
            f"{len(checkpoint.token_ids):,} tokens", wanted=f"{VARIANTS[variant].vocab_size:,} for {variant}",
            where=source, fix="choose the --variant that these weights are",
        )  # fmt: skip
    state, token_ids = checkpoint.state, checkpoint.token_ids
    if genes:
        tables = [read_gene_vectors(path) for path in genes]
        rows = {gene: table.vectors[i] for table in reversed(tables) for i, gene in enumerate(table.genes)}
        names = list(vocabulary(table.genes for table in tables))
        state, token_ids = with_genes(state, token_ids, names, np.stack([rows[gene] for gene in names]))
    settings, data = checkpoint.settings, checkpoint.settings.get("data_config", {})
    special = [token for token in token_ids if token in SPECIAL]
    clip = float(data.get("clip_counts") or 30.0)
    config = config_of(
        settings.get("model_config", {}), settings.get("loss_config", {}), state,
        special=special, clip=clip, match_official=match_official, where=source / "config.json",
    )  # fmt: skip
    model = build_model(state, config, where=source / WEIGHTS)
    model.config.update({
        "source_variant": variant, "source_repository": REPOSITORY, "source_revision": None, "source_file": WEIGHTS,
        "source_sha256": checkpoint.sha256, "source_verified": verified, "source_license": LICENCE,
        "source_genes": [path.name for path in genes],
    })  # fmt: skip
    with new_folder(out, what="converting weights") as folder:
        model.save_pretrained(folder)
        if tokenizer:
            ContinuousTokenizer.from_tables(
                token_ids, assays=checkpoint.assays, max_length=config.max_positions, match_official=match_official,
                transform="clipped_counts", clip=clip, assay_key="assay" if config.n_assays else None,
            ).save_pretrained(folder)  # fmt: skip
        manifest.seal(folder)
    return out


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is that of the error, 0 without one."""
    parser = argparse.ArgumentParser(description="Convert an official TranscriptFormer checkpoint.")
    parser.add_argument("--source", required=True, type=Path, help="folder of the checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    parser.add_argument("--variant", choices=sorted(VARIANTS), help="which released checkpoint it is")
    parser.add_argument("--unverified", action="store_true", help="accept a file without a published sha256")
    parser.add_argument("--match_official", action="store_true", help="give the official numbers, faults included")
    parser.add_argument("--genes", action="append", default=[], type=Path, help="vectors of other genes (repeatable)")
    parser.add_argument("--no-tokenizer", action="store_true", help="do not save the tokenizer")
    options = parser.parse_args(arguments)
    try:
        out = convert(
            options.source, options.out,
            variant=options.variant, unverified=options.unverified, match_official=options.match_official,
            genes=options.genes, tokenizer=not options.no_tokenizer,
        )  # fmt: skip
    except ScmfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
