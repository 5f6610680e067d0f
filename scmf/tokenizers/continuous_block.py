"""One block of cells for the continuous tokenizer: checked, handed to the compiled loop, errors told.

Lives here: the rules of a tokenizer as numbers (`Rules`), the type of the arithmetic, the errors about cells.
Lives elsewhere: the loop (continuous_kernel), the meaning of the columns (continuous_genes), the class (continuous).

Legend: B cells, G columns, N tokens of all cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .continuous_genes import Columns
from .continuous_kernel import (
    AS_PLACED,
    BAD_COUNT,
    BAD_INDEX,
    BY_VALUE,
    CLIP,
    GIVEN,
    LOG1P,
    OK,
    PLUS,
    RANDOM,
    REACH,
    TIMES,
    encode_rows,
)  # fmt: skip
from .encoded import EncodedCells
from .gene_columns import as_floats, bad_row
from .gene_places import BAD_INDEX as NO_COLUMN
from .rank_value_tables import problem

KINDS = {"log1p_10k": LOG1P, "clipped_counts": CLIP, "as_given": GIVEN}
ORDERS = {"column": AS_PLACED, "vocabulary": AS_PLACED, "value": BY_VALUE, "random": RANDOM}
DEPTHS = {"t": REACH, "f": TIMES, "a": PLUS}

Orders = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""From how many genes a cell expresses and how many it does not, an order of either: somebody else's random choice."""


class Rules(NamedTuple):
    """What a tokenizer does to a cell.

    Parameters
    ----------
    transform, target_sum, clip
        See `ContinuousTokenizer`; ``target_sum`` 0 for counts as they are.
    order, keep_zeros, seed
        See `ContinuousTokenizer`.
    depth_kind, depth_by, depth_log, depth_of_values
        T as `continuous_kernel.encode_rows` takes it; totals as logarithms; totals of the values, not of the counts.
    pad_id
        Id of padding.
    limit
        Most genes a cell.
    official
        ``scfoundation`` or ``transcriptformer`` to err as that code does, else None.
    """

    transform: str
    target_sum: float
    clip: float
    order: str
    keep_zeros: bool
    seed: int
    depth_kind: int
    depth_by: float
    depth_log: bool
    depth_of_values: bool
    pad_id: int
    limit: int
    official: str | None


def rules_of(options: Mapping[str, Any], *, max_length: int, official: str | None, pad_id: int) -> Rules:
    """The rules that the options of a tokenizer stand for."""
    target, default = options["target_sum"], 10_000 if options["transform"] == "log1p_10k" else 0
    depth = options["target_depth"]
    return Rules(
        transform=options["transform"],
        target_sum=float(default if target is None else target),
        clip=options["clip"],
        order=options["order"],
        keep_zeros=options["keep_zeros"],
        seed=options["seed"],
        depth_kind=DEPTHS[depth[0]],
        depth_by=float(depth[1:]),
        depth_log=options["depth_scale"] == "log10",
        depth_of_values=options["depth_tokens"] and options["depth_of"] == "values",
        pad_id=pad_id,
        limit=max_length - (2 if options["depth_tokens"] else 0),
        official=official,
    )


def encode_block(
    matrix: sp.csr_matrix,
    columns: Columns,
    rules: Rules,
    *,
    totals: np.ndarray | None,
    draw: int,
    empty: str,
    dtype: Any,
    orders: Orders | None = None,
) -> EncodedCells:
    """Tokens, values and depth of every cell.

    Parameters
    ----------
    matrix
        Counts or values (B, G) as `as_csr` returns them.
    columns
        Meaning of the G columns.
    rules
        What is done to a cell.
    totals
        Total of each cell as `check_totals` returns them, or None for the sums of the known genes.
    draw
        Number of the epoch, for a random order.
    empty
        ``error`` or ``keep``.
    dtype
        Type of the ids.
    orders
        Order of the genes instead of ``rules.order``, asked for cell by cell.

    Raises
    ------
    ValueError
        A value that is not allowed; a total of 0 beside counts; an empty cell.
    """
    if orders is not None:
        return _one_by_one(matrix, columns, rules, totals=totals, empty=empty, dtype=dtype, orders=orders)
    n_cells = matrix.shape[0]
    kind, strict = KINDS[rules.transform], rules.official is None
    data = as_floats(matrix.data)
    one = np.float32(1) if kind == CLIP or (columns.unaligned and data.dtype == np.float32) else np.float64(1)
    if one.dtype.itemsize < data.dtype.itemsize:
        data = data.astype(one.dtype)
    indptr, n_places = matrix.indptr.astype(np.int64), columns.token_P.size
    place_G = np.where(columns.place_G >= 0, columns.place_G, np.int32(n_places))
    zero_id = rules.pad_id if rules.official == "transcriptformer" and not rules.keep_zeros else -1
    n_zeros = n_places if rules.keep_zeros or zero_id >= 0 else 0
    room = int(np.minimum(np.maximum(np.diff(indptr), n_zeros), rules.limit).sum()) + 2 * n_cells + 1
    ids, values = np.empty(room, dtype), np.empty(room, np.float32)
    offsets, depth_B2, genes_B = np.empty(n_cells + 1, np.int64), np.zeros((n_cells, 2)), np.empty(n_cells, np.int64)
    code, row = encode_rows(
        indptr, np.ascontiguousarray(matrix.indices), data, one, place_G, columns.token_P, columns.direct,
        np.empty(0, one.dtype) if totals is None else np.ascontiguousarray(totals, dtype=one.dtype), totals is None,
        kind, one.dtype.type(rules.target_sum), rules.clip,
        ORDERS[rules.order], rules.keep_zeros, zero_id, _seed(rules.seed, draw),
        strict, strict and kind != GIVEN, rules.official == "scfoundation",
        rules.official == "transcriptformer" and rules.target_sum != 0,
        rules.depth_kind, one.dtype.type(rules.depth_by), rules.depth_log, rules.depth_of_values, *columns.depth_ids,
        rules.limit, ids, values, offsets, depth_B2, genes_B,
    )  # fmt: skip
    if code != OK:
        raise _bad_row(matrix, code, row, kind)
    _check_cells(genes_B, totals, columns, offsets, depth_B2, strict=strict, empty=empty)
    end = int(offsets[-1])
    cells = {"depth": depth_B2.astype(np.float32)} if columns.depth_ids[0] >= 0 else {}
    return EncodedCells(offsets, {"input_ids": ids[:end], "values": values[:end]}, cells)


