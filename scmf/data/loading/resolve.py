"""What a ``data`` section means: card, files, counts, gene ids, keys, split, genes, filters.

Lives here: `resolve`, the first step of both ways to cells, in memory (load) and from disk (open_corpus), so that the
two cannot differ in it. Lives elsewhere: reading the files (load, stores), what was loaded (facts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scmf.core import registry
from scmf.core.config.data import DataConfig, FilterConfig
from scmf.core.errors import ConfigError, CountsError, DataError
from scmf.core.files import sha256_file
from scmf.data.cards.card import Card, Derivation, load_card
from scmf.data.cards.join_obs import file_names
from scmf.data.cards.sources import fetch
from scmf.data.genes.gene_sets import load_gene_set
from scmf.data.genes.orthologs import load_orthologs
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.preprocess.quality import CellFilter, filter_cells
from scmf.data.splits.read import split_file
from scmf.data.stores.corpus import Corpus


@dataclass(frozen=True)
class ResolvedData:
    """A ``data`` section with its card looked up, its files fetched and its defaults filled in.

    Parameters
    ----------
    config
        The section.
    card
        The card, or None for files of your own, Census and token datasets.
    files
        Files and addresses with cells, in order. Empty for Census and token datasets.
    names
        Name of each file in the card; empty without a card.
    annotations
        Name -> path of the files of the card that hold annotations of cells.
    counts, gene_ids
        Where raw counts and gene ids are; ``auto`` looks for them.
    gene_symbols
        Column of ``var`` with symbols, or None.
    derive
        How raw counts are recovered, or None where they are stored.
    expression
        ``log1p`` where the matrix is taken as the log-normalized expression it holds; None: counts.
    label_key, batch_key, donor_key
        Columns of ``obs``: those of the section, else of the card. `check_key` holds them against ``obs``.
    split_path, split_sha256
        The split file and its checksum, or None.
    """

    config: DataConfig
    card: Card | None
    files: tuple[str, ...]
    names: tuple[str, ...]
    annotations: Mapping[str, Path]
    counts: str
    gene_ids: str
    gene_symbols: str | None
    derive: Derivation | None
    expression: str | None
    label_key: str | None
    batch_key: str | None
    donor_key: str | None
    split_path: Path | None
    split_sha256: str | None

    @property
    def split(self) -> str | None:
        """Name of the split scheme, or its path."""
        return self.config.split

    @property
    def gene_set(self) -> str | None:
        """Genes that are kept, or None for all."""
        return self.config.gene_set

    @property
    def filter(self) -> FilterConfig:
        """Quality filters."""
        return self.config.filter

    @property
    def is_assembled(self) -> bool:
        """Whether the card joins, renames or filters the cells of its files."""
        return self.card is not None and self.card.cells.active

    @cached_property
    def aligner(self) -> GeneAligner | None:
        """What brings cells onto the genes of ``gene_set``, through ``orthologs`` where they are named."""
        if self.config.gene_set is None:
            return None
        orthologs = load_orthologs(self.config.orthologs) if self.config.orthologs else None
        return GeneAligner.of(load_gene_set(self.config.gene_set), orthologs=orthologs)

    def passing(self, corpus: Corpus) -> CellFilter:
        """Which cells of a corpus, on disk or in memory, pass the filters."""
        limits = self.filter
        return filter_cells(
            corpus,
            min_genes=limits.min_genes or None,
            min_counts=limits.min_counts or None,
            max_counts=limits.max_counts,
            max_pct_mito=limits.max_mito_percent,
        )


def resolve(config: DataConfig, *, log_expression: bool = False) -> ResolvedData:
    """Look up the card of a ``data`` section, fetch its files and fill in what the section leaves open.

    Parameters
    ----------
    config
        The section.
    log_expression
        Take the log-normalized expression of cards that hold it as it is.

    Raises
    ------
    DataError
        The card is not one of cells, or the split file is missing.
    CountsError
        The card holds expression and does not say how counts are recovered.
    ConfigError
        No such card or split, or keys that do not go together.
    ChecksumError, SourceError
        See `scmf.data.cards.sources.fetch`.
    """
    card = load_card(config.dataset) if config.dataset else None
    if card is not None:
        _refuse_card(card, log_expression=log_expression)
    if config.tokens is not None:
        _refuse_with_tokens(config)
    files: tuple[str, ...] = config.files
    names: tuple[str, ...] = ()
    annotations: dict[str, Path] = {}
    if card is not None:
        fetched, roles = fetch(card), {file.name: file.role for file in card.files}
        cells = file_names(fetched, roles, "cells")
        files, names = tuple(map(str, cells.values())), tuple(cells)
        annotations = file_names(fetched, roles, "annotations")
    as_it_is = card is not None and card.expression is not None and log_expression
    split_path = split_file(card, config.split) if config.split else None
    return ResolvedData(
        config=config,
        card=card,
        files=files,
        names=names,
        annotations=annotations,
        counts=card.counts if card is not None and config.counts == "auto" else config.counts,
        gene_ids=card.gene_ids if card is not None and config.gene_ids == "auto" else config.gene_ids,
        gene_symbols=card.gene_symbols if card is not None else None,
        derive=card.derive if card is not None and config.counts == "auto" and not as_it_is else None,
        expression=card.expression if card is not None and as_it_is else None,
        label_key=config.label_key or (card.label_key if card else None),
        batch_key=config.batch_key or (card.batch_key if card else None),
        donor_key=card.donor_key if card else None,
        split_path=split_path,
        split_sha256=sha256_file(split_path) if split_path else None,
    )


def check_key(columns: Sequence[object], key: str | None, *, name: str, asked: bool) -> None:
    """Raise `DataError` unless the column that a key names is there.

    Parameters
    ----------
    columns
        Columns of ``obs``.
    key
        The column; None passes.
    name
        Name of the key.
    asked
        Whether the section names the column, and not the card.
    """
    if key is not None and key not in columns:
        raise DataError(
            f"no column {key!r} in obs",
            wanted=f"the column named by {name}",
            where=f"data.{name}" if asked else f"{name} of the card",
            fix=registry.did_you_mean(key, [str(column) for column in columns]),
        )


def _refuse_card(card: Card, *, log_expression: bool) -> None:
    if card.kind != "cells":
        raise DataError(
            f"card {card.name!r} is a {card.kind}", wanted="cells", where="data.dataset", fix="`scmf data ls`"
        )
    if card.expression is not None and not log_expression and card.derive is None:
        raise CountsError(
            f"card {card.name!r} holds log-normalized expression and no counts", wanted="raw counts",
            where="data.dataset", fix="use it for perturbation tasks, which need none",
        )  # fmt: skip


def _refuse_with_tokens(config: DataConfig) -> None:
    if config.gene_set is not None:
        raise ConfigError("gene_set with ready tokens", wanted="cells", where="data.gene_set", fix="drop it")
    if config.filter.active:
        raise ConfigError(
            "a filter with ready tokens", wanted="cells", where="data.filter", fix="filter before tokenizing"
        )
