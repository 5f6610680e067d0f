"""Frozen splits: a file of cell ids that says whether each cell trains, validates or tests.

Lives here: reading such a file against its checksum and against the cells, writing one so that equal
content is an equal file; both for a hundred million cells too. Lives elsewhere: making a split
(make), how the shipped ones were made (datasets/make_splits.py), the checksum (cards), ids of
a corpus (cell_ids).
"""

from __future__ import annotations

import contextlib
import gzip
import heapq
import io
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from scmf.core.errors import ChecksumError, ConfigError, DataError
from scmf.core.files import atomic_path, sha256_file
from scmf.data.cards.card import Card, load_card
from scmf.data.splits.assign import SPLITS as SPLITS  # read from here, too
from scmf.data.stores.cell_ids import hash_ids, unique_ids
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.missing import is_missing

_COLUMNS = ("split", "part")
"""Names of the column that says so: the one that is written, and that of older files."""

_ROWS = 1 << 20
"""Rows of a split file held at once."""

_BUFFER = 1 << 20
"""Bytes handed to gzip at once."""

_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError)


def is_path(name: str) -> bool:
    """Whether the value of ``data.split`` is a path to a table and not the name of a split."""
    return name.endswith((".tsv", ".tsv.gz", ".csv", ".csv.gz")) or "/" in name or "\\" in name


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
            raise DataError("no such file", wanted="a TSV with cell_id and split", where=path, fix="check data.split")
        return path
    if card is None:
        raise ConfigError(
            f"split {name!r}",
            wanted="a path to a TSV with columns cell_id and split, since your own files have no card",
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


def _how(path: Path) -> dict[str, Any]:
    """Arguments with which pandas reads a split: what it is, is told by its first bytes and its header, not its name.

    No missing values: a cell may be called NA. Quotes are signs of a name unless the header is quoted, as R's
    ``write.table`` has it.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else path.open("rb") as text:
        header = text.readline(_BUFFER).decode("utf-8-sig").rstrip("\r\n")
    sep = "\t" if "\t" in header or "," not in header else ","
    quoted = sep == "," or header.startswith('"')
    how: dict[str, Any] = {"sep": sep, "dtype": str, "keep_default_na": False, "na_filter": False}
    how |= {"quoting": 0 if quoted else 3, "compression": "gzip" if packed else None, "encoding": "utf-8-sig"}
    return how


def read_table(path: Path) -> pd.Series:
    """The split file as a Series: index cell_id (unique), values ``train``, ``valid`` or ``test``."""
    try:
        table = pd.read_csv(path, **_how(path))
    except _UNREADABLE as error:
        raise DataError(
            f"not a readable TSV: {error}",
            where=path,
            fix="write it again as text in UTF-8, tab-separated; gzip may be called .gz or not",
        ) from error
    splits = _known_splits(table, path)
    if len(twice := table.loc[table["cell_id"].duplicated(), "cell_id"]):
        raise DataError(
            f"cell {twice.iloc[0]!r} stands twice ({len(twice)} such rows)",
            wanted="each cell once",
            where=path,
            fix="remove the second row: a cell in two splits is a leak",
        )
    return pd.Series(splits.to_numpy(), index=pd.Index(table["cell_id"], name="cell_id"), name="split")


def _column(table: pd.DataFrame, path: Path) -> str:
    """The column of a split file that is not ``cell_id``: ``split``, or ``part`` in older files."""
    found = [name for name in _COLUMNS if name in table.columns]
    if "cell_id" not in table.columns or not found:
        raise DataError(
            f"columns {list(table.columns)}", wanted="columns cell_id and split", where=path, fix="add the header line"
        )
    return found[0]


def _known_splits(table: pd.DataFrame, path: Path) -> pd.Series:
    """Split of each row, after every value was found among `SPLITS`."""
    found = table[_column(table, path)]
    if len(unknown := found[~found.isin(SPLITS)]):
        raise DataError(
            f"split {unknown.iloc[0]!r} in row {unknown.index[0] + 2}",
            wanted=f"one of {', '.join(SPLITS)}",
            where=path,
            fix="correct the row",
        )
    return found


def read_split(card: Card | str | Path | None, name: str, *, cell_ids: Iterable[str]) -> pd.Series:
    """Split of each cell, in the order of ``cell_ids``.

    Parameters
    ----------
    card
        The card that names the split, its name or path; None when ``name`` is a path.
    name
        Name of a split of the card, or a path to a TSV with columns cell_id and split.
    cell_ids
        Ids of the cells.

    Returns
    -------
    pandas.Series
        Ordered categorical with categories train, valid, test; index = ``cell_ids``.

    Raises
    ------
    DataError
        A cell is missing from the file, duplicated in it, or given twice.
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
            wanted="a split for every cell",
            where=path,
            fix="use the cells that the split was made for, or make a split of your own",
        )
    return pd.Series(
        pd.Categorical(table.loc[index].to_numpy(), categories=list(SPLITS), ordered=True), index=index, name="split"
    )


