"""Official TranscriptFormer checkpoints: ``config.json``, ``model_weights.pt``, ``vocabs/*.h5``, the table of assays.

Lives here: what the words of the official folder mean, other species. Lives elsewhere: which checkpoints there are and
where to get them (``recipes/transcriptformer/models.yaml``), the network, tokens, tables of gene vectors
(``scmf.data.genes.vectors``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from torch import Tensor

from scmf.core import registry
from scmf.core.errors import ModelError
from scmf.data.genes.vectors import read_gene_vectors
from scmf.data.genes.vocabulary import TRANSCRIPTFORMER_TOKENS as SPECIAL
from scmf.data.genes.vocabulary import GeneTables
from scmf.models.autoregressive_transformer import AutoregressiveTransformerModel
from scmf.models.configuration_autoregressive_transformer import AutoregressiveTransformerConfig
from scmf.models.published.cards import PublishedModel
from scmf.models.published.converter import Converter, fit, read_tensors, state_of

TABLE = "gene_embeddings.embedding.weight"
PER_TOKEN = ("mu.gene_embedding.weight", "gene_id_head.layers.4.weight", "gene_id_head.layers.4.bias")
"""Trained tensors with one row a token."""

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
        network = AutoregressiveTransformerModel(config)
    floats = {name: value.float() for name, value in state.items()}
    fix = "check that weights and config.json belong together"
    model: AutoregressiveTransformerModel = fit(network, floats, where=where, fix=fix)
    model.gene_embeddings.freeze_given()
    return model


# --- the official folder ----------------------------------------------------------------------------


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


@dataclass(frozen=True)
class _Contents:
    """An official folder, read: weights, ids of tokens and of assays, our configuration."""

    state: dict[str, Tensor]
    token_ids: dict[str, int]
    assays: dict[str, int]
    config: AutoregressiveTransformerConfig


class TranscriptformerConverter(Converter):
    """A folder as the official tool downloads it.

    Parameters
    ----------
    model, source, tables
        See `Converter`.
    match_official
        Make a folder that gives the official numbers, faults included.
    genes
        Tables of gene vectors that replace the genes of the checkpoint.
    """

    options: ClassVar[frozenset[str]] = frozenset({"match_official", "genes"})

    def __init__(
        self, model: PublishedModel, source: Path, *, tables: GeneTables | None = None, match_official: bool = False,
        genes: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        super().__init__(model, source, tables=tables)
        self._match_official, self._genes = match_official, tuple(genes)

    def find(self, source: Path) -> Path:
        """The weight file, whose folder must have the official ``config.json``."""
        folder = source if source.is_dir() else source.parent
        settings = _read_json(folder / "config.json").get("model")
        if not isinstance(settings, dict):
            raise ModelError("no section model", wanted="an official config.json", where=folder, fix=_AGAIN)
        self._settings = settings
        return super().find(folder)

    @cached_property
    def _contents(self) -> _Contents:
        """What the folder holds, with the genes that are asked for; parts that do not fit are a `ModelError`."""
        folder, path, data = self.weights.parent, self.weights, self._settings.get("data_config", {})
        state = state_of(read_tensors(path), where=path)
        if TABLE not in state:
            raise ModelError(f"no tensor {TABLE}", wanted="the table of gene vectors", where=path, fix=_AGAIN)
        if (columns := data.get("aux_cols")) not in (None, "assay", ["assay"]):
            raise ModelError(f"aux_cols: {columns}", wanted="assay", where=folder / "config.json", fix=_AGAIN)
        files = [folder / "vocabs" / name for name in data.get("esm2_mappings") or ()]
        files = files or sorted((folder / "vocabs").glob("*.h5"))
        token_ids, table = vocabulary([data.get("special_tokens") or list(SPECIAL)]), state[TABLE]
        for file in files:
            _add_genes(file, token_ids, table)
        if len(table) != len(token_ids):
            raise ModelError(
                f"{len(token_ids):,} tokens in {', '.join(file.name for file in files) or 'no .h5 file'}",
                wanted=f"{len(table):,}, as the weights have", where=folder / "vocabs", fix="complete the folder",
            )  # fmt: skip
        self._check_size("tokens", len(token_ids), self.model.facts.shape.get("vocab_size"))
        if self._genes:
            tables = [read_gene_vectors(path) for path in self._genes]
            rows = {gene: table.vectors[i] for table in reversed(tables) for i, gene in enumerate(table.genes)}
            names = list(vocabulary(table.genes for table in tables))
            state, token_ids = with_genes(state, token_ids, names, np.stack([rows[gene] for gene in names]))
        assays = folder / "vocabs" / "assay_vocab.json"
        config = config_of(
            self._settings.get("model_config", {}), self._settings.get("loss_config", {}), state,
            special=[token for token in token_ids if token in SPECIAL], clip=float(data.get("clip_counts") or 30.0),
            match_official=self._match_official, where=folder / "config.json",
        )  # fmt: skip
        if not self._genes:
            for name in ("n_assays", "gene_head_dim"):
                self._check_size(name, getattr(config, name), self.model.facts.shape.get(name))
        return _Contents(state, token_ids, _read_json(assays) if assays.is_file() else {"unknown": 0}, config)

    def _check_size(self, name: str, found: int, wanted: int | None) -> None:
        if wanted is not None and found != wanted:
            raise ModelError(
                f"{found:,} {name}", wanted=f"{wanted:,} for {self.model.name}", where=self.weights.parent,
                fix="choose the variant that these weights are (`scmf models ls`), or transcriptformer@own",
            )  # fmt: skip

    def network(self) -> AutoregressiveTransformerModel:
        """See `Converter`."""
        return build_model(self._contents.state, self._contents.config, where=self.weights)

    def tokenizer(self) -> Any:
        """See `Converter`."""
        held = self._contents
        return registry.resolve("tokenizers", "continuous").from_tables(
            held.token_ids, assays=held.assays, max_length=held.config.max_positions,
            match_official=self._match_official, transform="clipped_counts", clip=held.config.max_count,
            assay_key="assay" if held.config.n_assays else None,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """See `Converter`."""
        return {"source_genes": [path.name for path in self._genes]}
