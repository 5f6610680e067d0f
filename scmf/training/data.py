"""Cells and their tokens for a training run, held in memory.

Lives here: `prepare`, which loads the cells of a configuration and tokenizes them. Lives elsewhere: cells that stay
on disk (stream_data), the loop (loop), what is done with them (pretrain, finetune).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmf.core.config.run import RunConfig, TrainingConfig
from scmf.core.errors import DataError
from scmf.core.files import sha256_json
from scmf.data.loading.facts import DataFacts, LoadedCells
from scmf.data.loading.load import load_cells
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import PerEpochTokens
from scmf.tokenizers.build import (
    BATCH_IDS,
    batch_names_of,
    fitted_tokenizer,
    given_tokenizer,
    learn_columns,
    obs_columns,
    refuse_missing_batches,
    tokenize,
    training_tokens,
)
from scmf.tokenizers.coverage import tell_known_share
from scmf.tokenizers.species import keep_orthologs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Cells and their tokens.

    Parameters
    ----------
    cells
        As `scmf.data.loading.load.load_cells` returns them.
    tokenizer
        Fitted on the training cells or built from a published vocabulary.
    tokens
        Tokens of all cells, in their order.
    """

    cells: LoadedCells
    tokenizer: Any
    tokens: Ragged

    def rows(self, split: str) -> np.ndarray:
        """Indices of the cells of ``train``, ``valid`` or ``test``; without a split all cells train."""
        return self.cells.rows(split)

    @property
    def facts(self) -> DataFacts:
        """What the cells are."""
        return self.cells.facts

    @property
    def split(self) -> np.ndarray | None:
        """``train``, ``valid`` or ``test`` of each cell, str (N,); None without a split."""
        return self.cells.split

    @property
    def provenance(self) -> dict[str, Any]:
        """Which cells and which split, as a run records it."""
        return self.facts.provenance

    @property
    def n_training(self) -> int:
        """Training cells."""
        return len(self.rows("train"))

    def refuse_missing_batches(self) -> None:
        """Raise `DataError` where a training or validation cell has no batch, for models that read it."""
        rows = np.concatenate([self.rows("train"), self.rows("valid")])
        codes = self.tokens.cell_tensors.get(BATCH_IDS)
        if codes is not None:
            refuse_missing_batches(codes[rows], key=self.facts.batch_key, where=self.facts.dataset)

    @property
    def batch_names(self) -> list[str]:
        """Batches of the cells, sorted: what ``batch_ids`` counts. Empty without a batch column."""
        key = self.facts.batch_key
        return batch_names_of(self.cells.obs[key]) if key and key in self.cells.obs else []

    def batches(self, training: TrainingConfig) -> Ragged | PerEpochTokens:
        """The training cells, in memory, drawn anew each epoch where the tokenizer draws."""
        return training_tokens(self.tokenizer, self.cells, self.tokens, self.rows("train"))

    def valid_tokens(self) -> Ragged:
        """The validation cells."""
        return self.tokens.select(self.rows("valid"))

    @property
    def digest(self) -> str:
        """Digest of what the model is trained on: file, split and vocabulary."""
        return sha256_json([self.facts.sha256, self.facts.split_sha256, self.tokenizer.fingerprint])


def no_training_cells(facts: DataFacts) -> DataError:
    """What is said of cells none of which may be trained on."""
    return DataError(
        f"no cell of {facts.dataset} is in split 'train'" + (" after the filters" if facts.removed else ""),
        wanted="training cells", where="data.split", fix="choose a split that has them, or widen data.filter",
    )  # fmt: skip


def prepare(config: RunConfig) -> Prepared:
    """Load the cells of ``config.data`` and tokenize them.

    Raises
    ------
    DataError
        For anything wrong with the cells; an empty cell is named.
    """
    log.info("loading cells")
    cells = load_cells(config.data)
    if not len(cells.rows("train")):
        raise no_training_cells(cells.facts)
    log.info(f"tokenizing {cells.n_obs:,} cells")
    fit = config.tokenizer.vocabulary == "fit"
    tokenizer = fitted_tokenizer(config, cells) if fit else given_tokenizer(config.tokenizer)
    if not fit:
        keep_orthologs(tokenizer, cells.names)
    learn_columns(tokenizer, obs_columns(tokenizer, cells.obs))
    tell_known_share(tokenizer, cells, allow=fit or config.data.allow_low_coverage)
    return Prepared(cells, tokenizer, tokenize(tokenizer, cells))
