"""One block of cells for the binned tokenizer: the default way in one compiled call, the official way cell by cell.

Lives here: how a sequence is laid out, the two ways, checks of options. Lives elsewhere: the loops (binned_kernel), the
official draws (binned_draws), the meaning of the columns (gene_columns), what a user calls (binned).

Legend: B cells, G genes (columns), K edges, N tokens of all cells, P genes of a panel.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from .binned_draws import OfficialDraws, official_digits
from .binned_kernel import encode_rows, mix64
from .encoded import EncodedCells
from .gene_columns import GeneTokens, as_floats, bad_row, to_tokens
from .gene_places import OK, places_of
from .rank_value_tables import problem

MASK = "<mask>"
"""Token that hides a gene; fitted vocabularies have it, scGPT's has not."""

SPECIAL = ("<pad>", "<cls>", "<eoc>")
"""Special tokens in the order in which the official code appends those that a vocabulary lacks."""

_NONE = np.empty(0, np.int32)


class Layout(NamedTuple):
    """How a sequence is laid out.

    Parameters
    ----------
    most
        Most genes a cell.
    n_bins
        Number of bins; 0 for values as they are.
    zeros
        Give every known gene of the block, zeros included.
    lottery
        Sample the genes of a long cell; else the first ones stay.
    cls_id, cls_value
        What stands in front; id -1 for nothing.
    """

    most: int
    n_bins: int
    zeros: bool
    lottery: bool
    cls_id: int
    cls_value: float


def encode_block(
    matrix: sp.csr_matrix, meaning: GeneTokens, layout: Layout, *, seed: int, draw: int
) -> tuple[EncodedCells, np.ndarray]:
    """Tokens of every cell, with draws that depend on the cell alone.

    Parameters
    ----------
    matrix
        Counts (B, G) as `as_csr` returns them.
    meaning
        Meaning of the G columns.
    layout
        See `Layout`.
    seed, draw
        What keys the draws.

    Returns
    -------
    cells, n_found_B
        Tokens, and how many genes of each cell have a count.
    """
    place_G, token_P, direct = meaning.places
    label_P = np.arange(token_P.size, dtype=np.int32) if layout.zeros else token_P
    label_G = np.append(label_P, np.int32(-1))[place_G]
    panel = token_P if layout.zeros else _NONE
    share_K = _shares(layout.n_bins)
    n_cells = matrix.shape[0]
    offsets, n_found_B = np.empty(n_cells + 1, np.int64), np.empty(n_cells, np.int64)
    base = np.uint64(mix64(np.uint64(mix64(np.uint64(seed))) ^ np.uint64(draw)))
    indptr, data = matrix.indptr.astype(np.int64), as_floats(matrix.data)
    lengths_B = np.full(n_cells, panel.size) if layout.zeros else np.diff(indptr)
    room = int(np.minimum(lengths_B, layout.most).sum()) + n_cells * (layout.cls_id >= 0) + 1
    ids, values = np.empty(room, np.int32), np.empty(room, np.float32)
    code, row = encode_rows(
        indptr, np.ascontiguousarray(matrix.indices), data, place_G, label_G, label_P, direct, panel,
        share_K, layout.most, layout.lottery, base, layout.cls_id, np.float32(layout.cls_value),
        ids, values, offsets, n_found_B,
    )  # fmt: skip
    if code != OK:
        raise bad_row(matrix, code, row)
    end = int(offsets[-1])
    return EncodedCells(offsets, {"input_ids": ids[:end], "values": values[:end]}, {}), n_found_B


@lru_cache(maxsize=8)
def _shares(n_bins: int) -> np.ndarray:
    """Which quantiles are edges."""
    return np.linspace(0, 1, n_bins - 1) if n_bins else np.empty(0)


