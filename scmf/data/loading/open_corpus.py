"""From the section ``data`` of a configuration to a corpus that is read by blocks.

Lives here: which stores, the split of each cell, cells that pass the filters, sampling. Lives elsewhere: what the
section means (resolve), all cells in memory (load), opening stores (stores.open, stores.soma.census), reading split
files (splits.read), the stream itself (stream).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.config.data import DataConfig, StreamConfig
from scmf.core.errors import DataError
from scmf.data.genes.names import OtherNames
from scmf.data.loading.facts import DataFacts
from scmf.data.loading.join import joining_aligner
from scmf.data.loading.resolve import ResolvedData, resolve
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.splits.read import SPLITS, read_codes
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.missing import text_categories
from scmf.data.stores.named_genes import named_genes
from scmf.data.stores.open import open_stores
from scmf.data.stores.soma.census import open_census
from scmf.data.stores.store import Store
from scmf.data.stores.token_store import TokenStore
from scmf.data.stream.sampling import EachOnceSampler, Sampler, balanced

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedCorpus:
    """A corpus as a configuration asks for it.

    Parameters
    ----------
    corpus
        The cells.
    split_codes
        Split of each cell, index into `scmf.data.splits.read.SPLITS`, uint8 (n_cells,); None without a split.
    passed
        Cells that pass the filters, boolean (n_cells,); None without filters.
    aligner
        Genes of ``gene_set``, or those of stores that name them differently; None where they are taken as they are.
    facts
        What was opened.
    described_by
        The same cells with their ``obs``, where ``corpus`` holds their tokens alone; None: ``corpus`` has both.
    census_version
        Release of the Census, or None.
    """

    corpus: Corpus
    split_codes: np.ndarray | None
    passed: np.ndarray | None
    aligner: GeneAligner | None
    facts: DataFacts
    described_by: Corpus | None = None
    census_version: str | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """Which cells, split, genes and filters, as a run records it."""
        return {
            **self.facts.provenance,
            "n_cells": self.corpus.n_cells,
            "census_version": self.census_version,
            "gene_set": self.facts.gene_set,
            "orthologs": self.facts.orthologs,
            "removed": dict(self.facts.removed),
        }

    @property
    def other_names(self) -> OtherNames:
        """Names of the genes in the stores and elsewhere, where an aligner brings them together; else none."""
        if self.aligner is None:
            return OtherNames({}, {})
        return self.aligner.other_names(dict.fromkeys(store.genes for store in self.corpus.stores))

    def column(self, name: str) -> pd.Series:
        """A column of ``obs`` for all cells; `DataError` if there is none."""
        return (self.described_by or self.corpus).obs([name])[name]

    def mask(self, split: str) -> np.ndarray:
        """Cells of a split that pass the filters, boolean (n_cells,); without a split all cells train."""
        if self.split_codes is None:
            inside = np.full(self.corpus.n_cells, split == "train")
        else:
            inside = self.split_codes == SPLITS.index(split)
        return inside if self.passed is None else inside & self.passed

    def codes(self, column: str) -> np.ndarray:
        """A column of ``obs`` as integer codes (n_cells,), -1 where it is missing; `DataError` if there is none."""
        return np.asarray(text_categories(self.column(column)).codes)

    def sampler(self, settings: StreamConfig, *, seed: int) -> Sampler | None:
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
        return None if keep.all() else EachOnceSampler(keep)


def open_corpus(config: DataConfig, *, adata: AnnData | None = None) -> OpenedCorpus:
    """Open what a configuration names, without reading the counts.

    Parameters
    ----------
    config
        The section ``data``.
    adata
        The cells, as `scmf.data.stores.adata_memory.in_memory` returns them; ``files`` then only names them.

    Raises
    ------
    ConfigError
        A key does not fit the kind of source, such as a split by name without a card.
    DataError, CountsError, GeneError, SourceError
        A store cannot be used; see the stores.
    """
    resolved = resolve(config)
    corpus = Corpus(_stores(resolved) if adata is None else [_given(adata, resolved)])
    log.info(f"{corpus.n_cells:,} cells in {len(corpus.stores)} store(s)")
    aligner = resolved.aligner
    if config.tokens is None:
        files = named_genes(corpus.stores)
        for file in files if aligner is not None else ():
            aligner.tell_species(file.ids, file.species, where=file.name)  # type: ignore[union-attr]
        aligner = joining_aligner(files, where="data.files") if aligner is None else aligner
    split_codes = read_codes(resolved.split_path, corpus) if resolved.split_path is not None else None
    passed: np.ndarray | None = None
    removed: dict[str, int] = {}
    if resolved.filter.active:
        log.info("filtering cells")
        kept = resolved.passing(corpus)
        passed, removed = kept.keep, dict(kept.removed)
    card = resolved.card
    facts = DataFacts(
        dataset=card.name if card else corpus.file_names,
        sha256=corpus.fingerprint,
        split=resolved.split,
        split_sha256=resolved.split_sha256,
        label_key=resolved.label_key,
        batch_key=resolved.batch_key,
        donor_key=resolved.donor_key,
        gene_set=resolved.gene_set,
        orthologs=config.orthologs,
        perturbation=card.perturbation if card else None,
        removed=removed,
    )
    version = getattr(corpus.stores[0], "version", None) if config.census is not None else None
    return OpenedCorpus(corpus, split_codes, passed, aligner, facts, census_version=version)


def _given(adata: AnnData, resolved: ResolvedData) -> MemoryStore:
    """Cells in memory as a store."""
    return MemoryStore(
        adata, counts=resolved.counts, gene_ids=resolved.gene_ids, rounding=resolved.config.counts_rounding,
        name=resolved.files[0],
    )  # fmt: skip


def _stores(resolved: ResolvedData) -> list[Store]:
    config, card = resolved.config, resolved.card
    if config.tokens is not None:
        return list(open_token_folders(config.tokens))
    if config.census is not None:
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
    if card is not None:
        _refuse_changed_cells(card.name, resolved)
    return open_stores(
        resolved.files,
        counts=resolved.counts,
        gene_ids=resolved.gene_ids,
        rounding=config.counts_rounding,
        storage_options=config.storage_options or None,
    )


def _refuse_changed_cells(name: str, resolved: ResolvedData) -> None:
    """A stream reads files as they are: refuse cards whose cells are made from them."""
    fix = "leave data.stream out: such a card is loaded into memory"
    if resolved.derive is not None:
        raise DataError(
            f"counts of card {name!r} are derived ({resolved.derive.method})",
            wanted="counts as they are stored",
            where="data.stream",
            fix=fix,
        )
    if resolved.is_assembled:
        raise DataError(
            f"cells of card {name!r} are joined, renamed or filtered after reading",
            wanted="cells as they are stored",
            where="data.stream",
            fix=fix,
        )


def open_token_folders(path: Path | str) -> list[Store]:
    """The token dataset in a folder, or all those directly below it in the order of their names."""
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
