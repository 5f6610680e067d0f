"""Cells on disk and a network: one piece of a few thousand cells after the other becomes vectors.

Lives here: opening the cells, what columns of ``obs`` add to them, the pass. Lives elsewhere: where the vectors go
(embed_pieces, embed_output), the network (scmf.models.embed), tokens of a block (scmf.training.token_encoder).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core import progress, provenance
from scmf.core.config.run import DataConfig, EvalConfig
from scmf.core.errors import DataError
from scmf.data.loading.facts import DataFacts
from scmf.data.loading.join import joining_aligner
from scmf.data.loading.open_corpus import OpenedCorpus, open_corpus
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.adata_files import read_adata
from scmf.data.stores.anndata_store import ByColumnsError
from scmf.data.stores.corpus import Corpus, ScannedBlock
from scmf.data.stores.files.remote import is_remote
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.missing import known_text
from scmf.data.stores.named_genes import named_genes
from scmf.data.stores.open import open_stores, sources_of
from scmf.data.stores.ragged import BadRows, Ragged
from scmf.data.stores.store import Store
from scmf.evaluation.as_in_run import batch_column
from scmf.evaluation.embed_pieces import Pieces
from scmf.models.embed import Precision, embed_tokens
from scmf.tokenizers.build import BATCH_IDS, batch_codes, obs_columns, refuse_missing_batches
from scmf.training.token_encoder import TokenEncoder

log = logging.getLogger(__name__)

PIECE = 4096
"""Cells of a piece."""


def open_cells(config: DataConfig) -> OpenedCorpus:
    """The cells on disk; a file that cannot be read by rows, such as one stored by columns, in memory."""
    try:
        return open_corpus(config)
    except DataError as error:
        word = str(config.files[0])
        if not isinstance(error, ByColumnsError) or is_remote(word):
            raise
        roots = [source.root for source in sources_of(word, None)]
    corpus = Corpus([_by_rows(root, config) for root in roots])
    aligner = joining_aligner(named_genes(corpus.stores), where=corpus.file_names)
    return OpenedCorpus(corpus, None, None, aligner, DataFacts(corpus.file_names, corpus.fingerprint))


def _by_rows(root: str, config: DataConfig) -> Store:
    """One store, on disk if that can be."""
    counts, gene_ids, rounding = config.counts, config.gene_ids, config.counts_rounding
    try:
        return open_stores([root], counts=counts, gene_ids=gene_ids, rounding=rounding)[0]
    except DataError as error:
        if not isinstance(error, ByColumnsError):
            raise
        adata = read_adata(root)
        log.warning(f"{root} is read into memory as a whole: {error.found}")
        return MemoryStore(adata, counts=counts, gene_ids=gene_ids, rounding=rounding, name=root)


def cell_tensors(
    corpus: Corpus, network: Any, tokenizer: Any, model: Path, batch_key: str | None
) -> dict[str, np.ndarray]:
    """What columns of ``obs`` add to each cell: the tensors of the tokenizer, and the batch where it is read."""
    known = [name for name in tokenizer.obs_columns if any(name in store.obs_columns for store in corpus.stores)]
    tensors = dict(tokenizer.cell_tensors(obs_columns(tokenizer, corpus.obs(known) if known else {})))
    columns = [name for name in corpus.stores[0].obs_columns if all(name in one.obs_columns for one in corpus.stores)]
    key = batch_column(network, model, batch_key, columns, where=corpus.file_names)
    if key is None:
        return tensors
    codes = batch_codes(known_text(corpus.obs([key])[key]), getattr(network.config, "batch_names", None))
    refuse_missing_batches(codes, key=key, where=corpus.file_names)
    return {**tensors, BATCH_IDS: codes}


@dataclass(frozen=True)
class EmbedJob:
    """Cells, and what makes vectors of them."""

    corpus: Corpus
    aligner: GeneAligner | None
    network: Any
    tokenizer: Any
    settings: EvalConfig
    precision: Precision
    tensors: Mapping[str, np.ndarray]
    size: int

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the vectors, beside the network."""
        columns = {
            name: hashlib.sha256(np.ascontiguousarray(values).data).hexdigest() for name, values in self.tensors.items()
        }
        return {
            "version": provenance.version(), "cells": self.corpus.fingerprint, "columns": columns,
            "cells of a piece": self.size,
            "layer": self.settings.embedding_layer, "pooling": self.settings.pooling, "precision": self.precision,
        }  # fmt: skip

    @property
    def starts(self) -> np.ndarray:
        """First cell of each piece, and the number of cells; no piece holds cells of two stores."""
        offsets = self.corpus.offsets.tolist()
        firsts = [at for a, b in zip(offsets, offsets[1:], strict=False) for at in range(a, b, self.size)]
        return np.array([*firsts, self.corpus.n_cells])

    def embed(self, pieces: Pieces, numbers: Sequence[int]) -> None:
        """Embed pieces, in their order, and keep them."""
        starts = self.starts
        keep = np.zeros(self.corpus.n_cells, bool)
        for number in numbers:
            keep[starts[number] : starts[number + 1]] = True
        encode = TokenEncoder(self.tokenizer, aligner=self.aligner)
        log.info(f"embedding {int(keep.sum()):,} cells")
        with progress.bar("embedding", int(keep.sum()), unit="cells") as bar:
            blocks = self.corpus.scan(keep=keep, cells_per_block=self.size)
            for number, block in zip(numbers, blocks, strict=True):
                tokens = self._tokens(encode, block)
                x_BD = embed_tokens(
                    self.network, tokens, settings=self.settings, precision=self.precision, bar=bar,
                    first=int(block.cells[0]),
                )  # fmt: skip
                pieces.put(number, x_BD)

    def _tokens(self, encode: TokenEncoder, block: ScannedBlock) -> Ragged:
        """Tokens of a block; cells without a gene that has one are named."""
        store, cells = self.corpus.stores[block.store], block.cells
        try:
            tokens = encode(block.counts, store.genes)
        except BadRows as error:
            ids = store.cell_ids()[cells[error.rows[:5]] - self.corpus.offsets[block.store]]
            raise DataError(
                error.found, wanted=error.wanted, where=f"{store.uri}, cells {', '.join(map(repr, ids))}",
                fix="remove these cells from the file",
            ) from error  # fmt: skip
        return tokens.with_cell_tensors(**{name: values[cells] for name, values in self.tensors.items()})