def _seed(seed: int, draw: int) -> np.uint64:
    digest = hashlib.sha256(json.dumps([int(seed), int(draw)]).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def _one_by_one(
    matrix: sp.csr_matrix, columns: Columns, rules: Rules, *, totals: np.ndarray | None, empty: str, dtype: Any,
    orders: Orders
) -> EncodedCells:  # fmt: skip
    """Cells in the orders that ``orders`` gives: the places of each one are those of its order."""
    parts = []
    rules = rules._replace(order="column")
    for row in range(matrix.shape[0]):
        cell = sp.csr_matrix(matrix[[row]])
        places = np.unique(columns.place_G[cell.indices[cell.data != 0]])
        places = places[places >= 0]
        others = np.setdiff1d(np.flatnonzero(columns.token_P >= 0), places)
        front, back = orders(places.size, others.size)
        order = np.concatenate([places[front], others[back]]).astype(np.int64)
        place_of = np.full(columns.token_P.size, -1, np.int32)
        place_of[order] = np.arange(order.size, dtype=np.int32)
        place_G = np.where(columns.place_G >= 0, place_of[columns.place_G], np.int32(-1))
        of_cell = columns._replace(place_G=place_G, token_P=columns.token_P[order], direct=False)
        parts.append(
            encode_block(
                cell, of_cell, rules, totals=None if totals is None else totals[[row]], draw=0, empty=empty, dtype=dtype
            )
        )
    if not parts:
        return encode_block(matrix, columns, rules, totals=totals, draw=0, empty=empty, dtype=dtype)
    return EncodedCells(
        np.concatenate([[0], np.cumsum([part.offsets[-1] for part in parts])]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        {name: np.concatenate([part.cells[name] for part in parts]) for name in parts[0].cells},
    )


def _bad_row(matrix: sp.csr_matrix, code: int, row: int, kind: int) -> ValueError:
    if code == BAD_INDEX:
        return bad_row(matrix, NO_COLUMN, row)
    data = matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]]
    with np.errstate(invalid="ignore"):
        odd = ~((data >= 0) & (data < np.finfo(np.float32).max)) if code == BAD_COUNT else np.floor(data) != data
    entry = int(np.flatnonzero(odd)[0])
    given = kind == GIVEN
    return problem(
        f"a {'value' if given else 'count'} of {data[entry]:g}",
        wanted="values: finite, 0 or more" if given else "raw counts: whole numbers, finite, 0 or more",
        where=f"counts, row {row}, column {matrix.indices[matrix.indptr[row] + entry]}",
        fix="give values that are not scaled or centerd"
        if given
        else "give the raw matrix (often in .raw.X or layers['counts']); values are taken with transform: as_given",
    )


def _check_cells(
    genes_B: np.ndarray, totals: np.ndarray | None, columns: Columns, offsets: np.ndarray, depth_B2: np.ndarray, *,
    strict: bool, empty: str
) -> None:  # fmt: skip
    if strict and totals is not None:
        _refuse((genes_B > 0) & (totals == 0), "has counts but n_counts 0", "recompute n_counts")
    if empty == "error":
        _refuse(genes_B == 0, "has no counts in any known gene", "filter such cells, or call with empty='keep'")
    if columns.n_ids and columns.token_P.size + 2 > columns.n_ids:
        # The script pads its ids by as many as the cell has tokens, and looks them up by place.
        last_B = np.where(depth_B2[:, 1] > 0, columns.token_P.size + 1, columns.token_P.size)
        _refuse(
            last_B >= columns.n_ids + np.diff(offsets), "has fewer tokens than there are columns without an id",
            "align the columns with the vocabulary, or match_official=False",
        )  # fmt: skip


def _refuse(wrong_B: np.ndarray, what: str, fix: str) -> None:
    if wrong_B.any():
        found = np.flatnonzero(wrong_B)
        raise problem(
            f"{found.size} cell(s) of the block: each {what}",
            wanted="counts of at least one known gene, and their total, in every cell",
            where="rows " + ", ".join(map(str, found[:5])) + (", ..." if found.size > 5 else ""),
            fix=fix,
        )
