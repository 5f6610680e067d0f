"""Cells in: from the data section of a configuration to an AnnData with raw counts.

Lives here: reading .h5ad files, putting several together, labels, batch, split, and the note in
``uns["scmf"]`` that says what was loaded. Lives elsewhere: getting the files (sources), finding counts
(counts), gene ids (genes), splits (splits).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, concat, read_h5ad

from scmf.core import registry as plugins
from scmf.core.config.run import DataConfig
from scmf.core.errors import CountsError, DataError, GeneError
from scmf.core.files import sha256_file, sha256_json
from scmf.data.cards.card import Card, Derivation, load_card
from scmf.data.cards.join_obs import assemble, file_names, name_columns
from scmf.data.cards.sources import fetch
from scmf.data.genes import ids as genes_
from scmf.data.genes.measured import measured_genes
from scmf.data.loading.restrict import restrict
from scmf.data.splits.read import read_split, split_file
from scmf.data.stores import counts as counts_
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.recover_depth import counts_and_depth


def load_cells(config: DataConfig, *, log_expression: bool = False) -> AnnData:
    """Load the cells that a configuration names.

    Parameters
    ----------
    config
        The section ``data``.
    log_expression
        Take the log-normalized expression of cards that hold it as it is; ``uns["scmf"]["expression"]`` is then
        ``log1p`` and ``uns["scmf"]["counts"]`` None. Without it the counts are recovered, and a card that does not say
        how is an error, since tokens and sizes need counts.

    Returns
    -------
    AnnData
        ``X``: raw counts, CSR float32, sorted, no stored zeros. ``var_names``: gene ids as the file
        writes them (Ensembl where it has them), unique; ``var["symbol"]`` where known. ``obs``: the
        columns of the file and, with a split, ``part`` (ordered categorical train, valid, test).
        ``uns["scmf"]``: dataset, sha256, label_key, batch_key, donor_key, split, split_sha256, counts,
        gene_ids.

    Raises
    ------
    DataError
        A file is missing or truncated, a key is not in ``obs``, a label is not in the card's set.
    CountsError
        No matrix holds raw counts; each candidate is named with the reason.
    GeneError
        A gene id stands twice, or files with different kinds of ids are to be put together.
    ChecksumError, SourceError
        See `scmf.data.cards.sources.fetch`.
    """
    card = load_card(config.dataset) if config.dataset else None
    if card is not None:
        if card.kind != "cells":
            raise DataError(
                f"card {card.name!r} is a {card.kind}", wanted="cells", where="data.dataset", fix="`scmf data ls`"
            )
        if card.expression is not None and not log_expression and card.derive is None:
            raise CountsError(
                f"card {card.name!r} holds log-normalized expression and no counts", wanted="raw counts",
                where="data.dataset", fix="use it for perturbation tasks, which need none",
            )  # fmt: skip
        fetched = fetch(card)
        roles = {file.name: file.role for file in card.files}
        paths = list(file_names(fetched, roles, "cells").values())
        names = list(file_names(fetched, roles, "cells"))
        sums = [file.sha256 for file in card.files]
    else:
        paths = [Path(path).expanduser() for path in config.files]
        sums = []
    as_it_is = card is not None and card.expression is not None and log_expression
    counts = card.counts if card is not None and config.counts == "auto" else config.counts
    gene_ids = card.gene_ids if card is not None and config.gene_ids == "auto" else config.gene_ids
    parts: list[AnnData] = []
    found_in: list[str] = []
    for path in paths:
        cells, where = _read(
            path,
            counts=counts,
            gene_ids=gene_ids,
            gene_symbols=card.gene_symbols if card else None,
            derive=card.derive if card and config.counts == "auto" else None,
            as_it_is=as_it_is,
            rounding=config.counts_rounding,
        )
        if card is not None:
            name_columns(cells, names[len(parts)], card.cells)
        parts.append(cells)
        found_in.append(where)
    if not sums:
        sums = [sha256_file(path) for path in paths]
    adata = parts[0] if len(parts) == 1 else _together(parts, paths)
    if card is not None and card.cells.active:
        beside = {name: read_file(path) for name, path in file_names(fetched, roles, "annotations").items()}
        adata = assemble(adata, card.cells, beside, where=f"card {card.name!r}")

    adata.uns["scmf"] = {
        "dataset": card.name if card else ", ".join(path.name for path in paths),
        "sha256": sums[0] if len(sums) == 1 else sha256_json(sums),
        "label_key": _key(adata, config.label_key, card.label_key if card else None, "label_key"),
        "batch_key": _key(adata, config.batch_key, card.batch_key if card else None, "batch_key"),
        "donor_key": _key(adata, None, card.donor_key if card else None, "donor_key"),
        "split": config.split,
        "split_sha256": sha256_file(split_file(card, config.split)) if config.split else None,
        "counts": None if as_it_is else ", ".join(dict.fromkeys(found_in)),
        "gene_ids": genes_.detect(adata.var_names).kind,
    }
    if card is not None and card.perturbation is not None:
        _key(adata, None, card.perturbation.key, "perturbation.key")
        adata.uns["scmf"]["perturbation"] = card.perturbation.model_dump()
    if card is not None and as_it_is:
        adata.uns["scmf"]["expression"] = card.expression
    if card is not None and card.labels and adata.uns["scmf"]["label_key"] == card.label_key:
        _freeze_labels(adata, card)
    if config.split:
        adata.obs["part"] = read_split(card, config.split, cell_ids=adata.obs_names).array
    return restrict(adata, config)


def read_file(path: Path | str) -> AnnData:
    """Read an .h5ad file as it is; `DataError` when it is missing, truncated or something else."""
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", wanted="an .h5ad file", where=path, fix="check the path")
    try:
        with warnings.catch_warnings():
            # old file versions and repeated names: said by us where it matters
            warnings.simplefilter("ignore")
            return read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise DataError(
            f"not a readable .h5ad file ({type(error).__name__}: {lines[0]})",
            wanted="a complete AnnData file",
            where=path,
            fix="copy or download it again, its end may be missing",
        ) from error


def _read(
    path: Path,
    *,
    counts: str,
    gene_ids: str,
    gene_symbols: str | None,
    derive: Derivation | None,
    as_it_is: bool = False,
    rounding: Rounding = "error",
) -> tuple[AnnData, str]:
    """One file: raw counts (or values as they are), ids and symbols; and where the matrix was."""
    raw = read_file(path)
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
            f"{len(twice)} cell ids stand more than once, the first is {twice[0]!r}",
            wanted="unique obs_names",
            where=path,
            fix="adata.obs_names_make_unique(), or remove the copies: a cell in two parts is a leak",
        )
    return AnnData(x, obs=obs, var=table), where


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


def _together(parts: Sequence[AnnData], paths: Sequence[Path]) -> AnnData:
    """Several files over the union of their genes; a gene that a file lacks counts 0 there."""
    kinds = [genes_.detect(part.var_names) for part in parts]
    if len({(kind.kind, kind.species) for kind in kinds}) > 1:
        raise GeneError(
            "; ".join(f"{path.name}: {kind}" for path, kind in zip(paths, kinds, strict=True)),
            wanted="one kind of gene ids and one species",
            where="data.files",
            fix="give all files Ensembl ids of one species (column of var: data.gene_ids)",
        )
    every = pd.Index(np.concatenate([part.obs_names for part in parts]))
    if not every.is_unique:
        stems = [path.stem for path in paths]
        marks = stems if len(set(stems)) == len(stems) else [f"{stem}-{i}" for i, stem in enumerate(stems)]
        for part, mark in zip(parts, marks, strict=True):
            part.obs_names = [f"{mark}:{name}" for name in part.obs_names]
    symbols = pd.Series(dtype=object)
    for part in parts:
        if "symbol" in part.var:
            symbols = symbols.combine_first(part.var["symbol"])
    adata = concat(list(parts), join="outer", fill_value=0)
    adata.X = counts_.canonical(adata.X)
    if len(symbols):
        adata.var["symbol"] = symbols.reindex(adata.var_names).fillna("").to_numpy()
    return adata


def _key(adata: AnnData, asked: str | None, of_card: str | None, name: str) -> str | None:
    """The column that a key stands for, checked to be in ``obs``."""
    key = asked or of_card
    if key is not None and key not in adata.obs:
        raise DataError(
            f"no column {key!r} in obs",
            wanted=f"the column named by {name}",
            where=f"data.{name}" if asked else f"{name} of the card",
            fix=plugins.did_you_mean(key, [str(column) for column in adata.obs.columns]),
        )
    return key


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
