"""Rows brought to a aligner, gathered and counted, against scipy."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import DataError
from scmf.data.convert.rows import Totals, conform, gather, totals
from scmf.data.stores.store import CountBlock


class Named:
    uri, counts, genes = "cells.h5ad", "X", tuple(f"g{i}" for i in range(200))


@st.composite
def blocks(draw):
    """Rows as badly written as CSR allows: unsorted, duplicates, stored zeros, empty rows."""
    n_genes, n_panel = draw(st.integers(1, 200)), draw(st.integers(1, 70_000))
    lengths = draw(st.lists(st.integers(0, 60), max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    dtype = draw(st.sampled_from([np.int32, np.int64, np.uint16, np.uint8]))
    indices = rng.integers(0, n_genes, indptr[-1]).astype(dtype)
    block = CountBlock(indptr, indices, rng.integers(0, 4, indptr[-1]).astype(np.float32), n_genes)
    columns = np.full(n_genes, -1, np.int32)
    told = rng.permutation(n_genes)[: min(n_genes, n_panel, draw(st.integers(0, 200)))]
    columns[told] = rng.choice(n_panel, len(told), replace=False)
    return block, columns, n_panel


def matrix(rows, n_panel):
    return sp.csr_matrix((rows.data, rows.indices.astype(np.int64), rows.indptr), shape=(len(rows.indptr) - 1, n_panel))


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_conformed_rows_are_the_product_with_the_panel_in_canonical_form(case):
    block, columns, n_panel = case
    known = np.flatnonzero(columns >= 0)
    aligner = sp.csr_matrix((np.ones(len(known)), (known, columns[known])), shape=(block.n_genes, n_panel))
    stored = sp.csr_matrix(
        (block.data, block.indices.astype(np.int64), block.indptr), shape=(block.n_cells, block.n_genes)
    )
    wanted = sp.csr_matrix(stored @ aligner)
    wanted.eliminate_zeros()
    wanted.sort_indices()
    rows = conform(block, columns, n_panel, store=Named, first=np.arange(block.n_cells))
    np.testing.assert_array_equal(rows.indptr, wanted.indptr)
    np.testing.assert_array_equal(rows.indices, wanted.indices)
    np.testing.assert_array_equal(rows.data, wanted.data)


@settings(max_examples=30, deadline=None)
@given(blocks(), st.randoms(use_true_random=False))
def test_totals_do_not_depend_on_the_order_and_see_every_change(case, random):
    block, columns, n_panel = case
    rows = conform(block, columns, n_panel, store=Named, first=np.arange(block.n_cells))
    n = block.n_cells
    order = np.array(random.sample(range(n), n), np.int64)
    moved = gather(rows, order)
    np.testing.assert_array_equal(matrix(moved, n_panel).toarray(), matrix(rows, n_panel)[order].toarray())
    found = totals(rows, np.zeros(n), np.arange(n))
    assert totals(moved, np.zeros(n), order) == found
    assert found[:3] == (n, len(rows.data), rows.data.sum())
    half = n // 2
    parts = [gather(rows, np.arange(0, half)), gather(rows, np.arange(half, n))]
    keys = [np.arange(0, half), np.arange(half, n)]
    summed = Totals()
    for part, key in zip(parts, keys, strict=True):
        summed = summed.plus(totals(part, np.zeros(len(key)), key))
    assert summed == found
    if n > 1:  # one cell twice and another lost
        wrong = np.append(order[1], order[1:])
        assert totals(gather(rows, wrong), np.zeros(n), wrong).digest != found.digest
    if len(rows.data):
        rows.data[0] += 1
        assert totals(rows, np.zeros(n), np.arange(n)).digest != found.digest


def test_a_column_beyond_the_genes_is_an_error_of_the_file():
    block = CountBlock(np.array([0, 1]), np.array([5], np.int32), np.array([1], np.float32), 5)
    with pytest.raises(DataError, match="damaged"):
        conform(block, np.arange(5, dtype=np.int32), 5, store=Named, first=np.array([0]))
