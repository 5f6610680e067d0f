"""A corpus: several stores as one row of cells.

Lives here: which cell is in which store, columns of ``obs`` over all stores, one ordered pass over all counts.
Lives elsewhere: the stores (stores), shuffled batches (stream), one gene aligner for all stores
(preprocess.gene_aligner).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd

from scmf.core.errors import DataError
from scmf.core.files import sha256_json
from scmf.core.redact import file_name
from scmf.data.stores.missing import text_categories
from scmf.data.stores.store import CountBlock, Store


class ScannedBlock(NamedTuple):
    """Consecutive cells of one store, as an ordered pass gives them.

    Parameters
    ----------
    store
        Number of the store in the corpus.
    cells
        Numbers of the cells in the corpus, int64 (B,), rising.
    counts
        Their counts over the genes of the store.
    """

    store: int
    cells: np.ndarray
    counts: CountBlock


class Corpus:
    """Stores in a row; cell ``i`` of the corpus is cell ``i - offsets[s]`` of store ``s``.

    The same store may stand in it several times (its cells then count as others).

    Parameters
    ----------
    stores
        At least one, with at least one cell together.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = tuple(stores)
        self.offsets = np.concatenate([[0], np.cumsum([store.n_cells for store in self.stores], dtype=np.int64)])
        """Cells before each store, int64 (number of stores + 1,)."""
        if self.n_cells == 0:
            raise DataError(
                "no cells", wanted="at least one", where=self.name, fix="give other files, or a wider filter"
            )

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.offsets[-1])

    @property
    def name(self) -> str:
        """What the corpus is made of, for errors and tables."""
        uris = list(dict.fromkeys(store.uri for store in self.stores))
        return ", ".join(uris[:3]) + (f" and {len(uris) - 3} more" if len(uris) > 3 else "") or "an empty corpus"

    @property
    def file_names(self) -> str:
        """Names of the stores without their folders and credentials, for records."""
        names = list(dict.fromkeys(file_name(store.uri) for store in self.stores))
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    @property
    def fingerprint(self) -> str:
        """Digest of what all stores hold, in this order."""
        return sha256_json([store.fingerprint for store in self.stores])

    @property
    def lengths(self) -> np.ndarray:
        """Stored values of each cell, integer (n_cells,)."""
        return np.concatenate([store.lengths for store in self.stores])

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of ``obs`` for all cells (RangeIndex); text becomes categorical over all stores.

        A column that is text in one store and a number in another is text in all, see
        `scmf.data.stores.missing.as_text`.

        Raises
        ------
        DataError
            A store lacks a column; it is named.
        """
        known: dict[int, pd.DataFrame] = {}
        parts = [known.setdefault(id(store), store.obs(columns)) for store in self.stores]
        table = {}
        for column in columns:
            series = [part[column] for part in parts]
            kinds = {"b" if one.dtype.kind == "b" else "n" for one in series}
            if any(one.dtype.kind == "O" for one in series) or len(kinds) > 1:  # of a categorical, too
                named = [one.astype("category") for one in series]
                if len({one.cat.categories.dtype for one in named}) > 1:
                    named = [pd.Series(text_categories(one)) for one in named]
                table[column] = pd.Series(pd.api.types.union_categoricals(named, ignore_order=True))
            else:
                table[column] = pd.concat(series, ignore_index=True)
        return pd.DataFrame(table)

    def cell_ids(self) -> np.ndarray:
        """``obs_names`` of all cells, object (n_cells,); not made unique over stores."""
        return np.concatenate([store.cell_ids() for store in self.stores])

    def scan(
        self, *, keep: np.ndarray | None = None, cells_per_block: int = 4096, threads: int = 2
    ) -> Iterator[ScannedBlock]:
        """All cells once, in their order, read ahead by ``threads``; memory holds a few blocks whatever the corpus.

        Parameters
        ----------
        keep
            Boolean (n_cells,): leave out the others. A block may then be smaller.
        cells_per_block
            Cells read at once.
        threads
            Blocks read ahead and side by side.
        """
        with ThreadPoolExecutor(max(1, threads), thread_name_prefix="scan") as pool:
            ahead: deque[Future[ScannedBlock]] = deque()
            for number, start, stop in self._pieces(cells_per_block):
                inside = None if keep is None else keep[self.offsets[number] + start : self.offsets[number] + stop]
                if inside is not None and not inside.any():
                    continue
                ahead.append(pool.submit(self._read, number, start, stop, inside))
                if len(ahead) > max(1, threads):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _pieces(self, size: int) -> Iterator[tuple[int, int, int]]:
        for number, store in enumerate(self.stores):
            for start in range(0, store.n_cells, size):
                yield number, start, min(start + size, store.n_cells)

    def _read(self, number: int, start: int, stop: int, inside: np.ndarray | None) -> ScannedBlock:
        if inside is None or inside.all():
            spans, rows = np.array([[start, stop]]), np.arange(start, stop)
        else:
            rows = start + np.flatnonzero(inside)
            edges = np.flatnonzero(np.diff(rows) > 1) + 1
            spans = np.array([[part[0], part[-1] + 1] for part in np.split(rows, edges)])
        return ScannedBlock(number, rows + self.offsets[number], self.stores[number].read(spans))

    def close(self) -> None:
        """Close every store."""
        for store in self.stores:
            store.close()
