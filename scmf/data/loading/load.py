"""Cells in memory: from the data section of a configuration to an AnnData with raw counts.

Lives here: reading .h5ad files, labels, split. Lives elsewhere: putting several together (join), what the section means
(resolve), what is returned (facts), getting the files (cards.sources), finding counts (stores.counts), gene ids
(genes), splits (splits), cells that stay on disk (open_corpus).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.config.data import DataConfig
from scmf.core.errors import ConfigError, DataError
from scmf.core.files import sha256_json
from scmf.data.cards.card import Card, Derivation
from scmf.data.cards.join_obs import assemble, name_columns
from scmf.data.genes import ids as genes_
from scmf.data.genes.measured import measured_genes
from scmf.data.genes.species import species_of_table
from scmf.data.loading.facts import DataFacts, LoadedCells
from scmf.data.loading.join import Joined, together
from scmf.data.loading.resolve import ResolvedData, check_key, resolve
from scmf.data.loading.restrict import restrict
from scmf.data.splits.read import read_split
from scmf.data.stores import counts as counts_
from scmf.data.stores.adata_files import read_adata
from scmf.data.stores.adata_memory import IN_MEMORY
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.missing import known_text
from scmf.data.stores.open import local_path, sources_of
from scmf.data.stores.recover_depth import counts_and_depth


def load_cells(config: DataConfig, *, log_expression: bool = False, adata: AnnData | None = None) -> LoadedCells:
    """Load the cells that a configuration names.

    Parameters
    ----------
    config
        The section ``data``.
    log_expression
        Take the log-normalized expression of cards that hold it as it is; ``facts.expression`` is then ``log1p`` and
        ``facts.counts`` None. Without it the counts are recovered, and a card that does not say how is an error, since
        tokens and sizes need counts.
    adata
        The cells, as `scmf.data.stores.adata_memory.in_memory` returns them; ``files`` then only names them. They are
        not changed.

    Returns
    -------
    LoadedCells
        ``adata.X``: raw counts, CSR float32, sorted, no stored zeros. ``adata.var_names``: gene ids as the file
        writes them (Ensembl where it has them), unique; ``adata.var["symbol"]`` where known. ``adata.obs``: the
        columns of the file. ``split``: ``train``, ``valid`` or ``test`` of each cell, or None. ``facts``: what the
        cells are.

    Raises
    ------
    ConfigError
        The section names cells that are always streamed.
    DataError
        A file is missing or truncated, a key is not in ``obs``, a label is not in the card's set.
    CountsError
        No matrix holds raw counts; each candidate is named with the reason.
    GeneError
        A gene id is duplicated, or files with different kinds of ids are to be put together.
    ChecksumError, SourceError
        See `scmf.data.cards.sources.fetch`.
    """
    resolved = resolve(config, log_expression=log_expression)
    if not resolved.files:
        raise ConfigError(
            "cells that are always streamed", wanted="`dataset` or `files`", where="data", fix="name files"
        )
    card = resolved.card
    joined, found_in = _read_all(resolved, adata)
    found = joined.adata
    if card is not None and card.cells.active:
        tables = {name: read_file(path) for name, path in resolved.annotations.items()}
        found = assemble(found, card.cells, tables, where=f"card {card.name!r}")
    facts = _facts(resolved, found, found_in, joined.species, given=adata is not None)
    if card is not None and card.labels and facts.label_key == card.label_key:
        _freeze_labels(found, card)
    cells = restrict(LoadedCells(found, facts, None, joined.total_counts(found), joined.names), resolved)
    if not config.split:
        return cells
    return replace(cells, split=np.asarray(read_split(card, config.split, cell_ids=cells.obs_names), dtype=str))


def _read_all(resolved: ResolvedData, given: AnnData | None) -> tuple[Joined, list[str]]:
    """The cells of all files, and where the matrix was in each."""
    tables, found_in, paths, species = [], [], [], []
    for number, (raw, path) in enumerate(_stores(resolved) if given is None else [(given, Path(resolved.files[0]))]):
        adata, where, kind = _read(
            raw,
            path,
            counts=resolved.counts,
            gene_ids=resolved.gene_ids,
            gene_symbols=resolved.gene_symbols,
            derive=resolved.derive,
            as_it_is=resolved.expression is not None,
            rounding=resolved.config.counts_rounding,
        )
        if resolved.card is not None:
            name_columns(adata, resolved.names[number], resolved.card.cells)
        tables.append(adata)
        found_in.append(where)
        paths.append(path)
        species.append(kind)
    return together(tables, paths, species, to_gene_set=resolved.gene_set is not None), found_in


def _facts(resolved: ResolvedData, adata: AnnData, found_in: Sequence[str], species: str, *, given: bool) -> DataFacts:
    """What was loaded; `DataError` if a key is not in ``obs``."""
    config, card = resolved.config, resolved.card
    columns = list(adata.obs.columns)
    check_key(columns, resolved.label_key, name="label_key", asked=bool(config.label_key))
    check_key(columns, resolved.batch_key, name="batch_key", asked=bool(config.batch_key))
    check_key(columns, resolved.donor_key, name="donor_key", asked=False)
    if card is not None and card.perturbation is not None:
        check_key(columns, card.perturbation.key, name="perturbation.key", asked=False)
    if card is not None:
        sums = [file.sha256 for file in card.files]
    elif given:
        sums = [_content(adata, resolved)]
    else:
        sums = [sum_ for uri in resolved.files for sum_ in _sums(uri, resolved.config.storage_options or None)]
    return DataFacts(
        dataset=card.name if card else ", ".join(Path(path).name for path in resolved.files),
        sha256=sums[0] if len(sums) == 1 else sha256_json(sums),
        split=resolved.split,
        split_sha256=resolved.split_sha256,
        label_key=resolved.label_key,
        batch_key=resolved.batch_key,
        donor_key=resolved.donor_key,
        counts=None if resolved.expression else ", ".join(dict.fromkeys(found_in)),
        gene_ids=genes_.detect(adata.var_names).kind,
        species=species,
        expression=resolved.expression,
        perturbation=card.perturbation if card else None,
    )


def _sums(uri: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    """Checksum of each store that an address names: of its bytes on this machine, else of what the server says."""
    found = []
    for source in sources_of(uri, storage_options):
        names = [name for name in ("", "zarr.json", ".zmetadata") if source.exists(name)]
        found.append(source.content(None if source.is_local else names))
        source.close()
    return found


def _content(adata: AnnData, resolved: ResolvedData) -> str:
    """Checksum of cells that no file holds: of their counts, ids and genes, and of the columns that are read."""
    store = MemoryStore(adata, counts="X", gene_ids="var_names", rounding="accept")
    keys = [key for key in (resolved.label_key, resolved.batch_key) if key is not None]
    return sha256_json([store.fingerprint, {key: known_text(adata.obs[key]).tolist() for key in keys}])


def read_file(path: Path | str) -> AnnData:
    """Read an .h5ad file or a zarr group as it is; `DataError` when it is missing, truncated or something else."""
    return read_adata(local_path(str(path)))


def opened(cells: Path | AnnData) -> tuple[AnnData, str]:
    """A file read, or an AnnData as it is; and how messages call it."""
    return (cells, IN_MEMORY) if isinstance(cells, AnnData) else (read_file(cells), str(cells))


def _stores(resolved: ResolvedData) -> Iterator[tuple[AnnData, Path]]:
    """Every store that the files name, read one after the other: .h5ad, zarr, folders and patterns of them, addresses.

    Each comes with its path, or an address as a path: it names the store in messages and in ids.
    """
    for uri in resolved.files:
        for source in sources_of(uri, resolved.config.storage_options or None):
            try:
                yield read_adata(source), Path(source.root)
            finally:
                source.close()


def _read(
    raw: AnnData,
    path: Path,
    *,
    counts: str,
    gene_ids: str,
    gene_symbols: str | None,
    derive: Derivation | None,
    as_it_is: bool = False,
    rounding: Rounding = "error",
) -> tuple[AnnData, str, str]:
    """One file: raw counts (or values as they are), ids and symbols; where the matrix was; the species."""
    if raw.n_obs == 0:
        raise DataError("no cells", wanted="at least one cell", where=path, fix="use another file")
    where = counts if as_it_is or derive is not None else counts_.choose(raw, counts, path=path, rounding=rounding)
    matrix, var = counts_.matrix_of(raw, where, path=path)
    if as_it_is or derive is None:
        x = counts_.canonical(matrix, rounding="error" if as_it_is else rounding)
    else:
        x = _derived(raw, matrix, var, derive, path=path)
        where = f"{counts} ({derive.method})"
    ids, ids_from = genes_.pick_ids(var, gene_ids, path=path)
    kept = measured_genes(var, ids, path=path)
    if not kept.all():
        ids, var, x = ids[kept], var[kept], x[:, kept]
    genes_.refuse_duplicates(ids, path=path)
    symbols = genes_.pick_symbols(var, gene_symbols, ids_from=ids_from, path=path)
    table = pd.DataFrame(index=pd.Index(ids.astype(str), name=None))
    if symbols is not None:
        table["symbol"] = symbols
    obs = raw.obs.copy()
    obs.index = obs.index.astype(str)
    if len(twice := obs.index[obs.index.duplicated()]):
        raise DataError(
            f"{len(twice)} duplicated cell ids, the first is {twice[0]!r}",
            wanted="unique obs_names",
            where=path,
            fix="adata.obs_names_make_unique(), or remove the copies: a cell in two splits is a leak",
        )
    return AnnData(x, obs=obs, var=table), where, species_of_table(var, ids)


def _derived(raw: AnnData, matrix: Any, var: pd.DataFrame, derive: Derivation, *, path: Path) -> Any:
    """Counts that the card's ``derive`` recovers; a depth that was found is put into ``obs``."""
    if derive.decimals is None:
        if derive.depth_key in raw.obs:
            raise DataError(
                f"a column {derive.depth_key!r} in obs already", wanted="a new name for the depth that is found",
                where=path, fix="name another `derive.depth_key`, or use log1p_cp10k if this is the depth",
            )  # fmt: skip
        x, raw.obs[derive.depth_key] = counts_and_depth(matrix, where=path, cells=raw.obs_names)
        return x
    if derive.depth_key not in raw.obs:
        raise DataError(f"no column {derive.depth_key!r} in obs", wanted="depth of each cell", where=path)
    depth = raw.obs[derive.depth_key].to_numpy()
    return counts_.from_log1p_cp10k(
        matrix, depth, decimals=derive.decimals, where=path, cells=raw.obs_names, genes=var.index
    )


def _freeze_labels(adata: AnnData, card: Card) -> None:
    """Make the label column categorical in the order of the card; refuse labels the card does not have."""
    values: Any = adata.obs[card.label_key]
    strange = sorted(set(values.dropna().astype(str)) - set(card.labels))
    if strange:
        raise DataError(
            f"label {strange[0]!r} in {card.label_key!r}",
            wanted=f"one of the {len(card.labels)} labels of the card",
            where=f"card {card.name!r}",
            fix="a new label set needs a new card",
        )
    adata.obs[card.label_key] = pd.Categorical(values.astype(object), categories=list(card.labels))
