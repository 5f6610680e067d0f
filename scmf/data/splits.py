"""Frozen splits: a file of cell ids that says which part each cell belongs to.

Lives here: reading such a file against its checksum and against the cells, writing one so that equal
content is an equal file. Lives elsewhere: how the shipped splits were made (datasets/make_splits.py),
the checksum (cards).
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scmf.data.cards import Card, load_card
from scmf.errors import ChecksumError, ConfigError, DataError
from scmf.files import atomic_path, sha256_file

PARTS = ("train", "valid", "test")
"""The parts of a split, in this order."""


def is_path(name: str) -> bool:
    """Whether the value of ``data.split`` is a path to a TSV and not the name of a split."""
    return name.endswith((".tsv", ".tsv.gz")) or "/" in name or "\\" in name


def split_file(card: Card | str | Path | None, name: str) -> Path:
    """Path of a split, after its checksum was compared with the card.

    Parameters
    ----------
    card
        The card that names the split; None when ``name`` is a path.
    name
        Name of a split of the card, or a path to a TSV, which has no checksum.
    """
    if is_path(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise DataError("no such file", wanted="a TSV with cell_id and part", where=path, fix="check data.split")
        return path
    if card is None:
        raise ConfigError(
            f"split {name!r}",
            wanted="a path to a TSV with columns cell_id and part, since your own files have no card",
            where="data.split",
            fix="write such a file, or a card that names it",
        )
    if not isinstance(card, Card):
        card = load_card(card)
    split = card.split(name)
    path = card.folder / split.file
    if not path.is_file():
        raise DataError("no such file", wanted=f"split {name!r}", where=path, fix="restore the file from git")
    if (found := sha256_file(path)) != split.sha256:
        raise ChecksumError(
            f"sha256 {found}",
            wanted=f"sha256 {split.sha256}",
            where=path,
            fix=f"restore the file; a new split needs a new name in the card {card.name!r}",
        )
    return path


def read_table(path: Path) -> pd.Series:
    """The split file as a Series: index cell_id (unique), values ``train``, ``valid`` or ``test``."""
    try:
        # no quoting and no missing values: a cell may be called NA
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_filter=False, quoting=3)
    except (OSError, EOFError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"not a readable TSV: {error}", where=path, fix="write it again, tab-separated") from error
    if not {"cell_id", "part"} <= set(table.columns):
        raise DataError(
            f"columns {list(table.columns)}", wanted="columns cell_id and part", where=path, fix="add the header line"
        )
    if len(unknown := table.loc[~table["part"].isin(PARTS), "part"]):
        raise DataError(
            f"part {unknown.iloc[0]!r} in row {unknown.index[0] + 2}",
            wanted=f"one of {', '.join(PARTS)}",
            where=path,
            fix="correct the row",
        )
    if len(twice := table.loc[table["cell_id"].duplicated(), "cell_id"]):
        raise DataError(
            f"cell {twice.iloc[0]!r} stands twice ({len(twice)} such rows)",
            wanted="each cell once",
            where=path,
            fix="remove the second row: a cell in two parts is a leak",
        )
    return table.set_index("cell_id")["part"]


def read_split(card: Card | str | Path | None, name: str, *, cell_ids: Iterable[str]) -> pd.Series:
    """Part of each cell, in the order of ``cell_ids``.

    Parameters
    ----------
    card
        The card that names the split, its name or path; None when ``name`` is a path.
    name
        Name of a split of the card, or a path to a TSV with columns cell_id and part.
    cell_ids
        Ids of the cells.

    Returns
    -------
    pandas.Series
        Ordered categorical with categories train, valid, test; index = ``cell_ids``.

    Raises
    ------
    DataError
        A cell is missing from the file, stands in it twice, or is given twice.
    ChecksumError
        The file is not the one the card names.
    """
    path = split_file(card, name)
    table = read_table(path)
    index = pd.Index(list(cell_ids), name="cell_id")
    if len(twice := index[index.duplicated()]):
        raise DataError(
            f"cell id {twice[0]!r} belongs to two cells",
            wanted="unique cell ids",
            where="obs_names",
            fix="adata.obs_names_make_unique()",
        )
    missing = index.difference(table.index, sort=False)
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(index)} cells are not in the split, the first is {missing[0]!r}",
            wanted="a part for every cell",
            where=path,
            fix="use the cells that the split was made for, or make a split of your own",
        )
    return pd.Series(
        pd.Categorical(table.loc[index].to_numpy(), categories=list(PARTS), ordered=True), index=index, name="part"
    )


def write_split(path: Path | str, parts: Mapping[str, str]) -> str:
    """Write cell id -> part as TSV with gzip, rows sorted by cell id, and return the sha256.

    No time stamp and no file name go into the gzip header, so that equal content is an equal file (of the
    same zlib).
    """
    unknown = sorted(set(parts.values()) - set(PARTS))
    if unknown:
        raise DataError(f"part {unknown[0]!r}", wanted=f"one of {', '.join(PARTS)}", fix="rename it")
    text = "cell_id\tpart\n" + "".join(f"{cell}\t{parts[cell]}\n" for cell in sorted(parts))
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=9) as handle:
        handle.write(text.encode())
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return sha256_file(path)


def shared_groups(parts: pd.Series, groups: pd.Series | np.ndarray) -> dict[str, list[str]]:
    """Groups (donors, studies) whose cells lie in more than one part: group -> parts.

    Parameters
    ----------
    parts
        Part of each cell.
    groups
        Group of each cell, in the same order.
    """
    table = pd.DataFrame({"group": np.asarray(groups).astype(str), "part": np.asarray(parts).astype(str)})
    found = table.groupby("group")["part"].unique()
    return {str(group): sorted(values) for group, values in found.items() if len(values) > 1}
