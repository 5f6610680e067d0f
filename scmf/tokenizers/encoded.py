"""Encoded cells: what every tokenizer makes of a block of cells before it is padded.

Lives here: `EncodedCells`, and padding it to the tensors of a model. Lives elsewhere: the strategies, one file each.

Legend: B cells, L longest sequence of a batch, N tokens of all cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from transformers import BatchEncoding


class EncodedCells(NamedTuple):
    """Tokens of many cells without padding; cell b is ``column[offsets[b]:offsets[b + 1]]`` of every column.

    Parameters
    ----------
    offsets
        int64 (B+1,), starts at 0.
    columns
        Name -> entries (N,): ``input_ids`` (int32 unless asked otherwise), ``values`` (float32) where there are values.
    cells
        Name -> one entry a cell, (B,) or (B, k), such as ``depth``.
    """

    offsets: np.ndarray
    columns: dict[str, np.ndarray]
    cells: dict[str, np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell, special tokens included, int64 (B,)."""
        return np.diff(self.offsets)


def padded(
    cells: EncodedCells,
    *,
    pad_values: Mapping[str, float],
    longest: int,
    padding: bool | Literal["longest", "max_length"],
    return_tensors: str | None,
) -> BatchEncoding:
    """Ragged tokens as the tensors of a model, padded on the right.

    Parameters
    ----------
    cells
        Tokens of B cells.
    pad_values
        Column -> what fills short rows.
    longest
        Length with ``padding="max_length"``.
    padding
        True or ``"longest"``: to the longest cell; ``"max_length"``: to ``longest``; False: lists of B arrays.
    return_tensors
        None or ``"np"`` for numpy arrays, ``"pt"`` for torch.

    Returns
    -------
    BatchEncoding
        Every column (B, L), integers as int64 and numbers as float32; ``attention_mask`` (B, L) int64; what stands once
        a cell, as it is; ``length`` (B,) int64.
    """
    lengths_B = cells.lengths
    kinds = {name: np.int64 if column.dtype.kind in "iu" else np.float32 for name, column in cells.columns.items()}
    data: dict[str, Any] = {}
    if padding is False:
        for name, column in cells.columns.items():
            parts = np.split(column, cells.offsets[1:-1]) if lengths_B.size else []
            data[name] = [part.astype(kinds[name]) for part in parts]
        data["attention_mask"] = [np.ones(n, np.int64) for n in lengths_B]
        return BatchEncoding({**data, **cells.cells, "length": lengths_B})
    width = longest if padding == "max_length" else int(lengths_B.max(initial=0))
    mask_BL = np.arange(width) < lengths_B[:, None]
    for name, column in cells.columns.items():
        rows_BL = np.full(mask_BL.shape, pad_values[name], kinds[name])
        rows_BL[mask_BL] = column
        data[name] = rows_BL
    data["attention_mask"] = mask_BL.astype(np.int64)
    return BatchEncoding({**data, **cells.cells, "length": lengths_B}, tensor_type=return_tensors)