def read_codes(path: Path | str, corpus: Corpus) -> np.ndarray:
    """Split of each cell of a corpus: 10 bytes a cell while it runs, 1 byte a cell afterwards.

    Ids are compared by their 62-bit hash. Two ids of the file with one hash are an error; that a cell which is not
    in the file passes for one that is has a chance of the number of cells in 5e18.

    Parameters
    ----------
    path
        TSV with columns cell_id and split; cells that the corpus does not have are allowed.
    corpus
        The cells; where ids of two stores clash they bear the name of the store, see `scmf.data.stores.cell_ids`.

    Returns
    -------
    numpy.ndarray
        uint8 (n_cells,), index into `SPLITS`.

    Raises
    ------
    DataError
        A cell is missing from the file or duplicated in it, or a row is wrong.
    """
    path = Path(path)
    keys = np.concatenate([np.empty(0, np.uint64), *(_keys(ids, codes) for ids, codes in _rows(path))])
    keys.sort()
    known = keys >> _CODE_BITS
    if len(same := np.flatnonzero(known[1:] == known[:-1])):
        _refuse_twice(path, set(known[same].tolist()))
    del known
    codes, used = np.empty(corpus.n_cells, np.uint8), np.zeros(len(keys), bool)
    start, missing, first = 0, 0, ""
    for ids in unique_ids(corpus):
        wanted = hash_ids(ids) & ~_CODE_MASK
        at = np.searchsorted(keys, wanted)
        found = np.take(keys, at, mode="clip") if len(keys) else wanted + np.uint64(4)
        there = (found & ~_CODE_MASK) == wanted
        if not there.all():
            first = first or str(ids[int(np.argmin(there))])
            missing += int((~there).sum())
        elif used[at].any() or len(np.unique(at)) < len(at):
            raise DataError(
                "two cells have ids with one hash", where=corpus.name, fix="rename one of them, or make ids unique"
            )
        else:
            used[at] = True
        codes[start : start + len(ids)] = found & _CODE_MASK
        start += len(ids)
    if missing:
        raise DataError(
            f"{missing} of {corpus.n_cells} cells are not in the split, the first is {first!r}",
            wanted="a split for every cell",
            where=path,
            fix="use the cells that the split was made for, or make a split of your own",
        )
    return codes


_CODE_BITS, _CODE_MASK = np.uint64(2), np.uint64(3)


