"""The cells of a card put together as its section ``cells`` says: constants, other names, joined columns, filters.

Lives here: the steps on an AnnData. Lives elsewhere: the keys (assembly), reading the files (loading.load).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core import registry
from scmf.core.errors import DataError
from scmf.data.cards.assembly import Annotation, Assembly


def name_columns(cells: AnnData, name: str, assembly: Assembly) -> None:
    """Give the cells of one file its constants and the column names of the card, in place."""
    for column, source in assembly.rename.get(name, {}).items():
        cells.obs[column] = _column(cells.obs, source, where=name).astype(str)
    for column, value in assembly.constant.get(name, {}).items():
        cells.obs[column] = value


def assemble(cells: AnnData, assembly: Assembly, files: Mapping[str, AnnData], *, where: str) -> AnnData:
    """Join, harmonise and filter.

    Parameters
    ----------
    cells
        All cells of the files, with the columns of `name_columns`.
    assembly
        The section ``cells`` of the card.
    files
        Name to content of the files with the role ``annotations``.
    where
        Name of the card, for errors.

    Raises
    ------
    DataError
        A column is missing, a cell has no row or two, rows do not belong together, no cell is left.
    """
    for annotation in assembly.annotations:
        cells = _joined(cells, annotation, files[annotation.file])
    for column, names in assembly.values.items():
        held = _column(cells.obs, column, where=where).astype(str)
        if lost := sorted(set(names) - set(held)):
            raise DataError(
                f"{column} has no value {lost[0]!r}", wanted="every value that `values` names", where=where,
                fix="the file is not the one the card was written for",
            )  # fmt: skip
        cells.obs[column] = held.replace(names)
    for column, kept in assembly.rows.items():
        chosen = _column(cells.obs, column, where=where).astype(str).isin(kept).to_numpy()
        if not chosen.any():
            raise DataError(
                f"no cell with {column} {', '.join(kept)}", wanted="at least one", where=where, fix="correct `rows`"
            )
        cells = cells[chosen].copy()
    return cells


def _joined(cells: AnnData, annotation: Annotation, file: AnnData) -> AnnData:
    rows = _rows(cells, annotation, file)
    if (lost := rows < 0).any():
        if annotation.missing == "error":
            raise DataError(
                f"{int(lost.sum())} of {cells.n_obs} cells have no row, the first is {cells.obs_names[lost][0]!r}",
                wanted="a row for every cell", where=annotation.file, fix="set missing: drop to leave them out",
            )  # fmt: skip
        if lost.all():
            raise DataError("no cell has a row", wanted="ids that meet", where=annotation.file, fix="correct `strip`")
        cells, rows = cells[~lost].copy(), rows[~lost]
    found = file.obs.iloc[rows]
    for mine, theirs in annotation.agree.items():
        a = _column(cells.obs, mine, where=annotation.file).astype(str).to_numpy()
        b = _column(found, theirs, where=annotation.file).astype(str).to_numpy()
        if (bad := np.flatnonzero(a != b)).size:
            raise DataError(
                f"row {bad[0]}: {mine} {a[bad[0]]!r}, {theirs} {b[bad[0]]!r} ({bad.size} such rows)",
                wanted="rows in the order of the cells", where=annotation.file, fix="join by cell_id",
            )  # fmt: skip
    for new, theirs in annotation.columns.items():
        cells.obs[new] = _column(found, theirs, where=annotation.file).to_numpy()
    for new, theirs in annotation.obsm.items():
        if theirs not in file.obsm:
            raise DataError(f"no {theirs!r} in obsm", wanted=", ".join(file.obsm), where=annotation.file)
        cells.obsm[new] = np.asarray(file.obsm[theirs])[rows]
    return cells


def _rows(cells: AnnData, annotation: Annotation, file: AnnData) -> np.ndarray:
    """Row of the file for each cell, -1 where there is none."""
    if annotation.by == "order":
        if file.n_obs != cells.n_obs:
            raise DataError(
                f"{file.n_obs} rows for {cells.n_obs} cells", wanted="as many", where=annotation.file, fix="join by id"
            )
        return np.arange(cells.n_obs)
    mine, theirs = _keys(cells, annotation, mine=True), _keys(file, annotation, mine=False)
    for keys, what in ((mine, "cells"), (theirs, "rows")):
        if len(twice := keys[keys.duplicated()]):
            raise DataError(
                f"{len(twice)} {what} have the id of another, the first is {twice[0]!r}", wanted="one row a cell",
                where=annotation.file, fix="name a column in `within` that tells them apart, or strip less",
            )  # fmt: skip
    return np.asarray(theirs.get_indexer(mine))


def _keys(held: AnnData, annotation: Annotation, *, mine: bool) -> pd.Index:
    """What two ids are compared by: the stripped id and the columns that must agree."""
    keys = pd.Series(held.obs_names.astype(str))
    if annotation.strip is not None:
        keys = keys.str.replace(annotation.strip, "", regex=True)
    for cells_column, file_column in annotation.within.items():
        column = cells_column if mine else file_column
        keys = keys + "\t" + _column(held.obs, column, where=annotation.file).astype(str).to_numpy()
    return pd.Index(keys)


def _column(obs: pd.DataFrame, name: str, *, where: object) -> pd.Series:
    if name not in obs:
        known = [str(column) for column in obs.columns]
        raise DataError(
            f"no column {name!r} in obs", wanted="the column that the card names", where=where,
            fix=registry.did_you_mean(name, known),
        )  # fmt: skip
    return obs[name]


def file_names(paths: Mapping[str, Path], roles: Mapping[str, str], role: str) -> dict[str, Path]:
    """The files of one role, by name."""
    return {name: path for name, path in paths.items() if roles[name] == role}