def encode_official(
    matrix: sp.csr_matrix, meaning: GeneTokens, layout: Layout, *, draws: OfficialDraws, unknown_id: int
) -> tuple[EncodedCells, np.ndarray]:
    """The same in the order of the official draws: all digits first, then the samples, cell after cell.

    Parameters
    ----------
    matrix, meaning, layout
        As in `encode_block`.
    draws
        Where digits and samples come from.
    unknown_id
        Token of a gene that the vocabulary does not have.

    Returns
    -------
    cells, n_found_B
        As in `encode_block`.
    """
    every_G = np.arange(meaning.token_G.size, dtype=np.int32)
    token_G = np.where(meaning.token_G < 0, np.int32(unknown_id), meaning.token_G)
    found = to_tokens(matrix, places_of(every_G, apart=True))
    numbers = found.counts.astype(np.float32)
    if layout.n_bins:
        numbers = official_digits(found.indptr, found.counts, layout.n_bins, draws)
    front = int(layout.cls_id >= 0)
    ids, values = [_NONE], [np.empty(0, np.float32)]
    for start, stop in zip(found.indptr[:-1], found.indptr[1:], strict=True):
        columns, number = found.ids[start:stop], numbers[start:stop]
        if layout.zeros:
            dense_G = np.zeros(every_G.size, np.float32)
            dense_G[columns] = number
            columns, number = every_G, dense_G
        if columns.size > layout.most:
            kept = draws.choose(columns.size, layout.most) if layout.lottery else slice(layout.most)
            columns, number = columns[kept], number[kept]
        ids.append(np.insert(token_G[columns], 0, [layout.cls_id] * front))
        values.append(np.insert(number, 0, [layout.cls_value] * front))
    offsets = np.cumsum([part.size for part in ids], dtype=np.int64)
    columns_of = {
        "input_ids": np.concatenate(ids).astype(np.int32),
        "values": np.concatenate(values).astype(np.float32),
    }
    return EncodedCells(offsets, columns_of, {}), np.diff(found.indptr)


def refuse_empty(n_found_B: np.ndarray) -> None:
    """Raise ``ValueError`` if a cell has no count in a known gene."""
    rows = np.flatnonzero(n_found_B == 0)
    if rows.size:
        raise problem(
            f"{rows.size} cell(s) of the block: each has no counts in any known gene",
            wanted="counts of at least one known gene in every cell",
            where="rows " + ", ".join(map(str, rows[:5])) + (", ..." if rows.size > 5 else ""),
            fix="filter such cells, or call with empty='keep'",
        )


def check_vocabulary(token_ids: Mapping[str, int], genes: Mapping[str, int], *, special_tokens: bool) -> None:
    """Raise ``ValueError`` unless there are genes, the special tokens needed, and one id a token."""
    wanted = SPECIAL[: 2 if special_tokens else 1]
    if missing := [token for token in wanted if token not in token_ids]:
        raise problem(
            f"no {', '.join(missing)} among {len(token_ids):,} tokens",
            wanted=", ".join(wanted),
            where="token_ids (vocab.json)",
            fix="add them, or make the tokenizer with from_tables",
        )
    ids = sorted(token_ids.values())
    twice = len(ids) - len(set(ids))
    if not genes or twice or ids[0] < 0 or ids[-1] >= 2**31:
        raise problem(
            f"{len(genes):,} genes, {twice} ids given twice, ids {ids[0]} to {ids[-1]}",
            wanted="at least one gene, one id a token, ids from 0 to 2**31 - 1",
            where="token_ids (vocab.json)",
            fix="rebuild the vocabulary",
        )


def check_options(options: Mapping[str, Any], *, max_length: int, special_tokens: bool) -> None:
    """Raise ``ValueError`` for the first option that makes no sense."""
    for fine, key, wanted in (
        (max_length > int(special_tokens), "max_length", "room for a gene"),
        (options["n_bins"] == 0 or 2 <= options["n_bins"] <= 32768, "n_bins", "0, or 2 to 32,768"),
        (options["cls_value"] in ("pad", "zero"), "cls_value", "'pad' or 'zero'"),
        (options["long_cells"] in ("sample", "first"), "long_cells", "'sample' or 'first'"),
        (np.isfinite(options["pad_value"]), "pad_value", "a finite number"),
        (np.isfinite(options["mask_value"]), "mask_value", "a finite number"),
        (0 <= options["seed"] < 2**32, "seed", "0 to 2**32 - 1"),
    ):
        if not fine:
            found = options.get(key, max_length)
            raise problem(f"{key} {found!r}", wanted=wanted, where=key, fix="change it")
