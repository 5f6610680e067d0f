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
from scmf.core.files import sha256_json
from scmf.data.loading.load import load_cells
from scmf.data.tokens.tokens import PerEpochTokens, TokenCells
from scmf.tokenizers.build import (
    fitted_tokenizer,
    given_tokenizer,
    learn_columns,
    obs_columns,
    tokenize,
    training_tokens,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Cells and their tokens.

    Parameters
    ----------
    cells
        AnnData as `scmf.data.loading.load.load_cells` returns it.
    tokenizer
        Fitted on the training cells or built from a published vocabulary.
    tokens
        Tokens of all cells, in their order.
    """

    cells: Any
    tokenizer: Any
    tokens: TokenCells

    def part(self, name: str) -> np.ndarray:
        """Indices of the cells of part ``name``; without a split all cells train."""
        if "part" not in self.cells.obs:
            return np.arange(self.cells.n_obs if name == "train" else 0)
        return np.flatnonzero(self.cells.obs["part"].to_numpy() == name)

    @property
    def facts(self) -> dict[str, Any]:
        """What the cells are, for provenance."""
        return {key: self.cells.uns["scmf"][key] for key in ("dataset", "sha256", "split", "split_sha256")}

    @property
    def n_training(self) -> int:
        """Training cells."""
        return len(self.part("train"))

    @property
    def batch_names(self) -> list[str]:
        """Batches of the cells, sorted: what ``batch_ids`` counts. Empty without a batch column."""
        key = self.cells.uns["scmf"].get("batch_key")
        return sorted(set(self.cells.obs[key].astype(str))) if key and key in self.cells.obs else []

    def batches(self, training: TrainingConfig) -> TokenCells | PerEpochTokens:
        """The training cells, in memory, drawn anew each epoch where the tokenizer draws."""
        return training_tokens(self.tokenizer, self.cells, self.tokens, self.part("train"))

    def valid_tokens(self) -> TokenCells:
        """The validation cells."""
        return self.tokens.select(self.part("valid"))

    @property
    def digest(self) -> str:
        """Digest of what the model is trained on: file, split and vocabulary."""
        facts = self.cells.uns["scmf"]
        return sha256_json([facts["sha256"], facts["split_sha256"], self.tokenizer.fingerprint])


def prepare(config: RunConfig) -> Prepared:
    """Load the cells of ``config.data`` and tokenize them.

    Raises
    ------
    DataError
        For anything wrong with the cells; an empty cell is named.
    """
    log.info("loading cells")
    cells = load_cells(config.data)
    log.info(f"tokenizing {cells.n_obs:,} cells")
    fit = config.tokenizer.vocabulary == "fit"
    tokenizer = fitted_tokenizer(config, cells) if fit else given_tokenizer(config.tokenizer)
    learn_columns(tokenizer, obs_columns(tokenizer, cells.obs))
    return Prepared(cells, tokenizer, tokenize(tokenizer, cells))
