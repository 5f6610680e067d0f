"""Cells as rows of different lengths, and their way into rectangles.

Lives here: `Ragged`, what an encoder is, the encoder that leaves counts as they are, the compiled copy that selects
and pads. Lives elsewhere: encoders that tokenize (they wrap a tokenizer, see scmf.training.stream_data), who calls
them (stream.reader), padded numpy arrays as torch tensors (tokens.tokens).

Legend: B cells, L longest row of a batch, N entries of all cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numba
import numpy as np

from scmf.core.errors import DataError
from scmf.data.stores.store import CountBlock


class BadRows(DataError):
    """An encoder cannot encode some rows of a block; the stream, which knows where they come from, names the cells.

    Parameters
    ----------
    found, wanted, fix
        Parts of the error.
    rows
        Rows of the block.
    """

    def __init__(self, found: str, *, wanted: str, fix: str, rows: np.ndarray) -> None:
        super().__init__(found, wanted=wanted, where=f"rows {rows[:5].tolist()} of a block", fix=fix)
        self.rows = rows


@dataclass(frozen=True)
class Ragged:
    """Cells as ragged rows; cell b is ``column[offsets[b]:offsets[b + 1]]`` of every column.

    Parameters
    ----------
    offsets
        int64 (B+1,), starts at 0.
    columns
        Name -> entries of all cells, one after the other (N,), such as ``input_ids`` and ``values``.
    cell_tensors
        Name -> one value a cell (B,) or a few (B, k), such as ``labels`` or a depth.
    pad_values
        Column -> what fills short rows; 0 for a column that is not named.
    """

    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]
    cell_tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    pad_values: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Entries of each cell, int64 (B,)."""
        return np.diff(self.offsets)

    @classmethod
    def joined(cls, blocks: Sequence[Ragged]) -> Ragged:
        """The cells of several blocks with the same columns, one block after the other."""
        first = blocks[0]
        lengths = np.concatenate([block.lengths for block in blocks])
        return cls(
            offsets_of(lengths),
            {name: np.concatenate([block.columns[name] for block in blocks]) for name in first.columns},
            {name: np.concatenate([block.cell_tensors[name] for block in blocks]) for name in first.cell_tensors},
            first.pad_values,
        )

    def select(self, rows: np.ndarray) -> Ragged:
        """The cells ``rows`` (indices or a boolean mask), in that order."""
        rows = _positions(rows)
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        columns = {}
        for name, column in self.columns.items():
            columns[name] = np.empty(int(offsets[-1]), column.dtype)
            copy_rows(column, self.offsets, rows, offsets, lengths, columns[name], column.dtype.type(0))
        return Ragged(offsets, columns, {name: x[rows] for name, x in self.cell_tensors.items()}, self.pad_values)

    def with_cell_tensors(self, **tensors: np.ndarray) -> Ragged:
        """The same cells with more arrays of one entry a cell, such as ``labels`` int64 (B,)."""
        return replace(self, cell_tensors={**self.cell_tensors, **tensors})

    def pad(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """A batch of the cells ``rows``, padded on the right to the longest of them.

        Returns
        -------
        dict
            Every column (B, L), integers as int64 and numbers as float32; ``attention_mask`` int64 (B, L); and what
            stands once a cell, such as ``labels`` int64 (B,).
        """
        rows = _positions(rows)
        lengths_B = self.lengths[rows]
        n_cells, longest = len(rows), int(lengths_B.max())
        begins, widths = np.arange(n_cells) * longest, np.full(n_cells, longest)
        batch = {}
        for name, column in self.columns.items():
            kind = np.int64 if column.dtype.kind in "iu" else np.float32
            flat = np.empty(n_cells * longest, kind)
            copy_rows(column, self.offsets, rows, begins, widths, flat, kind(self.pad_values.get(name, 0)))
            batch[name] = flat.reshape(n_cells, longest)
        batch["attention_mask"] = attention_mask(lengths_B, longest)
        for name, values in self.cell_tensors.items():
            batch[name] = values[rows]
        return batch


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where rows of these lengths begin, and the end of the last, int64 (B+1,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def attention_mask(lengths_B: np.ndarray, longest: int) -> np.ndarray:
    """1 for an entry of a row, 0 for padding, int64 (B, L)."""
    return (np.arange(longest) < lengths_B[:, None]).astype(np.int64)


def _positions(rows: np.ndarray) -> np.ndarray:
    """Indices, int64, of cells given by indices or by a boolean mask."""
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64, copy=False)


class Encoder(Protocol):
    """Turns the counts of some cells of one store into rows; called from several threads at once.

    One that draws at random has ``at_epoch(epoch) -> Encoder`` besides: the encoder of that epoch.
    """

    pad_values: Mapping[str, float]
    """Name of each column -> what fills short rows."""

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Ragged:
        """Encode ``counts`` (B, G), whose columns are ``genes``."""


class RawCounts:
    """Leaves counts as they are: ``indices`` (int32), ``data`` (float32), and ``n_counts`` (float64) of each cell."""

    pad_values: Mapping[str, float] = {"indices": -1, "data": 0.0}

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Ragged:
        """See `Encoder`."""
        totals = row_sums(counts.indptr, counts.data)
        columns = {"indices": counts.indices.astype(np.int32, copy=False), "data": counts.data}
        return Ragged(counts.indptr, columns, {"n_counts": totals}, self.pad_values)


@numba.njit(cache=True, nogil=True)
def row_sums(indptr: Any, data: Any) -> Any:
    """Sum of each row in float64 (B,)."""
    sums = np.zeros(indptr.size - 1, np.float64)
    for row in range(indptr.size - 1):
        for i in range(indptr[row], indptr[row + 1]):
            sums[row] += data[i]
    return sums


@numba.njit(cache=True, nogil=True)
def copy_rows(entries: Any, offsets: Any, rows: Any, begins: Any, widths: Any, out: Any, pad_value: Any) -> None:
    """Copy ``rows`` of ragged ``entries``, row i to ``out`` from ``begins[i]`` on, padded up to ``widths[i]``."""
    for i in range(rows.size):
        start, begin, width = offsets[rows[i]], begins[i], widths[i]
        n = min(offsets[rows[i] + 1] - start, width)
        source, target, rest = entries[start : start + n], out[begin : begin + n], out[begin + n : begin + width]
        for j in range(n):
            target[j] = source[j]
        for j in range(width - n):
            rest[j] = pad_value