def _keys(ids: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Hash of the id above, split in the two lowest bits: sorted, they are a table of 8 bytes a cell."""
    keys: np.ndarray = (hash_ids(ids) & ~_CODE_MASK) | codes.astype(np.uint64)
    return keys


def _rows(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids, object, and splits, uint8, of a split file, `_ROWS` at a time."""
    try:
        with pd.read_csv(path, chunksize=_ROWS, **_how(path)) as chunks:
            for table in chunks:
                codes = pd.Categorical(_known_splits(table, path), categories=list(SPLITS)).codes
                yield table["cell_id"].to_numpy(dtype=object), codes.astype(np.uint8)
    except _UNREADABLE as error:
        raise DataError(
            f"not a readable TSV: {error}",
            where=path,
            fix="write it again as text in UTF-8, tab-separated; gzip may be called .gz or not",
        ) from error


def _refuse_twice(path: Path, hashes: set[int]) -> None:
    """Say which id is duplicated, or that two ids have one hash."""
    seen: dict[int, str] = {}
    for ids, codes in _rows(path):
        short = (_keys(ids, codes) >> _CODE_BITS).tolist()
        for key, name in ((key, str(ids[i])) for i, key in enumerate(short) if key in hashes):
            if seen.setdefault(key, name) != name:
                raise DataError(
                    f"cells {seen[key]!r} and {name!r} have one hash", where=path, fix="rename one of the two cells"
                )
    raise DataError(
        f"cell {next(iter(seen.values()))!r} stands twice ({len(hashes)} such cells)",
        wanted="each cell once",
        where=path,
        fix="remove the second row: a cell in two splits is a leak",
    )


def write_split(
    path: Path | str,
    splits: Mapping[str, str] | Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    column: Literal["split", "part"] = "split",
) -> str:
    """Write cell id and split as TSV, rows sorted by cell id, and return the sha256.

    A name that ends in ``.gz`` is gzip, any other plain text. No time stamp and no file name go into the gzip header,
    so that equal content is an equal file (of the same zlib). Many rows are sorted in files beside ``path``, a million
    at a time.

    Parameters
    ----------
    path
        File to write, ``….tsv`` or ``….tsv.gz``.
    splits
        Cell id -> split; or blocks of ids, object (n,), and indices into `SPLITS`, integer (n,).
    column
        Header of the second column. ``part`` is that of the frozen files in ``datasets/splits``, whose checksums
        cards name: the programs that make those files must write it.

    Raises
    ------
    DataError
        A split is not one of `SPLITS`, an id is duplicated or holds a tab or an end of line.
    """
    if isinstance(splits, Mapping):
        if unknown := sorted(set(splits.values()) - set(SPLITS)):
            raise DataError(f"split {unknown[0]!r}", wanted=f"one of {', '.join(SPLITS)}", fix="rename it")
        codes = np.array([SPLITS.index(split) for split in splits.values()], int)
        splits = [(np.array(list(splits), dtype=object), codes)]
    with atomic_path(path) as temporary, tempfile.TemporaryDirectory(dir=temporary.parent) as folder:
        runs = list(_sorted_runs(splits, Path(folder)))
        with (
            temporary.open("wb") as raw,
            (
                gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=9)
                if Path(path).name.endswith(".gz")
                else contextlib.nullcontext(raw)
            ) as packed,
            io.BufferedWriter(packed, _BUFFER) as out,  # type: ignore[arg-type]
            contextlib.ExitStack() as opened,
        ):
            out.write(f"cell_id\t{column}\n".encode())
            before = None
            for line in heapq.merge(*(opened.enter_context(run.open("rb")) for run in runs), key=_id_of):
                if (cell := _id_of(line)) == before:
                    raise DataError(
                        f"cell {cell.decode()!r} stands twice",
                        wanted="each cell once",
                        where=path,
                        fix="make the ids unique: a cell in two splits is a leak",
                    )
                before = cell
                out.write(line)
    return sha256_file(path)


def _id_of(line: bytes) -> bytes:
    return line[: line.index(b"\t")]


def _sorted_runs(blocks: Iterable[tuple[np.ndarray, np.ndarray]], folder: Path) -> Iterator[Path]:
    """Files of sorted lines, at most `_ROWS` in each."""
    number = 0
    for ids, codes in blocks:
        for start in range(0, len(ids), _ROWS):
            some, of = ids[start : start + _ROWS], codes[start : start + _ROWS]
            order = np.argsort(some)
            text = "".join([f"{some[i]}\t{SPLITS[of[i]]}\n" for i in order.tolist()])
            if text.count("\t") != len(some) or text.count("\n") != len(some) or "\r" in text:
                bad = next(cell for cell in some if any(mark in cell for mark in "\t\n\r"))
                raise DataError(f"cell id {bad!r}", wanted="no tab and no end of line in it", fix="rename the cell")
            run = folder / f"{number}.tsv"
            run.write_bytes(text.encode())
            number += 1
            yield run


def shared_groups(splits: pd.Series, groups: pd.Series | np.ndarray) -> dict[str, list[str]]:
    """Groups (donors, studies) whose cells lie in more than one split: group -> splits; cells without one are left out.

    Parameters
    ----------
    splits
        Split of each cell.
    groups
        Group of each cell, in the same order.
    """
    known = ~is_missing(groups)
    table = pd.DataFrame(
        {"group": np.asarray(groups)[known].astype(str), "split": np.asarray(splits)[known].astype(str)}
    )
    found = table.groupby("group")["split"].unique()
    return {str(group): sorted(values) for group, values in found.items() if len(values) > 1}
