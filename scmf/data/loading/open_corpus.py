"""From the section ``data`` of a configuration to a corpus that is read by blocks.

Lives here: which stores, which part each cell belongs to, the gene aligner, sampling. Lives elsewhere: all cells in
memory (load), opening stores (stores.open, census), reading split files (splits), the stream itself (stream).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.config.data import DataConfig, StreamConfig
from scmf.core.errors import ConfigError, DataError
from scmf.core.files import sha256_file
from scmf.data.cards.card import Card, load_card
from scmf.data.cards.sources import fetch
from scmf.data.loading.restrict import panel_of, passing
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.splits.read import PARTS, read_parts, split_file
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.store import Store
from scmf.data.stream.plan import Copies
from scmf.data.stream.sampling import Once, balanced

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedCorpus:
    """A corpus as a configuration asks for it.

    Parameters
    ----------
    corpus
        The cells.
    parts
        Part of each cell, index into `scmf.data.splits.read.PARTS`, uint8 (n_cells,); None without a split.
    passed
        Cells that pass the filters, boolean (n_cells,); None without filters.
    removed
        Filter -> cells it removed.
    aligner
        Genes of ``gene_set``, or None.
    facts
        What was opened: dataset, fingerprint, split, sha256 of the split, gene_set. For provenance.
    described_by
        The same cells with their ``obs``, where ``corpus`` holds their tokens alone; None: ``corpus`` has both.
    """

    corpus: Corpus
    parts: np.ndarray | None
    passed: np.ndarray | None
    removed: dict[str, int]
    aligner: GeneAligner | None
    facts: dict[str, Any]
    described_by: Corpus | None = None

    def column(self, name: str) -> pd.Series:
        """A column of ``obs`` for all cells; `DataError` if there is none."""
        return (self.described_by or self.corpus).obs([name])[name]

    def mask(self, part: str) -> np.ndarray:
        """Cells of a part that pass the filters, boolean (n_cells,); without a split all cells train."""
        if self.parts is None:
            inside = np.full(self.corpus.n_cells, part == "train")
        else:
            inside = self.parts == PARTS.index(part)
        return inside if self.passed is None else inside & self.passed

    def codes(self, column: str) -> np.ndarray:
        """A column of ``obs`` as integer codes (n_cells,), -1 where it is missing; `DataError` if there is none."""
        return self.column(column).astype("category").cat.codes.to_numpy()

    def copies(self, settings: StreamConfig, *, seed: int) -> Copies | None:
        """How often each training cell comes in an epoch; None when every cell of the corpus comes once."""
        keep = self.mask("train")
        if settings.balance is not None:
            return balanced(
                self.column(settings.balance.by),
                keep=keep,
                power=settings.balance.power,
                weights=settings.balance.weights,
                seed=seed,
            )
        return None if keep.all() else Once(keep)


def open_corpus(config: DataConfig) -> OpenedCorpus:
    """Open what a configuration names, without reading the counts.

    Parameters
    ----------
    config
        The section ``data``.
    note
        Told in a few words what is going on.

    Raises
    ------
    ConfigError
        A key does not fit the kind of source, such as a split by name without a card.
    DataError, CountsError, GeneError, SourceError
        A store cannot be used; see the stores.
    """
    card = load_card(config.dataset) if config.dataset else None
    corpus = Corpus(_stores(config, card))
    log.info(f"{corpus.n_cells:,} cells in {len(corpus.stores)} store(s)")
    parts, split = None, None
    if config.split is not None:
        split = split_file(card, config.split)
        parts = read_parts(split, corpus)
    aligner = None
    if config.gene_set is not None:
        if config.tokens is not None:
            raise ConfigError("gene_set with ready tokens", wanted="cells", where="data.gene_set", fix="drop it")
        aligner = panel_of(config)
    passed: np.ndarray | None = None
    removed: dict[str, int] = {}
    if config.filter.active:
        log.info("filtering cells")
        passed, removed = _filtered(config, corpus)
    version = getattr(corpus.stores[0], "version", None) if config.census is not None else None
    facts = {
        "dataset": card.name if card else corpus.name,
        "sha256": corpus.fingerprint,
        "split": config.split,
        "split_sha256": sha256_file(split) if split else None,
        "n_cells": corpus.n_cells,
        "census_version": version,
        "gene_set": config.gene_set,
        "orthologs": config.orthologs,
        "removed": removed,
    }
    return OpenedCorpus(corpus, parts, passed, removed, aligner, facts)


def _stores(
    config: DataConfig,
    card: Card | None,
) -> list[Store]:
    from scmf.data.stores.open import open_stores

    if config.tokens is not None:
        return list(open_token_folders(config.tokens))
    if config.census is not None:
        from scmf.data.stores.soma.census import open_census

        census = config.census
        return [
            open_census(
                organism=census.organism,
                value_filter=census.value_filter,
                version=census.version,
                uri=census.uri,
                primary_only=census.primary_only,
                storage_options=config.storage_options or None,
            )
        ]
    if card is None:
        return open_stores(
            config.files,
            counts=config.counts,
            gene_ids=config.gene_ids,
            rounding=config.counts_rounding,
            storage_options=config.storage_options or None,
        )
    if card.kind != "cells":
        raise DataError(
            f"card {card.name!r} is a {card.kind}", wanted="cells", where="data.dataset", fix="`scmf data ls`"
        )
    if card.derive is not None and config.counts == "auto":
        raise DataError(
            f"counts of card {card.name!r} are derived ({card.derive.method})",
            wanted="counts as they are stored",
            where="data.stream",
            fix="leave data.stream out: such a card is loaded into memory",
        )
    return open_stores(
        list(fetch(card).values()),
        counts=card.counts if config.counts == "auto" else config.counts,
        gene_ids=card.gene_ids if config.gene_ids == "auto" else config.gene_ids,
        rounding=config.counts_rounding,
    )


def open_token_folders(path: Path | str) -> list[Store]:
    """The token dataset in a folder, or all those directly below it in the order of their names."""
    from scmf.data.stores.token_store import TokenStore

    path = Path(path)
    if (path / "state.json").is_file() or not path.is_dir():
        return [TokenStore(path)]
    inside = sorted(folder for folder in path.iterdir() if (folder / "state.json").is_file())
    if not inside:
        raise DataError(
            "no token dataset",
            wanted="a folder with state.json, or several such folders",
            where=path,
            fix="check the path",
        )
    return [TokenStore(folder) for folder in inside]


def _filtered(config: DataConfig, corpus: Corpus) -> tuple[np.ndarray, dict[str, int]]:
    if config.tokens is not None:
        raise ConfigError(
            "a filter with ready tokens", wanted="cells", where="data.filter", fix="filter before tokenizing"
        )
    kept = passing(corpus, config.filter)
    return kept.keep, dict(kept.removed)
