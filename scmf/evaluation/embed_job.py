"""Cells on disk and a network: one piece of a few thousand cells after the other becomes vectors.

Lives here: opening the cells, what columns of ``obs`` add to them, the pass. Lives elsewhere: where the vectors go
(embed_pieces, embed_output), the network (scmf.models.embed), tokens of a block (scmf.training.stream_data).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core import progress
from scmf.core.config.run import DataConfig, EvalConfig
from scmf.core.errors import DataError
from scmf.data.genes.ids import pick_ids
from scmf.data.loading.load import load_cells
from scmf.data.loading.open_corpus import OpenedCorpus, open_corpus
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores.adata_files import places_of
from scmf.data.stores.corpus import Corpus, ScannedBlock
from scmf.data.stores.files.remote import is_remote
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.missing import known_text
from scmf.data.stores.ragged import BadRows, Ragged
from scmf.evaluation.embed_pieces import Pieces
from scmf.models.embed import Precision, embed_tokens, embeds_by_batch
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.build import BATCH_IDS, batch_codes, obs_columns, refuse_missing_batches
from scmf.tokenizers.coverage import known_columns
from scmf.training.stream_data import TokenEncoder

log = logging.getLogger(__name__)

PIECE = 4096
"""Cells of a piece."""


def open_cells(config: DataConfig) -> OpenedCorpus:
    """The cells, on disk; in memory where a file is stored by columns."""
    try:
        return open_corpus(config)
    except DataError as error:
        if type(error) is not DataError or any(is_remote(str(file)) for file in config.files):
            raise
        cells = load_cells(config)  # which says what is wrong, or takes what cannot be read by rows
        log.warning(f"{cells.facts.dataset} is read into memory as a whole: {error.found}")
        store = MemoryStore(cells.adata, counts="X", gene_ids="var_names", name=cells.facts.dataset)
        return OpenedCorpus(Corpus([store]), None, None, None, cells.facts)


def as_in_run(stored: Path, model: Path, tokenizer: Any, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The matrix and the ids that the run has read, where nothing is asked for and the file has them too."""
    run = RunFolder.find(model)
    data = None if run is None else run.config.data
    asked = () if data is None else ("counts", "gene_ids")
    wanted = {name: getattr(data, name) for name in asked if keys[name] == "auto" != getattr(data, name)}
    if not wanted:
        return {}
    matrices, tables = places_of(stored)
    if "counts" in wanted and wanted["counts"] not in matrices:
        del wanted["counts"]
    if "gene_ids" in wanted and not any(_read_as_well(tokenizer, var, wanted["gene_ids"]) for var in tables.values()):
        del wanted["gene_ids"]
    for name, value in wanted.items():
        log.info(f"{name} {value!r}, as in the run")
    return wanted


def _read_as_well(tokenizer: Any, var: pd.DataFrame, column: str) -> bool:
    """Whether a file has this column of gene ids, and a tokenizer knows no fewer of them than of those found alone."""
    if column != "var_names" and column not in var:
        return False
    named, auto = (_n_known(tokenizer, pick_ids(var, where, path="var")[0]) for where in (column, "auto"))
    return named >= auto


def _n_known(tokenizer: Any, ids: np.ndarray) -> int:
    """Genes of its vocabulary that a tokenizer finds among gene ids."""
    try:
        return known_columns(tokenizer, ids.tolist(), where="var")[1]
    except DataError:  # none
        return 0


def cell_tensors(
    corpus: Corpus, network: Any, tokenizer: Any, model: Path, batch_key: str | None
) -> dict[str, np.ndarray]:
    """What columns of ``obs`` add to each cell: the tensors of the tokenizer, and the batch where it is read."""
    known = [name for name in tokenizer.obs_columns if any(name in store.obs_columns for store in corpus.stores)]
    tensors = dict(tokenizer.cell_tensors(obs_columns(tokenizer, corpus.obs(known) if known else {})))
    if not embeds_by_batch(network):
        if batch_key is not None:
            log.warning("--batch-key is not used: the embedding of this model does not depend on the batch")
        return tensors
    run = RunFolder.find(model)
    key = batch_key or (None if run is None else run.config.data.batch_key)
    columns = [name for name in corpus.stores[0].obs_columns if all(name in one.obs_columns for one in corpus.stores)]
    if key is None or key not in columns:
        raise DataError(
            "no column with the batch" if key is None else f"no column {key!r} in obs",
            wanted="the batch of each cell, which this model reads", where=corpus.file_names,
            fix=f"--batch-key COLUMN, one of {', '.join(columns)}" if columns else "add the column to obs",
        )  # fmt: skip
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
